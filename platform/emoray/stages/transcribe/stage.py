"""transcribe: what is said and when: a given transcript, an offline recogniser, or Whisper (transformers or vLLM)."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from emoray.errors import ConfigError, StageError
from emoray.schema import WORD
from emoray.stages.base import WAVEFORM, Row, Stage, Value
from emoray.stages.transcribe.config import ReferenceConfig, TranscribeConfig, WhisperConfig, WhisperVllmConfig

Times = Literal["corpus", "aligned", "recogniser", "none"]


class Transcribe(Stage):
    """Base of the transcribers.

    The value: text; words as in `emoray.schema.WORD` (`emphasised` stays null: a corpus's mark is truth to be judged
    against, not an input; times are null where `times` is `none`); language; confidence 0..1 where the recogniser gives
    one; times, the source of the word times.
    """

    name = "transcribe"
    value_type: ClassVar[pa.StructType] = pa.struct(
        [
            ("text", pa.string()),
            ("words", pa.list_(WORD)),
            ("language", pa.string()),
            ("confidence", pa.float64()),
            ("times", pa.string()),
        ]
    )


class ReferenceTranscribe(Transcribe):
    """Take the row's own transcript.

    Args:
        config: Where word times come from.
    """

    version = 2
    requires = (WAVEFORM,)

    def __init__(self, config: ReferenceConfig) -> None:
        self.config = config

    def options(self) -> dict[str, Any]:
        """Kind and the source of word times."""
        return {"kind": "reference", **self.config.model_dump(mode="json")}

    def run(self, rows: list[Row]) -> list[Value]:
        """Take or align.

        Raises:
            StageError: `empty_transcript`, `missing_word_times`, or what `sphinx.Aligner.align` raises.
        """
        return [self._one(row) for row in rows]

    def _one(self, row: Row) -> Value:
        text = " ".join((row.get("transcript") or "").split())
        if not text:
            raise StageError(
                "the corpus has no transcript for this utterance",
                where=row["utterance_id"],
                remedy="Map a transcript column, or set annotate.transcribe.kind to a recogniser",
                kind="empty_transcript",
            )
        given = row.get("words")
        language = row.get("language")
        times = self._times(given, language)
        if times == "corpus":
            words = [_word(word["word"], word["start_s"], word["end_s"]) for word in given or []]
        else:
            words = [_word(word, None, None) for word in text.split()]
            if times == "aligned":
                from emoray.stages.transcribe.pocketsphinx import UNALIGNABLE, aligner

                try:
                    words = aligner().align(row[WAVEFORM], text)
                except StageError as refused:
                    if self.config.times == "aligned" or refused.kind not in UNALIGNABLE:
                        raise
                    times = "none"
        return _value(text, words, language, None, times)

    def _times(self, given: list[dict[str, Any]] | None, language: str | None) -> Times:
        timed = bool(given) and all(w["start_s"] is not None and w["end_s"] is not None for w in given or [])
        wanted = self.config.times
        if wanted == "corpus" and not timed:
            raise StageError(
                "the corpus has no word times for this utterance",
                remedy="Set annotate.transcribe.reference.times to auto, aligned or none",
                kind="missing_word_times",
            )
        if wanted == "auto":
            english = language is None or language.lower().startswith("en")
            return "corpus" if timed else "aligned" if english else "none"
        return wanted


class PocketsphinxTranscribe(Transcribe):
    """Recognise with PocketSphinx: offline, US English, 2–3 times real time, poor on synthetic voices."""

    version = 1
    requires = (WAVEFORM,)
    resources = "actor"
    gpus = 0

    def options(self) -> dict[str, Any]:
        """The kind and the package that carries the model."""
        return {"kind": "pocketsphinx", "model": f"pocketsphinx {metadata.version('pocketsphinx')} en-us"}

    def run(self, rows: list[Row]) -> list[Value]:
        """Recognise.

        Raises:
            StageError: `empty_transcript` where nothing was understood.
        """
        from emoray.stages.transcribe.pocketsphinx import LANGUAGE, recogniser

        values = []
        for row in rows:
            heard = recogniser().recognise(row[WAVEFORM])
            if not heard:
                raise _nothing_heard(row)
            words = [_word(segment.word, segment.start_s, segment.end_s) for segment in heard]
            confidence = float(np.mean([segment.probability for segment in heard]))
            values.append(_value(" ".join(s.word for s in heard), words, LANGUAGE, confidence, "recogniser"))
        return values


class WhisperTranscribe(Transcribe):
    """Recognise with Whisper; word times by its cross-attention where the checkpoint names its alignment heads.

    Args:
        config: Model, language and device.
    """

    version = 1
    requires = (WAVEFORM,)
    resources = "actor"

    def __init__(self, config: WhisperConfig) -> None:
        self.config = config
        self.gpus = int(config.device != "cpu")

    def options(self) -> dict[str, Any]:
        """The weights' revision and the language."""
        from emoray.stages.weights import revision

        return {"kind": "whisper", "revision": revision(self.config.model), "language": self.config.language}

    def run(self, rows: list[Row]) -> list[Value]:
        """Recognise a batch.

        Raises:
            StageError: `empty_transcript` where nothing was understood.
        """
        from emoray.stages.transcribe.whisper import whisper

        recogniser = whisper(self.config.model, self.config.device)
        heard = recogniser.recognise([row[WAVEFORM] for row in rows], self.config.language)
        values = []
        for row, recognition in zip(rows, heard, strict=True):
            if not recognition.words:
                raise _nothing_heard(row)
            words = [_word(*word) for word in recognition.words]
            times: Times = "recogniser" if recognition.timed else "none"
            values.append(_value(recognition.text, words, recognition.language, None, times))
        return values


