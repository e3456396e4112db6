"""Recognisers in vLLM: greedy, without timestamps. Clips beyond the window are cut where they are quietest.

vLLM leaves out what a Whisper checkpoint's generation settings say; the tokens that never count as speech, the
language's detection and the longest transcript are put back here. Not so `begin_suppress_tokens`: a blank at the start
ends it. Other recognisers are asked as vLLM's own server asks them.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from emoray.audio.io import AUDIO_HZ
from emoray.audio.pieces import cut_into_pieces
from emoray.engines.local import LocalEngine, local_engine
from emoray.errors import ConfigError
from emoray.stages.model_files.weights import model_folder
from emoray.stages.transcribe.recognise import Hypothesis
from emoray.stages.transcribe.vllm_recogniser import joined, recognise_any

if TYPE_CHECKING:
    from emoray.stages.transcribe.config import WhisperVllmConfig

Waveform = npt.NDArray[np.float32]

WINDOW_S = 30
NEVER = -100.0  # the lowest bias that vLLM takes


def recognise(waveforms: Sequence[Waveform], config: WhisperVllmConfig) -> list[Hypothesis | Exception]:
    """Transcribe clips: for each what was heard, or why nothing was.

    Args:
        waveforms: float32 (S,) each, mono, 16 kHz.

    Raises:
        ConfigError: The checkpoint does not know the language, or is no recogniser.
        TransientError: The engine failed, and may not at the next try.
        ServiceError: vLLM cannot load the model.
    """
    folder = model_folder(config.model)
    engine = local_engine(str(folder), config.vllm, speech=True)
    if _read(folder / "config.json").get("model_type") != "whisper":
        return recognise_any(engine, waveforms, config.language)
    checkpoint = _Checkpoint(folder)
    pieces = [list(cut_into_pieces(samples, WINDOW_S)) for samples in waveforms]
    languages = _languages(engine, checkpoint, [own[0] for own in pieces], config.language)
    prompts = [
        _prompt(piece, checkpoint.start(language))
        for own, language in zip(pieces, languages, strict=True)
        for piece in own
    ]
    outputs = iter(engine.generate(prompts, checkpoint.sampling, f"vLLM, on {len(prompts)} clips,"))
    return [joined([next(outputs) for _ in own], language) for own, language in zip(pieces, languages, strict=True)]


class _Checkpoint:
    """What a checkpoint's files say about decoding."""

    def __init__(self, folder: Path) -> None:
        self._model = _read(folder / "config.json")
        self._settings = _read(folder / "generation_config.json")
        self.languages: dict[str, int] = {
            token.strip("<|>"): number for token, number in self._settings.get("lang_to_id", {}).items()
        }

    @property
    def is_multilingual(self) -> bool:
        """Whether it wants to be told language and task."""
        return bool(self._settings.get("is_multilingual", False))

    def start(self, language: str) -> list[int]:
        """Tokens that a transcript begins with."""
        first = [self._model["decoder_start_token_id"]]
        if self.is_multilingual:
            first += [self.languages[language], self._settings["task_to_id"]["transcribe"]]
        return [*first, self._settings["no_timestamps_token_id"]]

    @property
    def detection(self) -> tuple[list[int], Any]:
        """Tokens and sampling that make it name the language."""
        from vllm import SamplingParams

        allowed = sorted(self.languages.values())
        return [self._model["decoder_start_token_id"]], SamplingParams(
            temperature=0.0, max_tokens=1, allowed_token_ids=allowed, detokenize=False
        )

    @property
    def sampling(self) -> Any:
        """Greedy, no longer than the checkpoint allows, without the tokens that never count as speech."""
        from vllm import SamplingParams

        positions = self._model["max_target_positions"]
        room = positions - len(self.start(next(iter(self.languages), "en")))
        mute = self._settings.get("suppress_tokens") or []
        return SamplingParams(
            temperature=0.0,
            max_tokens=min(self._settings.get("max_length", positions), room),
            logit_bias=dict.fromkeys(mute, NEVER) or None,
        )


def _languages(engine: LocalEngine, checkpoint: _Checkpoint, clips: Sequence[Waveform], given: str | None) -> list[str]:
    if not checkpoint.is_multilingual:
        return ["en"] * len(clips)
    if given is not None:
        if given not in checkpoint.languages:
            raise ConfigError(
                f"the checkpoint knows no language {given!r}",
                where="annotate.transcribe.whisper_vllm.language",
                remedy=f"It knows: {', '.join(sorted(checkpoint.languages))}",
            )
        return [given] * len(clips)
    tokens, sampling = checkpoint.detection
    prompts = [_prompt(samples, tokens) for samples in clips]
    outputs = engine.generate(prompts, sampling, f"vLLM, on the language of {len(clips)} clips,")
    codes = {number: code for code, number in checkpoint.languages.items()}
    return [codes[output.outputs[0].token_ids[0]] for output in outputs]


def _prompt(samples: Waveform, start: list[int]) -> dict[str, Any]:
    sound = {"prompt": "", "multi_modal_data": {"audio": (samples, AUDIO_HZ)}}
    return {"encoder_prompt": sound, "decoder_prompt": {"prompt_token_ids": start}}


@functools.cache
def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))
