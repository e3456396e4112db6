import dataclasses

import numpy as np
import polars as pl
import pytest
import scoring_kit as kit
import torch

from emoray.errors import AudioError
from emoray.lake.speakers import store_speaker
from emoray.lake.tables import Lake, LakeConfig
from emoray.models.batch import LEVELS
from emoray.models.build import SOUND_ALONE, frontend
from emoray.models.frontend import sound_means
from emoray.schema import DIMENSIONS
from emoray.scoring.predictions import predict_rows
from emoray.scoring.scorer import Scorer, _batches, load_bundle
from emoray.stages.config import AnnotateConfig
from emoray.stages.deviations import DEVIATION_WIDTH
from emoray.stages.norms import Norms
from emoray.stages.pipeline import annotate_rows, audio_stages, fingerprints, text_stages


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    return load_bundle(kit.make_bundle(tmp_path_factory.mktemp("bundles") / "msf"))


def _values(score):
    return np.array([getattr(score, name).value for name in DIMENSIONS])


def test_semantics_none_uses_sound_alone(scorer):
    (score,) = scorer.score([kit.request(semantics="none")])
    assert (score.level, score.used, score.words, score.transcript) == ("audio", (), None, None)
    assert score.absent == dict.fromkeys(("les", "gs", "es"), "semantics=none was requested")
    assert score.gates == {"les": 0.0, "gs": 0.0, "es": 0.0}


def test_semantics_transcript_uses_words_and_says_why_es_is_absent(scorer):
    (score,) = scorer.score([kit.request(semantics="transcript")])
    assert (score.level, score.used) == ("transcript", ("les", "gs"))
    assert score.absent == {"es": "semantics=transcript was requested"}
    assert score.semantics is None
    assert [word["word"] for word in score.words] == kit.SENTENCE.split()
    assert score.emphasised
    assert sum(score.gates.values()) == pytest.approx(1, abs=1e-5)


def test_full_semantics_add_the_delivery(scorer):
    full, transcript, none = scorer.score([kit.request(semantics=name) for name in ("full", "transcript", "none")])
    assert (full.level, full.used, full.absent) == ("full", ("les", "gs", "es"), {})
    assert full.semantics["vocal_delivery"]
    assert np.abs(_values(full) - _values(transcript)).max() > 1e-4
    assert np.abs(_values(full) - _values(none)).max() > 1e-4
    for name in DIMENSIONS:
        assert sum(full.experts[name]) == pytest.approx(1, abs=1e-5)


def test_without_a_transcript_only_the_sound_is_left(scorer):
    (score,) = scorer.score([kit.request(transcript=None, words=None)])
    assert (score.level, score.used) == ("audio", ())
    assert "no words" in score.absent["es"]
    assert score.transcript_source is None
    assert "no transcript" in score.absent["les"]
    assert "no transcript" in score.absent["gs"]


def test_a_transcript_that_cannot_be_aligned_keeps_its_meaning(scorer):
    (score,) = scorer.score([kit.request(words=None, language="de", transcript="Das will sie nicht")])
    assert score.used == ("gs", "es")
    assert "word times" in score.absent["les"]


@pytest.mark.parametrize(("level", "left_out"), [("gs", ("les", "es")), ("gs+es", ("les",))])
def test_each_set_of_text_vectors_has_its_own_interval(tmp_path, monkeypatch, level, left_out):
    widths = {name: dict.fromkeys(DIMENSIONS, 0.01 * number) for number, name in enumerate(LEVELS, start=1)}
    monkeypatch.setattr(kit, "HALF_WIDTHS", widths)
    scorer = load_bundle(kit.make_bundle(tmp_path / "b"))
    run = scorer._semantics.run

    def without(requests):
        found = run(requests)
        for name in left_out:
            del found[0].vectors[name]
        return found

    monkeypatch.setattr(scorer._semantics, "run", without)
    (score,) = scorer.score([kit.request(speaker_id="nobody")])
    assert (score.level, score.used) == (level, LEVELS[level])
    assert score.arousal.high - score.arousal.value == pytest.approx(widths[level]["arousal"])


