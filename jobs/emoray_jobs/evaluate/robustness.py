"""robustness: a registered version on test clips that are made worse: noise, codecs, speed, wrong and missing words.

The clips are scored from their audio, as online; what is reported decides nothing. The same version, clips and options
are scored once: another call finds the report.
"""

from __future__ import annotations

import base64
import json
import os
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl
from rich.console import Group, RenderableType
from rich.table import Table

from emoray.digest import digest
from emoray.errors import InputError
from emoray.evaluation import figures, pages
from emoray.evaluation.bootstrap import clusters, interval, paired_difference
from emoray.evaluation.metrics import Metric, categorical, dimensional, labelled_dimensions, mean_ccc
from emoray.evaluation.robustness import CURVES, KINDS, Condition, conditions
from emoray.evaluation.summary import LEVELS, check_predictions
from emoray.lake.tables import Lake
from emoray.registry import versions
from emoray.registry.tracking import connect
from emoray.scoring.predictions import predict_rows
from emoray.scoring.score import REQUESTED_OF
from emoray.scoring.scorer import Scorer, load_bundle
from emoray.stages.base import Row
from emoray_jobs.evaluate import stored
from emoray_jobs.evaluate.predictions import find_version, utterance_rows
from emoray_jobs.evaluate.stored import KEY, METRICS, PREDICTIONS, TITLES
from emoray_jobs.progress import track
from emoray_jobs.train.local import torch_threads
from emoray_jobs.train.register import levels_of

if TYPE_CHECKING:
    from emoray_jobs.config import Config


@dataclass(frozen=True)
class RobustnessResult:
    """What was found.

    Attributes:
        title: Headline.
        split: Split that the clips are of.
        figures: The tree of metrics.json.
        page: Address of the HTML page.
        reused: It was there before.
        synthetic: The corpus is synthetic.
    """

    title: str
    split: str
    figures: dict[str, Any]
    page: str
    reused: bool
    synthetic: bool


def run(config: Config, *, model: str | None = None) -> RobustnessResult:
    """Score clips of the first test split as they are and made worse, and report what that costs.

    Args:
        config: The jobs' configuration.
        model: Number, alias or `models:/…`; the challenger if left out, the champion if there is none.

    Raises:
        RegistryError: There is no such version.
        InputError: The corpus has no labelled test split.
    """
    lake = Lake(config.lake)
    tracking = connect(config.tracking, lake)
    version = find_version(tracking, model or stored.latest(tracking))
    split = stored.test_splits(config, lake)[0]
    where = ("reports", version.name, version.version, split, "robustness")
    title = f"Robustness of {version.name} version {version.version} on {config.corpus.name}"
    synthetic = config.corpus.kind == "synthetic"
    key = digest(
        {
            "source": version.source,
            "corpus": stored.corpus_hash(lake, config.corpus.name, split),
            "robustness": config.robustness.model_dump(mode="json"),
            "evaluate": config.evaluate.model_dump(mode="json"),
        }
    )
    page = lake.uri(*where, "report.html")
    if lake.exists(*where, KEY) and lake.read_json(*where, KEY)["reported"] == key:
        return RobustnessResult(title, split, lake.read_json(*where, METRICS), page, True, synthetic)
    scorer = load_bundle(versions.fetch(tracking, version))
    rows, vocabulary = _clips(config, lake, split, scorer)
    scored = _score(config, scorer, rows, vocabulary)
    found = _figures(config, scorer, scored, split)
    with tempfile.TemporaryDirectory(prefix="emoray-robustness-") as folder:
        _write(folder, found, scored, title, config)
        stored.store(lake, folder, where, {"reported": key})
        tracking.log_folder(version.run_id, folder, f"robustness/{split}")
    return RobustnessResult(title, split, found, page, False, synthetic)


