"""Configuration of the evaluation of a table of predictions."""

from __future__ import annotations

from emoray.config import Section


class EvaluateConfig(Section):
    """Intervals, conformal level and groups of an evaluation.

    Attributes:
        interval_level: Level of the intervals.
        conformal_level: Share of clips that a score's interval should cover (split conformal, fitted on dev).
        duration_edges_s: Edges between the duration buckets of the per-group report.
        min_group_clips: Groups with fewer clips are listed, but without an interval.
    """

    interval_level: float
    conformal_level: float
    duration_edges_s: tuple[float, ...]
    min_group_clips: int
