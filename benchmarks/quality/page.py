"""The pages of `python -m benchmarks.quality` and `.quality.systems`: tables of trained rows, as Markdown and JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from benchmarks.quality.rows import RECOGNISED, Job

from emoray.evaluation.bootstrap import Interval, interval, paired_difference
from emoray.evaluation.metrics import DEFINITIONS, Metric, categorical, dimensional, mean_ccc
from emoray.models.build import WITHOUT_GRADIENT
from emoray.schema import DIMENSIONS

METRICS: dict[str, Metric] = {**{name: dimensional("ccc", name) for name in DIMENSIONS}, "mean": mean_ccc()}
LEVEL_NAMES = {
    "full": "",
    RECOGNISED: "scored with recognised transcripts (word error rate {wer:.2f})",
    "transcript": "scored with the transcript, without ES",
    "audio": "scored from audio alone",
}
RESAMPLES = 2000

PLANTED = """\
The corpus is synthetic (espeak-ng): valence is planted in the words and in which of them is emphasised, arousal in
rate, loudness and pitch range, dominance in pitch relative to the speaker's habit, with label noise of known size"""

QUALITY_NOTE = f"""\
{PLANTED}.
**This page tests machinery. It is no evidence about people, nor for a paper's claim about them.** CCC on the unseen
speakers of the test split, population variances; ± is the standard deviation over seeds. The ceiling is the best CCC
that any predictor can reach with labels of this noise."""

SYSTEMS_NOTE = f"""\
{PLANTED};
classes follow from valence and arousal. The directions are those planted. **This page tests machinery. It is no
evidence about people, nor for or against what a paper claims of them**, and differences are reported as they come.

Unseen speakers of the test split, whole clips, everything that the model reads. Brackets hold 95 % bootstrap intervals
over speakers, of the mean over seeds; ± is the standard deviation over seeds. Epochs are few, those of CNN14 (a quarter
of the published width) fewest, so rows are compared within their system and not across systems. The perspective loss
has its own corpus: two voices of a split in turn, labels that carry over from one turn to the next."""


@dataclass(frozen=True)
class Scored:
    """A row with its predictions.

    Attributes:
        row: Its name.
        under: Name of the row that it is compared with; None for none.
        frames: Test predictions, one frame per seed, all levels in one.
        settings: What it was trained with, seed aside.
        core_s: Mean time of one training on a core.
    """

    row: str
    under: str | None
    frames: list[pl.DataFrame]
    settings: dict[str, Any]
    core_s: float

    @classmethod
    def of(cls, row: str, jobs: Sequence[Job], under: str | None) -> Self:
        """A row from its jobs, all done."""
        frames = [job.predictions() for job in jobs]
        settings = {"model": jobs[0].model.model_dump(mode="json"), "train": jobs[0].train.model_dump(mode="json")}
        settings["train"].pop("seed")
        return cls(row, under, frames, settings, float(np.mean([frame["core_s"][0] for frame in frames])))

    def at(self, level: str) -> list[pl.DataFrame]:
        """Predictions at a semantic level, one frame per seed; empty if it was not scored there."""
        return [part for frame in self.frames if not (part := frame.filter(pl.col("level") == level)).is_empty()]

    def metrics(self, classes: Sequence[str]) -> dict[str, Metric]:
        """CCCs, or UA and WA where it has a head of classes."""
        if self.settings["model"]["classes"]:
            return {name: categorical(name.lower(), classes) for name in ("UA", "WA")}
        return METRICS


Values = dict[str, Interval]


