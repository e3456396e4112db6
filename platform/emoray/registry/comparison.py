"""The gate's rules that compare a challenger's predictions with the champion's: gains, non-inferiority, groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from emoray.errors import InputError
from emoray.evaluation.groups import n_speakers
from emoray.evaluation.intervals import Interval, holm, paired_difference, paired_p_value
from emoray.evaluation.metrics import Metric, categorical, dimensional, labelled_dimensions, mean_ccc
from emoray.registry.candidate import Candidate, Check
from emoray.registry.config import GateConfig

TITLES = {"ccc_mean": "Mean CCC", "ua": "UAR"}


@dataclass(frozen=True)
class Figures:
    """What can be compared: dimensions and classes that are labelled and that both versions score."""

    dimensions: tuple[str, ...]
    classes: tuple[str, ...]

    @classmethod
    def of(cls, challenger: Candidate, champion: Candidate | None) -> Figures:
        """What both score, from the labels of the first frame.

        Raises:
            InputError: Nothing (`no_labels`).
        """
        sides = [one for one in (challenger, champion) if one is not None]
        frame = challenger.frames[0]
        by_dimensions = all(one.dimensional for one in sides)
        classes = challenger.classes if len({frozenset(one.classes) for one in sides}) == 1 else ()
        found = cls(
            tuple(labelled_dimensions(frame)) if by_dimensions else (),
            classes if classes and frame["emotion_true"].is_in(list(classes)).any() else (),
        )
        if not found.dimensions and not found.classes:
            raise InputError(
                "no clip of the gate split has a label that " + ("both versions score" if champion else "it scores"),
                remedy="Decide on labelled clips, and compare versions that score the same dimensions or classes",
                kind="no_labels",
            )
        return found

    @property
    def headline(self) -> Metric:
        """Mean CCC; UAR where there are classes alone."""
        return mean_ccc(self.dimensions) if self.dimensions else self.uar

    @property
    def uar(self) -> Metric:
        """UAR over the clips of known classes."""
        inner = categorical("ua", self.classes)
        return Metric("ua", lambda frame: inner.per_clip(_of_classes(frame, self.classes)), inner.value)

    @property
    def single(self) -> dict[str, Metric]:
        """Each dimension's CCC, and UAR, under the names of the policy."""
        found = {name: dimensional("ccc", name) for name in self.dimensions}
        return {**found, **({"uar": self.uar} if self.classes else {})}

    def within(self, frame: pl.DataFrame) -> Metric | None:
        """The headline figure of a part of the clips; None where these have no label."""
        dimensions = tuple(name for name in labelled_dimensions(frame) if name in self.dimensions)
        if self.dimensions:
            return mean_ccc(dimensions) if dimensions else None
        return self.uar if frame["emotion_true"].is_in(list(self.classes)).any() else None


def checks(
    figures_of: Figures,
    challenger: Candidate,
    champion: Candidate,
    config: GateConfig,
    attempt: int,
    figures: dict[str, Any],
) -> list[Check]:
    """The rules in order; what they measured is put into `figures`."""
    new, old = challenger.frames, champion.frames
    level = config.gain_level(attempt)
    difference = paired_difference(figures_of.headline, new, old, level=level)
    gains = {name: paired_difference(_named(figures_of, name), new, old, level=level) for name in config.min_gains}
    lossless = config.noninferiority_level
    single = {name: paired_difference(one, new, old, level=lossless) for name, one in figures_of.single.items()}
    under = {
        str(one["level"][0]): paired_difference(figures_of.headline, one, other, level=lossless)
        for one, other in zip(new, old, strict=True)
    }
    groups = _groups(figures_of, new, old, config)
    figures |= {
        "difference": difference.to_dict(),
        "gains": {name: one.to_dict() for name, one in gains.items()},
        "differences": {name: one.to_dict() for name, one in single.items()},
        "conditions": {name: one.to_dict() for name, one in under.items()},
        "groups": groups,
    }
    title = TITLES[figures_of.headline.name]
    found = [_speakers(new[0], config), _gain("gain", title, difference, config.min_gain, config, attempt)]
    found += [
        _gain(f"gain in {name}", f"{name.upper() if name == 'uar' else f'CCC of {name}'}", one, least, config, attempt)
        for (name, one), least in zip(gains.items(), config.min_gains.values(), strict=True)
    ]
    limits = {name: config.max_loss.get(name) for name in single}  # type: ignore[call-overload]
    found += _not_worse("dimensions" if figures_of.dimensions else "uar", single, limits)
    if len(under) > 1:
        found += _not_worse("conditions", under, dict.fromkeys(under, config.max_condition_loss))
    return [*found, _no_group_worse(groups, config)]


def _of_classes(frame: pl.DataFrame, classes: Sequence[str]) -> pl.DataFrame:
    known = pl.col("emotion_true").is_in(list(classes))
    return frame.with_columns(emotion_true=pl.when(known).then(pl.col("emotion_true")))


