"""Building the reply from the score and the semantics of the clip."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from emoray.audio.io import Waveform
from emoray.schema import DIMENSIONS, GRANULARITIES
from emoray.scoring.score import Estimate, RequestedSemantics, Score
from emoray_serving.clip_semantics import ClipSemantics
from emoray_serving.http.schemas import (
    Absent,
    Dimension,
    Explanation,
    Interval,
    ModelInfo,
    Scale,
    ScoreParameters,
    ScoreReply,
    SemanticsUsed,
    Speaker,
    Transcript,
    Window,
    Word,
)

#: Text vectors that each level uses.
_VECTORS: dict[RequestedSemantics, tuple[str, ...]] = {"none": (), "transcript": ("les", "gs"), "full": GRANULARITIES}
#: Products that each text vector is made of; the first that is missing explains its absence.
_MADE_OF = {"les": ("transcript", "emphasis"), "gs": ("transcript",), "es": ("description", "transcript")}


def build_reply(
    request_id: str,
    parameters: ScoreParameters,
    waveform: Waveform,
    semantics: ClipSemantics,
    model: ModelInfo,
    score: Score,
    timing_ms: dict[str, float],
) -> ScoreReply:
    """The reply to one request."""
    return ScoreReply(
        request_id=request_id,
        model=model,
        scale=None if score.scale is None else Scale(min=score.scale[0], max=score.scale[1]),
        audio_start_ms=0.0,
        audio_end_ms=_ms(waveform.duration_s),
        valence=_dimension(score, score.valence),
        arousal=_dimension(score, score.arousal),
        dominance=_dimension(score, score.dominance),
        emotion=score.emotion,
        time_course=_time_course(score) if parameters.time_course and score.dimensional else None,
        speaker=Speaker(state="enrolled" if score.speaker_clips else "unknown", clips=score.speaker_clips),
        transcript=_transcript(parameters, semantics, score),
        semantics=_semantics(parameters, semantics, score),
        explanation=Explanation(gates=score.gates, experts=score.experts),
        timing_ms=timing_ms,
    )


def _dimension(score: Score, estimate: Estimate) -> Dimension | None:
    if not score.dimensional:
        return None
    interval = None
    if estimate.low is not None and estimate.high is not None:
        interval = Interval(
            level=score.interval_level,
            lower=estimate.low,
            upper=estimate.high,
            lower_corpus=estimate.corpus_low,
            upper_corpus=estimate.corpus_high,
        )
    return Dimension(value=estimate.value, value_corpus=estimate.corpus, interval=interval)


def _time_course(score: Score) -> list[Window]:
    return [
        Window(
            start_ms=_ms(point.start_s),
            end_ms=_ms(point.end_s),
            **{name: getattr(point, name) for name in DIMENSIONS},
        )
        for point in score.time_course
    ]


def _transcript(parameters: ScoreParameters, semantics: ClipSemantics, score: Score) -> Transcript | None:
    transcribed = semantics.shown.get("transcribe")
    if transcribed is None:
        if not parameters.transcript:
            return None
        return Transcript(text=parameters.transcript, source="given", times=None, words=[])
    emphasis = semantics.shown.get("emphasis")
    # If the describer was late, the scorer has computed the emphasis, which it needs for its vectors.
    words = emphasis["words"] if emphasis else score.words or transcribed["words"]
    return Transcript(
        text=transcribed["text"],
        source=semantics.source,
        times=transcribed["times"],
        words=[_word(word) for word in words],
    )


def _word(word: dict[str, Any]) -> Word:
    return Word(
        word=word["word"],
        start_ms=None if word["start_s"] is None else _ms(word["start_s"]),
        end_ms=None if word["end_s"] is None else _ms(word["end_s"]),
        prominence=word.get("prominence"),
        emphasised=bool(word["emphasised"]),
    )


def _semantics(parameters: ScoreParameters, semantics: ClipSemantics, score: Score) -> SemanticsUsed:
    absent = []
    for name in _VECTORS[parameters.semantics]:
        if name in score.absent:
            known = [semantics.absent[part] for part in _MADE_OF[name] if part in semantics.absent]
            absent.append(Absent(part=name, reason=known[0] if known else score.absent[name]))
    description = semantics.shown.get("semantics")
    return SemanticsUsed(
        requested=parameters.semantics,
        used="full" if "es" in score.used else "transcript" if score.used else "none",
        vectors=list(score.used),
        condition=score.condition,
        absent=absent,
        description=None if description is None else shown_description(description),
    )


def shown_description(description: Mapping[str, Any]) -> dict[str, Any]:
    """The record, without the text that is made of it; of free text, which has no record, the text."""
    record = {key: value for key, value in description.items() if key not in ("text", "texts")}
    has_record = any(value is not None for value in record.values())
    return record if has_record else {"text": description["text"]}


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