class WhisperVllmTranscribe(Transcribe):
    """Recognise with Whisper in vLLM, all clips of a batch at once.

    Args:
        config: Model, language, word times and engine.
    """

    version = 1
    requires = (WAVEFORM,)
    resources = "actor"

    def __init__(self, config: WhisperVllmConfig) -> None:
        self.config = config
        self.gpus = config.vllm.tensor_parallel_size
        self.rows_at_a_time = config.vllm.max_sequences

    def options(self) -> dict[str, Any]:
        """The weights' revision, the language and where word times come from."""
        from emoray.stages.weights import revision

        config = self.config
        options = {"revision": revision(config.model), "language": config.language, "times": config.times}
        return {"kind": "whisper_vllm", **options}

    def run(self, rows: list[Row]) -> Sequence[Value | Exception]:
        """Recognise a batch.

        Returns:
            Per row its value, or a StageError: `empty_transcript` where nothing was understood, and for
            `times: aligned` what `sphinx.Aligner.align` raises.
        """
        from emoray.stages.transcribe.whisper_vllm import recognise

        heard = recognise([row[WAVEFORM] for row in rows], self.config)
        return [self._one(row, text, language) for row, (text, language) in zip(rows, heard, strict=True)]

    def _one(self, row: Row, text: str, language: str) -> Value | Exception:
        if not text:
            return _nothing_heard(row)
        wanted = self.config.times
        if wanted == "aligned" or (wanted == "auto" and language == "en"):
            from emoray.stages.transcribe.pocketsphinx import UNALIGNABLE, aligner

            try:
                return _value(text, aligner().align(row[WAVEFORM], text), language, None, "aligned")
            except StageError as refused:
                if wanted == "aligned" or refused.kind not in UNALIGNABLE:
                    return refused
        return _value(text, [_word(word, None, None) for word in text.split()], language, None, "none")


def build_transcribe(config: TranscribeConfig) -> Transcribe:
    """The transcriber that the configuration names.

    Raises:
        ConfigError: There is no such kind.
    """
    if config.kind == "reference":
        return ReferenceTranscribe(config.reference)
    if config.kind == "pocketsphinx":
        return PocketsphinxTranscribe()
    if config.kind == "whisper":
        return WhisperTranscribe(config.whisper)
    if config.kind == "whisper_vllm":
        return WhisperVllmTranscribe(config.whisper_vllm)
    raise ConfigError(f"unknown transcriber {config.kind!r}", where="annotate.transcribe.kind")


def _word(word: str, start_s: float | None, end_s: float | None) -> dict[str, Any]:
    return {"word": word, "start_s": start_s, "end_s": end_s, "emphasised": None}


def _value(
    text: str, words: list[dict[str, Any]], language: str | None, confidence: float | None, times: Times
) -> Value:
    return {"text": text, "words": words, "language": language, "confidence": confidence, "times": times}


def _nothing_heard(row: Row) -> StageError:
    return StageError(
        "the recogniser understood no word",
        where=row["utterance_id"],
        remedy="Listen to the clip; give a transcript if it holds speech",
        kind="empty_transcript",
    )
