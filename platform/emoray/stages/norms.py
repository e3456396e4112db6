"""Norms: how a corpus and each of its speakers usually speak, the reference of emphasis and cues.

A fitted artefact of aggregates only: stored by hash, part of the fingerprint of what uses it, in the bundle of the
model version. Labels are never read. The corpus's figures come from the train split alone. A speaker's come from at
most `enrol_clips` clips and half of what there is, chosen by the hash of the utterance id (so not by order, split or
content): the enrolment clips, which are never scored as clips of an enrolled speaker. They are shrunk towards the
corpus as a random effect: with variance w within and b between speakers, n clips of mean m move the expectation from
the corpus's M to (n·b·m + w·M) / (n·b + w), with predictive variance w + b·w / (n·b + w). Without clips these are the
corpus's.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl

from emoray.config import Section
from emoray.digest import digest
from emoray.errors import InputError, StageError
from emoray.schema import UNKNOWN_SPEAKER
from emoray.stages.prosodic_features import MEASURES, Measures, letter_count, measure_prosodic_features

TRAIN = "train"
DIGITS = 5  # significant digits kept, so that the order of a sum cannot change the hash
FORMAT = 1
#: A difference of less than this share of its terms is rounding, and depends on the order of their sums.
ROUNDING = 1e-9
MIN_SD = 1e-3
#: Sums over a clip's timed words for the regression of duration y on letters x.
WORD_SUMS = ("n", "x", "y", "xx", "xy")
CLIPS_AT_ONCE = 1024


class NormsConfig(Section):
    """How norms are fitted.

    Attributes:
        enrol_clips: A speaker's norms are fitted on at most so many clips; 0: every speaker counts as unknown.
    """

    enrol_clips: int


@dataclass(frozen=True)
class Expectation:
    """Mean and standard deviation per measure of a speaker's next clip.

    `clips`: how many of the speaker's clips it is based on; 0 = the corpus's figures.
    """

    mean: Measures
    sd: Measures
    clips: int


@dataclass(frozen=True)
class Norms:
    """Fitted norms.

    Attributes:
        corpus: Measure → {mean, within, between (variances), clips}.
        word_s: Expected duration of a word: {intercept_s, per_letter_s}.
        speakers: Speaker → {clips, last_draw (of the enrolment clips), means of the measures}.
        enrolled: Speakers added after fitting, in this process only: neither in the JSON nor in the hash.
    """

    corpus: Mapping[str, Mapping[str, float]]
    word_s: Mapping[str, float]
    speakers: Mapping[str, Mapping[str, float]]
    enrolled: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @classmethod
    def unfitted(cls) -> Norms:
        """Norms of no corpus, for a version that does not use norms."""
        return cls(corpus={}, word_s={"intercept_s": 0.1, "per_letter_s": 0.05}, speakers={})

    @classmethod
    def fit(cls, rows: Iterable[Mapping[str, Any]], config: NormsConfig) -> Norms:
        """Fit, independently of the order of the rows, which are read once, one at a time.

        Args:
            rows: {utterance_id, speaker_id, split, prosody, transcribe}; rows whose prosody is None are skipped,
                transcribe may be None.

        Raises:
            StageError: No row has prosody (kind `no_norms`).
        """
        moments, words, enrolled, held = _gather(rows, config.enrol_clips)
        if words.is_empty():
            raise StageError(
                "no clip has prosody to fit norms from",
                remedy="See the errors in the decode and prosody tables",
                kind="no_norms",
            )
        if words["train"].any():  # a corpus of cross-validation folds has no train split
            moments, words = moments.filter("train"), words.filter("train")
        measured = set(moments.filter(pl.col("n") > 0)["measure"])
        corpus = {name: _spread(moments.filter(pl.col("measure") == name)) for name in MEASURES if name in measured}
        enrolled = enrolled.join(held, on="speaker").sort("speaker", "draw")
        enrolled = enrolled.filter(pl.int_range(pl.len()).over("speaker") < pl.col("held") // 2)
        speakers = {
            str(name): _speaker(own) | {"last_draw": own["draw"][-1]}
            for (name,), own in enrolled.group_by("speaker", maintain_order=True)
        }
        return cls(corpus, _word_duration(words), speakers)

    def without_speakers(self) -> Norms:
        """The norms of a corpus in which every speaker is unknown."""
        return replace(self, speakers={}, enrolled={})

    def enrolment_clips(self, utterances: pl.DataFrame) -> pl.Series:
        """Which clips a speaker's norms rest on: one truth value per row of utterance_id and speaker_id."""
        last = pl.DataFrame(
            [(name, own.get("last_draw", -1.0)) for name, own in self.speakers.items()],
            {"speaker_id": pl.String, "last_draw": pl.Float64},
            orient="row",
        )
        drawn = utterances.select(
            "speaker_id", draw=pl.Series([_draw(name) for name in utterances["utterance_id"]], dtype=pl.Float64)
        )
        joined = drawn.join(last, on="speaker_id", how="left", maintain_order="left")
        return joined.select((pl.col("draw") <= pl.col("last_draw")).fill_null(False).alias("enrols")).to_series()

    def for_speaker(self, speaker_id: str | None) -> Expectation:
        """What to expect of a speaker; the corpus's figures for an unknown one."""
        own = self.enrolled.get(speaker_id or "") or self.speakers.get(speaker_id or "") or {}
        clips = int(own.get("clips", 0))
        mean: Measures = {}
        sd: Measures = {}
        for name, figure in self.corpus.items():
            n = clips if name in own else 0
            within, between = figure["within"], figure["between"]
            weight = n * between + within
            mean[name] = (
                (n * between * own.get(name, 0.0) + within * figure["mean"]) / weight if weight else figure["mean"]
            )
            variance = within + (between * within / weight if weight else 0.0)
            sd[name] = max(MIN_SD, variance**0.5)
        return Expectation(mean, sd, clips)

    def enroll(self, name: str, clips: Sequence[Mapping[str, Any]]) -> Norms:
        """Norms with a new speaker `name`, from {prosody, transcribe} of a few clips; the hash does not change.

        Raises:
            InputError: There is no clip.
        """
        return self.with_enrolled({**self.enrolled, name: speaker_means(clips)})

    def with_enrolled(self, speakers: Mapping[str, Mapping[str, float]]) -> Norms:
        """Norms with speakers (their `speaker_means`) that were added after fitting; the hash does not change."""
        return replace(self, enrolled=speakers)

    def expected_word_s(self, word: str) -> float:
        """Expected duration of a word, from its letters."""
        return self.word_s["intercept_s"] + self.word_s["per_letter_s"] * letter_count(word)

    def to_json(self) -> dict[str, Any]:
        """The fitted figures as a JSON document."""
        return {
            "format": FORMAT,
            "corpus": {name: dict(figure) for name, figure in self.corpus.items()},
            "word_s": dict(self.word_s),
            "speakers": {name: dict(figure) for name, figure in self.speakers.items()},
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Norms:
        """Norms from a document of `to_json`.

        Raises:
            InputError: It has another format.
        """
        if document.get("format") != FORMAT:
            what = f"norms have format {document.get('format')!r}, expected {FORMAT}"
            raise InputError(what, remedy="Fit them again", kind="unknown_format")
        return cls(document["corpus"], document["word_s"], document["speakers"])

    @functools.cached_property
    def hash(self) -> str:
        """16 hexadecimal characters over the fitted figures."""
        return digest(self.to_json())


def speaker_means(clips: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The means of a speaker's measures and the number of clips, from {prosody, transcribe} of a few clips.

    Raises:
        InputError: There is no clip.
    """
    if not clips:
        raise InputError("no clips to enrol a speaker with", remedy="Give at least one, better five")
    measured = [measure_prosodic_features(clip["prosody"], clip.get("transcribe")) for clip in clips]
    return _speaker(pl.DataFrame(measured, dict.fromkeys(MEASURES, pl.Float64)))


def _gather(
    rows: Iterable[Mapping[str, Any]], enrol_clips: int
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Read the clips once. Memory grows with the speakers, not with their clips.

    Returns:
        Moments by speaker (null: unknown), train and measure: n, mean, and squares, the sum of squares about the mean;
        sums over the timed words by train, in parts; the first `enrol_clips` clips of each speaker by their draws; how
        many clips each speaker has (`held`).
    """
    figures = dict.fromkeys((*MEASURES, *WORD_SUMS), pl.Float64)
    schema = pl.Schema({"speaker": pl.String, "train": pl.Boolean, "draw": pl.Float64, **figures})
    none = schema.to_frame()
    moments, words, enrolled, held = _moments(none), [_sums(none)], none, _held(none)
    measured = (_clip(row) for row in rows if row.get("prosody") is not None)
    for part in iter(lambda: list(itertools.islice(measured, CLIPS_AT_ONCE)), []):
        clips = pl.DataFrame(part, schema)
        moments = _pooled(pl.concat([moments, _moments(clips)]), "speaker", "train", "measure")
        words.append(_sums(clips))
        named = pl.concat([enrolled, clips.drop_nulls("speaker")]).sort("draw")
        enrolled = named.filter(pl.int_range(pl.len()).over("speaker") < enrol_clips).select(none.columns)
        held = pl.concat([held, _held(clips)]).group_by("speaker").agg(pl.col("held").sum())
    return moments, pl.concat(words), enrolled, held


def _held(clips: pl.DataFrame) -> pl.DataFrame:
    return clips.drop_nulls("speaker").group_by("speaker").agg(pl.len().cast(pl.Int64).alias("held"))


def _moments(clips: pl.DataFrame) -> pl.DataFrame:
    value = pl.col("value")
    squares = ((value - value.mean()) ** 2).sum()
    long = clips.unpivot(list(MEASURES), index=["speaker", "train"], variable_name="measure").drop_nulls("value")
    groups = long.group_by("speaker", "train", "measure", maintain_order=True)
    return groups.agg(value.len().cast(pl.Float64).alias("n"), value.mean().alias("mean"), squares.alias("squares"))


def _pooled(moments: pl.DataFrame, *by: str) -> pl.DataFrame:
    """Moments of unions (Chan, Golub and LeVeque 1979)."""
    n, mean = pl.col("n"), pl.col("mean")
    whole = (n * mean).sum() / n.sum()
    squares = (pl.col("squares") + n * (mean - whole) ** 2).sum()
    groups = moments.group_by(*by, maintain_order=True)
    return groups.agg(n.sum().alias("n"), whole.alias("mean"), squares.alias("squares"))


def _sums(clips: pl.DataFrame) -> pl.DataFrame:
    return clips.group_by("train").agg(pl.col(WORD_SUMS).sum())


def _clip(row: Mapping[str, Any]) -> dict[str, Any]:
    speaker, transcribe = row.get("speaker_id"), row.get("transcribe")
    return {
        "speaker": speaker if speaker and speaker != UNKNOWN_SPEAKER else None,
        "train": row.get("split") == TRAIN,
        "draw": _draw(row["utterance_id"]),
        **measure_prosodic_features(row["prosody"], transcribe),
        **_word_sums(transcribe["words"] if transcribe else []),
    }


def _draw(utterance_id: str) -> float:
    """A clip's place in the order in which clips enrol their speaker: 48 bits, which a float holds."""
    return float(int.from_bytes(hashlib.sha256(utterance_id.encode()).digest()[:6]))


def _word_sums(words: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    timed = [word for word in words if word["start_s"] is not None and word["end_s"] is not None]
    x = np.array([letter_count(word["word"]) for word in timed], np.float64)
    y = np.array([word["end_s"] - word["start_s"] for word in timed], np.float64)
    return dict(zip(WORD_SUMS, map(float, (len(x), x.sum(), y.sum(), x @ x, x @ y)), strict=True))


def _word_duration(words: pl.DataFrame) -> dict[str, float]:
    """Least squares; without word times, or variance, the usual English figures: emphasis can still rank words."""
    n, x, y, xx, xy = words.select(pl.col(WORD_SUMS).sum()).row(0)
    spread = n * xx - x * x
    per_letter = _difference(n * xy, x * y) / spread if spread > 0 else 0.0
    if per_letter <= 0:
        return {"intercept_s": 0.1, "per_letter_s": 0.05}
    intercept = _difference(y, per_letter * x) / n
    if intercept <= 0:  # through the origin, so that no expected duration is zero
        intercept, per_letter = 0.0, xy / xx
    return {"intercept_s": _rounded(intercept), "per_letter_s": _rounded(per_letter)}


def _spread(moments: pl.DataFrame) -> dict[str, float]:
    """Mean and the variance within and between speakers, by the moments of a one-way analysis of variance."""
    whole = _pooled(moments, "measure").row(0, named=True)
    groups = _pooled(moments.drop_nulls("speaker"), "speaker").sort("speaker")
    sizes, means = groups["n"].to_numpy(), groups["mean"].to_numpy()
    n, number = sizes.sum(), len(sizes)
    if number < 2 or n <= number:
        # Speakers cannot be distinguished from clips: one clip of a speaker then counts as much as the corpus.
        within = between = whole["squares"] / whole["n"] / 2
    else:
        squares_between = float(np.sum(sizes * (means - np.sum(sizes * means) / n) ** 2))
        within = float(groups["squares"].sum()) / (n - number)
        effective = (n - float(np.sum(sizes**2)) / n) / (number - 1)
        between = max(0.0, _difference(squares_between / (number - 1), within) / effective)
    noise = ROUNDING * math.hypot(whole["mean"], math.sqrt(whole["squares"] / whole["n"]))
    return {
        "mean": _rounded(whole["mean"], noise),
        "within": _rounded(within, noise**2),
        "between": _rounded(between, noise**2),
        "clips": whole["n"],
    }


def _speaker(clips: pl.DataFrame) -> dict[str, float]:
    means = clips.select(pl.col(MEASURES).mean()).row(0, named=True)
    return {
        "clips": float(clips.height),
        **{name: _rounded(mean) for name, mean in means.items() if mean is not None},
    }


def _difference(a: float, b: float) -> float:
    """The difference of two sums, or zero if it is within their rounding."""
    return a - b if abs(a - b) > ROUNDING * max(abs(a), abs(b)) else 0.0


def _rounded(value: float | np.floating, noise: float = 0.0) -> float:
    return float(f"{float(value):.{DIGITS}g}") if abs(float(value)) > noise else 0.0