def _named(figures_of: Figures, name: str) -> Metric:
    if name not in figures_of.single:
        raise InputError(
            f"the gate split has no labels of {name} that both versions score",
            where=f"promote.min_gains.{name}",
            remedy=f"There are {', '.join(figures_of.single)}",
            kind="no_labels",
        )
    return figures_of.single[name]


def _speakers(frame: pl.DataFrame, config: GateConfig) -> Check:
    count = n_speakers(frame) or 0
    enough = count >= config.min_speakers
    text = f"{count} known speaker{'' if count == 1 else 's'}"
    return Check("speakers", enough, text if enough else f"{text}: a comparison needs {config.min_speakers}")


def _gain(name: str, title: str, difference: Interval, least: float, config: GateConfig, attempt: int) -> Check:
    enough = difference.estimate >= least
    sure = difference.low > config.min_lower_bound
    text = (
        f"{title} changes by {difference.estimate:+.4f}, {100 * difference.level:.4g} % interval"
        f" {difference.low:+.4f} to {difference.high:+.4f} over {difference.n_units} {difference.unit}s"
    )
    if attempt > 1:
        text += f" (challenger {attempt} of this champion)"
    if not enough:
        text += f": less than the required gain ({least:+g})"
    elif not sure:
        text += f": the lower end is not above {config.min_lower_bound:+g}"
    return Check(name, enough and sure, text)


def _not_worse(name: str, found: dict[str, Interval], limits: dict[str, float | None]) -> list[Check]:
    """Non-inferiority of each: the lower end is above the negative limit. Undefined is not shown, so it fails.

    No check where nothing has a limit.
    """
    judged = {one: limit for one, limit in limits.items() if limit is not None}
    if not judged:
        return []
    worse = [
        f"{one} changes by {found[one].estimate:+.4f} (interval {found[one].low:+.4f} to {found[one].high:+.4f},"
        f" largest loss {limit:g})"
        for one, limit in judged.items()
        if not found[one].low > -limit
    ]
    if worse:
        return [Check(name, False, f"A loss cannot be ruled out: {'; '.join(worse)}")]
    least = min(found[one].low for one in judged)
    what = f"{len(judged)} conditions" if name == "conditions" else ", ".join(judged)
    return [Check(name, True, f"Not worse than allowed: {what}; the lowest end is {least:+.4f}")]


def _groups(
    figures_of: Figures, new: Sequence[pl.DataFrame], old: Sequence[pl.DataFrame], config: GateConfig
) -> list[dict[str, Any]]:
    """Paired difference and p-value in every group; small groups and single speakers are listed without."""
    found = []
    for column in config.group_columns:
        if column not in new[0].columns:
            raise InputError(
                f"there is no column {column!r} to make groups by",
                where="promote.group_columns",
                remedy=f"Columns are {', '.join(sorted(new[0].columns))}",
                kind="unknown_group_column",
            )
        for value in new[0][column].drop_nulls().unique().sort().to_list():
            part = [frame.filter(pl.col(column) == value) for frame in new]
            ids = part[0]["utterance_id"].implode()
            other = [frame.filter(pl.col("utterance_id").is_in(ids)) for frame in old]
            metric, clips = figures_of.within(part[0]), part[0].height
            entry: dict[str, Any] = {"column": column, "value": str(value), "n_clips": clips, "difference": None}
            if metric is not None and clips >= config.min_group_clips and n_speakers(part[0]) != 1:
                entry["difference"] = paired_difference(metric, part, other, level=config.interval_level).to_dict()
                p = paired_p_value(metric, part, other)
                entry["p_value"] = None if np.isnan(p) else p
            found.append(entry)
    judged = [entry for entry in found if entry.get("p_value") is not None]
    for entry, adjusted in zip(judged, holm([entry["p_value"] for entry in judged]), strict=True):
        entry["adjusted_p_value"] = adjusted
    return found


def _no_group_worse(groups: list[dict[str, Any]], config: GateConfig) -> Check:
    compared = [entry for entry in groups if entry.get("adjusted_p_value") is not None]
    worse = [
        f"{entry['column']} {entry['value']} loses {-entry['difference']['estimate']:.4f}"
        f" (p = {entry['adjusted_p_value']:.4f} by Holm over {len(compared)} groups, n = {entry['n_clips']})"
        for entry in compared
        if entry["difference"]["estimate"] < -config.max_group_loss
        and entry["adjusted_p_value"] < 1 - config.interval_level
    ]
    if worse:
        text = f"Some group gets worse by more than {config.max_group_loss:g}: {'; '.join(worse)}"
    elif compared:
        text = f"None of {len(compared)} groups gets worse by more than {config.max_group_loss:g} beyond chance"
    else:
        text = f"No group has {config.min_group_clips} clips of two speakers, so none was compared"
    return Check("groups", not worse, text)
