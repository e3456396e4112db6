"""A model version as an MLflow pyfunc: it scores a table of clips with the scorer of the online service."""

from __future__ import annotations

import base64
import binascii
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import soundfile
from mlflow.models import ModelSignature
from mlflow.pyfunc import PythonModel
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType

from emoray.audio.io import AUDIO_HZ, decode
from emoray.errors import EmorayError, InputError
from emoray.registry.publish import shared
from emoray.schema import DIMENSIONS
from emoray.scoring.score import ScoreRequest
from emoray.scoring.scorer import Scorer, load_bundle

_DATA_URI = "data:"
#: Of a refused address; what was meant as audio is long.
SHOWN_CHARACTERS = 80
_BATCH = 16

_NUMBERS = [f"{name}{end}" for name in DIMENSIONS for end in ("", "_low", "_high", "_corpus")]

SIGNATURE = ModelSignature(
    inputs=Schema(
        [
            ColSpec(AnyType(), "audio"),
            ColSpec(DataType.string, "transcript", required=False),
            ColSpec(DataType.string, "speaker_id", required=False),
            ColSpec(DataType.long, "sampling_rate", required=False),
        ]
    ),
    outputs=Schema(
        [
            *(ColSpec(DataType.double, name, required=False) for name in _NUMBERS),
            ColSpec(DataType.string, "level", required=False),
            ColSpec(DataType.string, "absent", required=False),
            ColSpec(DataType.string, "emotion", required=False),
            ColSpec(DataType.string, "probabilities", required=False),
            ColSpec(DataType.string, "error", required=False),
        ]
    ),
    params=ParamSchema([ParamSpec("semantics", DataType.string, "full")]),
)


class EmorayModel(PythonModel):
    """Scores a DataFrame with the columns `audio` and optionally `transcript`, `speaker_id` and `sampling_rate`.

    `audio` is the bytes of an audio file, a `data:audio/wav;base64,…` URI (for JSON), samples (floats in −1 … 1 or
    int16; mono, at `sampling_rate`, 16 kHz if left out), or an address (path, `s3://…`). A caller may name only
    addresses below those that whoever loads the model allows: `model_config={"addresses": ["/data/clips",
    "s3://bucket"]}`, for `mlflow models serve` as JSON in the variable `SERVING_MODEL_CONFIG`. None by default.
    """

    scorer: Scorer
    addresses: tuple[str, ...] = ()

    def load_context(self, context: Any) -> None:  # MLflow prescribes both names
        """Open the version's bundle."""
        bundle = Path(context.artifacts["bundle"])
        shared.ensure(bundle)
        self.scorer = load_bundle(bundle)
        self.addresses = tuple((context.model_config or {}).get("addresses", ()))

    def predict(
        self,
        context: Any,  # noqa: ARG002 (MLflow passes it)
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Score clips, one per row; `params` may have `semantics`: none, transcript or full.

        Returns:
            Per clip the dimensions in [0, 1] with their intervals and in corpus units; the semantic level; why text
            vectors are absent (JSON); the likeliest class, and class → probability (JSON); and the error of a clip that
            cannot be scored, whose other columns are None. No number is NaN, so that it is valid JSON.

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
                samples = decode(self._audio(record["audio"], record.get("sampling_rate")), self.scorer.audio).samples
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
                classes = None if score.emotion is None else json.dumps(score.emotion, ensure_ascii=False)
                rows[number] = {"level": score.level, "absent": absent, **score.columns()}
                rows[number] |= {"emotion": score.likeliest, "probabilities": classes}
        columns = [*_NUMBERS, "level", "absent", "emotion", "probabilities", "error"]
        frame = pd.DataFrame(rows, columns=columns, index=model_input.index, dtype=object)
        return frame.where(frame.notna(), None)

    def _audio(self, value: Any, sampling_rate: Any) -> str | bytes:
        """What `decode` reads: the bytes of an audio file, or an allowed address."""
        if isinstance(value, str) and value.startswith(_DATA_URI):
            try:
                return base64.b64decode(value.partition(",")[2], validate=True)
            except binascii.Error as error:
                raise InputError(f"the data URI is not valid base64: {error}") from error
        if isinstance(value, str):
            if not any(_below(value, allowed) for allowed in self.addresses):
                shown = value if len(value) <= SHOWN_CHARACTERS else f"{value[:SHOWN_CHARACTERS]}…"
                raise InputError(
                    f"the address {shown!r} is not allowed",
                    remedy=f"Send the audio itself (base64 begins with {_DATA_URI}audio/wav;base64,), or load the model"
                    ' with model_config={"addresses": [folder, …]}',
                    kind="address_not_allowed",
                )
            return value
        if isinstance(value, bytes | bytearray | memoryview):
            return bytes(value)
        if isinstance(value, np.ndarray | list | tuple):
            return _wav(value, AUDIO_HZ if pd.isna(sampling_rate) else int(sampling_rate))
        raise InputError(
            f"audio is {type(value).__name__}",
            remedy="Give the bytes of an audio file, a data: URI, samples, or an address",
        )


def data_uri(wav: bytes) -> str:
    """A wav file as a `data:` URI, for the column `audio`."""
    return f"{_DATA_URI}audio/wav;base64,{base64.b64encode(wav).decode()}"


def _below(address: str, allowed: str) -> bool:
    """Whether an address lies below an allowed folder or URL.

    Links and `..` of a local path are followed first; a URL with `..`, or of one file system within another (`::`), is
    below nothing.
    """
    if "://" in address or "://" in allowed:
        plain = ".." not in address.split("/") and "::" not in address
        return plain and address.startswith(f"{allowed.rstrip('/')}/")
    root = os.path.realpath(allowed)
    return os.path.commonpath([os.path.realpath(address), root]) == root


def _wav(samples: Any, sampling_rate: int) -> bytes:
    """Samples as the bytes of an audio file, so that they are checked and resampled as files are."""
    try:
        array = np.asarray(samples)
    except ValueError as error:
        raise InputError(f"the samples are no array: {error}", remedy="Give mono samples, a number each") from error
    if array.ndim != 1 or not (array.dtype.kind == "f" or array.dtype == np.int16):
        raise InputError(
            f"the samples are of shape {array.shape} and type {array.dtype}",
            remedy="Give mono samples: floats in -1 … 1, or int16",
        )
    floats = array.dtype != np.int16
    file, subtype = io.BytesIO(), "FLOAT" if floats else "PCM_16"
    soundfile.write(file, array.astype(np.float32) if floats else array, sampling_rate, subtype, format="WAV")
    return file.getvalue()


def _text(value: Any) -> str | None:
    """A text cell; None for pandas' several missing values."""
    return value if isinstance(value, str) and value else None
