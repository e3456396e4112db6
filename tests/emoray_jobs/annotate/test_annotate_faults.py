"""annotate under real faults: a driver, a worker and a sink that are killed."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray
from annotate_kit import (
    CHEAP_STAGES,
    assert_same_value,
    by_hand,
    config_for,
    leave_out_encoder,
    make_corpus,
    rows_written,
    stored,
)

from emoray.config import to_yaml
from emoray.errors import ServiceError
from emoray.lake.tables import Lake
from emoray.stages import pipeline
from emoray.stages.prosody import MeasureProsody
from emoray.stages.semantics.stage import CuesSemantics
from emoray_jobs.annotate import job as annotate
from emoray_jobs.annotate.state import state as annotation_state
from emoray_jobs.annotate.summary import Counts
from emoray_jobs.pipeline import pools, writer

pytestmark = pytest.mark.long

DEADLINE_S = 120.0


def wait_for(condition, what: str) -> None:
    """Poll a condition that another process brings about."""
    tick, waited_s = threading.Event(), 0.0
    while not condition():
        assert waited_s < DEADLINE_S, f"gave up waiting for {what}"
        tick.wait(0.02)
        waited_s += 0.02


def test_killed_driver_goes_on_where_it_was(tmp_path, ray_session, monkeypatch):
    leave_out_encoder(monkeypatch)
    clips = 40
    lake_root = tmp_path / "lake"
    config = config_for(lake_root, "cluster.num_cpus=2")
    make_corpus(lake_root, clips)
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config))
    command = [sys.executable, "-m", "emoray_jobs", "annotate", "--config", str(file)]
    decode = pipeline.fingerprints(config.annotate, None)["decode"]
    files = Path(lake_root, "annotations", "decode", decode)
    with (tmp_path / "log").open("wb") as log:
        driver = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path)
    try:
        wait_for(lambda: any(files.glob("*.parquet")) or driver.poll() is not None, "the first outcomes")
        driver.send_signal(signal.SIGKILL)
    finally:
        driver.kill()
        driver.wait()
    for path in Path(lake_root, "annotations").rglob("*.parquet"):
        pq.read_table(path)  # only whole files, ever
    before = set(rows_written(config, "decode", decode))
    assert 0 < len(before) < clips, (tmp_path / "log").read_text()

    result = annotate.run(config)
    assert result.counts == Counts(clips, clips, 0, 0, {})
    assert result.stages[0].reused >= len(before)
    expected = by_hand(config, annotation_state(Lake(config.lake), config.corpus.name, config.annotate))
    for stage, table in stored(config, result.fingerprints).items():
        assert table["utterance_id"].to_list() == [f"u{number:03d}" for number in range(clips)]
        for row in table.iter_rows(named=True):
            assert_same_value(
                row["value"], expected[stage][row["utterance_id"]].value, f"{stage} {row['utterance_id']}"
            )


def deadly(base: type, victim: str) -> type:
    """A stage that kills its process when it meets a row, as a crash in native code would."""

    class Deadly(base):
        def run(self, rows):
            if any(row["utterance_id"] == victim for row in rows):
                os.kill(os.getpid(), signal.SIGKILL)
            return super().run(rows)

    return Deadly


def test_rows_that_kill_their_process_are_found_and_recorded(tmp_path, ray_session, monkeypatch):
    """One in a task, one in a pool of one actor with more batches waiting; their neighbours come through."""
    config = config_for(tmp_path, "annotate.max_error_fraction=0.2", "annotate.batch_rows=2")
    make_corpus(tmp_path, 24)
    audio_stages, text_stages = pipeline.audio_stages, pipeline.text_stages

    def audio(settings, *options):
        stages = audio_stages(settings, *options)
        return [stages[0], deadly(MeasureProsody, "u007")(settings.prosody), stages[2]]

    def text(settings, norms):
        writer = deadly(CuesSemantics, "u011")(settings.semantics.cues, norms)
        writer.resources = "actor"
        return [text_stages(settings, norms)[0], writer]  # without the encoder, which takes long to load

    monkeypatch.setattr(pipeline, "audio_stages", audio)
    monkeypatch.setattr(pipeline, "text_stages", text)
    monkeypatch.setattr(pools, "BATCHES_PER_ACTOR", 100)
    result = annotate.run(config)
    assert result.counts == Counts(24, 22, 2, 0, {})
    assert {stage.name: stage.failed for stage in result.stages} == {
        "decode": {},
        "prosody": {"worker_died": 1},
        "transcribe": {},
        "emphasis": {"missing_input": 1},
        "semantics": {"missing_input": 1, "worker_died": 1},
    }
    tables = stored(config, result.fingerprints)
    died = {
        (stage, row["utterance_id"])
        for stage, table in tables.items()
        for row in table.iter_rows(named=True)
        if row["error"] and row["error"]["type"] == "worker_died"
    }
    assert died == {("prosody", "u007"), ("semantics", "u011")}


def test_what_a_dying_sink_held_is_done_again(tmp_path, ray_session, monkeypatch):
    leave_out_encoder(monkeypatch)
    config = config_for(tmp_path, "annotate.flush_rows=1000", "annotate.flush_s=1000")
    make_corpus(tmp_path, 12)
    start = writer.start
    killed = []

    def start_and_kill(*arguments):
        """The first sink dies once it holds a batch; Ray brings it back, empty."""
        actor = start(*arguments)
        if not killed:

            def kill() -> None:
                wait_for(lambda: ray.get(actor.buffered_rows.remote()) > 0, "a batch in the sink")
                ray.kill(actor, no_restart=False)

            killed.append(threading.Thread(target=kill))
            killed[0].start()
        return actor

    monkeypatch.setattr(writer, "start", start_and_kill)
    result = annotate.run(config)
    killed[0].join()
    assert result.counts == Counts(12, 12, 0, 0, {})
    for stage in CHEAP_STAGES:
        assert len(set(rows_written(config, stage, result.fingerprints[stage]))) == 12


def test_a_table_that_cannot_be_written_stops_the_job_with_the_reason(tmp_path, ray_session, monkeypatch):
    leave_out_encoder(monkeypatch)
    config = config_for(tmp_path)
    make_corpus(tmp_path, 6)
    fingerprints = pipeline.fingerprints(config.annotate, None)
    obstacle = tmp_path / "annotations" / "prosody" / fingerprints["prosody"]
    obstacle.parent.mkdir(parents=True)
    obstacle.write_text("a file where the folder should be")
    with pytest.raises(ServiceError, match=r"6 utterances cannot be finished.*annotations/prosody") as stuck:
        annotate.run(config)
    assert stuck.value.kind == "annotate_stuck"
    obstacle.unlink()
    assert annotate.run(config).counts == Counts(6, 6, 0, 0, {})


def test_two_commands_at_once_give_the_result_of_one(tmp_path, ray_session):
    clips = 12
    config = config_for(tmp_path / "lake")
    make_corpus(config.lake.root, clips)
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config))
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    command = [sys.executable, "-c", CHEAP_ANNOTATE, str(file)]
    drivers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    said = [driver.communicate(timeout=DEADLINE_S) for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0], said
    results = [json.loads(out.splitlines()[-1]) for out, _ in said]
    assert results[0] == results[1]
    assert results[0]["counts"] == vars(Counts(clips, clips, 0, 0, {}))
    state = annotation_state(Lake(config.lake), config.corpus.name, config.annotate)
    assert results[0]["fingerprints"] == {stage: state.fingerprints[stage] for stage in CHEAP_STAGES}
    expected = by_hand(config, state)
    for stage in CHEAP_STAGES:
        table = Lake(config.lake).stage_outcomes(stage, state.fingerprints[stage]).sort("utterance_id").collect()
        assert table["utterance_id"].to_list() == [f"u{number:03d}" for number in range(clips)]
        for row in table.iter_rows(named=True):
            name = row["utterance_id"]
            assert_same_value(row["value"], expected[stage][name].value, f"{stage} {name}")


CHEAP_ANNOTATE = """
import json, sys
from annotate_kit import leave_out_encoder
from emoray.config import load
from pytest import MonkeyPatch
from emoray_jobs.annotate import job as annotate
from emoray_jobs.config import Config
config = load(Config, file=sys.argv[1])
leave_out_encoder(MonkeyPatch())
result = annotate.run(config)
print(json.dumps({"counts": vars(result.counts), "fingerprints": result.fingerprints}))
"""


def test_a_full_disk_stops_the_job_with_the_reason_and_nothing_half_written(tmp_path, ray_session, monkeypatch):
    """The kernel refuses to let the sink's files grow, in the middle of a write, as a full disk or a quota does."""
    leave_out_encoder(monkeypatch)
    clips = 40
    config = config_for(tmp_path, "annotate.flush_rows=12")
    make_corpus(tmp_path, clips)

    class Cramped(writer.OutcomeWriter):
        def __init__(self, *arguments):
            resource.setrlimit(resource.RLIMIT_FSIZE, (16_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
            super().__init__(*arguments)

    monkeypatch.setattr(writer, "OutcomeWriter", Cramped)
    with pytest.raises(ServiceError, match=r"40 utterances cannot be finished.*/annotations/prosody/.*cannot write"):
        annotate.run(config)
    monkeypatch.undo()
    leave_out_encoder(monkeypatch)
    found = [path for path in Path(tmp_path, "annotations").rglob("*") if path.is_file()]
    assert found
    for path in found:
        pq.read_table(path)  # whole files, and no leftovers of those that did not fit
    fingerprints = pipeline.fingerprints(config.annotate, None)
    before = set(rows_written(config, "decode", fingerprints["decode"]))
    assert 0 < len(before) < clips
    result = annotate.run(config)
    assert result.counts == Counts(clips, clips, 0, 0, {})
    assert result.stages[0].reused == len(before)
