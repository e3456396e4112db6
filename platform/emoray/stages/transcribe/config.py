"""Configuration of the transcribers."""

from __future__ import annotations

from typing import Literal

from emoray.config import Section
from emoray.engines import VllmConfig


class ReferenceConfig(Section):
    """The transcript that the corpus gives.

    Attributes:
        times: Where word times come from: the `corpus`, a forced alignment (`aligned`; US English only), or `none`,
            which keeps the transcript and leaves emphasis absent. `auto` takes the corpus's, else aligns English, else
            none: a word that the aligner does not know, or words that it does not find, cost the times only.
    """

    times: Literal["auto", "corpus", "aligned", "none"]


class WhisperConfig(Section):
    """Whisper through transformers.

    Attributes:
        model: Hugging Face name or folder.
        language: Language code, or null to let the model detect it.
        device: `auto`, `cpu` or `cuda`; not part of the fingerprint.
    """

    model: str
    language: str | None
    device: Literal["auto", "cpu", "cuda"]


class WhisperVllmConfig(Section):
    """Whisper in vLLM: the fast way on GPUs. It gives no word times of its own.

    Attributes:
        model: Hugging Face name or folder.
        language: Language code, or null to let the model detect it.
        times: Word times by a forced alignment of what was heard (`aligned`; US English only), or `none`. `auto` aligns
            English, and where that fails, or in another language, the words have none.
        vllm: How the engine is run; not part of the fingerprint.
    """

    model: str
    language: str | None
    times: Literal["auto", "aligned", "none"]
    vllm: VllmConfig


class TranscribeConfig(Section):
    """Which transcriber; `pocketsphinx` carries its model and has no options.

    Attributes:
        kind: `reference` takes the corpus's transcripts; the others recognise the words from the audio.
        reference: Options of `reference`.
        whisper: Options of `whisper`.
        whisper_vllm: Options of `whisper_vllm`.
    """

    kind: Literal["reference", "pocketsphinx", "whisper", "whisper_vllm"]
    reference: ReferenceConfig
    whisper: WhisperConfig
    whisper_vllm: WhisperVllmConfig
