"""Recordings into utterances: real sound through the corpora's door, words shared out, damage named, repeats cheap."""

from __future__ import annotations

import json
import logging
import os

import numpy as np
import pytest
import soundfile
from error_kit import of_kind

from emoray import corpora
from emoray.audio.io import AudioConfig, decode
from emoray.config import merge, read_preset, validate
from emoray.corpora import CorpusConfig
from emoray.corpora.synthetic.build import SyntheticConfig
from emoray.errors import InputError
from emoray.lake.tables import Lake, LakeConfig

HZ = 16_000
GAP_S = 1.2
USABLE = AudioConfig(min_duration_s=0.1, max_duration_s=60, silence_dbfs=-70)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Synthesised clips of four voices with their words: (samples, words)."""
    lake = Lake(LakeConfig(root=str(tmp_path_factory.mktemp("voices")), storage_options={}))
    each = {"train": 1, "dev": 1, "gate": 1, "test": 1}
    options = {
        "seed": 3,
        "opposed_fraction": 0.5,
        "label_noise_sd": 0.05,
        "processes": 2,
        "dialogue_turns": 0,
        "carry_over": 0.0,
    }
    config = SyntheticConfig.model_validate({**options, "speakers": each, "utterances_per_speaker": each})
    table = corpora.synthetic.build("voices", config, lake, lambda done, total: None)
    return [(soundfile.read(row["audio_uri"], dtype="float32")[0], row["words"]) for row in table.to_pylist()]


def recording(clips):
    """The clips one after the other in faint noise: samples, words with times, (first word, last word) of each."""
    random = np.random.default_rng(0)
    parts, words, spans, at_s = [], [], [], 0.0
    for samples_S, own in clips:
        parts += [np.zeros(round(GAP_S * HZ), np.float32), samples_S]
        at_s += GAP_S
        words += [{"word": w["word"], "start_s": at_s + w["start_s"], "end_s": at_s + w["end_s"]} for w in own]
        spans.append((at_s + own[0]["start_s"], at_s + own[-1]["end_s"]))
        at_s += len(samples_S) / HZ
    whole_S = np.concatenate([*parts, np.zeros(round(GAP_S * HZ), np.float32)])
    return whole_S + 1e-3 * random.standard_normal(len(whole_S)).astype(np.float32), words, spans


@pytest.fixture
def place(tmp_path):
    """A folder with a manifest of recordings, and the way to build a corpus from it."""

    class Place:
        folder = tmp_path
        lake = Lake(LakeConfig(root=str(tmp_path / "lake"), storage_options={}))

        def write(self, name, samples_S, hz=HZ):
            soundfile.write(tmp_path / name, samples_S, hz)

        def build(self, rows, **vad):
            (tmp_path / "calls.jsonl").write_text("\n".join(map(json.dumps, rows)))
            tree = read_preset("laptop")["corpus"]
            over = {
                "name": "calls",
                "kind": "manifest",
                "manifest": {"path": str(tmp_path / "calls.jsonl"), "scale_min": 1, "scale_max": 5},
            }
            config = validate(
                CorpusConfig, merge(merge(tree, over), {"manifest": {"segment": {"kind": "vad", "vad": vad}}})
            )
            self.steps = []
            return corpora.build(config, self.lake, lambda *step: self.steps.append(step)).to_pylist()

        def report(self):
            return self.lake.read_json("utterances_meta", "calls-recordings.json")

    return Place()


def test_a_recording_becomes_its_utterances(place, clips):
    whole_S, words, spans = recording(clips)
    place.write("a.wav", whole_S)
    found = place.build([{"audio": "a.wav", "speaker": "ann", "valence": 4, "split": "test", "words": words}])
    assert len(found) == len(clips)
    for turn, (utterance, (start_s, end_s), (_, own)) in enumerate(zip(found, spans, clips, strict=True)):
        assert utterance["start_s"] == pytest.approx(start_s, abs=0.3)
        assert utterance["end_s"] == pytest.approx(end_s, abs=0.3)
        assert utterance["utterance_id"] == f"a@{round(1000 * utterance['start_s']):08d}"
        assert (utterance["dialogue_id"], utterance["turn"]) == ("a", turn)
        assert (utterance["speaker_id"], utterance["valence"], utterance["split"]) == ("ann", 0.75, "test")
        assert utterance["transcript"] == " ".join(word["word"] for word in own)
        for word, there in zip(utterance["words"], own, strict=True):
            assert utterance["start_s"] + word["start_s"] == pytest.approx(
                start_s - own[0]["start_s"] + there["start_s"], abs=0.3
            )
        heard = decode(utterance["audio_uri"], USABLE, start_s=utterance["start_s"], end_s=utterance["end_s"])
        first = round(utterance["start_s"] * HZ)
        np.testing.assert_allclose(heard.samples, whole_S[first : first + len(heard.samples)], atol=1e-4)
        assert heard.duration_s == pytest.approx(utterance["duration_s"], abs=1e-3)
    assert place.steps[-1] == (4, 4)
    assert place.report() == {"recordings": 1, "without_speech": [], "refused": []}


def test_a_span_of_a_file_is_a_recording_too(place, clips):
    whole_S, _, spans = recording(clips)
    place.write("a.wav", whole_S)
    middle_s = spans[1][1] + GAP_S / 2
    all_of_it = place.build([{"audio": "a.wav"}])
    second_half = place.build([{"audio": "a.wav", "id": "half", "start_s": middle_s}])
    assert [row["utterance_id"].split("@")[0] for row in second_half] == ["half", "half"]
    for row, same in zip(second_half, all_of_it[2:], strict=True):
        assert (row["start_s"], row["end_s"]) == pytest.approx((same["start_s"], same["end_s"]), abs=0.1)
    again = place.build([{"audio": "a.wav", "id": "half", "start_s": spans[2][1] + GAP_S / 2}])
    assert len(again) == 1, "the same name, another span: what was heard before does not count"


def test_a_repeated_build_listens_only_to_what_is_new(place, clips):
    whole_S, _, _ = recording(clips)
    place.write("a.wav", whole_S)
    first = place.build([{"audio": "a.wav"}])
    os.remove(place.folder / "a.wav")
    place.write("b.wav", whole_S[: len(whole_S) // 2])
    both = place.build([{"audio": "a.wav"}, {"audio": "b.wav"}], workers=1)
    assert [row for row in both if row["utterance_id"].startswith("a@")] == first
    assert [row["utterance_id"] for row in both][len(first)] == first[0]["utterance_id"].replace("a@", "b@")
    assert place.report()["refused"] == []
    assert place.steps[0][0] >= 1, "one of the two recordings was there"
    with pytest.raises(InputError, check=of_kind("no_speech")):
        place.build([{"audio": "a.wav"}], pad_s=0.05)  # other options must listen again, and the file is gone


def test_recordings_that_cannot_be_used_are_named(place, clips, caplog):
    whole_S, _, _ = recording(clips[:1])
    place.write("good.wav", whole_S)
    place.write("noise.wav", 1e-3 * np.random.default_rng(1).standard_normal(3 * HZ).astype(np.float32))
    (place.folder / "text.wav").write_text("no sound")
    (place.folder / "cut.wav").write_bytes((place.folder / "good.wav").read_bytes()[:20_000])
    names = ("cut.wav", "good.wav", "gone.wav", "noise.wav", "text.wav")
    with caplog.at_level(logging.WARNING):
        found = place.build([{"audio": name, "text": "said so"} for name in names])
    assert {row["dialogue_id"] for row in found} == {"good"}
    assert {row["transcript"] for row in found} == {None}
    report = place.report()
    assert report["without_speech"] == ["noise"]
    assert {one["recording_id"]: one["kind"] for one in report["refused"]} == {
        "cut": "truncated_audio",
        "gone": "missing_file",
        "text": "not_audio",
    }
    said = " ".join(record.getMessage() for record in caplog.records)
    assert (
        "3 of 5 recordings cannot be read (missing_file ×1, not_audio ×1, truncated_audio ×1): cut, gone, text" in said
    )
    assert "1 of 5 recordings have no speech" in said
    assert "5 transcripts have no word times" in said
    place.write("gone.wav", whole_S)
    assert {row["dialogue_id"] for row in place.build([{"audio": name} for name in names])} == {"good", "gone"}


def test_long_speech_is_parted(place, clips):
    joined_S = np.concatenate([samples_S for samples_S, _ in clips])
    place.write("long.wav", joined_S)
    found = place.build([{"audio": "long.wav"}], max_utterance_s=2.5, activity={"min_silence_s": 2.0})
    assert len(found) >= len(joined_S) / HZ / 2.5
    assert max(row["duration_s"] for row in found) <= 2.501
    edges = [edge for row in found for edge in (row["start_s"], row["end_s"])]
    assert edges == sorted(edges)
