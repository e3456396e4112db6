"""transcribe: what is said and when: a given transcript, or a recogniser."""

from __future__ import annotations

from emoray.errors import ConfigError
from emoray.stages.transcribe.base import Transcribe
from emoray.stages.transcribe.config import TranscribeConfig
from emoray.stages.transcribe.recognisers import (
    EndpointTranscribe,
    MoonshineTranscribe,
    PocketsphinxTranscribe,
    WhisperTranscribe,
    WhisperVllmTranscribe,
)
from emoray.stages.transcribe.reference import ReferenceTranscribe


def build_transcribe(config: TranscribeConfig) -> Transcribe:
    """The transcriber that the configuration names.

    Raises:
        ConfigError: There is no such kind.
    """
    if config.kind == "reference":
        return ReferenceTranscribe(config.reference)
    if config.kind == "pocketsphinx":
        return PocketsphinxTranscribe(config.checks)
    if config.kind == "moonshine":
        return MoonshineTranscribe(config.moonshine, config.checks)
    if config.kind == "whisper":
        return WhisperTranscribe(config.whisper, config.checks)
    if config.kind == "whisper_vllm":
        return WhisperVllmTranscribe(config.whisper_vllm, config.checks)
    if config.kind == "endpoint":
        return EndpointTranscribe(config.endpoint, config.checks)
    raise ConfigError(f"unknown transcriber {config.kind!r}", where="annotate.transcribe.kind")