def test_sound_is_measured_against_the_speaker_where_the_version_does_so(tmp_path):
    scorer = load_bundle(kit.make_bundle(tmp_path / "b", "acoustic", encoder={"speaker_norms": True}))
    plain = load_bundle(kit.make_bundle(tmp_path / "plain", "acoustic"))
    with torch.no_grad():  # untrained, it measures against nothing
        scorer.bundle.model.speaker_norms.between_M.fill_(1.0)
    clips = [kit.speech(hz=hz) for hz in (90.0, 100.0, 110.0, 95.0, 105.0)]
    lake = Lake(LakeConfig(root=str(tmp_path / "lake"), storage_options={}))
    front = frontend(scorer.bundle.config.encoder)
    store_speaker(lake, "Ann", front.fingerprint, sound_means(front, clips))
    known = Scorer(scorer.bundle.with_speakers_of(lake))
    ann, bob = known.score([kit.request(speaker_id=name) for name in ("Ann", "Bob")])
    assert (ann.speaker_clips, ann.condition) == (5, "enrolled-5/reference")
    assert (bob.speaker_clips, bob.condition) == (0, "unknown/reference")
    assert np.abs(_values(ann) - _values(bob)).max() > 1e-4
    assert _values(bob) == pytest.approx(_values(plain.score([kit.request()])[0]), abs=1e-6)
    assert known.bundle.level_name("audio", ann.condition) == "audio/enrolled-5/reference"
    assert plain.bundle.level_name("audio", ann.condition) == "audio"


def test_the_condition_is_the_nearest_to_what_is_known(scorer):
    names = [one.name for one in scorer.bundle.conditions]
    assert names == ["enrolled-5/reference", "unknown/reference"]
    deep, unknown = (scorer.score([kit.request(speaker_id=name)])[0] for name in ("deep", "nobody"))
    assert (deep.condition, deep.speaker_clips) == (names[0], 5)
    assert (unknown.condition, unknown.speaker_clips) == (names[1], 0)
    assert unknown.transcript_source == "reference"
    # Fewer clips than the version was fitted with are no more than none; unfitted words have the first ones' figures.
    assert scorer.bundle.condition("reference", 3) == names[1]
    assert scorer.bundle.condition("moonshine", 5) == names[0]


def test_a_speakers_own_norms_are_used_where_known(scorer):
    deep, high, unknown = (scorer.score([kit.request(hz=165.0, speaker_id=name)])[0] for name in ("deep", "high", None))
    assert deep.semantics["vocal_delivery"] != high.semantics["vocal_delivery"]
    assert not np.allclose(_values(deep), _values(high), atol=1e-5)
    assert unknown.used == deep.used


def test_the_numbers_behind_es_reach_the_model(tmp_path):
    annotate = kit.annotate_config()
    embed = annotate.embed.model_copy(update={"semantics_numbers": True})
    scorer = load_bundle(
        kit.make_bundle(
            tmp_path / "b", annotate=annotate.model_copy(update={"embed": embed}), text_width=384 + DEVIATION_WIDTH
        )
    )
    (score,) = scorer.score([kit.request(speaker_id="deep")])
    assert score.used == ("les", "gs", "es")
    with torch.no_grad():  # the model's weights on the numbers alone
        scorer.bundle.model.semantics.project[2].weight[:, 384:] *= -1
    (other,) = scorer.score([kit.request(speaker_id="deep")])
    assert np.abs(_values(other) - _values(score)).max() > 1e-4


def test_values_from_other_fingerprints_count_as_absent_and_the_reply_says_so(scorer):
    annotate, norms = scorer.bundle.annotate, scorer.bundle.norms
    row = {"utterance_id": "a", "waveform": kit.speech(), "transcript": kit.SENTENCE, "speaker_id": None}
    row["words"] = [{**word, "emphasised": None} for word in kit.WORDS]
    stages = [*audio_stages(annotate)[1:], *text_stages(annotate, norms)]
    annotate_rows(stages, [row], annotate.guard)
    values = {stage.name: row[stage.name] for stage in stages}
    own = {name: scorer.bundle.fingerprints[name] for name in values}
    bare = kit.request(transcript=None, words=None, stage_values=values, stage_fingerprints=own)
    (given,), (computed,) = scorer.score([bare]), scorer.score([kit.request()])
    assert given.used == ("les", "gs", "es")
    assert _values(given) == pytest.approx(_values(computed), abs=1e-6)

    foreign = own | {"embed_semantics": "0" * 16}
    (score,) = scorer.score([dataclasses.replace(bare, stage_fingerprints=foreign)])
    assert score.used == ("les", "gs")
    assert "0000000000000000" in score.absent["es"]
    assert own["embed_semantics"] in score.absent["es"]

    # A foreign transcript takes with it what would be made from it.
    stale = {"stage_values": {"transcribe": values["transcribe"]}, "stage_fingerprints": {"transcribe": "f" * 16}}
    (score,) = scorer.score([kit.request(transcript=None, words=None, **stale)])
    assert score.used == ()
    assert "f" * 16 in score.absent["gs"]
    assert "no words" in score.absent["es"]


