"""Figures of a report. Each function returns a matplotlib figure without global state (safe in threads)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emoray.evaluation import conformal, metrics
from emoray.evaluation.groups import DURATION
from emoray.evaluation.metrics import labelled_dimensions
from emoray.evaluation.summary import level_title

INK, MUTED, GRID = "#1f2933", "#6b7785", "#e3e8ee"
LEVEL_COLOURS = ("#8aa4c0", "#3f7cbf", "#123f70")
#: Valence, arousal, dominance; distinguished by marker as well as colour.
DIMENSION_COLOURS = ("#2f6f9f", "#c8662b", "#3c8c63")
MARKERS = ("o", "s", "D", "^", "v")
#: More points than this are drawn as hexagons that count them.
_SCATTER_LIMIT = 1500


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained", dpi=144)
    axes = np.atleast_1d(figure.subplots(1, columns)).tolist()
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(MUTED)
        axis.tick_params(colors=MUTED, labelsize=8)
        axis.grid(color=GRID, linewidth=0.8)
        axis.set_axisbelow(True)
    return figure, axes


def predicted_against_true(frame: pl.DataFrame, level: Mapping[str, Any]) -> Figure:
    """One panel per dimension, in units of the label scale [0, 1]; the dashed diagonal is perfect agreement.

    `frame` are predictions at one semantic level, `level` its entry of `summarise`.
    """
    dimensions = labelled_dimensions(frame)
    figure, axes = _figure(3.2 * len(dimensions), 3.4, len(dimensions))
    for axis, dimension in zip(axes, dimensions, strict=True):
        labelled = frame.filter(pl.col(f"{dimension}_true").is_not_null() & pl.col(f"{dimension}_true").is_not_nan())
        true, predicted = labelled[f"{dimension}_true"].to_numpy(), labelled[f"{dimension}_pred"].to_numpy()
        if labelled.height > _SCATTER_LIMIT:
            axis.hexbin(
                true, predicted, gridsize=34, extent=(0, 1, 0, 1), cmap="Blues", mincnt=1, linewidths=0.1, bins="log"
            )
        else:
            axis.scatter(true, predicted, s=11, color=LEVEL_COLOURS[1], alpha=0.45, linewidths=0)
        axis.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--")
        axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axis.set_title(
            f"{dimension} · CCC {level['metrics'][f'ccc_{dimension}']['estimate']:.3f}", fontsize=10, color=INK
        )
        axis.set_xlabel("label", fontsize=9, color=INK)
    axes[0].set_ylabel("prediction", fontsize=9, color=INK)
    return figure


def ccc_by_level(summary: Mapping[str, Any], ceiling: Mapping[str, float] | None) -> Figure:
    """CCC per dimension at each semantic level, with intervals; a short line marks the ceiling, if there is one.

    Under several conditions only sound alone and the full level of each are drawn: the table has all.
    """
    names = [*(f"ccc_{d}" for d in summary["dimensions"]), "ccc_mean"]
    conditions = any("/" in level for level in summary["levels"])
    levels = [level for level in summary["levels"] if not (conditions and level.startswith("transcript/"))]
    figure, (axis,) = _figure(7.2, 3.3 + (0.2 * len(levels) if conditions else 0))
    offsets = (np.arange(len(levels)) - (len(levels) - 1) / 2) * min(0.2, 0.8 / len(levels))
    for number, level in enumerate(levels):
        found = [summary["levels"][level]["metrics"][name] for name in names]
        positions = np.arange(len(names)) + offsets[number]
        colour = LEVEL_COLOURS[-1] if len(levels) == 1 else LEVEL_COLOURS[number % len(LEVEL_COLOURS)]
        _with_errors(axis, positions, found, colour, MARKERS[number % len(MARKERS)], level_title(level))
    if ceiling:
        values = {f"ccc_{d}": ceiling[d] for d in summary["dimensions"] if d in ceiling}
        if len(values) == len(summary["dimensions"]):
            values["ccc_mean"] = float(np.mean(list(values.values())))
        for position, name in enumerate(names):
            if name in values:
                label = "ceiling" if position == 0 else "_"  # matplotlib leaves names with _ out of the legend
                axis.hlines(
                    values[name], position - 0.4, position + 0.4, color=MUTED, linestyle=":", linewidth=1.6, label=label
                )
    axis.set_xticks(range(len(names)), [name.removeprefix("ccc_") for name in names], fontsize=9, color=INK)
    axis.set_ylabel("CCC", fontsize=9, color=INK)
    axis.set_ylim(top=1.0)
    axis.axhline(0, color=MUTED, linewidth=0.8)
    axis.grid(axis="x", visible=False)
    beside, below = (1.0, 1.0), (0.0, -0.1)
    place = below if conditions else beside  # names of conditions are long
    axis.legend(fontsize=8, frameon=False, labelcolor=INK, loc="upper left", bbox_to_anchor=place)
    return figure


def ccc_by_group(level: Mapping[str, Any], headline: str, unit: str) -> Figure | None:
    """The headline metric per gender, duration bucket and speaker, with intervals where a group is large enough.

    `level` is one level's entry of `summarise`, `headline` `ccc_mean` or `ua`, `unit` its name on the axis.
    """
    rows: list[tuple[str, dict[str, Any]]] = []
    for column, title in (("gender", "gender"), (DURATION, "duration"), ("speaker_id", "speaker")):
        entries = [entry for entry in level["groups"].get(column, []) if entry[headline]["estimate"] is not None]
        if column == "speaker_id":
            entries = sorted(entries, key=lambda entry: -entry[headline]["estimate"])
            if len(entries) > 24:  # readers look for the extremes; all are in metrics.json
                entries = entries[:12] + entries[-12:]
        rows += [(f"{title} {entry['value']}  (n = {entry['n_clips']})", entry[headline]) for entry in entries]
    if not rows:
        return None
    figure, (axis,) = _figure(7.2, 0.8 + 0.24 * len(rows))
    positions = np.arange(len(rows))
    values = [entry["estimate"] for _, entry in rows]
    low = np.array([_end(entry, "low") for _, entry in rows])
    high = np.array([_end(entry, "high") for _, entry in rows])
    axis.hlines(positions, low, high, color=LEVEL_COLOURS[1], linewidth=2.2, alpha=0.6)
    axis.plot(values, positions, "o", color=LEVEL_COLOURS[2], markersize=4.5)
    axis.axvline(level["metrics"][headline]["estimate"], color=MUTED, linestyle="--", linewidth=1)
    axis.set_yticks(positions, [name for name, _ in rows], fontsize=8, color=INK)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_xlabel(f"{unit} (dashed: all clips)", fontsize=9, color=INK)
    axis.grid(axis="y", visible=False)
    return figure


def calibration(dev: pl.DataFrame, test: pl.DataFrame, nominal: float) -> Figure:
    """Coverage on test of conformal intervals fitted on dev, over nominal levels.

    On the diagonal it equals the nominal level. Both frames are at one semantic level; `nominal`, the level that the
    model version uses, is marked.
    """
    figure, (axis,) = _figure(3.9, 3.5)
    grid = np.round(np.arange(0.1, 0.96, 0.05), 2)
    level = str(test["level"][0])
    for number, dimension in enumerate(labelled_dimensions(test)):
        covered = [
            conformal.coverage(test, conformal.fit(dev, float(share)))[level].get(dimension, np.nan) for share in grid
        ]
        style: dict[str, Any] = {
            "color": DIMENSION_COLOURS[number],
            "marker": MARKERS[number],
            "markevery": 4,
            "markersize": 4,
        }
        axis.plot(grid, covered, linewidth=1.6, label=dimension, **style)
    axis.plot([0, 1], [0, 1], color=MUTED, linestyle="--", linewidth=1)
    axis.axvline(nominal, color=MUTED, linestyle=":", linewidth=1.2)
    axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axis.set_xlabel("nominal coverage (fitted on dev)", fontsize=9, color=INK)
    axis.set_ylabel("coverage measured", fontsize=9, color=INK)
    axis.legend(fontsize=8, frameon=False, labelcolor=INK, loc="upper left")
    return figure


def confusion_matrix(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> Figure:
    """Confusion matrix: rows are true classes and sum to 100 %; each cell gives its share and its count."""
    matrix = np.asarray(counts, dtype=np.float64)
    share = np.divide(
        matrix,
        matrix.sum(axis=1, keepdims=True),
        out=np.zeros_like(matrix),
        where=matrix.sum(axis=1, keepdims=True) > 0,
    )
    figure, (axis,) = _figure(1.6 + 0.8 * len(classes), 1.4 + 0.7 * len(classes))
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row in range(len(classes)):
        for column in range(len(classes)):
            colour = "white" if share[row, column] > 0.55 else INK
            text = f"{share[row, column]:.0%}\n{matrix[row, column]:.0f}"
            axis.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    axis.set_xticks(range(len(classes)), classes, fontsize=8, color=INK, rotation=25, ha="right")
    axis.set_yticks(range(len(classes)), classes, fontsize=8, color=INK)
    axis.set_xlabel("predicted", fontsize=9, color=INK)
    axis.set_ylabel("true", fontsize=9, color=INK)
    axis.grid(visible=False)
    return figure


def reliability(frame: pl.DataFrame, classes: Sequence[str]) -> Figure:
    """Share of clips whose likeliest class is right, over its probability, by bins; areas are the numbers of clips."""
    clips, probability, right = metrics.reliability(frame, classes)
    there = clips > 0
    figure, (axis,) = _figure(3.9, 3.5)
    axis.plot([0, 1], [0, 1], color=MUTED, linestyle="--", linewidth=1)
    at, shares = probability[there] / clips[there], right[there] / clips[there]
    axis.plot(at, shares, color=DIMENSION_COLOURS[0], linewidth=1.2)
    axis.scatter(at, shares, s=12 + 160 * clips[there] / clips.max(), color=DIMENSION_COLOURS[0], zorder=3)
    axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axis.set_xlabel("probability of the likeliest class", fontsize=9, color=INK)
    axis.set_ylabel("share that is right", fontsize=9, color=INK)
    return figure


def robustness(entries: Sequence[Mapping[str, Any]], kinds: Mapping[str, str], dimensions: Sequence[str]) -> Figure:
    """CCC over the amount of a degradation, a panel per kind; dotted: the clips as they are.

    Args:
        entries: {kind, amount, metrics} per condition, the clean one first.
        kinds: Kinds to draw, with the title of the axis of their amounts.
    """
    figure, axes = _figure(1.0 + 3.1 * len(kinds), 3.2, len(kinds))
    clean = entries[0]["metrics"]
    for axis, (kind, title) in zip(axes, kinds.items(), strict=True):
        shown = sorted((one for one in entries if one["kind"] == kind), key=lambda one: one["amount"])
        amounts = np.array([one["amount"] for one in shown])
        for number, dimension in enumerate(dimensions):
            colour, name = DIMENSION_COLOURS[number], f"ccc_{dimension}"
            axis.plot(amounts, [_estimate(one["metrics"][name]) for one in shown], color=colour, linewidth=1.2)
            found = [one["metrics"][name] for one in shown]
            _with_errors(axis, amounts, found, colour, MARKERS[number], dimension)
            axis.axhline(_estimate(clean[name]), color=colour, linestyle=":", linewidth=1.2)
        axis.set_xlabel(title, fontsize=9, color=INK)
        axis.sharey(axes[0])
    axes[0].set_ylim(min(0.0, *(axis.dataLim.y0 for axis in axes)) - 0.03, 1.0)
    axes[0].set_ylabel("CCC", fontsize=9, color=INK)
    axes[-1].legend(fontsize=8, frameon=False, labelcolor=INK, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _estimate(entry: Mapping[str, Any]) -> float:
    return np.nan if entry["estimate"] is None else float(entry["estimate"])


def _end(entry: Mapping[str, Any], name: str) -> float:
    """An end of an entry's interval; the estimate if it has none."""
    end = entry.get(name)
    return float(entry["estimate"] if end is None else end)


def _with_errors(
    axis: Axes, positions: np.ndarray, found: list[dict[str, Any]], colour: str, marker: str, label: str
) -> None:
    value, low, high = (np.array([one[name] for one in found], np.float64) for name in ("estimate", "low", "high"))
    # A percentile interval need not contain the estimate; matplotlib refuses negative bars.
    errors = np.vstack([np.maximum(value - low, 0), np.maximum(high - value, 0)])
    axis.errorbar(
        positions, value, errors, fmt=marker, color=colour, markersize=5.5, capsize=3, linewidth=1.6, label=label
    )
