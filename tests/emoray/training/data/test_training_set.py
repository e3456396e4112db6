from __future__ import annotations

import itertools
import uuid
from collections import Counter

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import soundfile
import torch
from error_kit import of_kind
from moto.server import ThreadedMotoServer
from training_kit import AUDIO, CONDITION, TEXT_WIDTH, model_config, pack_rows, planted_rows, train_config, under

from emoray.corpora.folds import Fold
from emoray.errors import LakeError, SchemaError, TrainingError
from emoray.lake.tables import Lake, LakeConfig
from emoray.models.build import frontend
from emoray.models.frontend import clip_measures
from emoray.schema import GRANULARITIES, stage_schema, utterances_table
from emoray.stages.conditions import FittedCondition
from emoray.stages.deviations import DEVIATION_WIDTH
from emoray.stages.embed import EmbedSemantics, EmbedTranscript
from emoray.training.data.augment import SMALLER_SETS
from emoray.training.data.pack import column, pack, pack_shard, training_rows, training_set_hash
from emoray.training.data.training_set import TrainingSet

FINGERPRINTS = {"embed_transcript": "aa", "embed_semantics": "bb"}
CONDITIONS = [FittedCondition(CONDITION, FINGERPRINTS, "no such norms")]
LES, GS, ES = (column(name, CONDITION) for name in ("les", "gs", "es"))


@pytest.fixture
def lake(tmp_path) -> Lake:
    """Five clips as wav files, one of them broken; text vectors for some."""
    random = np.random.default_rng(0)
    rows = []
    for i in range(5):
        path = tmp_path / f"{i}.wav"
        soundfile.write(path, random.normal(scale=0.1, size=8000 + 1600 * i), 16_000)
        rows.append(
            {
                "utterance_id": f"u{i}",
                "corpus": "toy",
                "audio_uri": str(path),
                "split": "train" if i < 3 else "dev",
                "speaker_id": f"s{i}",
                "valence": None if i == 1 else i / 10,
                "emotion": "anger" if i == 1 else None,
                "scale_min": 1.0,
                "scale_max": 7.0,
            }
        )
    (tmp_path / "2.wav").write_bytes(b"not audio")
    lake = Lake(LakeConfig(root=str(tmp_path / "lake"), storage_options={}))
    lake.write_utterances("toy", utterances_table(rows))
    vector = [float(k) for k in range(TEXT_WIDTH)]
    transcript = [
        {"utterance_id": "u0", "value": {"les": None, "gs": vector}, "error": None, "elapsed_s": 0.0},
        {"utterance_id": "u1", "value": None, "error": {"type": "x", "message": "y", "attempts": 1}, "elapsed_s": 0.0},
    ]
    lake.append_stage(
        "embed_transcript", "aa", pa.Table.from_pylist(transcript, stage_schema(EmbedTranscript.value_type))
    )
    semantics = [{"utterance_id": "u3", "value": {"es": vector}, "error": None, "elapsed_s": 0.0}]
    lake.append_stage("embed_semantics", "bb", pa.Table.from_pylist(semantics, stage_schema(EmbedSemantics.value_type)))
    return lake


def pack_toy(lake: Lake, **changes) -> str:
    options = {"frontend": frontend(model_config().encoder), "audio": AUDIO, "text_width": TEXT_WIDTH, "shard_rows": 2}
    return pack(lake, "toy", CONDITIONS, **{**options, **changes})


def test_rows_join_utterances_with_the_text_vectors_that_are_there(lake):
    rows = training_rows(lake, "toy", CONDITIONS)
    assert rows["utterance_id"].to_list() == ["u0", "u1", "u2", "u3", "u4"]
    assert [row is not None for row in rows[GS]] == [True, False, False, False, False]
    assert [row is not None for row in rows[ES]] == [False, False, False, True, False]
    assert rows[LES].null_count() == 5
    some = training_rows(lake, "toy", CONDITIONS, ["u3", "u0"])
    assert some.equals(rows.filter(pl.col("utterance_id").is_in(["u0", "u3"])))
    assert training_rows(lake, "toy", [FittedCondition(CONDITION, {}, "")])[GS].null_count() == 5


def test_undecodable_rows_are_left_out_and_counted(lake):
    training_set = TrainingSet.open(lake, pack_toy(lake), classes=["joy", "anger"])
    assert training_set.frame["utterance_id"].to_list() == ["u0", "u1", "u3", "u4"]
    assert training_set.left_out == 1
    assert training_set.ids("train") == ["u0", "u1"]  # u1 has a class, though no dimension
    assert TrainingSet.open(lake, training_set.set_hash).ids("train") == ["u0"]
    assert training_set.labels(["u1", "u0"]).tolist() == [1, -1]


