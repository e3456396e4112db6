"""Whisper through transformers, with word times by cross-attention where the checkpoint allows them.

Shape legend: B clips, M mel bands, F frames.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from emoray.audio.io import AUDIO_HZ
from emoray.errors import ConfigError
from emoray.stages.model_files.lean_transformers import transformers
from emoray.stages.model_files.weights import model_folder
from emoray.stages.transcribe.recognise import Hypothesis
from emoray.stages.transcribe.timed_whisper import POSITION_S, TimedWhisper

log = logging.getLogger(__name__)


class Whisper:
    """A Whisper checkpoint, greedy and deterministic.

    Args:
        model: Hugging Face name or folder.
        device: `auto`, `cpu` or `cuda`.
        dtype: `float32`, `float16` or `bfloat16`.
    """

    def __init__(self, model: str, device: str, dtype: str) -> None:
        folder = model_folder(model)
        disable_progress_bar()  # it would write into the job's own progress
        self._processor = transformers.WhisperProcessor.from_pretrained(folder)
        network = TimedWhisper.from_pretrained(folder, dtype=getattr(torch, dtype), attn_implementation="sdpa").eval()
        self._device = "cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu")
        network.to(self._device)
        self.timed = network.prepare_alignment()
        if not self.timed:
            log.warning("%s names no alignment heads that it has: its words get no times", model)
        # Otherwise the checkpoint's own number of beams would hold.
        network.generation_config.update(num_beams=1, do_sample=False)
        settings = network.generation_config
        self._network = network
        self._multilingual = bool(getattr(settings, "is_multilingual", False))
        self._languages = {code.strip("<|>"): number for code, number in getattr(settings, "lang_to_id", {}).items()}

    def recognise(self, waveforms: Sequence[np.ndarray], language: str | None) -> list[Hypothesis]:
        """Transcribe a batch.

        Args:
            waveforms: float32 (S,) each, mono, 16 kHz. Clips up to the model's window (30 s) go together, longer ones
                alone.
            language: Language code, or None to detect it per clip.

        Raises:
            ConfigError: The checkpoint does not know the language.
        """
        if language is not None and self._multilingual and language not in self._languages:
            raise ConfigError(
                f"the checkpoint knows no language {language!r}",
                where="annotate.transcribe.whisper.language",
                remedy=f"It knows: {', '.join(sorted(self._languages))}",
            )
        window = self._processor.feature_extractor.n_samples
        short = [index for index, samples in enumerate(waveforms) if len(samples) <= window]
        groups = ([short] if short else []) + [[i] for i, samples in enumerate(waveforms) if len(samples) > window]
        found: dict[int, Hypothesis] = {}
        with torch.inference_mode():
            for group in groups:
                heard = self._together([waveforms[index] for index in group], language)
                found |= dict(zip(group, heard, strict=True))
        return [found[index] for index in range(len(waveforms))]

    def _together(self, clips: Sequence[np.ndarray], language: str | None) -> list[Hypothesis]:
        features_BMF, mask_BF, frames = self._features(clips)
        network = self._network
        network.clip_frames = frames
        options: dict[str, Any] = {}
        if self.timed:
            options = {"return_timestamps": True, "return_token_timestamps": True, "return_segments": True}
        languages = ["en"] * len(clips)
        with network.encoding_once():
            if self._multilingual:
                languages = [language] * len(clips) if language else self._detect(features_BMF)
                options |= {"language": languages, "task": "transcribe"}
            output = network.generate(features_BMF, attention_mask=mask_BF, **options)
        if not self.timed:
            return [
                Hypothesis(self._decode({"tokens": tokens[None]})[0].strip(), spoken)
                for tokens, spoken in zip(output, languages, strict=True)
            ]
        found = []
        for tokens, segments, samples, spoken in zip(
            output["sequences"], output["segments"], clips, languages, strict=True
        ):
            times = torch.cat([segment["token_timestamps"] for segment in segments])
            _, chunks = self._decode({"tokens": tokens[None], "token_timestamps": times[None]})
            found.append(_hypothesis(chunks, spoken, len(samples) / AUDIO_HZ))
        return found

    def _features(self, clips: Sequence[np.ndarray]) -> tuple[Tensor, Tensor, list[int]]:
        """Mel features (B, M, F) and their mask (B, F), on the network's device, and each clip's own frames."""
        extractor = self._processor.feature_extractor
        beyond = any(len(samples) > extractor.n_samples for samples in clips)
        made = extractor(
            list(clips),
            sampling_rate=AUDIO_HZ,
            truncation=not beyond,
            padding="longest" if beyond else "max_length",
            return_tensors="pt",
            return_attention_mask=True,
            device=self._device,
        )
        features_BMF = made.input_features.to(self._device, self._network.dtype)
        mask_BF = torch.as_tensor(made.attention_mask)
        return features_BMF, mask_BF.to(self._device), mask_BF.sum(-1).tolist()

    def _detect(self, features_BMF: Tensor) -> list[str]:
        """Each clip's language from its first 30 s."""
        codes = {number: code for code, number in self._languages.items()}
        return [codes[int(token)] for token in self._network.detect_language(input_features=features_BMF)]

    def _decode(self, output: dict[str, Tensor]) -> tuple[str, list[dict[str, Any]]]:
        """Text, and words with times where the output has those of its tokens; as transformers' pipeline does it."""
        text, more = self._processor.tokenizer._decode_asr(
            [output],
            return_timestamps="word" if self.timed else None,
            return_language=None,
            time_precision=POSITION_S,
        )
        return text, more.get("chunks", [])


def _hypothesis(chunks: list[dict[str, Any]], language: str, duration_s: float) -> Hypothesis:
    """Words that begin within the clip: it is padded to the window, and Whisper likes to hear words in silence."""
    heard = [chunk for chunk in chunks if chunk["text"].strip() and chunk["timestamp"][0] < duration_s]
    # A word cut off by the end of the window has no end.
    words = [
        (chunk["text"].strip(), float(chunk["timestamp"][0]), float(chunk["timestamp"][1] or duration_s))
        for chunk in heard
    ]
    return Hypothesis("".join(chunk["text"] for chunk in heard).strip(), language, words)


@functools.cache
def whisper(model: str, device: str, dtype: str) -> Whisper:
    """This process's copy of a checkpoint."""
    return Whisper(model, device, dtype)
