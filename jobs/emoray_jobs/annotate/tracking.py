"""A run of annotate as a run in the tracking store. Imported only when there is something to log: MLflow is slow."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

from pydantic_core import to_json
from rich.console import Console

from emoray.digest import digest
from emoray.lake.tables import Lake
from emoray.registry.config import TrackingConfig
from emoray.stages.config import AnnotateConfig
from emoray_jobs.annotate.state import ANNOTATIONS
from emoray_jobs.annotate.summary import AnnotateResult, render
from emoray_jobs.progress import spinner

log = logging.getLogger(__name__)
WIDTH = 140


def track(
    tracking: TrackingConfig, lake: Lake, annotate: AnnotateConfig, result: AnnotateResult, *, status: str
) -> None:
    """Log a summary: fingerprints and options as parameters, counts and times as metrics, all of it as artifacts.

    A store that cannot be reached costs a warning: the annotations are there, and the summary is printed.

    Args:
        status: FINISHED, or FAILED for a run over its error budget.
    """
    try:
        with spinner("logging the summary to MLflow"):
            _log(tracking, lake, annotate, result, status)
    except Exception as error:
        log.warning("the summary could not be logged: %s", error)


def _log(tracking: TrackingConfig, lake: Lake, annotate: AnnotateConfig, result: AnnotateResult, status: str) -> None:
    from emoray.registry.tracking import connect

    store = connect(tracking, lake)
    params = {
        "corpus": result.corpus,
        "fingerprint": result.fingerprints,
        "norms": result.norms_hash,
        "annotate": annotate.model_dump(mode="json"),
    }
    tags = {"emoray.corpus": result.corpus, ANNOTATIONS: digest(result.fingerprints)}
    run_id = store.start_run(f"annotate {result.corpus}", verb="annotate", params=params, tags=tags)
    store.log_metrics(run_id, metrics(result))
    with tempfile.TemporaryDirectory(prefix="emoray-summary-") as folder:
        Path(folder, "summary.json").write_bytes(to_json(result, indent=1) + b"\n")
        with Path(folder, "summary.txt").open("w", encoding="utf-8") as file:
            Console(file=file, width=WIDTH).print(render(result))
        store.log_folder(run_id, folder, "summary")
    store.end_run(run_id, status)


def metrics(result: AnnotateResult) -> dict[str, float]:
    """The summary's numbers by name; stages and pools are parts of the names."""
    counts, work = result.counts, result.resources
    found: dict[str, Any] = {
        "utterances": counts.utterances,
        "complete": counts.complete,
        "partial": counts.partial,
        "quarantined": counts.quarantined,
        "filtered": counts.utterances - counts.attempted,
        "audio_s": result.audio_s,
        "wall_s": result.wall_s,
        "peak_memory_bytes": work.peak_memory_bytes,
        "spilled_bytes": work.spilled_bytes,
    }
    found |= {f"filtered.{reason}": number for reason, number in counts.filtered.items()}
    for stage in result.stages:
        found[f"{stage.name}.computed"] = stage.computed
        found[f"{stage.name}.reused"] = stage.reused
        found[f"{stage.name}.real_time_factor"] = stage.real_time_factor
        found |= {f"{stage.name}.failed.{kind}": number for kind, number in stage.failed.items()}
    for spending in work.spending:
        found[f"{spending.name}.planned_s"] = spending.planned_s
        found[f"{spending.name}.spent_s"] = spending.spent_s
        found[f"{spending.name}.loading_s"] = spending.loading_s
    for pool in work.pools:
        # MLflow's names know no plus sign.
        found[f"pool.{pool.name.replace('+', '.')}.busy_share"] = pool.busy_share
    return {name: float(value) for name, value in found.items() if value is not None}