def test_a_batch_holds_what_the_frontend_gave(lake):
    training_set = TrainingSet.open(lake, pack_toy(lake))
    batch = training_set.collate(["u3", "u0"])
    samples, _ = soundfile.read(lake.utterances("toy")["audio_uri"][3].as_py(), dtype="float32")
    expected = frontend(model_config().encoder).features(samples)
    assert batch.lengths_B.tolist() == [len(expected), 51]
    torch.testing.assert_close(batch.features_BTF[0], torch.from_numpy(expected), atol=5e-3, rtol=0)  # float16
    assert (batch.features_BTF[1, 51:] == 0).all()
    assert batch.present_BK.tolist() == [[False, False, True], [False, True, False]]
    assert batch.text_BKE[0, 2].tolist() == list(range(TEXT_WIDTH))
    assert (batch.text_BKE[0, :2] == 0).all()
    assert batch.target_B3[:, 0].tolist() == pytest.approx([0.3, 0.0])
    assert batch.target_B3[:, 1:].isnan().all()


def test_packing_again_reuses_the_set_and_changes_make_another(lake):
    first = pack_toy(lake)
    shards = lake.list_files("training_sets", first, suffix=".arrow")
    assert len(shards) == 3
    before = [lake.fs.modified(path) for path in shards]
    assert pack_toy(lake) == first
    assert [lake.fs.modified(path) for path in shards] == before
    assert pack_toy(lake, frontend=frontend(model_config(encoder={"logmel": {"hop_s": 0.02}}).encoder)) != first
    keys = training_rows(lake, "toy", CONDITIONS, vectors=False)
    hashes = {
        training_set_hash(frame, conditions, frontend(model_config().encoder), AUDIO, TEXT_WIDTH)
        for frame, conditions in [
            (keys, CONDITIONS),
            (keys.with_columns(valence=pl.lit(0.5)), CONDITIONS),
            (keys.with_columns(pl.lit(True).alias(GS)), CONDITIONS),  # a text vector came since
            (keys, [FittedCondition(CONDITION, {**FINGERPRINTS, "embed_semantics": "cc"}, "no such norms")]),
        ]
    }
    assert len(hashes) == 4
    assert first in hashes


def test_a_part_of_a_corpus_is_a_set_of_its_own(lake):
    part = TrainingSet.open(lake, pack_toy(lake, only=["u4", "u0"]))
    assert part.frame["utterance_id"].to_list() == ["u0", "u4"]
    assert part.set_hash != pack_toy(lake)


def test_an_unfinished_set_cannot_be_opened(lake):
    set_hash = pack_toy(lake)
    lake.fs.rm_file(lake.path("training_sets", set_hash, "index.json"))
    with pytest.raises(LakeError, match="index", check=of_kind("missing_file")):
        TrainingSet.open(lake, set_hash)


def test_a_text_vector_of_another_width_is_named():
    row = under(CONDITION, planted_rows(1, seed=0)[0] | {"es": np.zeros(5)})
    with pytest.raises(TrainingError, match=r"u0000, es.*\b5\b.*\b12\b", check=of_kind("bad_width")):
        pack_shard([row], [CONDITION], frontend(model_config().encoder), AUDIO, TEXT_WIDTH)


def test_zeros_stand_in_les_and_gs_where_es_holds_its_numbers():
    wide = 3 + DEVIATION_WIDTH
    row = under(CONDITION, planted_rows(1, seed=0)[0] | {"les": None, "gs": np.ones(3), "es": np.ones(wide)})
    table = pack_shard([row], [CONDITION], frontend(model_config().encoder), AUDIO, wide)
    gs = np.frombuffer(table[GS][0].as_py(), np.float32)
    assert gs.tolist() == [1, 1, 1, *[0] * DEVIATION_WIDTH]
    assert np.frombuffer(table[ES][0].as_py(), np.float32).tolist() == [1] * wide
    with pytest.raises(TrainingError, match=f"es.*width 3, the model expects {wide}"):
        pack_shard([row | {ES: np.ones(3)}], [CONDITION], frontend(model_config().encoder), AUDIO, wide)


