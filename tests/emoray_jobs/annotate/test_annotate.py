"""annotate: what it writes, what it leaves alone, and what becomes of bad rows."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from annotate_kit import (
    CHEAP_STAGES,
    CORPUS,
    STAGES,
    PlainTranscript,
    assert_same_value,
    by_hand,
    config_for,
    leave_out_encoder,
    make_corpus,
    stored,
    utterance,
    write_clip,
)

from emoray.audio.io import AUDIO_HZ
from emoray.config import to_yaml
from emoray.errors import ErrorBudgetExceeded, InputError, LakeError
from emoray.lake.tables import Lake
from emoray.stages import pipeline
from emoray_jobs.annotate import job as annotate
from emoray_jobs.annotate import plan as annotate_plan
from emoray_jobs.annotate.state import state as annotation_state
from emoray_jobs.annotate.summary import Counts
from emoray_jobs.pipeline import ray_pipeline

CLIPS = 18


@pytest.fixture(scope="module")
def done(tmp_path_factory, ray_session):
    """A lake with every utterance annotated, and what the run said."""
    config = config_for(tmp_path_factory.mktemp("done"))
    make_corpus(config.lake.root, CLIPS)
    return config, annotate.run(config)


def test_ray_gives_what_a_bare_loop_gives(done):
    config, result = done
    assert result.counts == Counts(CLIPS, CLIPS, 0, 0, {})
    expected = by_hand(config, annotation_state(Lake(config.lake), config.corpus.name, config.annotate))
    for stage, table in stored(config, result.fingerprints).items():
        assert table["utterance_id"].to_list() == sorted(expected[stage])
        assert table["error"].null_count() == CLIPS
        for row in table.iter_rows(named=True):
            assert_same_value(
                row["value"], expected[stage][row["utterance_id"]].value, f"{stage} {row['utterance_id']}"
            )


def test_summary_says_what_was_done(done):
    _, result = done
    assert [stage.name for stage in result.stages] == list(STAGES)
    for stage in result.stages:
        assert (stage.computed, stage.reused, stage.failed) == (CLIPS, 0, {})
        assert stage.real_time_factor is not None
        assert stage.real_time_factor > 0
    assert result.resources.peak_memory_bytes > 50 * 2**20
    assert result.resources.processes > 0
    assert result.flush_rows == 4


def test_nothing_to_do_starts_no_ray(done, tmp_path):
    config, result = done
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config))
    script = f"""
import sys
from emoray.config import load
from emoray_jobs.annotate import job as annotate
from emoray_jobs.config import Config
result = annotate.run(load(Config, file={str(file)!r}))
assert [stage.computed for stage in result.stages] == [0] * 7, result
assert result.norms_hash == {result.norms_hash!r}
assert "ray" not in sys.modules, "Ray was imported"
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_plan_counts_without_running(done, tmp_path):
    config, _ = done
    assert {(stage.compute, stage.reuse) for stage in annotate_plan.run(config).stages} == {(0, CLIPS)}
    fresh = config_for(tmp_path)
    make_corpus(tmp_path, 5)
    plan = annotate_plan.run(fresh)
    assert plan.norms_hash is None
    assert [(stage.name, stage.compute, stage.reuse) for stage in plan.stages] == [(name, 5, 0) for name in STAGES]
    assert not os.path.exists(tmp_path / "annotations")


def test_another_emphasis_reads_no_audio(done):
    config, result = done
    changed = config_for(config.lake.root, "annotate.emphasis.prosody.threshold_sd=0.5")
    again = annotate.run(changed)
    computed = {stage.name: stage.computed for stage in again.stages}
    # What does not build on emphasis stays: the audio phase, the cues, and their vectors.
    assert computed == {**dict.fromkeys(STAGES, 0), "emphasis": CLIPS, "embed_transcript": CLIPS}
    assert again.norms_hash == result.norms_hash
    assert again.fingerprints["semantics"] == result.fingerprints["semantics"]


def test_state_needs_annotations(tmp_path):
    config = config_for(tmp_path)
    with pytest.raises(LakeError) as refused:
        annotation_state(Lake(config.lake), config.corpus.name, config.annotate)
    assert refused.value.kind == "not_annotated"


def test_splits_that_were_not_asked_for_are_filtered(tmp_path, ray_session, monkeypatch):
    leave_out_encoder(monkeypatch)
    config = config_for(tmp_path)
    make_corpus(tmp_path, 8)
    result = annotate.run(config, splits=["train"])
    assert result.counts == Counts(8, 4, 0, 0, {"split": 4})
    with pytest.raises(InputError, match="It has: test, train"):
        annotate.run(config, splits=["dev"])
    # The rest comes later, against the norms that there are.
    rest = annotate.run(config)
    assert rest.norms_hash == result.norms_hash
    assert {(stage.computed, stage.reused) for stage in rest.stages} == {(4, 4)}


def test_batches_stay_apart_where_ray_moves_several_at_once(tmp_path, ray_session, monkeypatch):
    """The text stages are two pools; the second is handed whole batches, and no more than one."""

    class AtOnce(PlainTranscript):
        def run(self, rows):
            return [{"les": None, "gs": [float(len(rows))]} for _ in rows]

    text_stages = pipeline.text_stages

    def text(config, norms):
        *others, transcript, _ = text_stages(config, norms)
        return [*others, AtOnce(transcript.config)]

    monkeypatch.setattr(pipeline, "text_stages", text)
    monkeypatch.setattr(ray_pipeline, "MAX_BLOCKS", 2)
    config = config_for(tmp_path)
    make_corpus(tmp_path, 14)
    result = annotate.run(config)
    assert result.counts == Counts(14, 14, 0, 0, {})
    found = stored(config, result.fingerprints)["embed_transcript"]["value"].struct.field("gs").list.first()
    assert sorted(found.to_list()) == [2.0] * 2 + [4.0] * 12