def write_quality(
    folder: Path,
    rows: Sequence[Scored],
    *,
    ceiling: Mapping[str, float],
    wer: float,
    seconds: float,
    settings: Mapping[str, Any],
) -> str:
    """Write quality.md and quality.json.

    Args:
        folder: Folder of the files.
        rows: The rows, compared at the level `full`.
        ceiling: Best reachable CCC per dimension.
        wer: Word error rate of the recognised transcripts.
        seconds: Duration of the run.
        settings: What it ran with.

    Returns:
        The page.
    """
    top = {**ceiling, "mean": float(np.mean(list(ceiling.values())))}
    seeds = max(len(row.frames) for row in rows)
    values = {
        (row.row, level): _values(METRICS, frames) for row in rows for level in LEVEL_NAMES if (frames := row.at(level))
    }
    names = {(row, level): ", ".join(filter(None, [row, LEVEL_NAMES[level].format(wer=wer)])) for row, level in values}
    differences = _differences(rows, lambda row: (METRICS, row.at("full")))
    lines = [
        f"{_test_split(rows[0].at('full')[0])} Seeds per row: {seeds}, each trained from scratch.",
        f"This run took {seconds / 60:.0f} min on {os.cpu_count()} cores (what was there was not trained again).",
        "",
        *_table(
            ["model", *METRICS, "of the ceiling"],
            [
                ["ceiling", *(f"{top[name]:.3f}" for name in METRICS), "1.00"],
                *(
                    [names[key], *map(estimate, found.values()), f"{found['mean'].estimate / top['mean']:.2f}"]
                    for key, found in values.items()
                ),
            ],
        ),
    ]
    if differences:
        lines += [
            "",
            f"## {rows[0].row} minus each other row",
            "",
            "Paired 95 % bootstrap intervals over speakers, averaged over seeds; bold where they exclude zero.",
            "",
            *_table(
                ["minus", *METRICS], ([row, *map(difference, found.values())] for row, found in differences.items())
            ),
        ]
    document = {
        "ceiling": top,
        "rows": [
            {
                "row": names[key],
                "level": key[1],
                "ccc": {name: value.estimate for name, value in found.items()},
                "sd": {name: value.seed_sd for name, value in found.items()},
            }
            for key, found in values.items()
        ],
        "word_error_rate": wer,
        "differences": {row: _plain(found) for row, found in differences.items()},
        "seeds": seeds,
        "settings": settings,
    }
    return _write(folder / "quality", ["# Quality on planted speech", "", QUALITY_NOTE, "", *lines], document, seconds)


def write_systems(
    folder: Path,
    systems: Mapping[str, Sequence[Scored]],
    *,
    classes: Sequence[str],
    ceiling: Mapping[str, float],
    seconds: float,
    processes: int,
) -> str:
    """Write systems.md and systems.json.

    Args:
        folder: Folder of the files.
        systems: System → its rows.
        classes: Names of the classes.
        ceiling: Best reachable CCC per dimension.
        seconds: Duration of the run.
        processes: Trainings at a time.

    Returns:
        The page.
    """
    rows = {scored.row: scored for part in systems.values() for scored in part}
    values = {name: _values(scored.metrics(classes), scored.frames) for name, scored in rows.items()}
    differences = _differences(list(rows.values()), lambda row: (row.metrics(classes), row.frames))
    core_min = sum(one.core_s * len(one.frames) for one in rows.values()) / 60
    lines = [
        f"{_test_split(next(iter(rows.values())).frames[0])} All trainings: {core_min:.0f} min of a core.",
        (
            f"This run: {seconds / 60:.0f} min, {processes} at a time on {os.cpu_count()} cores (what was there was not"
            " trained again)."
        ),
    ]
    mean = float(np.mean(list(ceiling.values())))
    for system, part in systems.items():
        metrics = part[0].metrics(classes)
        top = ["ceiling", *(f"{ceiling.get(name, mean):.3f}" for name in METRICS), "", "", ""]
        body = [[one.row, *map(cell, values[one.row].values()), *_how(one)] for one in part]
        heads = ["model", *metrics, "seeds", "encoder, epochs, batch, crop", "s of a core"]
        lines += ["", f"## {system}", "", *_table(heads, [top, *body] if metrics is METRICS else body)]
        compared = [one for one in part if one.row in differences]
        if compared:
            rule = "The row named first minus the row, paired on the same clips; bold where zero is excluded."
            shown = ([f"{one.under} − {one.row}", *map(difference, differences[one.row].values())] for one in compared)
            lines += ["", rule, "", *_table(["minus", *metrics], shown)]
    lines += ["", "## What the columns mean", ""]
    lines += [f"- {name}: {DEFINITIONS[name]}." for name in ("CCC", "UA", "WA")]
    lines += ["- seeds, epochs, batch, crop: as trained; s of a core: of one training, evaluation included."]
    document = {
        "ceiling": dict(ceiling),
        "rows": {
            name: {
                "under": scored.under,
                "seeds": len(scored.frames),
                "core_s": round(scored.core_s, 1),
                "values": _plain(values[name]),
                "difference": _plain(differences.get(name, {})),
                "settings": scored.settings,
            }
            for name, scored in rows.items()
        },
    }
    return _write(folder / "systems", ["# Systems on planted speech", "", SYSTEMS_NOTE, "", *lines], document, seconds)


