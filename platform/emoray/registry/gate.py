"""The promotion gate: may a challenger replace the champion? A pure function of predictions and measurements.

A challenger passes when all of these hold:

- its mean CCC on the same clips is higher: the estimated gain reaches `min_gain`, and the lower end of the paired
  interval (over speakers) is above `min_lower_bound`;
- no group (gender, for example) with enough clips loses more than `max_group_loss` beyond chance;
- its p95 latency is within the budget;
- it loads and scores in a clean process.

Without a champion only the last two apply.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import polars as pl

from emoray.errors import InputError
from emoray.evaluation.intervals import Interval, clusters, interval, paired_difference
from emoray.evaluation.metrics import labelled_dimensions, mean_ccc
from emoray.registry.clean_process import CleanCheck
from emoray.registry.config import GateConfig
from emoray.scoring.score import ScoreRequest
from emoray.scoring.scorer import Scorer

__all__ = ["Check", "CleanCheck", "Decision", "GateConfig", "Latency", "decide", "gate_split", "measure_latency"]


@dataclass(frozen=True)
class Latency:
    """Times of single clips through a scorer, in milliseconds."""

    p50_ms: float
    p95_ms: float
    clips: int


@dataclass(frozen=True)
class Check:
    """One condition of the gate: gain, groups, latency or clean_process; the message has the reason and its figures."""

    name: str
    passed: bool
    message: str


@dataclass(frozen=True)
class Decision:
    """The decision of the gate: every condition in order, the split, and all measured figures as JSON values."""

    passed: bool
    checks: tuple[Check, ...]
    split: str
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def reasons(self) -> list[str]:
        """The checks' messages, failures first."""
        return [check.message for check in sorted(self.checks, key=lambda check: check.passed)]

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "passed": self.passed,
            "split": self.split,
            "checks": [asdict(check) for check in self.checks],
            "figures": self.figures,
        }


def gate_split(splits: Sequence[str | None]) -> tuple[str, str | None]:
    """The split to decide on, and a note if it is not `gate`.

    Raises:
        InputError: There is neither a gate nor a dev split.
    """
    if "gate" in splits:
        return "gate", None
    if "dev" in splits:
        return "dev", "The corpus has no gate split: decided on dev, which also selected the models and so favours them"
    raise InputError(
        "the corpus has neither a gate nor a dev split to decide on",
        remedy="Give its utterances splits; the test split is only for reports, never for decisions",
        kind="no_gate_split",
    )


def decide(
    challenger: Sequence[pl.DataFrame],
    champion: Sequence[pl.DataFrame] | None,
    config: GateConfig,
    *,
    latency: Latency,
    clean: CleanCheck | None,
    note: str | None = None,
) -> Decision:
    """Decide on a challenger.

    Args:
        challenger: Its predictions on the gate split (`emoray.scoring.predictions.predict_rows`): a frame per
            condition, on the same clips. Every figure is its mean over the conditions.
        champion: The champion's, under the same conditions; None without a champion.
        latency: The challenger's latency (`measure_latency`).
        clean: Its result in a clean process; None only if `config.clean_process` is off.
        note: Something that readers of the decision must know, for example that dev replaced gate.

    Raises:
        InputError: The predictions are on different clips or at different levels, or have no dimensional label.
    """
    dimensions = labelled_dimensions(challenger[0])
    if not dimensions:
        what = "no clip of the gate split has a dimensional label"
        raise InputError(what, remedy="Decide on labelled clips", kind="no_labels")
    levels = [frame["level"].unique().to_list() for frame in challenger]
    if champion is not None and levels != [frame["level"].unique().to_list() for frame in champion]:
        raise InputError("challenger and champion were not predicted at the same levels", kind="different_levels")
    metric = mean_ccc(dimensions)
    options: dict[str, Any] = {"level": config.interval_level}
    figures: dict[str, Any] = {
        "levels": [name for names in levels for name in names],
        "challenger_ccc_mean": interval(metric, challenger, **options).to_dict(),
        "latency": asdict(latency),
        "warning": clusters(challenger[0]).warning,
        "note": note,
    }
    checks = []
    if champion is None:
        checks.append(Check("gain", True, "There is no champion yet to compare with"))
    else:
        difference = paired_difference(metric, challenger, champion, **options)
        groups = _groups(challenger, champion, config, options)
        figures |= {
            "champion_ccc_mean": interval(metric, champion, **options).to_dict(),
            "difference": difference.to_dict(),
            "groups": groups,
        }
        checks += [_gain(difference, config), _no_group_worse(groups, config)]
    checks.append(_fast_enough(latency, config))
    if config.clean_process:
        if clean is None:
            raise InputError("the clean-process check is on, but it was not run", kind="clean_process_not_run")
        figures["clean_process"] = asdict(clean)
        verb = "Loads and scores" if clean.passed else "Does not load and score"
        checks.append(Check("clean_process", clean.passed, f"{verb} in a clean process: {clean.message}"))
    split = ", ".join(sorted({str(name) for name in challenger[0]["split"]}))
    return Decision(all(check.passed for check in checks), tuple(checks), split, figures)


