"""emphasis: which words the speaker stresses (the words behind LES), by measured prosody.

Per word (docs/models.md): F0 maximum and range (semitones over the utterance's median), energy (dB over the utterance's
mean), duration over the expected one, and the pause before; each z-scored within the utterance; their weighted sum is
the prominence. Words above mean + 1 sd are emphasised, at most 30 % of the words, and the most
prominent word if there is none. A word without times has no prominence and no mark; the others are measured as if it
were not there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from emoray.config import Section
from emoray.errors import StageError
from emoray.stages.base import Row, Stage, Value
from emoray.stages.norms import Norms
from emoray.stages.prosodic_features import semitones

#: Fewer words with times than this share of all say too little of a clip's emphasis.
MIN_TIMED_SHARE = 0.5
FLAT = 1e-6  # a feature that varies less within the utterance is ignored


class EmphasisWeights(Section):
    """Weight of each z-scored feature in the prominence.

    Attributes:
        f0_max: Maximum of F0 in the word.
        f0_range: Range of F0 in the word.
        energy: Mean energy of the word.
        duration: Duration of the word over the expected one.
        pause: Pause before the word.
    """

    f0_max: float
    f0_range: float
    energy: float
    duration: float
    pause: float


class ProsodyEmphasisConfig(Section):
    """Emphasis by measured prosody.

    Attributes:
        weights: Weight of each feature.
        threshold_sd: Emphasised words are so many standard deviations above the mean prominence.
        max_share: At most this share of the words is emphasised, but always one.
    """

    weights: EmphasisWeights
    threshold_sd: float
    max_share: float


class EmphasisConfig(Section):
    """The detector.

    Attributes:
        kind: prosody.
        prosody: Options of that kind.
    """

    kind: Literal["prosody"]
    prosody: ProsodyEmphasisConfig


FEATURES = tuple(EmphasisWeights.model_fields)


_MARKED_WORD = pa.struct(
    [
        ("word", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("prominence", pa.float32()),
        ("emphasised", pa.bool_()),
    ]
)


class Emphasis(Stage):
    """The words with their prominence and a mark; `norms` give the expected duration of a word."""

    name = "emphasis"
    version = 1
    needs_norms = True
    requires = ("prosody", "transcribe")
    value_type: ClassVar[pa.StructType] = pa.struct([("words", pa.list_(_MARKED_WORD))])

    def __init__(self, config: ProsodyEmphasisConfig, norms: Norms | None) -> None:
        self.config = config
        self.norms = norms

    def options(self) -> dict[str, Any]:
        """Kind, weights and threshold."""
        return {"kind": "prosody", **self.config.model_dump(mode="json")}

    def run(self, rows: list[Row]) -> list[Value]:
        """Mark words.

        Raises:
            StageError: `missing_word_times`.
        """
        return [self._one(row) for row in rows]

    def _one(self, row: Row) -> Value:
        words = row["transcribe"]["words"]
        timed = [word for word in words if word["start_s"] is not None and word["end_s"] is not None]
        if len(timed) < MIN_TIMED_SHARE * len(words):
            raise _no_times(len(timed), len(words), row)
        assert self.norms is not None
        features_WF = word_features(timed, row["prosody"], self.norms)
        weights_F = np.array([getattr(self.config.weights, name) for name in FEATURES])
        prominence_W = z_scores(features_WF) @ weights_F
        marks_W = emphasised(prominence_W, self.config.threshold_sd, self.config.max_share)
        measured = iter(zip(prominence_W.tolist(), marks_W.tolist(), strict=True))
        marked = []
        for word in words:
            known = word["start_s"] is not None and word["end_s"] is not None
            prominence, mark = next(measured) if known else (None, False)
            span = {name: word[name] if known else None for name in ("start_s", "end_s")}
            marked.append({"word": word["word"], **span, "prominence": prominence, "emphasised": mark})
        return {"words": marked}


def _no_times(timed: int, words: int, row: Row) -> StageError:
    language = row["transcribe"]["language"]
    english = language is None or language.lower().startswith("en")
    why = "" if english else f": words are aligned in English, and this is {language}"
    return StageError(
        f"{timed} of the transcript's {words} words have times, so emphasis cannot be measured{why}",
        where=row["utterance_id"],
        remedy="Provide word times with the corpus, or a recogniser that gives them (annotate.transcribe)",
        kind="missing_word_times",
    )


def word_features(words: Sequence[Mapping[str, Any]], prosody: Mapping[str, Any], norms: Norms) -> np.ndarray:
    """Features of each word, float64 (W, F) in the order of `FEATURES`; NaN if a word has none (no voiced frame)."""
    hop_s = float(prosody["hop_s"])
    energy_db = np.asarray(prosody["energy_db"], np.float64)
    pitch_st = semitones(np.asarray(prosody["f0_hz"], np.float64))
    pitch_st = pitch_st - (np.nanmedian(pitch_st) if np.isfinite(pitch_st).any() else 0.0)
    mean_db = float(energy_db.mean()) if len(energy_db) else 0.0
    features_WF = np.full((len(words), len(FEATURES)), np.nan)
    previous_end_s = None
    for index, word in enumerate(words):
        start_s, end_s = float(word["start_s"]), float(word["end_s"])
        first = max(0, round(start_s / hop_s))
        last = max(first + 1, round(end_s / hop_s))
        pitch = pitch_st[first:last]
        pitch = pitch[np.isfinite(pitch)]
        energy = energy_db[first:last]
        if len(pitch):
            features_WF[index, 0] = pitch.max()
            features_WF[index, 1] = pitch.max() - pitch.min()
        if len(energy):
            features_WF[index, 2] = energy.mean() - mean_db
        features_WF[index, 3] = np.log2(max(end_s - start_s, hop_s) / norms.expected_word_s(word["word"]))
        features_WF[index, 4] = 0.0 if previous_end_s is None else max(0.0, start_s - previous_end_s)
        previous_end_s = end_s
    return features_WF


def z_scores(features_WF: np.ndarray) -> np.ndarray:
    """z-score each feature over the words; missing values and features that do not vary become 0."""
    known = np.isfinite(features_WF)
    count_F = np.maximum(known.sum(axis=0), 1)
    filled = np.where(known, features_WF, 0.0)
    mean_F = filled.sum(axis=0) / count_F
    centred = np.where(known, features_WF - mean_F, 0.0)
    sd_F = np.sqrt(np.sum(centred**2, axis=0) / count_F)
    return np.where(sd_F > FLAT, centred / np.where(sd_F > FLAT, sd_F, 1.0), 0.0)


def emphasised(prominence_W: np.ndarray, threshold_sd: float, max_share: float) -> np.ndarray:
    """Marks, bool (W,): above mean + threshold_sd · sd, at most max_share of the words, the most prominent if none."""
    marks_W = np.zeros(len(prominence_W), bool)
    if not len(prominence_W):
        return marks_W
    order = np.argsort(-prominence_W, kind="stable")
    threshold = prominence_W.mean() + threshold_sd * prominence_W.std()
    above = [index for index in order if prominence_W[index] > threshold]
    allowed = max(1, int(max_share * len(prominence_W) + 1e-9))
    marks_W[above[:allowed] or order[:1]] = True
    return marks_W
