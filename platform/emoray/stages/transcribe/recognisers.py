"""The recognisers as stages. Each imports what it runs on when it runs."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from typing import Any

import numpy as np

from emoray.errors import ConfigError
from emoray.stages.transcribe import checks
from emoray.stages.transcribe.config import (
    ChecksConfig,
    MoonshineConfig,
    TranscriptionEndpointConfig,
    WhisperConfig,
    WhisperVllmConfig,
)
from emoray.stages.transcribe.recognise import Hypothesis, Recognise, Waveform


class PocketsphinxTranscribe(Recognise):
    """Recognise with PocketSphinx: offline, US English, about real time on one core, poor on emotional voices."""

    version = 2
    gpus = 0
    model = "pocketsphinx en-us"

    def __init__(self, checks: ChecksConfig) -> None:
        super().__init__(checks, times="none")

    def options(self) -> dict[str, Any]:
        """The kind, the package that carries the model, and the checks."""
        model = f"pocketsphinx {metadata.version('pocketsphinx')} en-us"
        return {"kind": "pocketsphinx", "model": model, "checks": checks.options(self.checks)}

    def hear(self, clips: Sequence[Waveform]) -> list[Hypothesis]:
        """Clip by clip; see `Recognise.hear`."""
        from emoray.stages.transcribe.pocketsphinx import LANGUAGE, recogniser

        heard = []
        for samples in clips:
            found = recogniser().recognise(samples)
            confidence = float(np.mean([segment.probability for segment in found])) if found else None
            words = [(segment.word, segment.start_s, segment.end_s) for segment in found]
            heard.append(Hypothesis(" ".join(segment.word for segment in found), LANGUAGE, words, confidence))
        return heard


class MoonshineTranscribe(Recognise):
    """Recognise with Moonshine tiny: offline, English, several times faster than real time on one core."""

    version = 1
    gpus = 0
    model = "moonshine tiny"

    def __init__(self, config: MoonshineConfig, checks: ChecksConfig) -> None:
        super().__init__(checks, config.times)

    def options(self) -> dict[str, Any]:
        """The kind, a hash of the model, where word times come from, and the checks."""
        from emoray.audio.moonshine import revision

        options = {"revision": revision(), "times": self.times, "checks": checks.options(self.checks)}
        return {"kind": "moonshine", **options}

    def hear(self, clips: Sequence[Waveform]) -> list[Hypothesis]:
        """Clip by clip, so that no clip depends on its neighbours; see `Recognise.hear`."""
        from emoray.stages.transcribe.moonshine import LANGUAGE, moonshine

        return [
            Hypothesis(text, LANGUAGE, confidence=confidence) for text, confidence in map(moonshine().recognise, clips)
        ]


class WhisperTranscribe(Recognise):
    """Recognise with Whisper; word times by its cross-attention where the checkpoint names its alignment heads."""

    version = 2

    def __init__(self, config: WhisperConfig, checks: ChecksConfig) -> None:
        super().__init__(checks, times="none")
        self.config = config
        self.model = config.model
        self.gpus = int(config.device != "cpu")
        #: Resolved here, so that the workers keep to what the fingerprint says.
        self.dtype = _resolved_dtype(config)

    def options(self) -> dict[str, Any]:
        """The weights' revision, the language, the precision and the checks."""
        from emoray.stages.model_files.weights import revision

        options = {"revision": revision(self.config.model), "language": self.config.language, "dtype": self.dtype}
        return {"kind": "whisper", **options, "checks": checks.options(self.checks)}

    def hear(self, clips: Sequence[Waveform]) -> list[Hypothesis]:
        """All clips at once; see `Recognise.hear`."""
        from emoray.stages.transcribe.whisper import whisper

        return whisper(self.config.model, self.config.device, self.dtype).recognise(clips, self.config.language)


class WhisperVllmTranscribe(Recognise):
    """Recognise with Whisper, or another recogniser, in vLLM: all clips of a batch at once."""

    version = 2

    def __init__(self, config: WhisperVllmConfig, checks: ChecksConfig) -> None:
        super().__init__(checks, config.times)
        self.config = config
        self.model = config.model
        self.gpus = config.vllm.tensor_parallel_size

    def options(self) -> dict[str, Any]:
        """The weights' revision, the language, where word times come from, and the checks."""
        from emoray.stages.model_files.weights import revision

        options = {"revision": revision(self.config.model), "language": self.config.language, "times": self.times}
        return {"kind": "whisper_vllm", **options, "checks": checks.options(self.checks)}

    def hear(self, clips: Sequence[Waveform]) -> list[Hypothesis | Exception]:
        """All clips at once; see `Recognise.hear`."""
        from emoray.stages.transcribe.whisper_vllm import recognise

        return recognise(clips, self.config)


class EndpointTranscribe(Recognise):
    """Recognise behind a server that speaks OpenAI's `/v1/audio/transcriptions`."""

    version = 1
    gpus = 0
    waits = True

    def __init__(self, config: TranscriptionEndpointConfig, checks: ChecksConfig) -> None:
        super().__init__(checks, config.times)
        self.config = config
        self.model = config.model

    def options(self) -> dict[str, Any]:
        """What is asked of which model, where word times come from, and the checks.

        Raises:
            ConfigError: The model has no revision.
        """
        if self.config.revision is None:
            raise ConfigError(
                "the weights behind an endpoint cannot be hashed",
                where="annotate.transcribe.endpoint.revision",
                remedy="Name them, and change the name when they change: transcripts are kept under it",
            )
        asked = self.config.model_dump(
            mode="json", include={"model", "revision", "language", "response_format", "upload", "times"}
        )
        return {"kind": "endpoint", **asked, "checks": checks.options(self.checks)}

    def hear(self, clips: Sequence[Waveform]) -> list[Hypothesis | Exception]:
        """All clips at once, as many at a time as the configuration says; see `Recognise.hear`."""
        from emoray.stages.transcribe.endpoint import client

        return client(self.config).transcribe(clips)


def _resolved_dtype(config: WhisperConfig) -> str:
    """The precision, were the model run in this process."""
    if config.dtype != "auto":
        return config.dtype
    if config.device == "auto":
        import torch

        return "float16" if torch.cuda.is_available() else "float32"
    return "float16" if config.device == "cuda" else "float32"