@pytest.fixture
def bad_inputs(tmp_path):
    """One row for each way in which a clip can be bad, among good ones: utterance_id → kind of its error."""

    def wav(name: str, samples: np.ndarray, hz: int = AUDIO_HZ, **options) -> str:
        path = str(tmp_path / name)
        soundfile.write(path, samples, hz, **options)
        return path

    tone = (0.1 * np.sin(np.arange(2 * AUDIO_HZ) * 0.06)).astype(np.float32)
    empty = tmp_path / "empty.wav"
    empty.write_bytes(b"")
    text = tmp_path / "text.wav"
    text.write_text("I am not audio, whatever my name says. " * 20)
    whole = tmp_path / "whole.wav"
    soundfile.write(str(whole), tone, AUDIO_HZ)
    truncated = tmp_path / "truncated.wav"
    truncated.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    holes = tone.copy()
    holes[1000:1100] = np.nan
    clips = {
        "empty_file": str(empty),
        "truncated_audio": str(truncated),
        "not_audio": str(text),
        "audio_too_short": wav("short.wav", tone[: AUDIO_HZ // 20]),
        "silent_audio": wav("silent.wav", np.zeros(AUDIO_HZ, np.float32)),
        "non_finite_samples": wav("nan.wav", holes, subtype="FLOAT"),
        "missing_file": str(tmp_path / "nowhere.wav"),
    }
    rows = [utterance(900 + place, uri, utterance_id=kind) for place, (kind, uri) in enumerate(clips.items())]
    phone = wav("phone.wav", np.stack([tone[::2], tone[::2]], axis=1), 8000)
    return [*rows, utterance(950, phone, utterance_id="stereo_8khz")], list(clips)


def test_bad_clips_are_quarantined_with_their_reason(tmp_path, ray_session, bad_inputs, monkeypatch):
    leave_out_encoder(monkeypatch)
    rows, kinds = bad_inputs
    config = config_for(tmp_path / "lake", "annotate.max_error_fraction=0.5")
    make_corpus(config.lake.root, 9, rows)
    result = annotate.run(config)
    assert result.counts == Counts(17, 10, 0, 7, {})
    tables = stored(config, result.fingerprints)
    failed = {row["utterance_id"]: row["error"] for row in tables["decode"].iter_rows(named=True) if row["error"]}
    assert {name: error["type"] for name, error in failed.items()} == {kind: kind for kind in kinds}
    for name, error in failed.items():
        assert error["message"], name
    for stage in CHEAP_STAGES[1:]:  # no row is lost on the way, and each says what it lacked
        errors = {row["utterance_id"]: row["error"] for row in tables[stage].iter_rows(named=True)}
        assert len(errors) == 17
        assert {name for name, error in errors.items() if error} == set(kinds)
        assert {error["type"] for error in errors.values() if error} == {"missing_input"}


def test_too_many_failures_fail_the_job_after_writing_everything(tmp_path, ray_session, monkeypatch):
    leave_out_encoder(monkeypatch)
    config = config_for(tmp_path, "annotate.max_error_fraction=0.1")
    gone = [utterance(100 + number, str(tmp_path / "audio" / f"late{number}.wav")) for number in range(4)]
    make_corpus(tmp_path, 6, gone)
    with pytest.raises(ErrorBudgetExceeded, match=r"4 of 10 utterances failed.*missing_file ×4"):
        annotate.run(config)
    with pytest.raises(ErrorBudgetExceeded):  # recorded errors count until they are tried again
        annotate.run(config)
    for number in range(4):
        write_clip(tmp_path / "audio" / f"late{number}.wav", number)
    result = annotate.run(config, retry_failed=True)
    assert result.counts == Counts(10, 10, 0, 0, {})
    tried_again = {(stage.name, stage.computed, stage.reused) for stage in result.stages}
    assert tried_again == {(name, 4, 6) for name in CHEAP_STAGES}


def test_transcripts_without_word_times_cost_emphasis_and_are_no_failure(tmp_path, ray_session, monkeypatch):
    leave_out_encoder(monkeypatch)
    config = config_for(tmp_path, "annotate.max_error_fraction=0.0")
    german = []
    for number in range(4):
        write_clip(tmp_path / f"{number}.wav", number)
        german.append(utterance(100 + number, str(tmp_path / f"{number}.wav"), language="de", words=None))
    make_corpus(tmp_path, 2, german)
    assert annotate.run(config).counts == Counts(6, 2, 4, 0, {}, untimed=4)


def test_nothing_but_bad_clips(tmp_path, ray_session):
    config = config_for(tmp_path)
    make_corpus(tmp_path, 0, [utterance(number, str(tmp_path / f"{number}.wav")) for number in range(3)])
    with pytest.raises(ErrorBudgetExceeded, match="3 of 3"):
        annotate.run(config)


def test_unknown_corpus(tmp_path):
    with pytest.raises(LakeError, match=f"corpus '{CORPUS}' is not in this lake"):
        annotate.run(config_for(tmp_path))
