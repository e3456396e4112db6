"""Score labelled utterances, as the predictions frame of `emoray.evaluation`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from emoray.schema import DIMENSIONS, GRANULARITIES
from emoray.scoring.score import LEVEL_OF, RequestedSemantics, Score, ScoreRequest
from emoray.scoring.scorer import Scorer
from emoray.stages.base import WAVEFORM, Row

_KEPT = ("utterance_id", "speaker_id", "dialogue_id", "gender", "split", "scale_min", "scale_max")
_SCHEMA: dict[str, pl.DataType] = {
    **dict.fromkeys(_KEPT[:5], pl.String()),
    **dict.fromkeys(("scale_min", "scale_max", "duration_s"), pl.Float64()),
    "level": pl.String(),
    **{f"{name}_{end}": pl.Float64() for end in ("true", "pred") for name in DIMENSIONS},
    **dict.fromkeys(("emotion_true", "emotion_pred"), pl.String()),
    "gates": pl.List(pl.Float64()),
}


def request_of(row: Row, stage_fingerprints: Mapping[str, str], semantics: RequestedSemantics = "full") -> ScoreRequest:
    """The request for an annotated utterance.

    Args:
        row: Columns of the utterances table, `waveform`, and stage values under their stages' names.
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
    semantics: RequestedSemantics = "full",
    stage_fingerprints: Mapping[str, str] | None = None,
    batch_size: int = 16,
) -> pl.DataFrame:
    """Score utterances (see `request_of`) with one model version, in this process.

    Stage values in the rows whose `stage_fingerprints` are not the version's are left out and computed by its own
    stages, so that versions with different stages can be compared fairly.

    Returns:
        One row per utterance: utterance_id, speaker_id, dialogue_id, gender, split, scale_min, scale_max, duration_s,
        level, {dimension}_true and _pred in [0, 1], emotion_true, emotion_pred, gates.
    """
    own = scorer.bundle.fingerprints
    usable = {name: value for name, value in (stage_fingerprints or {}).items() if own.get(name) == value}
    scores: list[Score] = []
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        scores += scorer.score([request_of(row, usable, semantics) for row in batch])
    values = [
        {
            **{name: row.get(name) for name in _KEPT},
            "duration_s": score.duration_s,
            "level": LEVEL_OF[semantics],
            **{f"{name}_true": row.get(name) for name in DIMENSIONS},
            **{f"{name}_pred": getattr(score, name).value for name in DIMENSIONS},
            "emotion_true": row.get("emotion"),
            "emotion_pred": score.likeliest,
            "gates": score.gates and [score.gates[name] for name in GRANULARITIES],
        }
        for row, score in zip(rows, scores, strict=True)
    ]
    return pl.DataFrame(values, _SCHEMA)
