"""Examples and the request body of the OpenAPI document."""

from __future__ import annotations

from typing import Any

from emoray_serving.http.errors import STATUS
from emoray_serving.http.request import AUDIO_TYPES, MULTIPART
from emoray_serving.http.schemas import ErrorReply, ScoreParameters


def _dimension(value: float) -> dict[str, Any]:
    lower, upper = round(value - 0.11, 2), round(value + 0.11, 2)
    corpus = {"lower_corpus": round(1 + 6 * lower, 2), "upper_corpus": round(1 + 6 * upper, 2)}
    interval = {"level": 0.9, "lower": lower, "upper": upper, **corpus}
    return {"value": value, "value_corpus": round(1 + 6 * value, 2), "interval": interval}


REPLY_EXAMPLE: dict[str, Any] = {
    "request_id": "8f14e45f",
    "model": {"name": "emoray", "version": "3", "alias": "champion"},
    "scale": {"min": 1.0, "max": 7.0},
    "audio_start_ms": 0.0,
    "audio_end_ms": 2140.0,
    "valence": _dimension(0.71),
    "arousal": _dimension(0.58),
    "dominance": _dimension(0.49),
    "emotion": {"anger": 0.04, "happiness": 0.61, "neutral": 0.33, "sadness": 0.02},
    "time_course": [{"start_ms": 0.0, "end_ms": 2140.0, "valence": 0.71, "arousal": 0.58, "dominance": 0.49}],
    "speaker": {"state": "unknown", "clips": 0},
    "transcript": {
        "text": "what a wonderful day",
        "source": "given",
        "times": "aligned",
        "words": [{"word": "wonderful", "start_ms": 640.0, "end_ms": 1180.0, "prominence": 2.4, "emphasised": True}],
    },
    "semantics": {
        "requested": "full",
        "used": "full",
        "vectors": ["les", "gs", "es"],
        "condition": "unknown/reference",
        "absent": [],
        "description": {"emotion": "joy", "intensity": 0.6},
    },
    "explanation": {
        "gates": {"les": 0.41, "gs": 0.37, "es": 0.22},
        "experts": {"valence": [0.5, 0.2, 0.3], "arousal": [0.1, 0.6, 0.3], "dominance": [0.2, 0.2, 0.6]},
    },
    "timing_ms": {"read": 0.4, "decode": 1.1, "transcribe": 64.0, "describe": 6.0, "score": 31.0, "total": 104.2},
}

_MEANINGS = {
    400: "A parameter is invalid, or the clip is too short or too long",
    403: "The bucket is not on the service's list",
    404: "No object at `uri`",
    413: "The body or object is too large",
    415: "Not an audio type that can be read",
    422: "The audio cannot be decoded or used (`kind` says why)",
    503: "No model version yet, or too many waiting requests",
}

ERROR_EXAMPLES: dict[int | str, dict[str, Any]] = {
    status: {
        "model": ErrorReply,
        "description": f"{meaning}: {', '.join(code for code, its in STATUS.items() if its == status)}",
    }
    for status, meaning in _MEANINGS.items()
}


def _request_body() -> dict[str, Any]:
    binary = {"schema": {"type": "string", "format": "binary"}}
    fields = ScoreParameters.model_json_schema()["properties"]
    form = {"type": "object", "properties": {"file": binary["schema"], **fields}, "required": ["file"]}
    return {"content": {**dict.fromkeys(sorted(AUDIO_TYPES), binary), MULTIPART: {"schema": form}}}


REQUEST_BODY = _request_body()
