"""A model version as an MLflow pyfunc: it scores a table of clips with the scorer of the online service."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

import pandas as pd
from mlflow.models import ModelSignature
from mlflow.pyfunc import PythonModel
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType

from emoray.audio.io import decode
from emoray.errors import EmorayError, InputError
from emoray.schema import DIMENSIONS
from emoray.scoring.score import ScoreRequest
from emoray.scoring.scorer import Scorer, load_bundle

_DATA_URI = "data:"
_BATCH = 16

_NUMBERS = [f"{name}{end}" for name in DIMENSIONS for end in ("", "_low", "_high", "_corpus")]

SIGNATURE = ModelSignature(
    inputs=Schema(
        [
            ColSpec(AnyType(), "audio"),
            ColSpec(DataType.string, "transcript", required=False),
            ColSpec(DataType.string, "speaker_id", required=False),
        ]
    ),
    outputs=Schema(
        [
            *(ColSpec(DataType.double, name, required=False) for name in _NUMBERS),
            ColSpec(DataType.string, "level", required=False),
            ColSpec(DataType.string, "absent", required=False),
            ColSpec(DataType.string, "emotion", required=False),
            ColSpec(DataType.string, "error", required=False),
        ]
    ),
    params=ParamSchema([ParamSpec("semantics", DataType.string, "full")]),
)


class EmorayModel(PythonModel):
    """Scores a DataFrame with the columns `audio` and optionally `transcript` and `speaker_id`.

    `audio` is an address (path, `s3://…`), the bytes of an audio file, or a `data:audio/wav;base64,…` URI (for JSON).
    """

    scorer: Scorer

    def load_context(self, context: Any) -> None:  # MLflow prescribes both names
        """Open the version's bundle."""
        self.scorer = load_bundle(context.artifacts["bundle"])

    def predict(
        self,
        context: Any,  # noqa: ARG002 (MLflow passes it)
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Score clips, one per row; `params` may have `semantics`: none, transcript or full.

        Returns:
            Per clip the dimensions in [0, 1] with their intervals and in corpus units; the semantic level; why text
            vectors are absent (JSON); the likeliest class; and the error of a clip that cannot be scored, whose other
            columns are empty.

        Raises:
            InputError: There is no column `audio`, or `semantics` is none of the three.
        """
        if "audio" not in model_input.columns:
            raise InputError(f"no column 'audio' (there are: {', '.join(map(str, model_input.columns))})")
        semantics = (params or {}).get("semantics", "full")
        if semantics not in ("none", "transcript", "full"):
            raise InputError(f"semantics is {semantics!r}", remedy="One of none, transcript, full")
        rows: list[dict[str, Any]] = [{} for _ in range(len(model_input))]
        ready: list[tuple[int, ScoreRequest]] = []
        for number, record in enumerate(model_input.to_dict("records")):
            try:
                samples = decode(_audio(record["audio"]), self.scorer.audio).samples
            except EmorayError as error:
                rows[number] = {"error": f"{error.kind}: {error}"}
                continue
            text, speaker = _text(record.get("transcript")), _text(record.get("speaker_id"))
            request = ScoreRequest(samples, transcript=text, speaker_id=speaker, semantics=semantics, time_course=False)
            ready.append((number, request))
        for start in range(0, len(ready), _BATCH):
            batch = ready[start : start + _BATCH]
            scores = self.scorer.score([request for _, request in batch])
            for (number, _), score in zip(batch, scores, strict=True):
                absent = json.dumps(score.absent, ensure_ascii=False)
                rows[number] = {"level": score.level, "absent": absent, "emotion": score.likeliest, **score.columns()}
        columns = [*_NUMBERS, "level", "absent", "emotion", "error"]
        frame = pd.DataFrame(rows, columns=columns, index=model_input.index)
        return frame.astype(dict.fromkeys(_NUMBERS, "float64"))


def data_uri(wav: bytes) -> str:
    """A wav file as a `data:` URI, for the column `audio`."""
    return f"{_DATA_URI}audio/wav;base64,{base64.b64encode(wav).decode()}"


def _audio(value: Any) -> str | bytes:
    if isinstance(value, str) and value.startswith(_DATA_URI):
        try:
            return base64.b64decode(value.partition(",")[2], validate=True)
        except binascii.Error as error:
            raise InputError(f"the data URI is not valid base64: {error}") from error
    if isinstance(value, str):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise InputError(
        f"audio is {type(value).__name__}", remedy="Give an address, the bytes of an audio file, or a data: URI"
    )


def _text(value: Any) -> str | None:
    """A text cell; None for pandas' several missing values."""
    return value if isinstance(value, str) and value else None
