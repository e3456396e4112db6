"""annotate: utterances → stage tables, in two phases with the fitted norms between them (docs/decisions/0001).

Run it again after a kill, beside another run, or with another prompt: what the stage tables hold is not done again, and
Ray starts only if there is work.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
from rich.console import RenderableType

from emoray.errors import ErrorBudgetExceeded, InputError, LakeError, StageError
from emoray.lake import Lake
from emoray.stages import filters, pipeline
from emoray.stages.base import Stage
from emoray.stages.filters import FiltersConfig
from emoray.stages.norms import Norms
from emoray_jobs import annotate_summary, worklist
from emoray_jobs.annotate_summary import AnnotateResult
from emoray_jobs.passes import Passes
from emoray_jobs.progress import track

if TYPE_CHECKING:
    from emoray_jobs.config import Config

#: Stages that norms are fitted from.
NORMS_READ = ("prosody", "transcribe")


@dataclass(frozen=True)
class State:
    """Which annotations of a corpus are current.

    Attributes:
        fingerprints: Fingerprint of each stage.
        norms: The fitted norms.
        norms_hash: Their hash.
    """

    fingerprints: dict[str, str]
    norms: Norms
    norms_hash: str


def state(config: Config, lake: Lake) -> State:
    """The current annotations of the configured corpus, without Ray.

    Raises:
        LakeError: The corpus was not annotated with this configuration.
    """
    norms = known_norms(config, lake)
    if norms is None:
        raise LakeError(
            f"corpus {config.corpus.name!r} has no annotations for this configuration",
            where=lake.root,
            remedy="Make them: emoray annotate",
            kind="not_annotated",
        )
    return State(pipeline.fingerprints(config.annotate, norms.hash), norms, norms.hash)


def run(
    config: Config, *, retry_failed: bool = False, refit_norms: bool = False, splits: Sequence[str] = ()
) -> AnnotateResult:
    """Annotate the configured corpus as far as it is not done.

    Args:
        config: The jobs' configuration.
        retry_failed: Forget recorded errors first, so that those rows are tried again.
        refit_norms: Fit the norms anew from the prosody at hand, even where there are some.
        splits: Only these splits; the others count as filtered, as does what `annotate.filters` leaves out. Empty for
            all.

    Raises:
        LakeError: The corpus is not in the lake.
        InputError: The corpus has no such split.
        ErrorBudgetExceeded: More than `annotate.max_error_fraction` of the utterances failed; all outcomes are written
            all the same.
        ServiceError: Rows could not be finished although they were tried alone.
    """
    started = time.monotonic()
    lake = Lake(config.lake)
    utterances = lake.utterances_dataset(config.corpus.name)
    held = lake.steadily(
        lambda: utterances.to_table(columns=list(worklist.HELD), use_threads=False), "utterances", config.corpus.name
    )
    everything, selected = worklist.durations(held), worklist.durations(of_splits(held, splits))
    filtered = everything.filter(~worklist.among(everything, selected)).select(
        "utterance_id", pl.lit(annotate_summary.BY_SPLIT).alias("reason")
    )
    total = everything.height
    del held, everything
    with contextlib.ExitStack() as stack:
        job = Passes(config, lake, utterances, selected, stack)
        audio = pipeline.audio_stages(config.annotate, config.lake.storage_options)
        fingerprints = pipeline.fingerprints(config.annotate, None)
        if retry_failed:
            _forget_failures(lake, audio, fingerprints)
        for stages in _steps(audio, config.annotate.filters):
            job.finish(stages, fingerprints, "measuring and transcribing")
            known = {stage.name: fingerprints[stage.name] for stage in stages}
            outside = filters.excluded(lake, job.kept, config.annotate.filters, known)
            job.leave_out(outside)
            filtered = pl.concat([filtered, outside])
        try:
            norms = _fitted_norms(config, lake, utterances, job.kept["utterance_id"], fingerprints, refit_norms)
        except StageError:
            # Nothing could be measured at all: say what is wrong with the clips before what that means for the norms.
            counts = annotate_summary.count(lake, total, job.kept, filtered, audio, fingerprints)
            done = [annotate_summary.of_stage(lake, job, stage, fingerprints[stage.name]) for stage in audio]
            annotate_summary.hold_budget(counts, done, config.annotate.max_error_fraction)
            raise
        text = pipeline.text_stages(config.annotate, norms)
        fingerprints = pipeline.fingerprints(config.annotate, norms.hash)
        if retry_failed:
            _forget_failures(lake, text, fingerprints)
        job.finish(text, fingerprints, "describing and embedding")
    stages = [*audio, *text]
    result = AnnotateResult(
        corpus=config.corpus.name,
        counts=annotate_summary.count(lake, total, job.kept, filtered, stages, fingerprints),
        stages=[annotate_summary.of_stage(lake, job, stage, fingerprints[stage.name]) for stage in stages],
        fingerprints=fingerprints,
        norms_hash=norms.hash,
        audio_s=annotate_summary.decoded_audio_s(lake, job, fingerprints["decode"]),
        wall_s=time.monotonic() - started,
        workforce=job.workforce(),
        flush_rows=config.annotate.flush_rows,
    )
    status = "FAILED"
    try:
        annotate_summary.hold_budget(result.counts, result.stages, config.annotate.max_error_fraction)
        status = "FINISHED"
    except ErrorBudgetExceeded as error:
        error.summary = render(result)
        raise
    finally:
        if config.summary.track and result.computed:
            from emoray_jobs import annotate_tracking

            annotate_tracking.track(config, lake, result, status=status)
    return result


def render(result: AnnotateResult) -> RenderableType:
    """The summary, as it is printed."""
    return annotate_summary.render(result)


def _steps(audio: Sequence[Stage], config: FiltersConfig) -> list[list[Stage]]:
    """How far the audio stages go before filters are held against the rows: what they leave out goes no further."""
    names = [stage.name for stage in audio]
    # Quality follows decode at once: what decode says can wait for it, and no clip is opened once more in between.
    reads = config.reads - ({"decode"} if "quality" in config.reads else set())
    ends = {names.index(name) + 1 for name in reads}
    return [list(audio[:end]) for end in sorted({*ends, len(audio)})]


def of_splits(utterances: pa.Table, splits: Sequence[str]) -> pa.Table:
    """The utterances of some splits; all if none is named.

    Raises:
        InputError: The corpus has no such split.
    """
    if not splits:
        return utterances
    known = sorted(name for name in pc.unique(utterances["split"]).to_pylist() if name is not None)
    for split in splits:
        if split not in known:
            raise InputError(f"the corpus has no split {split!r}", remedy=f"It has: {', '.join(known) or 'none'}")
    return utterances.filter(pc.is_in(utterances["split"], value_set=pa.array(splits)))


def known_norms(config: Config, lake: Lake) -> Norms | None:
    """The norms that were fitted for the configured corpus and audio stages; None if there are none yet."""
    pointer = _norms_pointer(config)
    if not lake.exists(*pointer):
        return None
    return Norms.from_json(lake.read_json("norms", f"{lake.read_json(*pointer)['norms']}.json"))


def _norms_pointer(config: Config) -> tuple[str, ...]:
    """Where it is kept which norms a corpus has; the same audio stages and options find the same norms again."""
    prints = pipeline.fingerprints(config.annotate, None)
    document = {
        "audio": {name: prints[name] for name in NORMS_READ},
        "norms": config.annotate.norms.model_dump(mode="json"),
    }
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]
    return "norms", "current", f"{config.corpus.name}-{digest}.json"


def _fitted_norms(
    config: Config, lake: Lake, utterances: pads.Dataset, ids: pl.Series, fingerprints: Mapping[str, str], refit: bool
) -> Norms:
    known = None if refit else known_norms(config, lake)
    if known is not None:
        return known
    columns = ["utterance_id", "speaker_id", "split"]
    reads = {name: fingerprints[name] for name in NORMS_READ}

    def rows() -> Iterator[dict[str, Any]]:
        done = 0
        with track("fitting norms", "utterances") as advance:
            for part in worklist.joined(lake, utterances, ids, reads, columns):
                for batch in part.to_batches(max_chunksize=256):
                    yield from batch.to_pylist()
                    done += batch.num_rows
                    advance(done, len(ids))

    norms = Norms.fit(rows(), config.annotate.norms)
    record = {"norms": norms.hash, "corpus": config.corpus.name, "utterances": len(ids)}
    lake.write_json(norms.to_json(), "norms", f"{norms.hash}.json")
    lake.write_json(record, *_norms_pointer(config))
    return norms


def _forget_failures(lake: Lake, stages: Sequence[Stage], fingerprints: Mapping[str, str]) -> None:
    for stage in stages:
        worklist.forget_failures(lake, stage.name, fingerprints[stage.name])
