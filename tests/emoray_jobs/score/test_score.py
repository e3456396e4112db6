"""score: files in this process, tables with Ray Data, by a registered version; errors as rows."""

from __future__ import annotations

import json
import os

import polars as pl
import pytest
from annotate_kit import CORPUS, config_for, make_corpus, utterance, write_clip
from error_kit import of_kind
from scoring_kit import SENTENCE, make_bundle

from emoray.audio.io import decode
from emoray.errors import InputError, RegistryError
from emoray.lake.tables import Lake
from emoray.registry import versions
from emoray.registry.publish.log import log_bundle
from emoray.registry.tracking import connect
from emoray.schema import DIMENSIONS
from emoray.scoring.score import ScoreRequest
from emoray.scoring.scorer import load_bundle
from emoray_jobs import cli
from emoray_jobs.score import job as score

CLIPS = 10


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A lake with a corpus (one of its clips missing) and a champion."""
    folder = tmp_path_factory.mktemp("score")
    config = config_for(folder / "lake", "annotate.max_error_fraction=0.5")
    make_corpus(config.lake.root, CLIPS, [utterance(500, str(folder / "gone.wav"))])
    tracking = connect(config.tracking, Lake(config.lake))
    bundle = make_bundle(folder / "bundle")
    version = log_bundle(tracking, tracking.start_run("made"), bundle, card="# A model", tags={})
    versions.set_alias(tracking, versions.CHAMPION, version)
    return config, bundle


def expected(bundle, path: str, **given) -> dict[str, float]:
    """What the scorer itself gives."""
    scorer = load_bundle(bundle)
    one = scorer.score([ScoreRequest(samples=decode(path, scorer.audio).samples, **given)])[0]
    return {name: getattr(one, name).value for name in DIMENSIONS}


def test_a_file_with_its_transcript(place, tmp_path):
    config, bundle = place
    clip = str(tmp_path / "clip.wav")
    write_clip(clip, 3)
    result = score.run(config, sources=[clip], transcript=SENTENCE)
    (one,) = result.scores
    assert (result.version, result.failed, result.table, one["error"]) == ("1", 0, None, None)
    value = one["value"]
    assert (value["level"], value["scale"], value["model_version"]) == ("full", [1.0, 7.0], "1")
    for name, number in expected(bundle, clip, transcript=SENTENCE).items():
        estimate = value[name]
        assert estimate["value"] == pytest.approx(number, abs=1e-5)
        assert estimate["corpus"] == pytest.approx(1 + 6 * number, abs=1e-4)
        assert estimate["low"] <= estimate["value"] <= estimate["high"]
    assert set(value["emphasised"]) <= set(SENTENCE.split())
    assert value["emphasised"]
    shown = _text(score.render(result))
    assert f"{value['valence']['value']:.2f} [" in shown
    assert f"{value['valence']['corpus']:.2f} [" in shown
    assert value["emphasised"][0] in shown


def test_a_version_of_classes_alone_gives_classes_and_no_dimensions(tmp_path):
    config = config_for(tmp_path / "lake")
    tracking = connect(config.tracking, Lake(config.lake))
    bundle = make_bundle(
        tmp_path / "bundle", "acoustic", dimensional=False, classes=["anger", "joy", "neutral", "sadness"]
    )
    version = log_bundle(tracking, tracking.start_run("made"), bundle, card="# A model", tags={})
    versions.set_alias(tracking, versions.CHAMPION, version)
    clip = str(tmp_path / "clip.wav")
    write_clip(clip, 3)
    result = score.run(config, sources=[clip])
    value = result.scores[0]["value"]
    assert [value[name] for name in DIMENSIONS] == [None] * 3
    assert value["time_course"] is None
    assert sum(one["probability"] for one in value["emotion"]) == pytest.approx(1)
    likeliest = max(value["emotion"], key=lambda one: one["probability"])
    shown = _text(score.render(result))
    assert f"{likeliest['emotion']} {likeliest['probability']:.2f}" in shown
    assert "valence" not in shown
    json.loads(score.to_json(result))


def test_without_a_transcript_sound_decides_and_the_reply_says_so(place, tmp_path):
    config, bundle = place
    clip = str(tmp_path / "clip.wav")
    write_clip(clip, 3)
    (one,) = score.run(config, sources=[clip]).scores
    assert one["value"]["level"] == "audio"
    assert "no transcript was given" in one["value"]["absent"]["gs"]
    assert one["value"]["used"] == []
    assert "no words" in one["value"]["absent"]["es"]
    assert one["value"]["valence"]["value"] == pytest.approx(expected(bundle, clip)["valence"], abs=1e-5)
    (less,) = score.run(config, sources=[clip], transcript=SENTENCE, semantics="none").scores
    assert less["value"]["used"] == []
    number = expected(bundle, clip, semantics="none")["valence"]
    assert less["value"]["valence"]["value"] == pytest.approx(number, abs=1e-5)


def test_bad_files_are_rows_with_their_reason_beside_good_ones(place, tmp_path):
    config, _ = place
    good, bad = str(tmp_path / "good.wav"), tmp_path / "bad.wav"
    write_clip(good, 1)
    bad.write_bytes(b"")
    result = score.run(config, sources=[str(bad), good, str(tmp_path / "none.wav")])
    assert [one["error"] and one["error"]["type"] for one in result.scores] == ["empty_file", None, "missing_file"]
    assert result.failed == 2
    assert "empty_file" in _text(score.render(result))
    lines = [json.loads(line) for line in score.to_json(result).splitlines()]
    assert [line["utterance_id"] for line in lines] == [str(bad), good, str(tmp_path / "none.wav")]


def test_a_folder(place, tmp_path):
    config, bundle = place
    (tmp_path / "deep").mkdir()
    for number, name in enumerate(("a.wav", "deep/b.wav")):
        write_clip(tmp_path / name, number)
    result = score.run(config, sources=[str(tmp_path)])
    assert result.clips == 2
    values = {one["utterance_id"]: one["value"]["arousal"]["value"] for one in result.scores}
    number = expected(bundle, str(tmp_path / "deep/b.wav"))["arousal"]
    assert values["deep/b"] == pytest.approx(number, abs=1e-5)


def test_a_corpus_with_ray_is_resumed_and_says_the_same(place, ray_session):
    config, bundle = place
    result = score.run(config, table=CORPUS)
    assert (result.clips, result.failed) == (CLIPS + 1, 1)
    lake = Lake(config.lake)
    assert result.table == lake.uri("scores", CORPUS, "emoray-1-full.parquet")
    table = pl.read_parquet(result.table).sort("utterance_id")
    assert table.height == CLIPS + 1
    assert table.filter(pl.col("error").is_not_null())["utterance_id"].to_list() == ["u500"]
    assert table.row(-1, named=True)["error"]["type"] == "missing_file"
    for row in table.head(3).iter_rows(named=True):
        words = lake.utterances(CORPUS).to_pylist()[int(row["utterance_id"][1:]) + 1]
        alone = expected(bundle, row["audio_uri"], transcript=words["transcript"], words=words["words"],
                         speaker_id=words["speaker_id"], language="en")  # fmt: skip
        assert row["valence"] == pytest.approx(alone["valence"], abs=1e-5)
        assert row["valence_low"] <= row["valence"] <= row["valence_high"]
        assert row["valence_corpus"] == pytest.approx(1 + 6 * row["valence"], abs=1e-4)
        assert (row["level"], row["model_version"]) == ("full", "1")
    marks = os.listdir(lake.path("annotations", "score"))
    files = [lake.list_files("annotations", "score", mark) for mark in marks]
    again = score.run(config, table=CORPUS)
    assert again.scores == result.scores
    assert [lake.list_files("annotations", "score", mark) for mark in marks] == files  # nothing was scored again


def test_what_cannot_be_scored_is_said(place, tmp_path, capsys, monkeypatch):
    config, _ = place
    with pytest.raises(InputError, check=of_kind("nothing_to_score")):
        score.run(config)
    with pytest.raises(InputError, check=of_kind("unknown_table")):
        score.run(config, table="nowhere")
    with pytest.raises(InputError, check=of_kind("transcript_for_several")):
        score.run(config, sources=["a.wav", "b.wav"], transcript="hello")
    with pytest.raises(RegistryError, check=of_kind("no_such_version")):
        score.run(config, sources=["a.wav"], model="7")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["score", "a.wav"]) == 1  # in a lake without a champion
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: ")
    assert "champion" in message
    assert "emoray" in message


def _text(renderable) -> str:
    from rich.console import Console

    console = Console(width=200, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(renderable)
    return console.export_text()
