import hashlib
import itertools
import os
import sys
from collections import defaultdict

import numpy as np
import pytest
from error_kit import of_kind

from emoray import corpora
from emoray.audio import AudioConfig, ProsodyConfig, decode, measure
from emoray.config import read_preset, validate
from emoray.corpora import CorpusConfig, SyntheticConfig, ceiling, planted
from emoray.corpora.synthetic.build import draw, emotion
from emoray.corpora.synthetic.plan import draw_plans, draw_speakers
from emoray.corpora.synthetic.text import LEXICON, draw_sentence
from emoray.errors import ConfigError, InputError, LakeError, MissingExtraError
from emoray.lake.tables import Lake, LakeConfig
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
        "dialogue_turns": 0,
        "carry_over": 0.8,
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


# --- dialogues


def test_a_corpus_without_dialogues_is_the_one_it_was_before_there_were_any():
    """The hash that the demo's corpus has had all along: its audio, ids and stage tables stay good."""
    preset = read_preset("laptop")["corpus"]["synthetic"]
    assert SyntheticConfig.model_validate(preset).hash.startswith("a29acc")
    assert SyntheticConfig.model_validate({**preset, "carry_over": 0.1}).hash.startswith("a29acc")
    hashes = {
        SyntheticConfig.model_validate({**preset, "dialogue_turns": turns, "carry_over": carry}).hash
        for turns, carry in ((0, 0.7), (4, 0.7), (6, 0.7), (6, 0.2))
    }
    assert len(hashes) == 4


def test_turns_are_spoken_as_without_dialogues_and_labelled_by_what_carried_over():
    """x_t = ½ + sqrt(1 − c²) (o_t − ½) + c (x_{t−1} − ½), cut to the planted range; o_t is what is spoken."""
    counts = {"train": 4, "dev": 2, "gate": 2, "test": 2}
    apart = draw(config(speakers=counts).synthetic)
    spoken = draw(config(speakers=counts, dialogue_turns=5).synthetic)
    rows = defaultdict(dict)
    for (one, plans), (speaker, turns) in zip(apart, spoken, strict=True):
        assert one == speaker
        for before, after in zip(plans, turns, strict=True):
            assert (before.sentence, before.markups, before.level_dbfs) == (
                after.sentence,
                after.markups,
                after.level_dbfs,
            )
            rows[after.dialogue_id][after.turn] = (speaker.speaker_id, np.array(before.planted), after)
    assert sum(map(len, rows.values())) == 4 * 12 + 4 * 4 + 2 * 12
    assert {name[:17]: len([n for n in rows if n.startswith(name[:17])]) for name in rows} == {
        "voice000-voice001": 5, "voice002-voice003": 5, "voice004-voice005": 2, "voice006-voice007": 2,
        "voice008-voice009": 5,
    }  # fmt: skip
    noise = []
    for turns in rows.values():
        assert sorted(turns) == list(range(len(turns)))
        assert all(turns[turn][0] != turns[turn + 1][0] for turn in range(len(turns) - 1))
        for turn, (_, own, plan) in turns.items():
            expected = (
                own if turn == 0 else 0.5 + 0.6 * (own - 0.5) + 0.8 * (np.array(turns[turn - 1][2].planted) - 0.5)
            )
            np.testing.assert_allclose(plan.planted, np.clip(expected, 0.08, 0.92), atol=1e-12)
            noise.append(np.array(plan.label) - plan.planted)
    assert np.std(noise) == pytest.approx(0.05, abs=0.01)


def test_classes_carry_over_and_labels_keep_their_spread():
    many = {"speakers": {"train": 40, "dev": 2, "gate": 2, "test": 2}, "dialogue_turns": 10}
    spoken = draw(config(**many, utterances_per_speaker=dict.fromkeys(("train", "dev", "gate", "test"), 20)).synthetic)
    turns = {(plan.dialogue_id, plan.turn): plan for _, plans in spoken for plan in plans}
    labels = np.array([plan.label for plan in turns.values()])
    own = np.array([0.24] * 3)
    np.testing.assert_allclose(labels.std(0), np.hypot(own, 0.05), atol=0.04)
    pairs = [(plan, turns[name, turn + 1]) for (name, turn), plan in turns.items() if (name, turn + 1) in turns]
    for d in range(3):
        both = np.array([(one.planted[d], other.planted[d]) for one, other in pairs])
        assert 0.68 < np.corrcoef(both.T)[0, 1] < 0.8  # the carry-over, less what the ends of the range cut off
    same = [emotion(*one.label[:2]) == emotion(*other.label[:2]) for one, other in pairs]
    shares = np.unique([emotion(*plan.label[:2]) for plan in turns.values()], return_counts=True)[1] / len(turns)
    assert np.mean(same) > (shares**2).sum() + 0.2  # the second is how often two turns agree by chance


def test_dialogues_fill_the_columns_of_the_table(tmp_path):
    counts = {"train": 2, "dev": 0, "gate": 0, "test": 0}
    options = {"speakers": counts, "utterances_per_speaker": dict.fromkeys(counts, 2), "dialogue_turns": 3}
    table = corpora.build(config(**options), lake_at(tmp_path), nothing)
    assert {row["utterance_id"][-12:]: (row["dialogue_id"], row["turn"]) for row in table.to_pylist()} == {
        "voice000-000": ("voice000-voice001-00", 0),
        "voice001-000": ("voice000-voice001-00", 1),
        "voice000-001": ("voice000-voice001-00", 2),
        "voice001-001": ("voice000-voice001-01", 0),
    }


def test_dialogues_need_two_speakers_each(tmp_path):
    with pytest.raises(ConfigError, match="'dev'", check=of_kind("odd_speakers")):
        corpora.build(config(dialogue_turns=4), lake_at(tmp_path), nothing)


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
    with pytest.raises(LakeError, check=of_kind("no_ceiling")):
        ceiling(lake, "emodb")


def test_a_missing_synthesiser_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(MissingExtraError, match=r"emoray\[synthetic\]"):
        corpora.build(config(), lake_at(tmp_path), nothing)
    assert lake_at(tmp_path).corpora() == []


def test_a_synthesiser_that_dies_is_an_error_and_not_a_wait(tmp_path, monkeypatch):
    import espeakng_loader

    monkeypatch.setattr(espeakng_loader, "get_library_path", lambda: str(tmp_path / "gone.so"))
    with pytest.raises(InputError, match=r"OSError: .*gone\.so", check=of_kind("synthesis_failed")):
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
