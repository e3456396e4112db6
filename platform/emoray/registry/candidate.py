"""What the gate knows of a version: its predictions, and what was measured of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl


@dataclass(frozen=True)
class Latency:
    """Times of single clips through a scorer, in milliseconds."""

    p50_ms: float
    p95_ms: float
    clips: int


@dataclass(frozen=True)
class Check:
    """The result of one rule of the gate; the message has the reason and its figures."""

    name: str
    passed: bool
    message: str


@dataclass(frozen=True)
class Candidate:
    """A challenger, or the champion that it is compared with.

    Attributes:
        frames: Its predictions on the gate split (`emoray.scoring.predictions.predict_rows`): a frame per condition, on
            the same clips. Every figure is its mean over them; a condition that counts twice is there twice.
        latency: Of single clips.
        dimensional: Whether it was trained to score dimensions.
        classes: Classes that it tells apart; empty for a version of dimensions alone.
        scale: Ends of its corpus's scale.
        signature: Signature of its MLflow model: `inputs`, `outputs` and `params` → columns, as in the file MLmodel.
        size_bytes: Size of its files.
        coverage: Dimension → share of the gate's labels within its intervals.
        coverage_level: What that share should be.
        tags: Tags of the version.
    """

    frames: Sequence[pl.DataFrame]
    latency: Latency
    dimensional: bool = True
    classes: tuple[str, ...] = ()
    scale: tuple[float, float] | None = None
    signature: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    size_bytes: int = 0
    coverage: Mapping[str, float] = field(default_factory=dict)
    coverage_level: float = 0.9
    tags: Mapping[str, str] = field(default_factory=dict)
