"""Score labelled utterances, as the predictions frame of `emoray.evaluation`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from emoray.schema import DIMENSIONS, GRANULARITIES
from emoray.scoring.score import REQUESTED_OF, RequestedSemantics, Score, ScoreRequest
from emoray.scoring.scorer import Scorer
from emoray.stages.base import WAVEFORM, Row
from emoray.stages.conditions import Condition
from emoray.stages.guard import run_isolating_rows
from emoray.stages.transcribe.stage import build_transcribe

_KEPT = ("utterance_id", "speaker_id", "dialogue_id", "gender", "split", "scale_min", "scale_max")
_SCHEMA: dict[str, pl.DataType] = {
    **dict.fromkeys(_KEPT[:5], pl.String()),
    **dict.fromkeys(("scale_min", "scale_max", "duration_s"), pl.Float64()),
    "level": pl.String(),
    **{f"{name}_{end}": pl.Float64() for end in ("true", "pred") for name in DIMENSIONS},
    **dict.fromkeys(("emotion_true", "emotion_pred"), pl.String()),
    "emotion_probabilities": pl.List(pl.Float64()),
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
    level: str = "full",
    stage_fingerprints: Mapping[str, str] | None = None,
    batch_size: int = 16,
) -> pl.DataFrame:
    """Score utterances (see `request_of`) with one model version, in this process.

    Under a condition (`full/unknown/moonshine`) the rows' speakers are known as it says, and other words than given
    ones are recognised; clips that enrol their speaker are left out under an enrolled one.

    Stage values in the rows whose `stage_fingerprints` are not the version's are left out and computed by its own
    stages, so that versions with different stages can be compared fairly.

    Returns:
        One row per utterance: utterance_id, speaker_id, dialogue_id, gender, split, scale_min, scale_max, duration_s,
        level, {dimension}_true and _pred in [0, 1], emotion_true, emotion_pred, emotion_probabilities (in the model's
        order of classes), gates.
    """
    semantics, rows, asked = REQUESTED_OF[level.partition("/")[0]], list(rows), list(rows)
    own = scorer.bundle.fingerprints
    usable = {name: value for name, value in (stage_fingerprints or {}).items() if own.get(name) == value}
    if "/" in level:
        rows, asked, usable = _under(scorer, rows, Condition.named(level.partition("/")[2]), usable)
    scores: list[Score] = []
    for start in range(0, len(asked), batch_size):
        batch = asked[start : start + batch_size]
        scores += scorer.score([request_of(row, usable, semantics) for row in batch])
    values = [
        {
            **{name: row.get(name) for name in _KEPT},
            "duration_s": score.duration_s,
            "level": level,
            **{f"{name}_true": row.get(name) for name in DIMENSIONS},
            **{f"{name}_pred": getattr(score, name).value for name in DIMENSIONS},
            "emotion_true": row.get("emotion"),
            "emotion_pred": score.likeliest,
            "emotion_probabilities": score.emotion and [score.emotion[name] for name in scorer.bundle.config.classes],
            "gates": score.gates and [score.gates[name] for name in GRANULARITIES],
        }
        for row, score in zip(rows, scores, strict=True)
    ]
    return pl.DataFrame(values, _SCHEMA)


def _under(
    scorer: Scorer, rows: list[Row], condition: Condition, usable: Mapping[str, str]
) -> tuple[list[Row], list[Row], dict[str, str]]:
    """Rows that count under a condition, as they are and as it has them, and fingerprints of what they may bring."""
    bundle = scorer.bundle
    if condition.enrol_clips:
        ids = pl.DataFrame([{name: row.get(name) for name in ("utterance_id", "speaker_id")} for row in rows])
        rows = [row for row, enrols in zip(rows, bundle.norms.enrolment_clips(ids), strict=True) if not enrols]
        asked = rows
    else:
        asked = [{**row, "speaker_id": None} for row in rows]
    prints = {name: value for name, value in usable.items() if name in ("prosody", "transcribe")}
    if condition.transcript != "reference":
        stage = build_transcribe(bundle.annotate.transcribe.model_copy(update={"kind": condition.transcript}))
        asked = [{**row, "transcript": None, "words": None} for row in asked]
        outcomes = run_isolating_rows(stage, asked, bundle.annotate.guard)
        asked = [{**row, stage.name: one.value} for row, one in zip(asked, outcomes, strict=True)]
        prints[stage.name] = {source: mark for mark, source in bundle.transcripts.items()}[condition.transcript]
    return rows, asked, prints
