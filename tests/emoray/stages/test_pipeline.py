"""The stages together: order, fingerprints that change exactly where they should, bad clips, values in tables."""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from emoray.config import read_preset
from emoray.schema import stage_schema
from emoray.stages.model_files.weights import model_folder
from emoray.stages.pipeline import (
    AUDIO_STAGES,
    TEXT_STAGES,
    annotate_rows,
    audio_stages,
    fingerprints,
    text_stages,
)

EVERYTHING = {*AUDIO_STAGES, *TEXT_STAGES}
NUMBERS_OTHERWISE = not read_preset("laptop")["annotate"]["embed"]["semantics_numbers"]
EMPHASIS = {"emphasis", "embed_transcript"}
SEMANTICS = {"semantics", "embed_semantics"}


def changed(before, after):
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


@pytest.mark.parametrize(
    ("over", "expected"),
    [
        ({"audio": {"max_duration_s": 30}}, EVERYTHING),
        ({"prosody": {"f0_floor_hz": 70}}, {"prosody"} | EMPHASIS | SEMANTICS),
        ({"transcribe": {"kind": "pocketsphinx"}}, {"transcribe"} | EMPHASIS | SEMANTICS),
        ({"transcribe": {"reference": {"times": "aligned"}}}, {"transcribe"} | EMPHASIS | SEMANTICS),
        ({"emphasis": {"prosody": {"weights": {"pause": 0.9}}}}, EMPHASIS),
        ({"emphasis": {"prosody": {"threshold_sd": 2.0}}}, EMPHASIS),
        ({"semantics": {"cues": {"against": "corpus"}}}, SEMANTICS),
        ({"embed": {"les_context": "alone"}}, {"embed_transcript"}),
        ({"embed": {"max_tokens": 64}}, {"embed_transcript", "embed_semantics"}),
        ({"embed": {"semantics_numbers": NUMBERS_OTHERWISE}}, {"embed_semantics"}),
        # How it is run, and what another kind would do, is none of a fingerprint's business.
        ({"embed": {"batch_size": 7, "device": "cpu"}, "batch_rows": 3, "guard": {"max_attempts": 9}}, set()),
        ({"transcribe": {"whisper": {"language": "de"}}}, set()),
    ],
    ids=lambda part: str(part) if isinstance(part, dict) else "+".join(sorted(part)),
)
def test_a_change_reaches_exactly_what_builds_on_it(configure, over, expected):
    assert changed(fingerprints(configure(), "norms"), fingerprints(configure(over), "norms")) == expected


def test_other_norms_change_what_is_measured_against_them(config):
    assert changed(fingerprints(config, "one"), fingerprints(config, "two")) == EMPHASIS | SEMANTICS


def test_a_raised_version_changes_the_stage_and_what_follows(config, monkeypatch):
    before = fingerprints(config, "norms")
    monkeypatch.setattr("emoray.stages.prosody.MeasureProsody.version", 99)
    assert changed(before, fingerprints(config, "norms")) == {"prosody"} | EMPHASIS | SEMANTICS


def test_a_copied_text_encoder_keeps_the_fingerprint_and_another_changes_it(configure, tmp_path):
    copied = tmp_path / "encoder"
    shutil.copytree(model_folder("minilm"), copied)
    before = fingerprints(configure(), "norms")
    over = {"embed": {"model": str(copied)}}
    assert changed(before, fingerprints(configure(over), "norms")) == set()
    with (copied / "model.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\1\2\3\4")
    assert changed(before, fingerprints(configure(over), "norms")) == {"embed_transcript", "embed_semantics"}


