"""Configuration of the evaluation of a table of predictions."""

from __future__ import annotations

from typing import Any

from emoray.config import Section


class EvaluateConfig(Section):
    """Intervals, conformal level and groups of an evaluation.

    Attributes:
        interval_level: Level of the bootstrap intervals.
        resamples: Bootstrap resamples per interval.
        seed: Seed of the resampling.
        conformal_level: Share of clips that a score's interval should cover (split conformal, fitted on dev).
        duration_edges_s: Edges between the duration buckets of the per-group report.
        min_group_clips: Groups with fewer clips are listed, but without an interval.
    """

    interval_level: float
    resamples: int
    seed: int
    conformal_level: float
    duration_edges_s: tuple[float, ...]
    min_group_clips: int

    @property
    def bootstrap(self) -> dict[str, Any]:
        """Level, resamples and seed, as arguments of the functions in `emoray.evaluation.bootstrap`."""
        return {"level": self.interval_level, "resamples": self.resamples, "seed": self.seed}