def test_random_changes_depend_on_seed_step_and_clip_only(tmp_path):
    lake, set_hash = pack_rows(str(tmp_path), planted_rows(12, seed=0), model_config())
    training_set = TrainingSet.open(lake, set_hash)
    ids = training_set.frame["utterance_id"].to_list()
    augment = train_config(
        augment={"crop_s": 0.15, "modality_dropout": 0.5, "time_masks": 1, "mel_masks": 1, "mel_mask_width": 4}
    ).augment
    together = training_set.collate(ids, augment, (0, 7))
    assert together.lengths_B.tolist() == [15] * 12
    for place in (11, 3):
        alone = training_set.collate([ids[place]], augment, (0, 7))
        assert torch.equal(alone.features_BTF[0], together.features_BTF[place])
        assert torch.equal(alone.present_BK[0], together.present_BK[place])
    other = training_set.collate(ids, augment, (0, 8))
    assert not torch.equal(other.features_BTF, together.features_BTF)
    drawn = Counter(
        tuple(name for name, there in zip(GRANULARITIES, row, strict=True) if there)
        for step in range(80)
        for row in training_set.collate(ids, augment, (0, step)).present_BK.tolist()
    )
    shares = {names: number / drawn.total() for names, number in drawn.items()}
    expected = {GRANULARITIES: 0.5} | dict.fromkeys(SMALLER_SETS, 0.1)
    assert shares == pytest.approx(expected, abs=0.05)
    whole = training_set.collate(ids)  # the stored features stay as they were
    assert whole.present_BK.all()
    assert whole.lengths_B.max() > 15


