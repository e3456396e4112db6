"""Configuration of the transcribers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from emoray.audio.activity import ActivityConfig
from emoray.config import Section
from emoray.engines import VllmConfig

#: Word times by a forced alignment of what was heard (`aligned`; US English only), or `none`. `auto` aligns English; a
#: word that cannot be aligned, and any other language, has none.
AlignedTimes = Literal["auto", "aligned", "none"]


class ReferenceConfig(Section):
    """The transcript that the corpus gives.

    Attributes:
        times: Where word times come from: the `corpus`, a forced alignment (`aligned`; US English only), or `none`,
            which keeps the transcript and leaves emphasis absent. `auto` takes the corpus's, else aligns English, else
            none: a word that the aligner does not know, or words that it does not find, cost the times only.
    """

    times: Literal["auto", "corpus", "aligned", "none"]


class ChecksConfig(Section):
    """What the text of a recogniser must pass. A given transcript is not checked.

    Attributes:
        speech: When sound is speech. A clip without any is not recognised and has no transcript (`empty_transcript`):
            recognisers write words for silence and noise. null: every clip is recognised.
        max_repeats: A text in which one to eight words stand more often than this in a row is refused
            (`repetitive_transcript`). null: no limit.
        max_compression: So is one whose bytes zlib compresses more than so many times (Whisper's own limit is 2.4),
            unless it is short. null: no limit.
    """

    speech: ActivityConfig | None
    max_repeats: Annotated[int, Field(ge=1)] | None
    max_compression: Annotated[float, Field(gt=1)] | None


class MoonshineConfig(Section):
    """Moonshine tiny, English, offline: the package `moonshine-voice` carries it. It gives no word times of its own.

    Attributes:
        times: Word times by a forced alignment, or `none`; see `AlignedTimes`.
    """

    times: AlignedTimes


class WhisperConfig(Section):
    """Whisper through transformers.

    Attributes:
        model: Hugging Face name or folder.
        language: Language code, or null to let the model detect it.
        device: `auto`, `cpu` or `cuda`; not part of the fingerprint.
        dtype: Precision. `auto`: float32 on CPUs, float16 on GPUs, decided where the job is started: name it where that
            machine has no GPU and the workers do. What it comes to is part of the fingerprint: it changes the output.
    """

    model: str
    language: str | None
    device: Literal["auto", "cpu", "cuda"]
    dtype: Literal["auto", "float32", "float16", "bfloat16"]


class WhisperVllmConfig(Section):
    """Whisper, or another recogniser that vLLM knows, in vLLM: the fast way on GPUs. It gives no word times of its own.

    Attributes:
        model: Hugging Face name or folder.
        language: Language code, or null to let the model detect it.
        times: Word times by a forced alignment, or `none`; see `AlignedTimes`.
        vllm: How the engine is run; not part of the fingerprint.
    """

    model: str
    language: str | None
    times: AlignedTimes
    vllm: VllmConfig


class TranscriptionEndpointConfig(Section):
    """A server that speaks OpenAI's `/v1/audio/transcriptions`: `vllm serve` of a recogniser and its like.

    Only model, revision, language, response_format, upload and times are part of the fingerprint.

    Attributes:
        url: Base address, for example http://127.0.0.1:8001/v1.
        api_key_env: Environment variable that holds the key; null without one.
        model: Name that the server knows the model by.
        revision: A name of your own for the weights behind that name; change it when they change.
        language: Language code, or null to let the model detect it.
        response_format: `verbose_json` asks for word times, language and probabilities; `json` for the text alone.
            `auto` asks for the first and takes the second where the server refuses it.
        upload: Format of the audio that is sent, 16 bit: `flac` or `wav`.
        times: Word times that the server does not give, by a forced alignment, or `none`; see `AlignedTimes`.
        max_parallel: Requests under way at a time from one worker.
        timeout_s: Longest wait for one answer.
        patience_s: A request that fails in passing (429, 5xx, no connection) is tried again until the server has
            answered none for so long. A server's `Retry-After` is honoured.
        backoff_s: Longest first pause between tries, drawn at random; it doubles each time, up to a minute.
    """

    url: str | None
    api_key_env: str | None
    model: str
    revision: str | None
    language: str | None
    response_format: Literal["auto", "verbose_json", "json"]
    upload: Literal["flac", "wav"]
    times: AlignedTimes
    max_parallel: Annotated[int, Field(ge=1)]
    timeout_s: Annotated[float, Field(gt=0)]
    patience_s: Annotated[float, Field(ge=0)]
    backoff_s: Annotated[float, Field(gt=0)]


TranscriberKind = Literal["reference", "pocketsphinx", "moonshine", "whisper", "whisper_vllm", "endpoint"]


class TranscribeConfig(Section):
    """Which transcriber; `pocketsphinx` carries its model and has no options.

    Attributes:
        kind: Where transcripts come from.
        checks: What the text of a recogniser must pass.
        reference: The corpus.
        moonshine: Moonshine, offline.
        whisper: Whisper through transformers.
        whisper_vllm: Whisper in vLLM.
        endpoint: A recogniser behind a server.
    """

    kind: TranscriberKind
    checks: ChecksConfig
    reference: ReferenceConfig
    moonshine: MoonshineConfig
    whisper: WhisperConfig
    whisper_vllm: WhisperVllmConfig
    endpoint: TranscriptionEndpointConfig
