"""Whisper through transformers, with word times by cross-attention where the checkpoint allows them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.utils.logging import disable_progress_bar

from emoray.audio.io import AUDIO_HZ
from emoray.stages.lean_transformers import transformers
from emoray.stages.weights import model_folder


@dataclass(frozen=True)
class Recognition:
    """What Whisper heard.

    Attributes:
        text: The transcript.
        words: (word, start_s, end_s); times are None where `timed` is false.
        language: Language code, given or detected.
        timed: Whether the words carry times.
    """

    text: str
    words: list[tuple[str, float | None, float | None]]
    language: str
    timed: bool


class Whisper:
    """A Whisper checkpoint, greedy and deterministic.

    Args:
        model: Hugging Face name or folder.
        device: `auto`, `cpu` or `cuda`.
    """

    def __init__(self, model: str, device: str) -> None:
        folder = model_folder(model)
        disable_progress_bar()  # it would write into the job's own progress
        processor = transformers.WhisperProcessor.from_pretrained(folder)
        network = transformers.WhisperForConditionalGeneration.from_pretrained(folder).eval()
        target = "cuda" if device == "auto" and torch.cuda.is_available() else "cpu" if device == "auto" else device
        # Cross-attention weights exist in the eager implementation only.
        self.timed = getattr(network.generation_config, "alignment_heads", None) is not None
        if self.timed:
            network.set_attn_implementation("eager")
        # Otherwise the pipeline's own default of five beams would hold.
        network.generation_config.update(num_beams=1, do_sample=False)
        self._multilingual = bool(getattr(network.generation_config, "is_multilingual", False))
        self._features = processor.feature_extractor
        self._pipeline = transformers.AutomaticSpeechRecognitionPipeline(
            model=network.to(target), tokenizer=processor.tokenizer, feature_extractor=processor.feature_extractor
        )

    def recognise(self, waveforms: Sequence[np.ndarray], language: str | None) -> list[Recognition]:
        """Transcribe a batch.

        Args:
            waveforms: float32 (S,) each, mono, 16 kHz. Clips up to the model's window (30 s) go together, longer ones
                alone.
            language: Language code, or None to detect it per clip.
        """
        window = self._features.n_samples
        short = [index for index, samples in enumerate(waveforms) if len(samples) <= window]
        groups = ([short] if short else []) + [[i] for i, samples in enumerate(waveforms) if len(samples) > window]
        found: dict[int, Recognition] = {}
        for group in groups:
            clips = [waveforms[index] for index in group]
            languages = [language] * len(clips) if language else self._languages(clips)
            inputs: Any = [{"raw": samples, "sampling_rate": AUDIO_HZ} for samples in clips]
            options = {"language": languages, "task": "transcribe"} if self._multilingual else {}
            outputs = self._pipeline(
                inputs,
                batch_size=len(group),
                return_timestamps="word" if self.timed else None,
                generate_kwargs=options,
            )
            for index, output, spoken in zip(group, outputs, languages, strict=True):
                found[index] = self._recognition(output, spoken, len(waveforms[index]) / AUDIO_HZ)
        return [found[index] for index in range(len(waveforms))]

    def _languages(self, clips: Sequence[np.ndarray]) -> list[str]:
        """Detect each clip's language from its first 30 s; an English-only checkpoint hears English."""
        if not self._multilingual:
            return ["en"] * len(clips)
        network = self._pipeline.model
        features = self._features(list(clips), sampling_rate=AUDIO_HZ, return_tensors="pt").input_features
        with torch.inference_mode():
            tokens = network.detect_language(input_features=features.to(network.device))
        codes = {number: code.strip("<|>") for code, number in network.generation_config.lang_to_id.items()}
        return [codes[int(token)] for token in tokens]

    def _recognition(self, output: dict[str, Any], language: str, duration_s: float) -> Recognition:
        if not self.timed:
            text = " ".join(output["text"].split())
            return Recognition(text, [(word, None, None) for word in text.split()], language, timed=False)
        # Clips are padded to the window, and Whisper likes to hear words in silence: those behind the end are dropped.
        heard = [chunk for chunk in output["chunks"] if chunk["text"].strip() and chunk["timestamp"][0] < duration_s]
        words: list[tuple[str, float | None, float | None]] = []
        for chunk in heard:
            start_s, end_s = chunk["timestamp"]
            # A word cut off by the end of the window has no end.
            words.append((chunk["text"].strip(), float(start_s), min(float(end_s or duration_s), duration_s)))
        return Recognition("".join(chunk["text"] for chunk in heard).strip(), words, language, timed=True)


@functools.cache
def whisper(model: str, device: str) -> Whisper:
    """This process's copy of a checkpoint."""
    return Whisper(model, device)
