"""The scorer: one class behind the online service, bulk scoring, the MLflow model and the promotion gate.

Shapes: B clips of one forward pass, T frames, F features, K granularities (LES, GS, ES), E text width, 3 = (valence,
arousal, dominance).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from emoray.audio.io import AUDIO_HZ, AudioConfig
from emoray.errors import AudioError
from emoray.models.batch import Batch, Output, level_of
from emoray.models.build import frontend
from emoray.schema import DIMENSIONS, GRANULARITIES
from emoray.scoring.bundle import Bundle, open_bundle
from emoray.scoring.score import Estimate, Score, ScoreRequest, TextVectors, TimePoint
from emoray.scoring.semantics import SemanticsRunner

WINDOW_S = 4.0
HOP_S = 1.0

#: Seconds of padded audio in one forward pass, to bound memory.
MAX_PADDED_S = 240.0


@dataclass(frozen=True)
class _Piece:
    """A part of one request's samples: the whole clip (`start_s` None) or a window of the time course."""

    request: int
    samples: np.ndarray
    start_s: float | None


@dataclass(frozen=True)
class _Raw:
    """One piece's outputs."""

    prediction: np.ndarray
    gates: list[float] | None
    experts: list[list[float]] | None
    emotion: list[float] | None


class Scorer:
    """Scores clips with one model version.

    No state is kept between calls, but use it from one thread at a time: Hugging Face's fast tokenizers are not safe in
    several.

    Attributes:
        version: Name of the version for replies, set by whoever fetched it from a registry.
    """

    def __init__(self, bundle: Bundle, device: torch.device | str = "cpu") -> None:
        self.bundle = bundle
        self.version: str | None = None
        self._device = torch.device(device)
        self._model = bundle.model.to(self._device).eval()
        self._frontend = frontend(bundle.config.encoder)
        self._semantics = SemanticsRunner(bundle)

    @property
    def audio(self) -> AudioConfig:
        """What counts as usable audio; decode clips with it."""
        return self.bundle.annotate.audio

    @property
    def stale_stages(self) -> dict[str, str]:
        """Stages of this installation that differ from the version's → reason; their values count as absent."""
        return dict(self._semantics.stale)

    def score(self, requests: Sequence[ScoreRequest]) -> list[Score]:
        """Score clips together, in order; each clip's score does not depend on the others.

        Raises:
            AudioError: A clip is not a finite mono signal, or has no finite score (`non_finite_score`).
        """
        for number, request in enumerate(requests):
            _check(request.samples, number)
        semantics = self._semantics.run(requests)
        levels = [self._level(one) for one in semantics]
        pieces = [piece for number, request in enumerate(requests) for piece in _pieces(number, request)]
        raw: dict[int, _Raw] = {}
        for places in _batches([len(piece.samples) for piece in pieces]):
            part = [pieces[place] for place in places]
            raw.update(zip(places, self._forward(part, requests, semantics), strict=True))
        whole: dict[int, _Raw] = {}
        windows: dict[int, list[TimePoint]] = {number: [] for number in range(len(requests))}
        for place, piece in enumerate(pieces):
            if piece.start_s is None:
                whole[piece.request] = raw[place]
            else:
                windows[piece.request].append(_point(piece, raw[place]))
        return [
            self._score(request, semantics[number], levels[number], whole[number], windows[number])
            for number, request in enumerate(requests)
        ]

    def _forward(
        self, pieces: Sequence[_Piece], requests: Sequence[ScoreRequest], semantics: Sequence[TextVectors]
    ) -> list[_Raw]:
        features = [self._frontend.packed(piece.samples).astype(np.float32) for piece in pieces]
        features_BTF = np.zeros((len(pieces), max(map(len, features)), self._frontend.width), dtype=np.float32)
        text_BKE = np.zeros((len(pieces), len(GRANULARITIES), self.bundle.config.text_width), dtype=np.float32)
        present_BK = np.zeros((len(pieces), len(GRANULARITIES)), dtype=bool)
        for place, (piece, clip) in enumerate(zip(pieces, features, strict=True)):
            features_BTF[place, : len(clip)] = clip
            for k, name in enumerate(GRANULARITIES):
                vector = semantics[piece.request].vectors.get(name)
                if vector is not None:  # LES and GS are shorter where ES holds numbers, as in packed training sets
                    text_BKE[place, k, : len(vector)], present_BK[place, k] = vector, True
        batch = Batch(
            features_BTF=torch.from_numpy(features_BTF),
            lengths_B=torch.tensor([len(clip) for clip in features]),
            text_BKE=torch.from_numpy(text_BKE),
            present_BK=torch.from_numpy(present_BK),
            target_B3=torch.full((len(pieces), len(DIMENSIONS)), torch.nan),
            label_B=torch.full((len(pieces),), -1),
            utterance_ids=tuple(str(piece.request) for piece in pieces),
            **self._speakers([requests[piece.request].speaker_id for piece in pieces]),
        )
        with torch.inference_mode():
            output: Output = self._model(batch.to(self._device))
        prediction_B3 = output.prediction_B3.float().cpu().numpy().clip(0.0, 1.0)
        emotion_BC = None if output.logits_BC is None else output.logits_BC.float().softmax(-1)
        _check_finite(pieces, prediction_B3, emotion_BC)
        optional = [
            [None] * len(pieces) if tensor is None else tensor.float().tolist()
            for tensor in (output.gates_BK, output.experts_B3E, emotion_BC)
        ]
        return [_Raw(*outputs) for outputs in zip(prediction_B3, *optional, strict=True)]

    def _speakers(self, speaker_ids: Sequence[str | None]) -> dict[str, torch.Tensor]:
        """What the batch says of the speakers, where the model measures sound against them."""
        if not self.bundle.config.encoder.speaker_norms:
            return {}
        speaker_BM = np.zeros((len(speaker_ids), 2 * self._frontend.width), dtype=np.float32)
        enrolled_B = np.zeros(len(speaker_ids), dtype=np.float32)
        for place, speaker in enumerate(speaker_ids):
            own = self.bundle.sounds.get(speaker or "")
            if own is not None:
                speaker_BM[place], enrolled_B[place] = own["measures"], own["clips"]
        return {"speaker_BM": torch.from_numpy(speaker_BM), "enrolled_B": torch.from_numpy(enrolled_B)}

    def _level(self, semantic: TextVectors) -> str:
        """The level of the text vectors that a clip has.

        A description made without words is dropped where the model reads words too: it met no such description.
        """
        read = self.bundle.granularities
        wordless = semantic.row.get("embed_transcript") is None
        if wordless and set(read) > {"es"} and semantic.vectors.pop("es", None) is not None:
            semantic.absent["es"] = "there are no words: the version has no figures for a description alone"
        return level_of(semantic.vectors, read)

    def _score(
        self, request: ScoreRequest, semantic: TextVectors, level: str, raw: _Raw, points: list[TimePoint]
    ) -> Score:
        known = self.bundle.enrolled_clips(request.speaker_id)
        condition = self.bundle.condition(semantic.source, known)
        under = self.bundle.level_name(level, condition)
        duration_s = len(request.samples) / AUDIO_HZ
        estimates = {name: self._estimate(float(raw.prediction[d]), name, under) for d, name in enumerate(DIMENSIONS)}
        # A clip that is not longer than a window is the only window.
        course = points or [TimePoint(0.0, duration_s, *(estimates[name].value for name in DIMENSIONS))]
        emphasis = semantic.row.get("emphasis")
        record = semantic.row.get("semantics")
        transcribed = semantic.row.get("transcribe")
        return Score(
            **estimates,
            scale=self.bundle.scale,
            dimensional=self.bundle.dimensional,
            interval_level=self.bundle.conformal_level,
            time_course=tuple(course),
            level=level,
            condition=condition,
            transcript_source=None if transcribed is None else semantic.source,
            speaker_clips=known,
            used=tuple(name for name in GRANULARITIES if name in semantic.vectors),
            absent=semantic.absent,
            gates=None if raw.gates is None else dict(zip(GRANULARITIES, raw.gates, strict=True)),
            experts=None if raw.experts is None else dict(zip(DIMENSIONS, raw.experts, strict=True)),
            words=None if emphasis is None else [dict(word) for word in emphasis["words"]],
            transcript=None if transcribed is None else transcribed["text"],
            semantics=None if record is None else {key: value for key, value in record.items() if key != "text"},
            emotion=None if raw.emotion is None else dict(zip(self.bundle.config.classes, raw.emotion, strict=True)),
            duration_s=duration_s,
        )

    def _estimate(self, value: float, dimension: str, level: str) -> Estimate:
        """A dimension, with its interval at a level under a condition."""
        width = self.bundle.half_widths.get(level, {}).get(dimension)
        low, high = (None, None) if width is None else (max(0.0, value - width), min(1.0, value + width))
        return Estimate(value, low, high, self._corpus(value), self._corpus(low), self._corpus(high))

    def _corpus(self, value: float | None) -> float | None:
        if value is None or self.bundle.scale is None:
            return None
        start, end = self.bundle.scale
        return start + value * (end - start)