def _gain(difference: Interval, config: GateConfig) -> Check:
    enough = difference.estimate >= config.min_gain
    sure = difference.low > config.min_lower_bound
    text = (
        f"Mean CCC changes by {difference.estimate:+.4f}, {100 * difference.level:g} % interval"
        f" {difference.low:+.4f} to {difference.high:+.4f} over {difference.n_units} {difference.unit}s"
    )
    if not enough:
        text += f": less than the required gain ({config.min_gain:+g})"
    elif not sure:
        text += f": the lower end is not above {config.min_lower_bound:+g}"
    return Check("gain", enough and sure, text)


def _groups(
    challenger: Sequence[pl.DataFrame], champion: Sequence[pl.DataFrame], config: GateConfig, options: dict[str, Any]
) -> list[dict[str, Any]]:
    """Paired difference of mean CCC in every group; small groups are listed without one."""
    found = []
    for column in config.group_columns:
        if column not in challenger[0].columns:
            continue
        for value in sorted(challenger[0][column].drop_nulls().unique().to_list()):
            new = [frame.filter(pl.col(column) == value) for frame in challenger]
            ids, dimensions = new[0]["utterance_id"].implode(), labelled_dimensions(new[0])
            old = [frame.filter(pl.col("utterance_id").is_in(ids)) for frame in champion]
            clips = new[0].height
            entry: dict[str, Any] = {"column": column, "value": str(value), "n_clips": clips, "difference": None}
            if clips >= config.min_group_clips and dimensions:
                entry["difference"] = paired_difference(mean_ccc(dimensions), new, old, **options).to_dict()
            found.append(entry)
    return found


def _no_group_worse(groups: list[dict[str, Any]], config: GateConfig) -> Check:
    compared = [entry for entry in groups if entry["difference"] is not None]
    worse = [
        f"{entry['column']} {entry['value']} loses {-entry['difference']['estimate']:.4f}"
        f" (interval {entry['difference']['low']:+.4f} to {entry['difference']['high']:+.4f}, n = {entry['n_clips']})"
        for entry in compared
        if _much_worse(entry["difference"], config)
    ]
    if worse:
        text = f"Some group gets worse by more than {config.max_group_loss:g}: {'; '.join(worse)}"
    elif compared:
        text = f"None of {len(compared)} groups gets worse by more than {config.max_group_loss:g} beyond chance"
    else:
        text = f"No group has {config.min_group_clips} clips, so none was compared"
    return Check("groups", not worse, text)


def _much_worse(difference: dict[str, Any], config: GateConfig) -> bool:
    # An undefined difference (None: no value without some speaker) is no evidence.
    if difference["estimate"] is None or difference["high"] is None:
        return False
    return bool(difference["estimate"] < -config.max_group_loss and difference["high"] < 0)


def _fast_enough(latency: Latency, config: GateConfig) -> Check:
    passed = latency.p95_ms <= config.latency_budget_ms
    relation = "within" if passed else "over"
    return Check(
        "latency",
        passed,
        f"p95 latency {latency.p95_ms:.0f} ms per clip over {latency.clips} clips, {relation} the budget of"
        f" {config.latency_budget_ms:g} ms",
    )


def measure_latency(scorer: Scorer, requests: Sequence[ScoreRequest]) -> Latency:
    """Time single clips through a scorer, after one to warm it up; stage values in the requests save it that work."""
    if not requests:
        raise InputError("no clip to measure the latency on", kind="empty_table")
    scorer.score(requests[:1])
    times_ms = []
    for request in requests:
        started = time.perf_counter()
        scorer.score([request])
        times_ms.append(1000 * (time.perf_counter() - started))
    return Latency(float(np.percentile(times_ms, 50)), float(np.percentile(times_ms, 95)), len(times_ms))