def test_shards_of_a_remote_lake_are_fetched_once(tmp_path, monkeypatch):
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in (
            ("AWS_ACCESS_KEY_ID", "x"),
            ("AWS_SECRET_ACCESS_KEY", "x"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
        ):
            monkeypatch.setenv(name, value)
        bucket = f"b{uuid.uuid4().hex[:8]}"
        remote = Lake(LakeConfig(root=f"s3://{bucket}/x", storage_options={"endpoint_url": f"http://{host}:{port}"}))
        remote.fs.mkdir(bucket)
        local, set_hash = pack_rows(str(tmp_path / "local"), planted_rows(6, seed=0), model_config(), shard_rows=4)
        for path in local.fs.ls(local.path("training_sets", set_hash), detail=False):
            remote.write_bytes(local.fs.cat_file(path), "training_sets", set_hash, path.rsplit("/", 1)[-1])
        cache = tmp_path / "cache"
        first = TrainingSet.open(remote, set_hash, str(cache))
        for path in remote.list_files("training_sets", set_hash, suffix=".arrow"):
            remote.fs.rm_file(path)  # a second opening must not need them
        second = TrainingSet.open(remote, set_hash, str(cache))
    finally:
        server.stop()
    expected = TrainingSet.open(local, set_hash).collate(["u0005", "u0000"])
    for opened in (first, second):
        assert torch.equal(opened.collate(["u0005", "u0000"]).features_BTF, expected.features_BTF)


def test_a_folds_splits_replace_those_of_the_set_and_share_its_features(tmp_path):
    rows = [
        {**row, "fold": number % 4, "speaker_id": f"s{number % 4}", "split": "train"}
        for number, row in enumerate(planted_rows(8, seed=0))
    ]
    store, set_hash = pack_rows(str(tmp_path), rows, model_config())
    whole = TrainingSet.open(store, set_hash)
    parts = whole.of_fold(Fold(2, test=2, dev=3, train=(0, 1)))
    assert parts.ids("test") == ["u0002", "u0006"]
    assert parts.ids("dev") == ["u0003", "u0007"]
    assert parts.ids("train") == ["u0000", "u0001", "u0004", "u0005"]
    assert whole.ids("train") == [row["utterance_id"] for row in rows]
    assert torch.equal(parts.collate(["u0003"]).features_BTF, whole.collate(["u0003"]).features_BTF)
    # A speaker of two parts: in no fold that would train on him and test him.
    rows[0]["speaker_id"] = "s2"
    store, set_hash = pack_rows(str(tmp_path / "shared"), rows, model_config())
    with pytest.raises(SchemaError, match="'s2'", check=of_kind("speaker_in_two_splits")):
        TrainingSet.open(store, set_hash).of_fold(Fold(2, test=2, dev=3, train=(0, 1)))


def test_a_clip_has_the_vectors_of_the_condition_that_is_asked_for_or_drawn(tmp_path):
    rows, unknown = planted_rows(40, seed=0), "unknown/reference"
    both = [
        under(unknown, {**row, "es": -row["es"]}) | under(CONDITION, row, usable=place % 5 > 0)
        for place, row in enumerate(rows)
    ]
    lake, set_hash = pack_rows(
        str(tmp_path), [{**row, **one} for row, one in zip(rows, both, strict=True)], model_config()
    )
    training_set = TrainingSet.open(lake, set_hash)
    ids = training_set.frame["utterance_id"].to_list()
    assert set(training_set.conditions) == {unknown, CONDITION}
    assert training_set.usable(ids, unknown) == ids
    assert training_set.usable(ids, CONDITION) == [name for place, name in enumerate(ids) if place % 5]
    enrolled = training_set.collate(ids, condition=CONDITION).text_BKE[:, 2]
    torch.testing.assert_close(training_set.collate(ids, condition=unknown).text_BKE[:, 2], -enrolled)
    # Drawn per clip and step; a clip that enrols its speaker is met as one of an unknown speaker alone.
    plain = train_config().augment.model_copy(update={"modality_dropout": 0.0, "crop_s": None})
    drawn = [training_set.collate(ids, plain, (0, step)).text_BKE[:, 2] for step in range(8)]
    signs = torch.stack([(one * enrolled).sum(1).sign() for one in drawn])
    assert (signs[:, ::5] == -1).all()
    others = signs[:, [place for place in range(40) if place % 5]]
    assert 0.35 < (others == 1).float().mean() < 0.65
    assert training_set.collate(ids, plain, (0, 3)).text_BKE.equal(training_set.collate(ids, plain, (0, 3)).text_BKE)


def test_a_batch_knows_the_speakers_as_far_as_their_enrolment_clips_tell(tmp_path):
    rows = planted_rows(70, seed=0)
    both = [
        {**row, **under("unknown/reference", row), **under(CONDITION, row, usable=place >= 14)}
        for place, row in enumerate(rows)
    ]
    lake, set_hash = pack_rows(str(tmp_path), both, model_config())
    training_set = TrainingSet.open(lake, set_hash)
    ids = training_set.frame["utterance_id"].to_list()
    batch = training_set.collate(ids[14:28], condition=CONDITION)
    assert batch.enrolled_B.tolist() == [2.0] * 14
    measured = [training_set.measures([ids[place], ids[place + 7]]).mean(0) for place in range(7)]
    torch.testing.assert_close(batch.speaker_BM, torch.from_numpy(np.stack([*measured, *measured])))
    expected = clip_measures(batch.features_BTF[0, : batch.lengths_B[0]].numpy())
    np.testing.assert_allclose(training_set.measures(ids[14:15])[0], expected, atol=1e-6)
    assert training_set.collate(ids[14:28], condition="unknown/reference").enrolled_B.tolist() == [0.0] * 14
    # In training other clips of the same speaker enrol them, at each step others, never the clip itself.
    plain = train_config().augment.model_copy(update={"crop_s": None})
    seen = {}
    for step in range(40):
        drawn = training_set.collate(ids[14:15], plain, (0, step))
        if drawn.enrolled_B[0]:
            seen[drawn.speaker_BM[0].numpy().tobytes()] = drawn.speaker_BM[0].numpy()
    own = [name for name in ids[::7] if name != ids[14]]
    pairs = {training_set.measures(list(pair)).mean(0).tobytes() for pair in itertools.permutations(own, 2)}
    assert len(seen) > 8
    assert set(seen) <= pairs


def test_the_parts_of_dev_share_no_speaker_and_few_clips_are_not_divided(tmp_path):
    lake, set_hash = pack_rows(str(tmp_path), planted_rows(70, seed=0), model_config())
    training_set = TrainingSet.open(lake, set_hash)
    ids = training_set.frame["utterance_id"].to_list()
    speakers = dict(zip(ids, training_set.frame["speaker_id"], strict=True))
    one, other = training_set.divide_dev(ids)
    assert sorted(one + other) == ids
    assert not {speakers[name] for name in one} & {speakers[name] for name in other}
    assert len({speakers[name] for name in one}) < len({speakers[name] for name in other})
    assert {speakers[name] for name in ids} == {speakers[name] for name in one + other}
    assert training_set.divide_dev(list(reversed(ids)))[0] == list(reversed(one))
    assert training_set.divide_dev(ids[:15]) == (ids[:15], ids[:15])
    few = [name for name in ids if speakers[name] in ("s0", "s1", "s2")]  # too few speakers: clips are dealt out
    one, other = training_set.divide_dev(few)
    assert {speakers[name] for name in one} & {speakers[name] for name in other}
    assert not set(one) & set(other)
