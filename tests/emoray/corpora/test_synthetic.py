import hashlib
import itertools
import os
import sys
from collections import defaultdict

import numpy as np
import pytest

from emoray import corpora
from emoray.audio import AudioConfig, ProsodyConfig, decode, measure
from emoray.config import read_preset, validate
from emoray.corpora import CorpusConfig, SyntheticConfig, ceiling, planted
from emoray.corpora.synthetic import emotion
from emoray.corpora.synthetic_plan import draw_plans, draw_speakers
from emoray.corpora.synthetic_text import LEXICON, draw_sentence
from emoray.errors import ConfigError, InputError, LakeError, MissingExtraError
from emoray.lake import Lake, LakeConfig
from emoray.schema import DIMENSIONS, assert_speaker_disjoint, validate_utterances

AUDIO = AudioConfig(min_duration_s=0.1, max_duration_s=60, silence_dbfs=-70)
PROSODY = ProsodyConfig(hop_s=0.01, f0_floor_hz=60, f0_ceiling_hz=500)


def config(**changes):
    small = {
        "seed": 3,
        "speakers": {"train": 2, "dev": 1, "gate": 1, "test": 2},
        "utterances_per_speaker": {"train": 12, "dev": 4, "gate": 4, "test": 12},
        "opposed_fraction": 0.5,
        "label_noise_sd": 0.05,
        "processes": 2,
    }
    tree = read_preset("laptop")["corpus"]
    return validate(CorpusConfig, {**tree, "name": "tiny", "kind": "synthetic", "synthetic": {**small, **changes}})


def lake_at(path):
    return Lake(LakeConfig(root=str(path), storage_options={}))


def nothing(done, total):
    pass


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    lake = lake_at(tmp_path_factory.mktemp("lake"))
    return lake, corpora.build(config(), lake, nothing)


def digests(lake, table):
    return [hashlib.sha256(lake.fs.cat_file(uri)).hexdigest() for uri in table["audio_uri"].to_pylist()]


def test_the_table(tiny):
    lake, table = tiny
    validate_utterances(table)
    assert assert_speaker_disjoint(table) == 0
    assert lake.utterances("tiny").equals(table)
    assert table.num_rows == 2 * 12 + 4 + 4 + 2 * 12
    rows = table.to_pylist()
    assert {(row["split"], row["speaker_id"]) for row in rows} == {
        ("train", "voice000"), ("train", "voice001"), ("dev", "voice002"), ("gate", "voice003"),
        ("test", "voice004"), ("test", "voice005"),
    }  # fmt: skip
    for row in rows:
        assert (row["scale_min"], row["scale_max"]) == (1, 7)
        for dimension in DIMENSIONS:
            assert row[f"{dimension}_raw"] == pytest.approx(1 + 6 * row[dimension])
        assert row["transcript"].split() == [word["word"] for word in row["words"]]
        assert row["emotion"] == emotion(row["valence"], row["arousal"])


def test_word_times_lie_on_the_words(tiny):
    _, table = tiny
    inside, between = [], []
    for row in table.to_pylist():
        waveform = decode(row["audio_uri"], AUDIO)
        assert waveform.duration_s == pytest.approx(row["duration_s"])
        assert (waveform.source_hz, waveform.channels, waveform.clipped_fraction) == (16000, 1, 0)
        words = row["words"]
        assert sum(word["emphasised"] for word in words) == 1
        for word, following in itertools.pairwise(words):
            assert 0 <= word["start_s"] < word["end_s"] <= following["start_s"]
        assert words[-1]["end_s"] <= row["duration_s"]
        level_db = measure(waveform.samples, PROSODY).energy_db
        speech = level_db[int(words[0]["start_s"] * 100) : int(words[-1]["end_s"] * 100)]
        inside.append(speech.mean())
        between.append(level_db[: int(words[0]["start_s"] * 100) - 2].mean())
    assert np.mean(inside) > np.mean(between) + 20


