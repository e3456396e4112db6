"""Tables of metrics as the verbs print them: cells, and the rows that they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from emoray.evaluation.summary import headline_metrics

#: Place of an interval in a cell: on the next line, or after the estimate.
BELOW, BESIDE = "\n{:{sign}.3f} … {:{sign}.3f}", " [{:{sign}.3f}, {:{sign}.3f}]"


def metric_names(metrics: Mapping[str, Any]) -> list[str]:
    """The metrics of a report (the tree of its metrics.json) that tables show."""
    return [metric.name for metric in headline_metrics(metrics["dimensions"], metrics["classes"])]


def cell(entry: Mapping[str, Any] | None, sign: str = "", interval: str = BELOW) -> str:
    """An estimate with its deviation over seeds and its interval, where it has them.

    Args:
        entry: The metric as in metrics.json; None where it was not measured.
        sign: `+` shows the sign of positive figures too.
        interval: `BELOW`, `BESIDE`, or empty for none.
    """
    if entry is None or entry["estimate"] is None:
        return "–"
    deviation = entry.get("seed_sd")
    text = f"{entry['estimate']:{sign}.3f}" + ("" if deviation is None else f" ± {deviation:.3f}")
    return text if entry.get("low") is None else text + interval.format(entry["low"], entry["high"], sign=sign)


def ceilings(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metric → the best value that any predictor can reach; empty where a report does not know it."""
    limits = {f"ccc_{name}": value for name, value in (metrics["about"]["ceiling"] or {}).items()}
    return {"ccc_mean": sum(limits.values()) / len(limits)} | limits if limits else {}


def ceiling_cells(limits: Mapping[str, float], names: Sequence[str]) -> list[str]:
    """The ceilings of some metrics; empty where there is none."""
    return [f"{limits[name]:.3f}" if name in limits else "" for name in names]
