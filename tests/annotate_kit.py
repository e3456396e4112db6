"""Small corpora and configurations for the tests of the jobs; importable by the processes that they start."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import soundfile
from scoring_kit import SENTENCE, WORDS, speech

from emoray.audio.io import AUDIO_HZ
from emoray.config import load
from emoray.lake.tables import Lake
from emoray.schema import empty_row, utterances_table
from emoray.stages import pipeline
from emoray.stages.base import Row, Value
from emoray.stages.embed import EmbedSemantics, EmbedTranscript
from emoray.stages.guard import RowOutcome
from emoray_jobs.annotate.state import State
from emoray_jobs.config import Config

CORPUS = "buzz"
STAGES = (*pipeline.AUDIO_STAGES, *pipeline.TEXT_STAGES)
#: What is left by `leave_out_encoder`.
CHEAP_STAGES = STAGES[:5]


def config_for(root: object, *overrides: str) -> Config:
    """The laptop preset over a lake of the test's own, with batches and buffers small enough to be many.

    One condition alone, unless asked for: what several do is a matter of test_conditions.py.
    """
    small = (f"lake.root={root}", f"corpus.name={CORPUS}", "annotate.batch_rows=4", "annotate.flush_rows=4")
    small = (*small, "annotate.conditions.enrol_clips=[]")
    small = (*small, "summary.track=false")  # MLflow takes long to import, and to make its tables
    return load(Config, overrides=[*small, *overrides], environ={})


def leave_out_encoder(monkeypatch: Any) -> None:
    """Annotate without the two embedding stages, whose libraries take every new process long to import."""
    text_stages = pipeline.text_stages
    monkeypatch.setattr(pipeline, "text_stages", lambda *arguments: text_stages(*arguments)[:2])


class PlainTranscript(EmbedTranscript):
    """Vectors that need no library: where nothing but the moving of rows matters."""

    def run(self, rows: list[Row]) -> list[Value]:
        return [{"les": None, "gs": [float(len(row["transcribe"]["text"]))]} for row in rows]


class PlainSemantics(EmbedSemantics):
    """The same for ES."""

    def run(self, rows: list[Row]) -> list[Value]:
        return [{"es": [float(len(row["semantics"]["text"]))]} for row in rows]


def plain_encoder(monkeypatch: Any) -> None:
    """Annotate with all stages, of which the embedding ones give plain vectors."""
    text_stages = pipeline.text_stages

    def plain(*arguments: Any) -> list[Any]:
        *others, transcript, semantics = text_stages(*arguments)
        return [*others, PlainTranscript(transcript.config), PlainSemantics(semantics.config)]

    monkeypatch.setattr(pipeline, "text_stages", plain)


def utterance(number: int, audio_uri: str, **columns: Any) -> dict[str, object]:
    """A row with a transcript and word times; speakers take turns, and every second one is in train."""
    speaker = number % 4
    row = {
        "utterance_id": f"u{number:03d}",
        "corpus": CORPUS,
        "audio_uri": audio_uri,
        "speaker_id": f"s{speaker}",
        "split": ("train", "test")[speaker % 2],
        "language": "en",
        "transcript": SENTENCE,
        "words": [{**word, "emphasised": None} for word in WORDS],
    }
    return empty_row() | row | columns


def write_clip(path: object, number: int) -> None:
    """A clip of 2 s or a little more; speakers have pitches of their own."""
    samples = speech(2.0 + 0.1 * (number % 3), 110.0 + 30 * (number % 4), seed=number)
    soundfile.write(os.fspath(path), samples, AUDIO_HZ)  # type: ignore[arg-type]


def make_corpus(root: object, clips: int, extra: Sequence[dict[str, object]] = ()) -> None:
    """Write `clips` good clips and their table into a lake, and further rows with them."""
    lake = Lake(config_for(root).lake)
    os.makedirs(lake.path("audio"), exist_ok=True)
    rows = list(extra)
    for number in range(clips):
        path = lake.path("audio", f"u{number:03d}.wav")
        write_clip(path, number)
        rows.append(utterance(number, path))
    lake.write_utterances(CORPUS, utterances_table(rows))


def stored(config: Config, fingerprints: dict[str, str]) -> dict[str, pl.DataFrame]:
    """The stage tables as readers see them, sorted by id, without times."""
    lake = Lake(config.lake)
    tables = {}
    for stage in annotated_stages(config):
        outcomes = lake.stage_outcomes(stage, fingerprints[stage], columns=["value", "error"])
        assert outcomes is not None, stage
        tables[stage] = outcomes.sort("utterance_id").collect()
    return tables


def annotated_stages(config: Config) -> list[str]:
    """Names of the stages that are run."""
    stages = [*pipeline.audio_stages(config.annotate), *pipeline.text_stages(config.annotate, None)]
    return [stage.name for stage in stages]


def rows_written(config: Config, stage: str, fingerprint: str) -> list[str]:
    """Ids in the files of a stage table, repeats and all."""
    dataset = Lake(config.lake).dataset("annotations", stage, fingerprint)
    return [] if dataset is None else sorted(dataset.to_table(columns=["utterance_id"])["utterance_id"].to_pylist())


def by_hand(config: Config, state: State) -> dict[str, dict[str, RowOutcome]]:
    """What a bare loop over the rows gives: stage → utterance_id → outcome."""
    rows = Lake(config.lake).utterances(config.corpus.name).to_pylist()
    stages = [
        *pipeline.audio_stages(config.annotate, config.lake.storage_options),
        *pipeline.text_stages(config.annotate, state.norms),
    ]
    outcomes = pipeline.annotate_rows(stages, rows, config.annotate.guard)
    return {stage: {outcome.utterance_id: outcome for outcome in one} for stage, one in outcomes.items()}


def assert_same_value(found: Any, expected: Any, where: str) -> None:
    """Equal up to float32 rounding, however deep."""
    if isinstance(expected, dict):
        for name, value in expected.items():
            assert_same_value(found[name], value, f"{where}.{name}")
    elif isinstance(expected, np.ndarray) or (isinstance(expected, list | tuple) and not _nested(expected)):
        if expected is not None and len(expected) and isinstance(expected[0], str):
            assert list(found) == list(expected), where
        else:
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5, err_msg=where)
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for place, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_same_value(one, other, f"{where}[{place}]")
    elif isinstance(expected, float):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5, err_msg=where)
    else:
        assert found == expected, where


def _nested(values: Sequence[Any]) -> bool:
    return bool(values) and isinstance(values[0], dict)
