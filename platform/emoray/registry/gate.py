"""The promotion gate: may a challenger replace the champion? A pure function of predictions and measurements.

The policy is the section `promote`: a list of rules, each with its limits. Rules on predictions compare the challenger
with the champion on the same clips (`emoray.registry.comparison`); rules on the version itself need no champion, except
what must be the same (`emoray.registry.requirements`). A challenger passes if it keeps every rule.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from emoray.errors import InputError
from emoray.evaluation.intervals import clusters, interval
from emoray.registry import comparison, requirements
from emoray.registry.candidate import Candidate, Check, Latency
from emoray.registry.clean_process import CleanCheck
from emoray.registry.config import GateConfig
from emoray.scoring.score import ScoreRequest
from emoray.scoring.scorer import Scorer


@dataclass(frozen=True)
class Decision:
    """The decision of the gate: every rule in order, the split, and all measured figures as JSON values."""

    passed: bool
    checks: tuple[Check, ...]
    split: str
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def reasons(self) -> list[str]:
        """The checks' messages, failures first."""
        return [check.message for check in sorted(self.checks, key=lambda check: check.passed)]

    @property
    def headline(self) -> dict[str, Any]:
        """The main figures, small enough for a line of the history."""
        names = ("headline", "attempt")
        found = {name: self.figures[name] for name in names if name in self.figures}
        for name in ("challenger", "champion", "difference"):
            if self.figures.get(name):
                found[name] = {key: self.figures[name][key] for key in ("estimate", "low", "high")}
        return {**found, "split": self.split, "failed": [check.name for check in self.checks if not check.passed]}

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "passed": self.passed,
            "split": self.split,
            "checks": [asdict(check) for check in self.checks],
            "figures": self.figures,
        }

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> Decision:
        """From a document that has the keys of `to_dict`."""
        checks = tuple(Check(**check) for check in document["checks"])
        return cls(document["passed"], checks, document["split"], document["figures"])


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
    challenger: Candidate,
    champion: Candidate | None,
    config: GateConfig,
    *,
    clean: CleanCheck | None,
    attempt: int = 1,
    note: str | None = None,
) -> Decision:
    """Decide on a challenger.

    Args:
        challenger: Its predictions on the gate split and what was measured of it.
        champion: The champion's, under the same conditions; None without a champion.
        clean: Its result in a clean process; None only if `config.clean_process` is off.
        attempt: How many challengers this champion has been compared with, this one included.
        note: Something that readers of the decision must know, for example that dev replaced gate.

    Raises:
        InputError: The predictions are on different clips or at different levels, have no label that both score, or
            lack a column that the policy names.
    """
    levels = [frame["level"].unique().to_list() for frame in challenger.frames]
    if champion is not None and levels != [frame["level"].unique().to_list() for frame in champion.frames]:
        raise InputError("challenger and champion were not predicted at the same levels", kind="different_levels")
    figures_of = comparison.Figures.of(challenger, champion)
    metric = figures_of.headline
    figures: dict[str, Any] = {
        "levels": [name for names in levels for name in names],
        "headline": metric.name,
        "challenger": interval(metric, challenger.frames, level=config.interval_level).to_dict(),
        "attempt": attempt,
        "latency": asdict(challenger.latency),
        "size_bytes": challenger.size_bytes,
        "coverage": dict(challenger.coverage),
        "warning": clusters(challenger.frames[0]).warning,
        "note": note,
    }
    if champion is None:
        checks = [Check("gain", True, "There is no champion yet to compare with")]
    else:
        figures["champion"] = interval(metric, champion.frames, level=config.interval_level).to_dict()
        checks = comparison.checks(figures_of, challenger, champion, config, attempt, figures)
    checks += requirements.checks(challenger, champion, config)
    if config.clean_process:
        if clean is None:
            raise InputError("the clean-process check is on, but it was not run", kind="clean_process_not_run")
        figures["clean_process"] = asdict(clean)
        verb = "Loads and scores" if clean.passed else "Does not load and score"
        checks.append(Check("clean_process", clean.passed, f"{verb} in a clean process: {clean.message}"))
    split = ", ".join(sorted({str(name) for name in challenger.frames[0]["split"]}))
    return Decision(all(check.passed for check in checks), tuple(checks), split, figures)


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