def test_emphasis_is_there_to_be_heard(tiny):
    _, table = tiny
    heard = []
    for row in table.to_pylist():
        prosody = measure(decode(row["audio_uri"], AUDIO).samples, PROSODY)
        stressed = [word["emphasised"] for word in row["words"]].index(True)
        features = []
        for word in row["words"]:
            frames = slice(int(word["start_s"] * 100), max(int(word["end_s"] * 100), int(word["start_s"] * 100) + 1))
            f0 = prosody.f0_hz[frames]
            rise = 12 * np.log2(f0.max() / np.median(prosody.f0_hz[prosody.f0_hz > 0])) if f0.any() else 0.0
            slowness = (word["end_s"] - word["start_s"]) / (len(word["word"]) + 1.5)
            features.append([rise, prosody.energy_db[frames].mean(), slowness])
        features = np.array(features)
        prominence = ((features - features.mean(0)) / features.std(0)).sum(1)
        heard.append(prominence.argmax() == stressed)
    assert np.mean(heard) > 0.9


def test_delivery_shows_what_was_planted(tiny):
    lake, table = tiny
    truth = {row["utterance_id"]: row for row in planted(lake, "tiny").to_dicts()}
    pitch, level, rate, habits = defaultdict(list), [], [], []
    arousal, dominance = [], defaultdict(list)
    for row in table.to_pylist():
        waveform = decode(row["audio_uri"], AUDIO)
        f0 = measure(waveform.samples, PROSODY).f0_hz
        pitch[row["speaker_id"]].append(12 * np.log2(np.median(f0[f0 > 0])))
        dominance[row["speaker_id"]].append(truth[row["utterance_id"]]["dominance"])
        arousal.append(truth[row["utterance_id"]]["arousal"])
        level.append(waveform.rms_dbfs)
        letters = sum(len(word["word"]) for word in row["words"])
        rate.append(letters / (row["words"][-1]["end_s"] - row["words"][0]["start_s"]))
    relative = np.concatenate([np.array(pitch[name]) - np.mean(pitch[name]) for name in pitch])
    wanted = np.concatenate([np.array(dominance[name]) - np.mean(dominance[name]) for name in pitch])
    habits = [np.mean(values) for values in pitch.values()]
    assert np.corrcoef(relative, wanted)[0, 1] < -0.9  # a low voice is the dominant one
    assert np.std(habits) > 2 * np.std(relative)
    assert np.corrcoef(level, arousal)[0, 1] > 0.9
    assert np.corrcoef(rate, arousal)[0, 1] > 0.7


def test_the_same_configuration_gives_the_same_samples(tiny, tmp_path):
    lake, table = tiny
    other = lake_at(tmp_path)
    again = corpora.build(config(processes=1), other, nothing)
    assert digests(other, again) == digests(lake, table)
    assert again.drop_columns(["audio_uri"]).equals(table.drop_columns(["audio_uri"]))
    # And of another seed not one clip is the same, nor does it share an id (stage tables of the old one stay apart).
    changed = corpora.build(config(seed=4), lake_at(tmp_path / "b"), nothing)
    assert not set(changed["utterance_id"].to_pylist()) & set(table["utterance_id"].to_pylist())
    assert not set(digests(other, changed)) & set(digests(lake, table))


def test_a_corpus_that_is_there_is_reused(tiny):
    lake, table = tiny
    before = {path: os.stat(path).st_mtime_ns for path in lake.fs.find(lake.root)}
    assert corpora.build(config(), lake, nothing).equals(table)
    assert {path: os.stat(path).st_mtime_ns for path in lake.fs.find(lake.root)} == before