def test_each_score_stands_alone_whatever_comes_with_it(scorer):
    clips = [kit.request(0.5), kit.request(2.0, 180.0), kit.request(9.3, 120.0), kit.request(4.0, semantics="none")]
    together = scorer.score(clips)
    for clip, score in zip(clips, together, strict=True):
        (alone,) = scorer.score([clip])
        assert _values(alone) == pytest.approx(_values(score), abs=1e-5)
        assert len(alone.time_course) == len(score.time_course)
        for one, other in zip(alone.time_course, score.time_course, strict=True):
            assert one.valence == pytest.approx(other.valence, abs=1e-5)


def test_the_time_course_is_the_score_of_each_window(scorer):
    samples = kit.speech(6.5, 170.0)
    (score,) = scorer.score([kit.request(samples=samples, semantics="none")])
    assert [(point.start_s, point.end_s) for point in score.time_course] == [(0.0, 4.0), (1.0, 5.0), (2.0, 6.0)]
    for point in score.time_course:
        window = samples[int(point.start_s * 16_000) : int(point.end_s * 16_000)]
        (alone,) = scorer.score([kit.request(samples=window, semantics="none")])
        assert [point.valence, point.arousal, point.dominance] == pytest.approx(_values(alone), abs=1e-5)


def test_a_short_clip_has_one_point(scorer):
    (score,) = scorer.score([kit.request(2.0)])
    (point,) = score.time_course
    assert (point.start_s, point.end_s, point.valence) == (0.0, 2.0, score.valence.value)


def test_the_time_course_can_be_left_out(scorer):
    with_course, without = scorer.score([kit.request(6.0), kit.request(6.0, time_course=False)])
    assert len(with_course.time_course) == 3
    assert [(point.start_s, point.end_s) for point in without.time_course] == [(0.0, 6.0)]
    assert _values(without) == pytest.approx(_values(with_course), abs=1e-5)


def test_intervals_are_clipped_to_the_scale_and_translated(scorer):
    for score in scorer.score([kit.request(hz=hz, semantics=name) for hz in (90, 240) for name in ("none", "full")]):
        for name in DIMENSIONS:
            estimate, width = getattr(score, name), kit.HALF_WIDTHS[score.level][name]
            assert estimate.low == pytest.approx(max(0, estimate.value - width))
            assert estimate.high == pytest.approx(min(1, estimate.value + width))
            assert estimate.corpus == pytest.approx(1 + 6 * estimate.value)
            assert (estimate.corpus_low, estimate.corpus_high) == pytest.approx(
                (1 + 6 * estimate.low, 1 + 6 * estimate.high)
            )


def test_an_acoustic_model_hears_only_sound_but_still_shows_the_words(tmp_path):
    scorer = load_bundle(kit.make_bundle(tmp_path / "acoustic", "acoustic"))
    full, none = scorer.score([kit.request(), kit.request(semantics="none")])
    assert full.level == "audio"
    assert full.absent == dict.fromkeys(("les", "gs", "es"), "the model does not read it")
    assert full.emphasised
    assert _values(full) == pytest.approx(_values(none), abs=1e-6)
    assert (full.gates, full.experts) == (None, None)
    assert not (tmp_path / "acoustic" / "text_encoder").exists()


@pytest.mark.parametrize(
    "name",
    [
        "emosphere",
        "multistage",
        "single_stage",
        "late_fusion",
        "perspective",
        "cnn14",
        "text",
        "statistics_svm",
        "mean",
    ],
)
def test_every_model_is_packed_and_scores(tmp_path, name):
    reads, cnn14 = name not in SOUND_ALONE, name in ("multistage", "single_stage", "cnn14")
    changes = {"encoder": {"kind": "cnn14"}} if cnn14 else {}
    folder = kit.make_bundle(tmp_path / name, name, classes=["anger", "neutral"], **changes)
    full, none = load_bundle(folder).score([kit.request(), kit.request(semantics="none")])
    assert (full.level, full.used) == (("full", ("les", "gs", "es")) if reads else ("audio", ()))
    assert bool(np.abs(_values(full) - _values(none)).max() > 1e-6) == reads
    assert sum(full.emotion.values()) == pytest.approx(1, abs=1e-5)
    assert all(0 <= value <= 1 for value in _values(full))
    assert (folder / "text_encoder").exists() == reads


