"""Shared by evaluation and promotion: finding a registered version, and its predictions on a split."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl

from emoray.audio.io import decode
from emoray.errors import AudioError, InputError
from emoray.lake.tables import Lake
from emoray.models.build import frontend
from emoray.models.frontend import sound_means
from emoray.registry import versions
from emoray.registry.tracking import Tracking
from emoray.registry.versions import CHALLENGER, CHAMPION, Version
from emoray.scoring.bundle import Bundle, text_read
from emoray.scoring.predictions import predict_rows
from emoray.scoring.scorer import Scorer
from emoray.stages.base import WAVEFORM, Row
from emoray.training.data.pack import column
from emoray_jobs.evaluate.stored import LABELLED
from emoray_jobs.progress import track
from emoray_jobs.train.local import predict_levels, torch_threads
from emoray_jobs.train.training_set import ensure_training_set, training_keys

if TYPE_CHECKING:
    from emoray.stages.config import AnnotateConfig
    from emoray.training.config import LaunchConfig
    from emoray_jobs.config import ClusterConfig

#: Utterances in memory, with their waveforms, while a version scores them from their audio.
ROWS_AT_ONCE = 64


def find_version(tracking: Tracking, reference: str | None) -> Version:
    """A version by anything that `emoray.registry.versions.resolve` takes.

    None finds the challenger, or the champion if there is no challenger.

    Raises:
        RegistryError: There is no such version.
        InputError: The address names no version (`bad_model_address`).
    """
    if reference is None:
        reference = CHAMPION if versions.find_alias(tracking, CHALLENGER) is None else CHALLENGER
    return versions.resolve(tracking, reference)


def predictions(
    lake: Lake,
    bundle: Bundle,
    splits: Sequence[str],
    levels: Sequence[str],
    *,
    corpus: str,
    annotate: AnnotateConfig,
    cluster: ClusterConfig,
    launch: LaunchConfig,
    stack: contextlib.ExitStack,
) -> pl.DataFrame:
    """Predictions of a version on labelled clips of splits, one part per semantic level.

    Its text vectors come from the stage tables that it was fitted with, through a packed training set. Where the
    lake no longer has these (the corpus was annotated again), the version computes them from the audio, as online.

    Args:
        annotate: Its filters leave clips out.
        cluster: Ray that packs the training set, if there is none yet.
        stack: Keeps Ray, if it has to be started, beyond this call.

    Raises:
        InputError: No clip of these splits has a label (`empty_split`).
    """
    if not lake.exists("norms", f"{bundle.norms.hash}.json"):
        lake.write_json(bundle.norms.to_json(), "norms", f"{bundle.norms.hash}.json")
    keys = training_keys(lake, corpus, annotate, bundle.conditions)
    reads = [column(name, bundle.conditions[0].name) for name in text_read(bundle.config)]
    if reads and not keys.select(pl.any_horizontal(*(pl.col(name).fill_null(False) for name in reads)).any()).item():
        return _from_audio(lake, corpus, bundle, keys, splits, levels, threads=launch.threads)
    training_set = ensure_training_set(
        lake,
        cluster,
        launch,
        stack,
        corpus=corpus,
        conditions=bundle.conditions,
        model=bundle.config,
        audio=bundle.annotate.audio,
        keys=keys,
    )
    ids = [name for split in splits for name in training_set.ids(split)]
    if not ids:
        raise nothing_labelled(corpus, splits)
    return pl.concat(predict_levels(bundle.model, training_set, ids, levels, launch).values())


def utterance_rows(lake: Lake, corpus: str, ids: Sequence[str], bundle: Bundle) -> list[Row]:
    """Rows of utterances with their waveforms; clips that the version's rules for usable audio refuse are left out."""
    frame = pl.DataFrame(lake.utterances(corpus))
    rows: list[Row] = frame.filter(pl.col("utterance_id").is_in(list(ids))).sort("utterance_id").to_dicts()
    storage = lake.fs.storage_options or None
    good = []
    for row in rows:
        with contextlib.suppress(AudioError):
            decoded = decode(
                row["audio_uri"],
                bundle.annotate.audio,
                start_s=row["start_s"],
                end_s=row["end_s"],
                storage_options=storage,
            )
            good.append({**row, WAVEFORM: decoded.samples})
    return good


def corpus_scorer(lake: Lake, corpus: str, bundle: Bundle) -> Scorer:
    """A scorer that knows a corpus's speakers as the version's norms do: from their enrolment clips."""
    if not bundle.config.encoder.speaker_norms:
        return Scorer(bundle)
    frame = pl.DataFrame(lake.utterances(corpus, ["utterance_id", "speaker_id"]))
    front, sounds = frontend(bundle.config.encoder), {}
    enrolling = frame.filter(bundle.norms.enrolment_clips(frame))
    for (speaker,), own in enrolling.group_by("speaker_id", maintain_order=True):
        clips = [row[WAVEFORM] for row in utterance_rows(lake, corpus, own["utterance_id"].to_list(), bundle)]
        if clips:
            sounds[str(speaker)] = sound_means(front, clips)
    return Scorer(dataclasses.replace(bundle, sounds=sounds))


def _from_audio(
    lake: Lake,
    corpus: str,
    bundle: Bundle,
    keys: pl.DataFrame,
    splits: Sequence[str],
    levels: Sequence[str],
    *,
    threads: int,
) -> pl.DataFrame:
    scorer = corpus_scorer(lake, corpus, bundle)
    ids = keys.filter(pl.col("split").is_in(list(splits)) & LABELLED).sort("utterance_id")["utterance_id"].to_list()
    if not ids:
        raise nothing_labelled(corpus, splits)
    parts = []
    with track("scoring from the audio", "utterances") as advance, torch_threads(threads):
        for start in range(0, len(ids), ROWS_AT_ONCE):
            rows = utterance_rows(lake, corpus, ids[start : start + ROWS_AT_ONCE], bundle)
            parts += [predict_rows(scorer, rows, level=level) for level in levels if rows]
            advance(min(start + ROWS_AT_ONCE, len(ids)), len(ids))
    return pl.concat(parts)


def nothing_labelled(corpus: str, splits: Sequence[str]) -> InputError:
    """The error of a corpus without labels in some splits."""
    return InputError(
        f"corpus {corpus!r} has no labelled utterances in {', '.join(splits)}",
        remedy="A model is evaluated on clips with labels",
        kind="empty_split",
    )
