"""How a clip is spoken, in nine numbers: norms are fitted to them, cues describe them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

#: Every measure and its unit; a measure that a clip does not have (no voiced frame, no words) is absent.
MEASURES = {
    "pitch_st": "median F0, semitones over 100 Hz",
    "range_st": "10th to 90th percentile of F0, semitones",
    "slope_st_s": "trend of F0, semitones per second",
    "level_db": "mean energy of the speech frames, dB",
    "change_db_s": "trend of the energy of the speech frames, dB per second",
    "rate_hz": "letters per second of word time",
    "pause_share": "share of the time between first and last speech frame that is silent",
    "voiced_share": "share of the speech frames that are voiced",
    "jitter_st": "mean change of F0 from frame to frame, beyond its trend, semitones",
}

REFERENCE_HZ = 100.0
SPEECH_DB = 30.0  # a frame this far below the loudest is silence
MIN_FRAMES = 3

Measures = dict[str, float]


def semitones(f0_hz: np.ndarray) -> np.ndarray:
    """F0 in semitones over 100 Hz, NaN where unvoiced (0 Hz)."""
    voiced = f0_hz > 0
    return np.where(voiced, 12.0 * np.log2(np.where(voiced, f0_hz, REFERENCE_HZ) / REFERENCE_HZ), np.nan)


def measure_prosodic_features(prosody: Mapping[str, Any], transcribe: Mapping[str, Any] | None) -> Measures:
    """Those of `MEASURES` that a clip has, from the values of the stages prosody and transcribe.

    Without a transcript there is no rate. If words have no times, the letters are counted over the time of speech.
    """
    f0_hz = np.asarray(prosody["f0_hz"], np.float64)
    energy_db = np.asarray(prosody["energy_db"], np.float64)
    hop_s = float(prosody["hop_s"])
    measures: Measures = {}
    frames = min(len(f0_hz), len(energy_db))
    if frames == 0:
        return measures
    f0_hz, energy_db = f0_hz[:frames], energy_db[:frames]
    speech = energy_db > energy_db.max() - SPEECH_DB
    spoken = np.flatnonzero(speech)
    measures["level_db"] = float(energy_db[speech].mean())
    measures["pause_share"] = 1.0 - len(spoken) / float(spoken[-1] - spoken[0] + 1)
    measures["voiced_share"] = float(np.mean(f0_hz[speech] > 0))
    if len(spoken) >= MIN_FRAMES:
        measures["change_db_s"] = _slope(spoken * hop_s, energy_db[speech])
    voiced = np.flatnonzero((f0_hz > 0) & speech)
    if len(voiced) >= MIN_FRAMES:
        pitch_st = semitones(f0_hz)
        low, middle, high = np.percentile(pitch_st[voiced], [10, 50, 90])
        measures["pitch_st"] = float(middle)
        measures["range_st"] = float(high - low)
        measures["slope_st_s"] = _slope(voiced * hop_s, pitch_st[voiced])
        curve = np.abs(np.diff(pitch_st, 2))  # second difference: a smooth glide is not irregular
        curve = curve[np.isfinite(curve)]
        if len(curve):
            measures["jitter_st"] = float(np.mean(np.minimum(curve, 1.0)))  # octave errors must not rule
    if transcribe is not None:
        seconds, letters = _word_time(transcribe["words"], fallback_s=len(spoken) * hop_s)
        if seconds > 0 and letters:
            measures["rate_hz"] = letters / seconds
    return measures


def letter_count(word: str) -> int:
    """Letters and digits of a word, at least one."""
    return max(1, sum(character.isalnum() for character in word))


def _word_time(words: Sequence[Mapping[str, Any]], fallback_s: float) -> tuple[float, int]:
    letters = sum(letter_count(word["word"]) for word in words)
    if any(word["start_s"] is None or word["end_s"] is None for word in words):
        return fallback_s, letters
    return sum(max(0.0, word["end_s"] - word["start_s"]) for word in words), letters


def _slope(time_s: np.ndarray, value: np.ndarray) -> float:
    centred = time_s - time_s.mean()
    return float(centred @ (value - value.mean()) / (centred @ centred))
