"""Scoring as a stage: bulk scoring handles bad rows, kills and repeats as annotate does."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from emoray.lake.tables import Lake, LakeConfig
from emoray.registry import versions
from emoray.registry.config import TrackingConfig
from emoray.registry.tracking import connect
from emoray.schema import DIMENSIONS, GRANULARITIES
from emoray.scoring.predictions import request_of
from emoray.scoring.score import RequestedSemantics, Score
from emoray.scoring.scorer import Scorer
from emoray.stages.base import WAVEFORM, Row, Stage, Value

_ESTIMATE = pa.struct(
    [(name, pa.float64()) for name in ("value", "low", "high", "corpus", "corpus_low", "corpus_high")]
)
_POINT = pa.struct([(name, pa.float64()) for name in ("start_s", "end_s", *DIMENSIONS)])

#: Opened versions of this process, by store, model and number.
_opened: dict[tuple[str, str, str], Scorer] = {}


class ScoreStage(Stage):
    """Score utterances with one registered version; the weights are fetched at the first run and kept in the process.

    Args:
        lake: Lake of a store without an address.
        semantics: Which semantics of a clip may be used.
        fingerprints: Of the stage values in the rows; values of other stages than the version's count as absent.
        given_words: The version knows given words: a row's transcript comes before what was recognised.
        time_course: Whether windows of each clip are scored too.
    """

    name = "score"
    version = 2
    requires = (WAVEFORM,)
    resources = "actor"
    value_type: ClassVar[pa.StructType] = pa.struct(
        [
            *((name, _ESTIMATE) for name in DIMENSIONS),
            ("scale", pa.list_(pa.float64())),
            ("interval_level", pa.float64()),
            ("level", pa.string()),
            ("condition", pa.string()),
            ("transcript_source", pa.string()),
            ("speaker_clips", pa.int32()),
            ("used", pa.list_(pa.string())),
            ("absent", pa.struct([(name, pa.string()) for name in GRANULARITIES])),
            ("gates", pa.struct([(name, pa.float64()) for name in GRANULARITIES])),
            ("emphasised", pa.list_(pa.string())),
            ("transcript", pa.string()),
            ("emotion", pa.list_(pa.struct([("emotion", pa.string()), ("probability", pa.float64())]))),
            ("time_course", pa.list_(_POINT)),
            ("duration_s", pa.float64()),
            ("model", pa.string()),
            ("model_version", pa.string()),
        ]
    )

    def __init__(
        self,
        tracking: TrackingConfig,
        lake: LakeConfig,
        version: versions.Version,
        semantics: RequestedSemantics,
        fingerprints: Mapping[str, str],
        *,
        given_words: bool,
        time_course: bool,
    ) -> None:
        self._tracking = tracking
        self._lake = lake
        self._version = version
        self._semantics = semantics
        self._fingerprints = {name: mark for name, mark in fingerprints.items() if name != "decode"}
        self._given_words, self._time_course = given_words, time_course
        self.uses = tuple(self._fingerprints)  # type: ignore[misc]  # they depend on the version

    def options(self) -> dict[str, Any]:
        """Model, version (and the run that made it, since numbers start again in another store) and semantics."""
        return {
            "model": self._version.name,
            "version": self._version.version,
            "run": self._version.run_id,
            "semantics": self._semantics,
            "time_course": self._time_course,
        }

    def run(self, rows: list[Row]) -> list[Value]:
        """Score a batch."""
        requests = [
            dataclasses.replace(
                request_of(self._with_one_source(row), self._fingerprints, self._semantics),
                time_course=self._time_course,
            )
            for row in rows
        ]
        return [self._value(score) for score in self._scorer().score(requests)]

    def _with_one_source(self, row: Row) -> Row:
        return {**row, "transcribe": None} if self._given_words and row.get("transcript") else row

    def _scorer(self) -> Scorer:
        tracking = connect(self._tracking, Lake(self._lake))
        key = (tracking.uri, self._version.name, self._version.version)
        if key not in _opened:
            _opened[key] = versions.load(tracking, self._version, speakers=Lake(self._lake))
        return _opened[key]

    def _value(self, score: Score) -> Value:
        emotion = score.emotion and [{"emotion": name, "probability": share} for name, share in score.emotion.items()]
        there, shown = score.dimensional, score.dimensional and self._time_course
        return {
            **{name: dataclasses.asdict(getattr(score, name)) if there else None for name in DIMENSIONS},
            "scale": score.scale and list(score.scale),
            "interval_level": score.interval_level,
            "level": score.level,
            "condition": score.condition,
            "transcript_source": score.transcript_source,
            "speaker_clips": score.speaker_clips,
            "used": list(score.used),
            "absent": {name: score.absent.get(name) for name in GRANULARITIES},
            "gates": score.gates,
            "emphasised": score.emphasised,
            "transcript": score.transcript,
            "emotion": emotion,
            "time_course": [dataclasses.asdict(point) for point in score.time_course] if shown else None,
            "duration_s": score.duration_s,
            "model": self._version.name,
            "model_version": self._version.version,
        }


def with_score_columns(table: pa.Table, values: pa.ChunkedArray) -> pa.Table:
    """A table with a column per field of the scores beside it; of a dimension `valence`, `valence_low` and so on."""
    for field in ScoreStage.value_type:
        column = pc.struct_field(values, field.name)
        if field.name not in DIMENSIONS:
            table = table.append_column(field.name, column)
            continue
        for part in field.type:
            name = field.name if part.name == "value" else f"{field.name}_{part.name}"
            table = table.append_column(name, pc.struct_field(column, part.name))
    return table