def test_fingerprints_load_no_model():
    code = (
        "import sys\n"
        "from emoray.config import read_preset, validate\n"
        "from emoray.stages.config import AnnotateConfig\n"
        "from emoray.stages.pipeline import fingerprints\n"
        "print(len(fingerprints(validate(AnnotateConfig, read_preset('laptop')['annotate']), 'norms')))\n"
        "print(sorted({'torch', 'transformers', 'ray', 'pocketsphinx'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["7", "[]"]


def test_before_norms_are_fitted_the_audio_pass_alone_has_fingerprints(config):
    everything = fingerprints(config, "norms")
    assert fingerprints(config, None) == {name: everything[name] for name in AUDIO_STAGES}
    assert set(everything) == EVERYTHING
    assert all(len(value) == 16 and int(value, 16) >= 0 for value in everything.values())


def test_stage_names_match_the_published_order(config):
    assert tuple(stage.name for stage in audio_stages(config)) == AUDIO_STAGES
    assert tuple(stage.name for stage in text_stages(config, None)) == TEXT_STAGES


def test_the_text_pass_gives_the_same_from_memory_and_from_tables(spoken, config, norms, guard):
    stages = audio_stages(config)
    restored = [{name: row[name] for name in row if name not in {*AUDIO_STAGES, "waveform"}} for row in spoken]
    for stage in stages:
        rows = [{"utterance_id": row["utterance_id"], "value": row[stage.name]} for row in spoken]
        stored = pa.Table.from_pylist(rows, schema=stage_schema(stage.value_type)).to_pylist()
        for row, outcome in zip(restored, stored, strict=True):
            row[stage.name] = outcome["value"]
    text = text_stages(config, norms)
    fresh, again = annotate_rows(text, spoken, guard), annotate_rows(text, restored, guard)
    for stage in text:
        tables = []
        for outcomes in (fresh[stage.name], again[stage.name]):
            assert all(outcome.error is None for outcome in outcomes)
            rows = [{**outcome.as_row(), "elapsed_s": 0.0} for outcome in outcomes]
            tables.append(pa.Table.from_pylist(rows, schema=stage_schema(stage.value_type)))
        assert tables[0].equals(tables[1])


def test_bad_clips_fail_by_name_and_good_ones_beside_them_do_not(spoken, config, norms, guard, tmp_path):
    tone = 0.1 * np.sin(np.arange(16_000) / 10)
    clips = {
        "empty_file": lambda path: path.write_bytes(b""),
        "not_audio": lambda path: path.write_text("not a sound"),
        "audio_too_short": lambda path: soundfile.write(path, tone[:800], 16_000),
        "silent_audio": lambda path: soundfile.write(path, 0 * tone, 16_000),
        "missing_file": lambda path: None,
    }
    rows = [{k: row[k] for k in row if k not in {"waveform", *AUDIO_STAGES}} for row in spoken[:2]]
    for kind, write in clips.items():
        path = tmp_path / f"{kind}.wav"
        write(path)
        rows.insert(1, {**rows[0], "utterance_id": kind, "audio_uri": str(path)})
    found = annotate_rows([*audio_stages(config), *text_stages(config, norms)], rows, guard)
    for stage, outcomes in found.items():
        assert [outcome.utterance_id for outcome in outcomes] == [row["utterance_id"] for row in rows]
        for outcome in outcomes:
            if outcome.utterance_id not in clips:
                assert outcome.error is None
            elif stage == "decode":
                assert outcome.error["type"] == outcome.utterance_id
            else:
                assert outcome.error["type"] == "missing_input"


def test_what_lacks_a_transcript_still_gets_semantics(spoken, config, norms, guard):
    rows = [{**spoken[0], "transcribe": None}]
    found = annotate_rows(text_stages(config, norms), rows, guard)
    assert [found[name][0].error is None for name in TEXT_STAGES] == [False, True, False, True]


def test_what_lacks_emphasis_still_gets_gs(spoken, config, norms, guard):
    words = [{**word, "start_s": None, "end_s": None} for word in spoken[0]["transcribe"]["words"]]
    rows = [{**spoken[0], "transcribe": {**spoken[0]["transcribe"], "words": words, "times": "none"}}]
    found = annotate_rows(text_stages(config, norms), rows, guard)
    assert found["emphasis"][0].error["type"] == "missing_word_times"
    assert found["embed_transcript"][0].value["les"] is None
    assert len(found["embed_transcript"][0].value["gs"]) == 384