def test_a_build_that_is_stopped_leaves_no_table(tmp_path):
    lake = lake_at(tmp_path)

    def stop(done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        corpora.build(config(), lake, stop)
    assert lake.corpora() == []
    assert not lake.exists("utterances_meta", "tiny.json")
    assert corpora.build(config(), lake, nothing).num_rows == 56


def test_the_ceiling_is_that_of_the_test_labels(tiny):
    lake, table = tiny
    test_ids = [row["utterance_id"] for row in table.to_pylist() if row["split"] == "test"]
    clean = {row["utterance_id"]: row for row in planted(lake, "tiny").to_dicts()}
    noisy = {row["utterance_id"]: row for row in table.to_pylist()}
    for dimension, value in ceiling(lake, "tiny").items():
        variances = [np.var([source[name][dimension] for name in test_ids]) for source in (clean, noisy)]
        assert value == pytest.approx(np.sqrt(variances[0] / variances[1]))
    with pytest.raises(LakeError, match="ceiling"):
        ceiling(lake, "emodb")


def test_a_missing_synthesiser_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(MissingExtraError, match=r"emoray\[synthetic\]"):
        corpora.build(config(), lake_at(tmp_path), nothing)
    assert lake_at(tmp_path).corpora() == []


def test_a_synthesiser_that_dies_is_an_error_and_not_a_wait(tmp_path, monkeypatch):
    import espeakng_loader

    monkeypatch.setattr(espeakng_loader, "get_library_path", lambda: str(tmp_path / "gone.so"))
    with pytest.raises(InputError, match=r"espeak-ng process ended: OSError: .*gone\.so"):
        corpora.build(config(), lake_at(tmp_path), nothing)


def test_more_speakers_than_voices(tmp_path):
    with pytest.raises(ConfigError, match=r"corpus\.synthetic\.speakers"):
        corpora.build(config(speakers={"train": 300, "dev": 1, "gate": 1, "test": 1}), lake_at(tmp_path), nothing)


def test_the_preset_has_the_promised_voices():
    preset = SyntheticConfig.model_validate(read_preset("laptop")["corpus"]["synthetic"])
    counts = preset.speakers.model_dump()
    speakers = draw_speakers(np.random.default_rng(0), counts)
    assert len({(speaker.accent, speaker.variant) for speaker in speakers}) == len(speakers) >= 60
    assert counts["test"] >= 15
    assert {speaker.gender for speaker in speakers if speaker.split == "test"} == {"female", "male"}
    assert sum(counts[split] * number for split, number in preset.utterances_per_speaker) < 2000


def test_sentences():
    rng = np.random.default_rng(0)
    sentences = [draw_sentence(rng, 0.45) for _ in range(2000)]
    assert len({sentence.words for sentence in sentences}) > 1500
    assert np.mean([sentence.opposed for sentence in sentences]) == pytest.approx(0.45, abs=0.03)
    first = []
    for sentence in sentences:
        affect = [word for word in sentence.words if word in LEXICON]
        stressed = sentence.words[sentence.emphasised]
        if sentence.opposed:
            assert len(affect) == 2
            assert min(LEXICON[word] for word in affect) <= 0.4 < 0.6 <= max(LEXICON[word] for word in affect)
            assert sentence.valence == LEXICON[stressed]
            first.append((affect[0] == stressed, sentence.valence > 0.5))
        else:
            assert len(affect) == 1
            assert stressed not in affect
            assert sentence.valence == LEXICON[affect[0]]
    # Neither the place of the emphasis nor the order of the words gives the valence away.
    assert np.abs(np.corrcoef(np.array(first, float).T)[0, 1]) < 0.1
    assert np.mean(first, axis=0) == pytest.approx([0.5, 0.5], abs=0.05)


def test_plans_are_independent_and_balanced():
    rng = np.random.default_rng(1)
    (speaker,) = draw_speakers(rng, {"train": 1})
    plans = draw_plans(rng, speaker, 400, 0.45, 0.07)
    truth = np.array([plan.planted for plan in plans])
    assert np.abs(np.corrcoef(truth.T) - np.eye(3)).max() < 0.15
    # A habit is what a speaker does on average: evenly spread, the mean is the middle.
    np.testing.assert_allclose(truth[:, 1:].mean(axis=0), 0.5, atol=0.005)
    noise = np.array([plan.label for plan in plans]) - truth
    assert noise.std() == pytest.approx(0.07, abs=0.007)


@pytest.mark.parametrize(
    ("valence", "arousal", "expected"),
    [(0.8, 0.8, "happiness"), (0.2, 0.8, "anger"), (0.2, 0.2, "sadness"), (0.8, 0.2, "calm"), (0.55, 0.45, "neutral")],
)
def test_emotions_by_quadrant(valence, arousal, expected):
    assert emotion(valence, arousal) == expected
