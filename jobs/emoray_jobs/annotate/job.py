"""annotate: utterances → stage tables, in two phases with the fitted norms between them (docs/decisions/0001).

The phases are run under each of the configured conditions (docs/decisions/0032). Run it again after a kill, beside
another run, or with another prompt: what is in the stage tables is not done again. Ray starts only if there is work.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow.dataset as pads

from emoray.errors import ErrorBudgetExceeded, StageError
from emoray.lake.tables import Lake
from emoray.stages import filters, pipeline
from emoray.stages.base import Stage
from emoray.stages.conditions import Condition
from emoray.stages.config import AnnotateConfig
from emoray.stages.filters import FiltersConfig
from emoray.stages.norms import Norms
from emoray_jobs.annotate import summary
from emoray_jobs.annotate.state import NORMS_READ, load_norms, norms_pointer, norms_source, select_splits
from emoray_jobs.annotate.summary import AnnotateResult, render
from emoray_jobs.pipeline import pending
from emoray_jobs.pipeline.batches import join_stage_values
from emoray_jobs.pipeline.executor import StageExecutor
from emoray_jobs.progress import track

if TYPE_CHECKING:
    from emoray_jobs.config import ClusterConfig, Config, PlanConfig


def run(
    config: Config, *, retry_failed: bool = False, refit_norms: bool = False, splits: Sequence[str] = ()
) -> AnnotateResult:
    """Annotate what is missing of the configured corpus, under each condition of `annotate.conditions`.

    Args:
        splits: Only these splits; the others count as filtered, as does what `annotate.filters` leaves out. Empty for
            all.

    Raises:
        LakeError: The corpus is not in the lake.
        InputError: The corpus has no such split.
        ErrorBudgetExceeded: More than `annotate.max_error_fraction` of the utterances failed; all outcomes are written
            all the same.
        ServiceError: Rows could not be finished although they were tried alone.
    """
    lake = Lake(config.lake)
    with contextlib.ExitStack() as stack:
        results = [
            _annotate(
                lake,
                config.corpus.name,
                config.annotate,
                config.cluster,
                config.plan,
                condition,
                stack,
                retry_failed=retry_failed,
                refit_norms=refit_norms,
                splits=splits,
            )
            for condition in pipeline.conditions(config.annotate)
        ]
        result = dataclasses.replace(results[0], further=results[1:])
        status = "FAILED"
        try:
            for one in results:
                summary.check_error_budget(one.counts, one.stages, config.annotate.max_error_fraction)
            status = "FINISHED"
        except ErrorBudgetExceeded as error:
            error.summary = render(result)
            raise
        finally:
            # Before Ray is left: a submitted job has its working directory only as long as it is connected.
            if config.summary.track and any(one.computed for one in results):
                from emoray_jobs.annotate import tracking

                tracking.track(config.tracking, lake, config.annotate, result, status=status)
    return result


def _annotate(
    lake: Lake,
    corpus: str,
    options: AnnotateConfig,
    cluster: ClusterConfig,
    prices: PlanConfig,
    condition: Condition,
    ray_stack: contextlib.ExitStack,
    *,
    retry_failed: bool,
    refit_norms: bool,
    splits: Sequence[str],
) -> AnnotateResult:
    """Annotate under one condition; `ray_stack` keeps Ray, where it has to be started, for the others."""
    started = time.monotonic()
    annotate = pipeline.under(options, condition)
    utterances = lake.utterances_dataset(corpus)
    held = lake.retry_if_files_vanish(
        lambda: utterances.to_table(columns=list(pending.DRIVER_COLUMNS), use_threads=False), "utterances", corpus
    )
    everything, selected = pending.utterance_lengths(held), pending.utterance_lengths(select_splits(held, splits))
    filtered = everything.filter(~pending.is_member(everything, selected)).select(
        "utterance_id", pl.lit(summary.REASON_SPLIT).alias("reason")
    )
    total = everything.height
    del held, everything
    with contextlib.ExitStack() as stack:
        executor = StageExecutor(lake, cluster, annotate, utterances, selected, stack, ray_stack)
        audio = pipeline.audio_stages(annotate, lake.config.storage_options)
        fingerprints = pipeline.fingerprints(annotate, None)
        if retry_failed:
            _forget_failures(lake, audio, fingerprints)
        for stages in _filter_checkpoints(audio, annotate.filters):
            executor.run_until_complete(stages, fingerprints, "measuring and transcribing")
            known = {stage.name: fingerprints[stage.name] for stage in stages}
            outside = filters.excluded(lake, executor.kept, annotate.filters, known)
            executor.exclude(outside)
            filtered = pl.concat([filtered, outside])
        measured = norms_source(options, condition)
        try:
            fitted = None if refit_norms and annotate == measured else load_norms(lake, corpus, measured)
            norms = fitted or _fit_norms(lake, corpus, measured, utterances, executor.kept["utterance_id"])
        except StageError:
            # Nothing could be measured at all: say what is wrong with the clips before what that means for the norms.
            counts = summary.classify_utterances(lake, total, executor.kept, filtered, audio, fingerprints)
            done = [summary.summarize_stage(lake, executor, stage, fingerprints[stage.name]) for stage in audio]
            summary.check_error_budget(counts, done, annotate.max_error_fraction)
            raise
        text = pipeline.text_stages(annotate, norms)
        fingerprints = pipeline.fingerprints(annotate, norms.hash)
        if retry_failed:
            _forget_failures(lake, text, fingerprints)
        executor.run_until_complete(pipeline.with_decode(text, audio), fingerprints, "describing and embedding")
        stages = [*audio, *text]
        return AnnotateResult(
            corpus=corpus,
            condition=condition.name,
            counts=summary.classify_utterances(lake, total, executor.kept, filtered, stages, fingerprints),
            stages=[summary.summarize_stage(lake, executor, stage, fingerprints[stage.name]) for stage in stages],
            fingerprints=fingerprints,
            norms_hash=norms.hash,
            audio_s=summary.decoded_audio_s(lake, executor, fingerprints["decode"]),
            wall_s=time.monotonic() - started,
            resources=executor.resources(),
            flush_rows=annotate.flush_rows,
            prices=prices,
        )


def _filter_checkpoints(audio: Sequence[Stage], config: FiltersConfig) -> list[list[Stage]]:
    """The audio stages, split where filters apply: rows that a filter excludes go no further."""
    names = [stage.name for stage in audio]
    # Quality follows decode at once: what decode says can wait for it, and no clip is opened once more in between.
    reads = config.reads - ({"decode"} if "quality" in config.reads else set())
    ends = {names.index(name) + 1 for name in reads}
    return [list(audio[:end]) for end in sorted({*ends, len(audio)})]


def _fit_norms(lake: Lake, corpus: str, annotate: AnnotateConfig, utterances: pads.Dataset, ids: pl.Series) -> Norms:
    columns = ["utterance_id", "speaker_id", "split"]
    fingerprints = pipeline.fingerprints(annotate, None)
    reads = {name: fingerprints[name] for name in NORMS_READ}

    def rows() -> Iterator[dict[str, Any]]:
        done = 0
        with track("fitting norms", "utterances") as advance:
            for part in join_stage_values(lake, utterances, ids, reads, columns):
                for batch in part.to_batches(max_chunksize=256):
                    yield from batch.to_pylist()
                    done += batch.num_rows
                    advance(done, len(ids))

    norms = Norms.fit(rows(), annotate.norms)
    record = {"norms": norms.hash, "corpus": corpus, "utterances": len(ids)}
    lake.write_json(norms.to_json(), "norms", f"{norms.hash}.json")
    lake.write_json(record, *norms_pointer(corpus, annotate))
    return norms


def _forget_failures(lake: Lake, stages: Sequence[Stage], fingerprints: Mapping[str, str]) -> None:
    for stage in stages:
        pending.forget_failures(lake, stage.name, fingerprints[stage.name])
