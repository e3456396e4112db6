"""Recognisers other than Whisper in vLLM, asked as vLLM's own `/v1/audio/transcriptions` asks them.

vLLM keeps the prompt, the languages and the longest clip of each recogniser that it knows beside the network. They are
no public interface: what was run is in docs/decisions/0026.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from emoray.audio.pieces import cut_into_pieces
from emoray.engines.local import LocalEngine
from emoray.errors import ConfigError, StageError
from emoray.stages.transcribe.recognise import Hypothesis

WHERE = "annotate.transcribe.whisper_vllm"
#: Longest transcript: more tokens per second than anybody says are a loop.
TOKENS_PER_S, MOST_BESIDES = 20, 32


def recognise_any(
    engine: LocalEngine, waveforms: Sequence[npt.NDArray[np.float32]], language: str | None
) -> list[Hypothesis | Exception]:
    """Transcribe clips.

    Args:
        waveforms: float32 (S,) each, mono, 16 kHz.
        language: Language code, or None to leave it to the model.

    Raises:
        ConfigError: The model is no recogniser, or wants another language.
        TransientError: The engine failed, and may not at the next try.
    """
    from vllm import SamplingParams

    model_config = engine.llm.model_config
    kind, speech_config = _kind_of(model_config)
    try:
        language = kind.validate_language(language)
        window_s = min(speech_config.max_audio_clip_s or 30, 30)
        pieces = [list(cut_into_pieces(samples, window_s)) for samples in waveforms]
        spoken: list[str | None] = [language] * len(pieces)
        if language is None and kind.supports_explicit_language_detection:
            spoken = _detected(engine, kind, speech_config, [own[0] for own in pieces])
        prompts = [
            kind.get_generation_prompt(_asked(piece, speech_config, model_config, own_language))
            for own, own_language in zip(pieces, spoken, strict=True)
            for piece in own
        ]
    except ValueError as error:
        raise ConfigError(str(error), where=f"{WHERE}.language", remedy="Give a code that the model knows") from error
    sampling = SamplingParams(temperature=0.0, max_tokens=MOST_BESIDES + int(TOKENS_PER_S * window_s))
    outputs = iter(engine.generate(prompts, sampling, f"vLLM, on {len(prompts)} clips,"))
    return [
        joined([next(outputs) for _ in own], own_language, kind.post_process_output)
        for own, own_language in zip(pieces, spoken, strict=True)
    ]


def joined(outputs: Sequence[Any], language: str | None, clean: Any = str) -> Hypothesis | Exception:
    """The transcript of a clip from vLLM's outputs for its pieces, or why there is none."""
    for output in outputs:
        if output.outputs[0].finish_reason in ("error", "abort"):
            return StageError(
                f"vLLM gave up on the clip ({output.outputs[0].finish_reason})",
                remedy="Its log says why; run the same command with --retry-failed",
                kind="engine_failed",
            )
    text = " ".join(clean(output.outputs[0].text).strip() for output in outputs)
    return Hypothesis(" ".join(text.split()), language)


def _kind_of(model_config: Any) -> tuple[Any, Any]:
    """The model's class, and how it takes speech.

    Raises:
        ConfigError: It is no recogniser.
    """
    try:
        from vllm.model_executor.model_loader import get_model_cls
        from vllm.model_executor.models.interfaces import supports_transcription
    except ImportError as error:
        raise ConfigError(
            f"this version of vLLM keeps its recognisers elsewhere: {error}",
            where=f"{WHERE}.model",
            remedy="Serve the model with `vllm serve` and take annotate.transcribe.kind=endpoint",
        ) from error
    kind = get_model_cls(model_config)
    if not supports_transcription(kind):
        raise ConfigError(
            f"vLLM knows {kind.__name__} as no recogniser of speech",
            where=f"{WHERE}.model",
            remedy="Give a model that `vllm serve` offers under /v1/audio/transcriptions",
        )
    return kind, kind.get_speech_to_text_config(model_config, "transcribe")


def _asked(samples: npt.NDArray[np.float32], speech_config: Any, model_config: Any, language: str | None) -> Any:
    from vllm.config.speech_to_text import SpeechToTextParams

    return SpeechToTextParams(audio=samples, stt_config=speech_config, model_config=model_config, language=language)


def _detected(
    engine: LocalEngine, kind: Any, speech_config: Any, clips: Sequence[npt.NDArray[np.float32]]
) -> list[str | None]:
    from vllm import SamplingParams

    tokenizer = engine.llm.get_tokenizer()
    sampling = SamplingParams(
        temperature=0.0, max_tokens=1, allowed_token_ids=kind.get_language_token_ids(tokenizer), detokenize=False
    )
    prompts = [kind.get_language_detection_prompt(samples, speech_config) for samples in clips]
    outputs = engine.generate(prompts, sampling, f"vLLM, on the language of {len(clips)} clips,")
    return [kind.parse_language_detection_output(list(output.outputs[0].token_ids), tokenizer) for output in outputs]
