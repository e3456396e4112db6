"""The pages of `python -m benchmarks.quality` and `.quality.systems`: tables of trained rows, as Markdown and JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from benchmarks.quality.rows import Job, Row

from emoray.evaluation.intervals import Interval, interval, paired_difference
from emoray.evaluation.metrics import DEFINITIONS, Metric, categorical, dimensional, mean_ccc
from emoray.models.build import WITHOUT_GRADIENT
from emoray.schema import DIMENSIONS

METRICS: dict[str, Metric] = {**{name: dimensional("ccc", name) for name in DIMENSIONS}, "mean": mean_ccc()}

NOTE = """\
The corpus is synthetic (espeak-ng): valence is planted in the words and in which of them is emphasised, arousal in
rate, loudness and pitch range, dominance in pitch relative to the speaker's habit, with label noise of known size;
classes follow from valence and arousal. The directions are those planted. **This page tests software. It is no
evidence about people, nor for or against what a paper claims of them**, and differences are reported as they come. The
ceiling is the best CCC that any predictor can reach with labels of this noise.

Unseen speakers of the test split, whole clips. Brackets hold 95 % intervals over speakers, of the mean over
seeds; ± is the standard deviation over seeds."""


@dataclass(frozen=True)
class Scored:
    """A row with its predictions.

    Attributes:
        row: Its name.
        under: Name of the row that it is compared with; None for none.
        frames: Test predictions at one semantic level, one frame per seed.
        settings: What it was trained with, seed aside.
        core_s: Mean time of one training on a core.
    """

    row: str
    under: str | None
    frames: list[pl.DataFrame]
    settings: dict[str, Any]
    core_s: float

    @classmethod
    def of(cls, row: Row, jobs: Sequence[Job], level: str = "full", name: str | None = None) -> Self:
        """A row at a semantic level, from the jobs of a table, all done; another level has another name."""
        mine = [job for job in jobs if job.row == row.name]
        frames = [job.predictions() for job in mine]
        settings = {"model": mine[0].model.model_dump(mode="json"), "train": mine[0].train.model_dump(mode="json")}
        settings["train"].pop("seed")
        return cls(
            name or row.name,
            row.under,
            [frame.filter(pl.col("level") == level) for frame in frames],
            settings,
            float(np.mean([frame["core_s"][0] for frame in frames])),
        )

    def metrics(self, classes: Sequence[str]) -> dict[str, Metric]:
        """CCCs, or UA and WA where it has a head of classes."""
        if self.settings["model"]["classes"]:
            return {name: categorical(name.lower(), classes) for name in ("UA", "WA")}
        return METRICS

    def training(self) -> list[str]:
        """Seeds, how it was trained, and its time, as cells."""
        model, train = self.settings["model"], self.settings["train"]
        crop = f"{train['augment']['crop_s']} s"
        how = [model["encoder"]["kind"], train["epochs"], train["plan"]["batch_size"], crop]
        if model["name"] in WITHOUT_GRADIENT:
            how = ["no step"]
        return [str(len(self.frames)), ", ".join(map(str, how)), f"{self.core_s:.0f}"]


def write_page(
    path: Path,
    title: str,
    note: str,
    systems: Mapping[str, Sequence[Scored]],
    *,
    classes: Sequence[str] = (),
    ceiling: Mapping[str, float],
    seconds: float,
    processes: int,
    **facts: Any,
) -> str:
    """Write a page: a table per system, with the differences to the rows that its rows are compared with.

    Args:
        path: Path of the files, without `.md` and `.json`.
        title: Headline.
        note: What a reader must know besides `NOTE`.
        systems: System → its rows.
        classes: Names of the classes.
        ceiling: Best reachable CCC per dimension.
        seconds: Duration of the run.
        processes: Trainings at a time.
        **facts: Further entries of the JSON document.

    Returns:
        The page.
    """
    rows = {scored.row: scored for part in systems.values() for scored in part}
    values, differences = _measured(rows, classes)
    clips = next(iter(rows.values())).frames[0]
    core_min = sum(one.core_s * len(one.frames) for one in rows.values()) / 60
    at_a_time = f"{processes} at a time on {os.cpu_count()} cores"
    test = f"{clips.height} clips of {clips['speaker_id'].n_unique()} speakers"
    lines = [
        *(f"# {title}", "", f"{NOTE} {note}", ""),
        f"Test split: {test}. All trainings: {core_min:.0f} min of a core.",
        f"This run: {seconds / 60:.0f} min, {at_a_time} (finished trainings were not repeated).",
    ]
    mean = float(np.mean(list(ceiling.values())))
    for system, part in systems.items():
        metrics = part[0].metrics(classes)
        heads = ["model", *metrics, "seeds", "encoder, epochs, batch, crop", "s of a core"]
        body = [[one.row, *map(cell, values[one.row].values()), *one.training()] for one in part]
        if metrics is METRICS:
            body.insert(0, ["ceiling", *(f"{ceiling.get(name, mean):.3f}" for name in METRICS), "", "", ""])
        lines += ["", f"## {system}", "", *_table(heads, body)]
        compared = [one for one in part if one.row in differences]
        if compared:
            rule = "The row named first minus the row, paired on the same clips; bold where zero is excluded."
            shown = ([f"{one.under} − {one.row}", *map(difference, differences[one.row].values())] for one in compared)
            lines += ["", rule, "", *_table(["minus", *metrics], shown)]
    lines += ["", "## What the columns mean", ""]
    lines += [f"- {name}: {DEFINITIONS[name]}." for name in ("CCC", "UA", "WA")]
    lines += ["- seeds, epochs, batch, crop: as trained; s of a core: of one training, evaluation included.", ""]
    document = {
        "note": "synthetic speech: tests software, no evidence about people",
        "ceiling": dict(ceiling),
        "seconds": round(seconds),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "rows": {
            name: {
                "under": scored.under,
                "seeds": len(scored.frames),
                "core_s": round(scored.core_s, 1),
                "values": {metric: value.to_dict() for metric, value in values[name].items()},
                "difference": {metric: value.to_dict() for metric, value in differences.get(name, {}).items()},
                "settings": scored.settings,
            }
            for name, scored in rows.items()
        },
        **facts,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text("\n".join(lines), encoding="utf-8")
    return "\n".join(lines)


def _measured(
    rows: Mapping[str, Scored], classes: Sequence[str]
) -> tuple[dict[str, dict[str, Interval]], dict[str, dict[str, Interval]]]:
    """Row → metric → value, and → difference to the row that it is compared with, where that was trained."""
    values, differences = {}, {}
    for name, row in rows.items():
        metrics = row.metrics(classes)
        values[name] = {metric: interval(of, row.frames) for metric, of in metrics.items()}
        if row.under in rows:
            pair = rows[row.under].frames, row.frames
            differences[name] = {metric: paired_difference(of, *pair) for metric, of in metrics.items()}
    return values, differences


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    return [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *(f"| {' | '.join(cells)} |" for cells in rows)]


def cell(value: Interval) -> str:
    """An estimate with its deviation over seeds and its interval."""
    spread = "" if value.seed_sd is None else f" ± {value.seed_sd:.3f}"
    return f"{value.estimate:.3f}{spread} [{value.low:.3f}, {value.high:.3f}]"


def difference(value: Interval) -> str:
    """A difference with its interval; bold where that excludes zero."""
    text = f"{value.estimate:+.3f} [{value.low:+.3f}, {value.high:+.3f}]"
    return f"**{text}**" if value.low > 0 or value.high < 0 else text