def _check(samples: np.ndarray, number: int) -> None:
    if samples.ndim != 1 or samples.size == 0 or not np.isfinite(samples).all():
        raise AudioError(
            f"samples of shape {samples.shape} are not a finite mono signal",
            where=f"request {number}",
            remedy="Decode clips with emoray.audio.io.decode",
            kind="non_finite_samples" if samples.ndim == 1 and samples.size else "audio_too_short",
        )


def _check_finite(pieces: Sequence[_Piece], prediction_B3: np.ndarray, emotion_BC: torch.Tensor | None) -> None:
    """Refuse outputs that are no numbers: of a broken version, or of samples far beyond full scale."""
    finite_B = np.isfinite(prediction_B3).all(1)
    if emotion_BC is not None:
        finite_B &= emotion_BC.isfinite().all(1).cpu().numpy()
    for piece, finite in zip(pieces, finite_B, strict=True):
        if not finite:
            peak = float(np.abs(piece.samples).max())
            raise AudioError(
                f"the model has no finite score for this clip, whose samples reach {peak:.3g} (1 is full scale)",
                where=f"request {piece.request}",
                remedy="Check the clip's level; if every clip fails, the version is broken: emoray rollback",
                kind="non_finite_score",
            )


def _pieces(number: int, request: ScoreRequest) -> Iterator[_Piece]:
    """The whole clip, and the windows of its time course: every full window, one per hop (none in a shorter clip)."""
    samples = request.samples
    yield _Piece(number, samples, None)
    window, hop = round(WINDOW_S * AUDIO_HZ), round(HOP_S * AUDIO_HZ)
    if request.time_course and len(samples) > window:
        for start in range(0, len(samples) - window + 1, hop):
            yield _Piece(number, samples[start : start + window], start / AUDIO_HZ)


def _point(piece: _Piece, raw: _Raw) -> TimePoint:
    assert piece.start_s is not None
    valence, arousal, dominance = (float(value) for value in raw.prediction)
    return TimePoint(piece.start_s, piece.start_s + len(piece.samples) / AUDIO_HZ, valence, arousal, dominance)


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Group pieces by length: little padding, and no batch exceeds `MAX_PADDED_S` (a longer clip is alone)."""
    budget = MAX_PADDED_S * AUDIO_HZ
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: lengths[place]):
        # This piece would be the longest: beside much shorter ones most of the batch would be padding.
        if batch and (lengths[place] * (len(batch) + 1) > budget or lengths[place] > 2 * lengths[batch[0]]):
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def load_bundle(folder: str | Path) -> Scorer:
    """Open a bundle as a scorer.

    Raises:
        RegistryError: See `open_bundle`.
    """
    return Scorer(open_bundle(folder))
