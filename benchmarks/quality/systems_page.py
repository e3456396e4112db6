"""The page of `python -m benchmarks.quality.systems`, as Markdown and JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from benchmarks.quality.page import METRICS, RESAMPLES, difference
from benchmarks.quality.rows import Job

from emoray.evaluation.bootstrap import Interval, interval, paired_difference
from emoray.evaluation.metrics import DEFINITIONS, Metric, categorical
from emoray.models.build import WITHOUT_GRADIENT

NOTE = """\
The corpus is synthetic (espeak-ng): valence is planted in the words and in which of them is emphasised, arousal in
rate, loudness and pitch range, dominance in pitch relative to the speaker's own habit, with label noise of known size;
classes follow from valence and arousal. The directions are the plant's own. **This page tests machinery. It is no
evidence about people, nor for or against what a paper claims of them**, and differences are reported as they come.

Unseen speakers of the test split, whole clips, everything that the model reads. Brackets hold 95 % bootstrap intervals
over speakers, of the mean over seeds; ± is the standard deviation over seeds. Epochs are few, those of CNN14 (a quarter
of the published width) fewest, so rows are compared within their system and not across systems. The perspective loss
has a corpus of its own: two voices of a split in turn, labels that carry over from one turn to the next."""


@dataclass(frozen=True)
class Scored:
    """A row with its predictions.

    Attributes:
        row: Its name.
        under: Name of the row that it is compared with; None for none.
        frames: Test predictions, one frame per seed.
        settings: What it was trained with, seed aside.
        core_s: What a training took on average.
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

    @property
    def by_classes(self) -> bool:
        """Whether it has a head of classes."""
        return bool(self.settings["model"]["classes"])


def write_page(
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
        folder: Where to.
        systems: System → its rows.
        classes: Names of the classes.
        ceiling: Best reachable CCC per dimension.
        seconds: How long the run took.
        processes: Trainings side by side.

    Returns:
        The page.
    """
    of_classes = {"UA": categorical("ua", classes), "WA": categorical("wa", classes)}
    rows = {scored.row: scored for part in systems.values() for scored in part}
    values = {
        name: {
            metric: interval(of, scored.frames, level=0.95, resamples=RESAMPLES)
            for metric, of in (of_classes if scored.by_classes else METRICS).items()
        }
        for name, scored in rows.items()
    }
    differences = {
        name: _difference(rows[scored.under], scored, of_classes if scored.by_classes else METRICS)
        for name, scored in rows.items()
        if scored.under in rows
    }
    document = {
        "note": "synthetic speech: tests machinery, no evidence about people",
        "ceiling": dict(ceiling),
        "seconds": round(seconds),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
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
    clips = next(iter(rows.values())).frames[0]
    speakers = clips["speaker_id"].n_unique()
    core_min = sum(one.core_s * len(one.frames) for one in rows.values()) / 60
    machine = f"{processes} at a time on {os.cpu_count()} cores"
    lines = [
        "# Systems on planted speech",
        "",
        NOTE,
        "",
        f"Test split: {clips.height} clips of {speakers} speakers. All trainings: {core_min:.0f} min of a core.",
        f"This run: {seconds / 60:.0f} min, {machine} (what was there was not trained again).",
    ]
    for system, part in systems.items():
        metrics = of_classes if part[0].by_classes else METRICS
        top = None if part[0].by_classes else [*ceiling_cells(ceiling), "", "", ""]
        lines += ["", f"## {system}", "", *_table(part, values, list(metrics), top)]
        compared = [one for one in part if one.row in differences]
        if compared:
            lines += [
                "",
                "The row named first minus the row, paired on the same clips; bold where zero is excluded.",
                "",
            ]
            lines += _heads("minus", list(metrics))
            for one in compared:
                cells = [difference(value) for value in differences[one.row].values()]
                lines.append(f"| {one.under} − {one.row} | " + " | ".join(cells) + " |")
    lines += ["", "## What the columns mean", ""]
    lines += [f"- {name}: {DEFINITIONS[name]}." for name in ("CCC", "UA", "WA")]
    lines += ["- seeds, epochs, batch, crop: as trained; s of a core: of one training, evaluation included.", ""]
    page = "\n".join(lines)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "systems.json").write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    (folder / "systems.md").write_text(page, encoding="utf-8")
    return page


def ceiling_cells(ceiling: Mapping[str, float]) -> list[str]:
    """The best reachable CCC per dimension, in the table's order, and their mean."""
    mean = float(np.mean(list(ceiling.values())))
    return [f"{ceiling.get(name, mean):.3f}" for name in METRICS]


def _difference(above: Scored, row: Scored, metrics: Mapping[str, Metric]) -> dict[str, Interval]:
    return {name: paired_difference(of, above.frames, row.frames, resamples=RESAMPLES) for name, of in metrics.items()}


def _heads(first: str, columns: Sequence[str]) -> list[str]:
    return [f"| {first} | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]


def _table(
    part: Sequence[Scored],
    values: Mapping[str, Mapping[str, Interval]],
    metrics: Sequence[str],
    top: Sequence[str] | None,
) -> list[str]:
    lines = _heads("model", [*metrics, "seeds", "encoder, epochs, batch, crop", "s of a core"])
    if top:
        lines.append("| ceiling | " + " | ".join(top) + " |")
    for one in part:
        cells = [_cell(value) for value in values[one.row].values()]
        train = one.settings["train"]
        how = [one.settings["model"]["encoder"]["kind"], train["epochs"], train["plan"]["batch_size"]]
        how.append(f"{train['augment']['crop_s']} s")
        if one.settings["model"]["name"] in WITHOUT_GRADIENT:
            how = ["no step"]
        cells += [str(len(one.frames)), ", ".join(map(str, how)), f"{one.core_s:.0f}"]
        lines.append(f"| {one.row} | " + " | ".join(cells) + " |")
    return lines


def _cell(value: Interval) -> str:
    spread = "" if value.seed_sd is None else f" ± {value.seed_sd:.3f}"
    return f"{value.estimate:.3f}{spread} [{value.low:.3f}, {value.high:.3f}]"


def _plain(values: Mapping[str, Interval]) -> dict[str, Any]:
    return {name: value.to_dict() for name, value in values.items()}
