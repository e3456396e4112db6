"""The forecast of a phase: what is measured on which machine, for which rows."""

from __future__ import annotations

import polars as pl
import pytest
from annotate_kit import config_for

from emoray.lake.tables import Lake
from emoray.stages import pipeline
from emoray.stages.transcribe.stage import build_transcribe
from emoray_jobs.cluster.hardware import ClusterResources, NodeResources
from emoray_jobs.pipeline import costs
from emoray_jobs.pipeline.costs import CostSums
from emoray_jobs.pipeline.estimate import estimate_work
from emoray_jobs.pipeline.pending import PendingWork

CPUS = ClusterResources((NodeResources("slow", None, 4.0, 0, 2**36), NodeResources("fast", None, 12.0, 0, 2**36)))


@pytest.fixture
def place(tmp_path):
    config = config_for(tmp_path, "annotate.transcribe.kind=pocketsphinx", "annotate.batch_rows=10")
    return config, Lake(config.lake), pipeline.audio_stages(config.annotate)


def worklist_of(stages, todo: dict[str, int]) -> PendingWork:
    """`todo`: how many rows lack which stages ("a+b")."""
    names = [name.split("+") for name, number in todo.items() for _ in range(number)]
    ids = [f"u{number:05d}" for number in range(len(names))]
    lacks = {one.name: pl.Series([one.name in row for row in names], dtype=pl.Boolean) for one in stages}
    return PendingWork(
        stages, pl.DataFrame({"utterance_id": ids, "seconds": pl.Series([4.0] * len(ids), dtype=pl.Float64), **lacks})
    )


def measured(lake, stage, kind: str, per_row_s: float, peak_bytes: int = 1) -> None:
    for audio_s in (200.0, 800.0):
        work = CostSums.of_batch(100, audio_s, per_row_s * 100, first=False, peak_bytes=peak_bytes)
        costs.add_measurement(lake, stage, kind, work)


def test_work_follows_the_rows_and_the_machines(place):
    config, lake, (decode, prosody, transcribe) = place
    for stage, per_row_s in ((decode, 0.01), (prosody, 0.1), (transcribe, 1.0)):
        measured(lake, stage, "slow", 2 * per_row_s)
        measured(lake, stage, "fast", per_row_s)
    work = worklist_of([decode, prosody, transcribe], {"decode+prosody+transcribe": 300, "transcribe": 100})
    found = estimate_work(lake, work, CPUS, config.annotate)
    # A quarter of the cores is half as fast. The 100 clips that were decoded before are decoded again to be heard.
    assert found.work_s == pytest.approx({"decode": 400 * 0.0125, "prosody": 300 * 0.125, "transcribe": 400 * 1.25})
    assert found.measured_rows == {"decode": 400, "prosody": 400, "transcribe": 400}
    assert [pool.stages for pool in found.pools] == [("decode", "prosody"), ("transcribe",)]
    # 42.5 and 500 core-seconds on 16 cores: 1.25 and 14.7 of them; 40 batches are worth ten loads.
    assert [pool.workers for pool in found.pools] == [2, 10]
    assert found.seconds == pytest.approx(50.0)


def test_one_unknown_stage_leaves_the_time_unknown(place):
    config, lake, stages = place
    for stage in stages[:2]:
        measured(lake, stage, "fast", 0.1)
    found = estimate_work(lake, worklist_of(stages, {"decode+prosody+transcribe": 100}), CPUS, config.annotate)
    assert found.work_s["transcribe"] is None
    assert found.work_s["prosody"] == pytest.approx(10.0)
    assert found.seconds is None
    # Without the stage, nothing is unknown: it has nothing to do.
    known = estimate_work(lake, worklist_of(stages, {"decode+prosody": 100}), CPUS, config.annotate)
    assert known.seconds == pytest.approx(20.0 / 10)  # ten batches keep ten of the cores busy


def test_a_stage_costs_what_it_costs_on_the_gpu(place):
    config, lake, (decode, prosody, _) = place
    whisper = build_transcribe(config.annotate.transcribe.model_copy(update={"kind": "whisper"}))
    whisper.options = lambda: {"kind": "whisper"}  # its weights are not here to be hashed
    for stage in (decode, prosody):
        measured(lake, stage, "cpu", 0.1)
    measured(lake, whisper, "cpu", 10.0)
    measured(lake, whisper, "H100", 0.5)
    work = worklist_of([decode, prosody, whisper], {"decode+prosody+transcribe": 100})
    gpus = ClusterResources((NodeResources("cpu", "H100", 8.0, 2, 2**36),))
    found = estimate_work(lake, work, gpus, config.annotate)
    assert found.work_s["transcribe"] == pytest.approx(50.0)
    assert [(pool.workers, pool.gpus) for pool in found.pools] == [(8, 0.0), (2, 1.0)]
    assert found.seconds == pytest.approx(25.0)


def test_nothing_to_do_takes_no_time(place):
    config, lake, stages = place
    found = estimate_work(lake, worklist_of(stages, {}), CPUS, config.annotate)
    assert (found.pools, found.seconds) == ([], 0.0)