def _values(metrics: Mapping[str, Metric], frames: Sequence[pl.DataFrame]) -> Values:
    return {name: interval(metric, frames, resamples=RESAMPLES) for name, metric in metrics.items()}


def _differences(
    rows: Sequence[Scored], of: Callable[[Scored], tuple[Mapping[str, Metric], list[pl.DataFrame]]]
) -> dict[str, Values]:
    """Row → metric → the row that it is compared with minus the row; rows without such a row are left out."""
    by_name, found = {row.row: row for row in rows}, {}
    for row in rows:
        if row.under in by_name:
            metrics, frames = of(row)
            above = of(by_name[row.under])[1]
            found[row.row] = {
                name: paired_difference(metric, above, frames, resamples=RESAMPLES) for name, metric in metrics.items()
            }
    return found


def _plain(values: Values) -> dict[str, Any]:
    return {name: value.to_dict() for name, value in values.items()}


def _test_split(clips: pl.DataFrame) -> str:
    return f"Test split: {clips.height} clips of {clips['speaker_id'].n_unique()} speakers."


def _how(row: Scored) -> list[str]:
    """How a row was trained, as cells."""
    model, train = row.settings["model"], row.settings["train"]
    how = [model["encoder"]["kind"], train["epochs"], train["plan"]["batch_size"], f"{train['augment']['crop_s']} s"]
    if model["name"] in WITHOUT_GRADIENT:
        how = ["no step"]
    return [str(len(row.frames)), ", ".join(map(str, how)), f"{row.core_s:.0f}"]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    return [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *(f"| {' | '.join(cells)} |" for cells in rows)]


def estimate(value: Interval) -> str:
    """An estimate with its deviation over seeds."""
    return f"{value.estimate:.3f}" + ("" if value.seed_sd is None else f" ± {value.seed_sd:.3f}")


def cell(value: Interval) -> str:
    """An estimate with its deviation over seeds and its interval."""
    return f"{estimate(value)} [{value.low:.3f}, {value.high:.3f}]"


def difference(value: Interval) -> str:
    """A difference with its interval; bold where that excludes zero."""
    text = f"{value.estimate:+.3f} [{value.low:+.3f}, {value.high:+.3f}]"
    return f"**{text}**" if value.low > 0 or value.high < 0 else text


def _write(path: Path, lines: Sequence[str], document: Mapping[str, Any], seconds: float) -> str:
    page = "\n".join([*lines, ""])
    shared = {
        "note": "synthetic speech: tests machinery, no evidence about people",
        "seconds": round(seconds),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**shared, **document}, indent=1, sort_keys=True) + "\n"
    path.with_suffix(".json").write_text(text, encoding="utf-8")
    path.with_suffix(".md").write_text(page, encoding="utf-8")
    return page