def test_a_version_made_without_annotations_scores_sound(tmp_path):
    bundle = load_bundle(kit.make_bundle(tmp_path / "acoustic", "acoustic")).bundle
    audio_only = {name: bundle.fingerprints[name] for name in ("decode", "prosody", "transcribe")}
    scorer = Scorer(kit.refitted(bundle, audio_only, norms=Norms({}, {}, {})))
    (score,) = scorer.score([kit.request()])
    assert score.words is None
    assert score.transcript == kit.SENTENCE


def test_classes_come_with_probabilities(tmp_path):
    scorer = load_bundle(kit.make_bundle(tmp_path / "classes", classes=["anger", "neutral"]))
    (score,) = scorer.score([kit.request()])
    assert list(score.emotion) == ["anger", "neutral"]
    assert sum(score.emotion.values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("samples", [np.zeros(0), np.zeros((10, 2)), np.array([0.1, np.nan])])
def test_what_is_no_mono_signal_is_refused(scorer, samples):
    with pytest.raises(AudioError, match="request 1"):
        scorer.score([kit.request(), kit.request(samples=samples.astype(np.float32))])


def test_pieces_are_batched_by_length_within_the_budget():
    lengths = [16_000 * seconds for seconds in (4, 60, 1, 59, 4, 58, 57, 56)]
    batches = list(_batches(lengths))
    assert sorted(place for batch in batches for place in batch) == list(range(8))
    for batch in batches:
        longest = max(lengths[place] for place in batch)
        assert longest * len(batch) <= 240 * 16_000
        assert longest <= 2 * min(lengths[place] for place in batch)


def test_predictions_are_what_evaluation_wants(scorer):
    rows = [
        {
            "utterance_id": f"u{number}",
            "speaker_id": "deep",
            "gender": "male",
            "split": "gate",
            "scale_min": 1.0,
            "scale_max": 7.0,
            "valence": 0.4,
            "arousal": 0.5,
            "dominance": None,
            "transcript": kit.SENTENCE,
            "words": kit.WORDS,
            "waveform": kit.speech(2.0, 120.0 + 20 * number),
        }
        for number in range(3)
    ]
    frame = predict_rows(scorer, rows, batch_size=2)
    (direct,) = scorer.score([kit.request(hz=140.0, speaker_id="deep")])
    assert frame["level"].to_list() == ["full"] * 3
    assert frame.row(1, named=True)["arousal_pred"] == pytest.approx(direct.arousal.value, abs=1e-5)
    assert frame["dominance_true"].is_null().all()
    # Values by other stages are made anew by the version's own: a comparison of two versions must not punish either.
    foreign = [row | {"transcribe": {"text": "something else", "words": []}} for row in rows]
    again = predict_rows(scorer, foreign, stage_fingerprints={"transcribe": "0" * 16})
    assert again["arousal_pred"].to_list() == pytest.approx(frame["arousal_pred"].to_list(), abs=1e-5)
    assert frame.schema["gates"] == pl.List(pl.Float64)


def test_a_stage_that_changed_since_is_noticed(scorer):
    annotate = scorer.bundle.annotate.model_dump()
    annotate["emphasis"]["prosody"]["max_share"] = 0.1
    then = fingerprints(AnnotateConfig.model_validate(annotate), scorer.bundle.norms.hash)
    changed = Scorer(kit.refitted(scorer.bundle, then))
    assert set(changed.stale_stages) == {"emphasis"}
    (score,) = changed.score([kit.request()])
    assert score.used == ("gs", "es")
    assert then["emphasis"] in score.absent["les"]
    assert score.words is None


@pytest.mark.parametrize("kind", ["moonshine", "moonshine_logmel"])
def test_a_version_over_frozen_states_hears_a_clip_as_its_training_did(tmp_path, kind):
    scorer = load_bundle(kit.make_bundle(tmp_path / kind, "acoustic", encoder={"kind": kind}))
    assert scorer.bundle.config.encoder.moonshine.revision is not None
    first, again = scorer.score([kit.request(), kit.request()])
    assert _values(first) == pytest.approx(_values(again), abs=1e-6)
    assert all(0 <= value <= 1 for value in _values(first))
