"""Score labelled utterances and give the predictions frame that `emoray.evaluation` judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from emoray.schema import DIMENSIONS, GRANULARITIES
from emoray.scoring.score import LEVEL_OF, Score, ScoreRequest, Semantics
from emoray.scoring.scorer import Scorer
from emoray.stages.base import WAVEFORM, Row

_KEPT = {
    "utterance_id": pl.String,
    "speaker_id": pl.String,
    "dialogue_id": pl.String,
    "gender": pl.String,
    "split": pl.String,
    "scale_min": pl.Float64,
    "scale_max": pl.Float64,
}


def request_of(row: Row, stage_fingerprints: Mapping[str, str], semantics: Semantics = "full") -> ScoreRequest:
    """The request that an annotated utterance makes.

    Args:
        row: Columns of the utterances table, `waveform`, and stage values under their stages' names.
        stage_fingerprints: Fingerprints of these values.
        semantics: How much of them may be used.
    """
    values = {name: row[name] for name in stage_fingerprints if row.get(name) is not None}
    return ScoreRequest(
        samples=row[WAVEFORM],
        transcript=row.get("transcript"),
        words=row.get("words"),
        speaker_id=row.get("speaker_id"),
        language=row.get("language"),
        semantics=semantics,
        stage_values=values,
        stage_fingerprints=stage_fingerprints,
    )


def predict_rows(
    scorer: Scorer,
    rows: Sequence[Row],
    *,
    semantics: Semantics = "full",
    stage_fingerprints: Mapping[str, str] | None = None,
    batch_size: int = 16,
) -> pl.DataFrame:
    """Score utterances with one model version, in this process.

    Args:
        scorer: The version.
        rows: Utterances with their waveforms (see `request_of`).
        semantics: How much may be used; the frame's `level` is named after it.
        stage_fingerprints: Fingerprints of the stage values in the rows. Values that are not the version's own are left
            out and made by its own stages, so that two versions with different stages can be compared fairly.
        batch_size: Clips scored together.

    Returns:
        One row per utterance: utterance_id, speaker_id, dialogue_id, gender, split, duration_s, scale_min, scale_max,
        level, {dimension}_true and _pred in [0, 1], emotion_true, emotion_pred, gates.
    """
    own = scorer.bundle.fingerprints
    usable = {name: value for name, value in (stage_fingerprints or {}).items() if own.get(name) == value}
    scores: list[Score] = []
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        scores += scorer.score([request_of(row, usable, semantics) for row in batch])
    columns = {name: pl.Series(name, [row.get(name) for row in rows], dtype) for name, dtype in _KEPT.items()}
    truths = {f"{name}_true": pl.Series([row.get(name) for row in rows], dtype=pl.Float64) for name in DIMENSIONS}
    predicted = {
        f"{name}_pred": pl.Series([getattr(score, name).value for score in scores], dtype=pl.Float64)
        for name in DIMENSIONS
    }
    return pl.DataFrame(
        {
            **columns,
            "duration_s": pl.Series([score.duration_s for score in scores], dtype=pl.Float64),
            "level": pl.Series([LEVEL_OF[semantics]] * len(rows), dtype=pl.String),
            **truths,
            **predicted,
            "emotion_true": pl.Series([row.get("emotion") for row in rows], dtype=pl.String),
            "emotion_pred": pl.Series([_likeliest(score) for score in scores], dtype=pl.String),
            "gates": pl.Series([_gates(score) for score in scores], dtype=pl.List(pl.Float64)),
        }
    )


def _likeliest(score: Score) -> str | None:
    if score.emotion is None:
        return None
    return list(score.emotion)[int(np.argmax(list(score.emotion.values())))]


def _gates(score: Score) -> list[float] | None:
    return None if score.gates is None else [score.gates[name] for name in GRANULARITIES]
