"""The table of `make quality`, as Markdown and JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from benchmarks.quality.rows import RECOGNISED

from emoray.evaluation.bootstrap import Interval, paired_difference
from emoray.evaluation.metrics import Metric, dimensional, mean_ccc
from emoray.schema import DIMENSIONS

METRICS: dict[str, Metric] = {
    **{name: dimensional("ccc", name) for name in DIMENSIONS},
    "mean": mean_ccc(),
}
LEVEL_NAMES = {
    "full": "",
    RECOGNISED: "scored with recognised transcripts (word error rate {wer:.2f})",
    "transcript": "scored with the transcript, without ES",
    "audio": "scored from audio alone",
}
RESAMPLES = 2000

NOTE = """\
The corpus is synthetic (espeak-ng): valence is planted in the words and in which of them is emphasised, arousal in
rate, loudness and pitch range, dominance in pitch relative to the speaker's own habit, with label noise of known size.
**This page tests machinery. It is no evidence about people, nor for a paper's claim about them.** CCC on the unseen
speakers of the test split, population variances; ± is the standard deviation over seeds. The ceiling is the best CCC
that any predictor can reach with labels of this noise."""


@dataclass(frozen=True)
class Result:
    """A row of the table.

    Attributes:
        row: Its name.
        frames: Test predictions, one frame per seed (all levels in one).
    """

    row: str
    frames: list[pl.DataFrame]

    def at(self, level: str) -> list[pl.DataFrame]:
        """Predictions at a semantic level, one frame per seed; empty if it was not scored there."""
        return [part for frame in self.frames if not (part := frame.filter(pl.col("level") == level)).is_empty()]


def write_page(
    folder: Path,
    results: Sequence[Result],
    *,
    full: str,
    ceiling: Mapping[str, float],
    wer: float,
    seeds: int,
    seconds: float,
    settings: Mapping[str, Any],
) -> str:
    """Write quality.md and quality.json.

    Args:
        folder: Where to.
        results: The rows.
        full: Name of the row that the others are compared with.
        ceiling: Best reachable CCC per dimension.
        wer: Word error rate of the recognised transcripts.
        seeds: Models per row.
        seconds: How long the run took.
        settings: What it ran with.

    Returns:
        The page.
    """
    top = {**ceiling, "mean": float(np.mean(list(ceiling.values())))}
    table = [row for result in results for row in _rows(result, wer)]
    reference = next((result for result in results if result.row == full), None)
    differences = {}
    if reference is not None:
        for result in results:
            if result.row != full:
                differences[result.row] = {
                    name: paired_difference(metric, reference.at("full"), result.at("full"), resamples=RESAMPLES)
                    for name, metric in METRICS.items()
                }
    document = {
        "note": "synthetic speech: tests machinery, no evidence about people",
        "ceiling": top,
        "rows": table,
        "word_error_rate": wer,
        "differences": {
            row: {name: interval.to_dict() for name, interval in by_metric.items()}
            for row, by_metric in differences.items()
        },
        "seeds": seeds,
        "seconds": round(seconds),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "settings": settings,
    }
    page = _page(table, top, differences, full, seeds, seconds, results)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "quality.json").write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    (folder / "quality.md").write_text(page, encoding="utf-8")
    return page


def _rows(result: Result, wer: float) -> list[dict[str, Any]]:
    rows = []
    for level, words in LEVEL_NAMES.items():
        frames = result.at(level)
        if not frames:
            continue
        values = {name: [metric(frame) for frame in frames] for name, metric in METRICS.items()}
        rows.append(
            {
                "row": f"{result.row}, {words.format(wer=wer)}" if words else result.row,
                "level": level,
                "ccc": {name: float(np.mean(each)) for name, each in values.items()},
                "sd": {name: float(np.std(each, ddof=1)) if len(each) > 1 else None for name, each in values.items()},
            }
        )
    return rows


def _page(
    table: Sequence[Mapping[str, Any]],
    top: Mapping[str, float],
    differences: Mapping[str, Mapping[str, Interval]],
    full: str,
    seeds: int,
    seconds: float,
    results: Sequence[Result],
) -> str:
    clips = results[0].at("full")[0]
    speakers = clips["speaker_id"].n_unique()
    head = "| model | valence | arousal | dominance | mean | of the ceiling |"
    lines = [
        "# Quality on planted speech",
        "",
        NOTE,
        "",
        f"Test split: {clips.height} clips of {speakers} speakers. Seeds per row: {seeds}, each trained from scratch.",
        f"This run took {seconds / 60:.0f} min on {os.cpu_count()} cores (what was there was not trained again).",
        "",
        head,
        "|---|---|---|---|---|---|",
        "| ceiling | " + " | ".join(f"{top[name]:.3f}" for name in METRICS) + " | 1.00 |",
    ]
    for row in table:
        cells = [
            f"{row['ccc'][metric]:.3f}" + (f" ± {row['sd'][metric]:.3f}" if row["sd"][metric] is not None else "")
            for metric in METRICS
        ]
        lines.append(f"| {row['row']} | " + " | ".join(cells) + f" | {row['ccc']['mean'] / top['mean']:.2f} |")
    lines.append("")
    if differences:
        lines += [
            f"## {full} minus each other row",
            "",
            "Paired 95 % bootstrap intervals over speakers, averaged over seeds; bold where they exclude zero.",
            "",
            "| minus | valence | arousal | dominance | mean |",
            "|---|---|---|---|---|",
        ]
        for other, by_metric in differences.items():
            lines.append(f"| {other} | " + " | ".join(difference(by_metric[name]) for name in METRICS) + " |")
        lines.append("")
    return "\n".join(lines)


def difference(interval: Interval) -> str:
    """A difference with its interval; bold where that excludes zero."""
    text = f"{interval.estimate:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"
    return f"**{text}**" if interval.low > 0 or interval.high < 0 else text