def _clips(config: Config, lake: Lake, split: str, scorer: Scorer) -> tuple[list[Row], list[str]]:
    """Labelled clips, spread over the split, with their waveforms; and the words of the whole split."""
    labels = ["valence", "arousal", "dominance", "emotion"]
    table = lake.utterances(config.corpus.name, ["utterance_id", "split", "transcript", *labels])
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    labelled = pl.any_horizontal(pl.col(name).is_not_null() for name in labels)
    ids = frame.filter(labelled & (pl.col("split") == split)).sort("utterance_id")["utterance_id"]
    if ids.is_empty():
        raise InputError(f"no clip of {split} has a label", remedy="Scores are judged by labels", kind="empty_split")
    clips = min(config.robustness.clips, len(ids))
    chosen = [ids[place * len(ids) // clips] for place in range(clips)]
    words = frame.filter(pl.col("split") == split)["transcript"].drop_nulls().str.split(" ").explode()
    return utterance_rows(lake, config.corpus.name, chosen, scorer.bundle), sorted(set(words))


def _score(
    config: Config, scorer: Scorer, rows: list[Row], vocabulary: list[str]
) -> list[tuple[Condition, pl.DataFrame]]:
    """Predictions under every condition; at the last, text is withheld step by step."""
    reads_words = scorer.bundle.annotate.transcribe.kind == "reference"
    levels = levels_of(scorer.bundle.config)
    todo = [
        (condition, REQUESTED_OF[levels[-1]])
        for condition in conditions(config.robustness, vocabulary, reads_words=reads_words and len(levels) > 1)
    ]
    todo += [
        (Condition("semantics", None, LEVELS.get(level, level), lambda row: row), REQUESTED_OF[level])
        for level in reversed(levels[:-1])
    ]
    scored = []
    with track("scoring under conditions", "clips") as advance, torch_threads(config.launch.threads):
        for number, (condition, heard) in enumerate(todo):
            frame = predict_rows(scorer, [condition.change(row) for row in rows], semantics=heard)
            scored.append((condition, check_predictions(frame)))
            advance((number + 1) * len(rows), len(todo) * len(rows))
    return scored


def _figures(
    config: Config, scorer: Scorer, scored: list[tuple[Condition, pl.DataFrame]], split: str
) -> dict[str, Any]:
    clean = scored[0][1]
    dimensions = labelled_dimensions(clean)
    metrics: dict[str, Metric] = {f"ccc_{name}": dimensional("ccc", name) for name in dimensions}
    if dimensions:
        metrics["ccc_mean"] = mean_ccc(dimensions)
    if scorer.bundle.config.classes and clean["emotion_true"].is_not_null().any():
        metrics |= {kind: categorical(kind, scorer.bundle.config.classes) for kind in ("ua", "wa")}
    if not metrics:
        raise InputError("no clip has a label of what the model predicts", remedy="See emoray corpus stats")
    headline = "ccc_mean" if dimensions else "ua"
    options = config.evaluate.bootstrap
    entries = []
    for condition, frame in scored:
        loss = None
        if frame is not clean:
            loss = paired_difference(metrics[headline], frame, clean, **options).to_dict()
        entries.append(
            {
                "kind": condition.kind,
                "name": condition.name,
                "amount": condition.amount,
                "metrics": {name: interval(metric, frame, **options).to_dict() for name, metric in metrics.items()},
                "loss": loss,
            }
        )
    return {
        "split": split,
        "n_clips": clean.height,
        "unit": clusters(clean).unit,
        "interval_level": config.evaluate.interval_level,
        "dimensions": dimensions,
        "headline": headline,
        "shown": list(metrics),
        "conditions": entries,
    }


def _write(
    folder: str, found: dict[str, Any], scored: list[tuple[Condition, pl.DataFrame]], title: str, config: Config
) -> None:
    """metrics.json, predictions.parquet, the figure and the page."""
    frames = [
        frame.with_columns(condition=pl.lit(condition.name), kind=pl.lit(condition.kind)) for condition, frame in scored
    ]
    pl.concat(frames).write_parquet(os.path.join(folder, PREDICTIONS))
    with open(os.path.join(folder, METRICS), "w", encoding="utf-8") as file:
        file.write(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    kinds = {kind: KINDS[kind] for kind in CURVES if any(one["kind"] == kind for one in found["conditions"])}
    image = None
    if kinds and found["dimensions"]:
        figure = figures.robustness(found["conditions"], kinds, found["dimensions"])
        path = os.path.join(folder, "robustness.png")
        figure.savefig(path)
        with open(path, "rb") as drawn:
            image = {
                "data": base64.b64encode(drawn.read()).decode(),
                "width_px": round(96 * figure.get_size_inches()[0]),
            }
    page = pages.render(
        "robustness.html.j2",
        about={"title": title, "synthetic": config.corpus.kind == "synthetic"},
        r=found,
        image=image,
        percent=f"{100 * found['interval_level']:g}",
        titles=TITLES,
    )
    with open(os.path.join(folder, "report.html"), "w", encoding="utf-8") as file:
        file.write(page)


def render(result: RobustnessResult) -> RenderableType:
    """The table as it is printed."""
    found = result.figures
    heading = f"{result.title}, {result.split}: {found['n_clips']:,} clips"
    table = Table(title=heading, title_justify="left")
    table.add_column("condition")
    for name in found["shown"]:
        table.add_column(TITLES.get(name, name), justify="right")
    table.add_column("against clean", justify="right")
    for one in found["conditions"]:
        cells = [stored.cell(one["metrics"][name]) for name in found["shown"]]
        table.add_row(one["name"], *cells, "" if one["loss"] is None else stored.cell(one["loss"], sign="+"))
    notes = ["Scored before, with the same options."] if result.reused else []
    notes += [pages.SYNTHETIC_NOTE] if result.synthetic else []
    return Group(table, *notes, f"Report: {result.page}")
