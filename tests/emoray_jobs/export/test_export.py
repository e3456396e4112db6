"""export and corpus import: from the lake into files and back, what is left out, what is refused."""

from __future__ import annotations

import json

import audformat
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from annotate_kit import CORPUS, config_for
from error_kit import of_kind
from interchange_kit import PARTS, course, failed, score, scores
from interchange_kit import corpus as make_corpus

from emoray.config import to_yaml
from emoray.errors import InputError, LakeError
from emoray.interchange import emotionml_reader
from emoray.lake.tables import Lake
from emoray.schema import DIMENSIONS, stage_schema
from emoray.stages import pipeline
from emoray.stages.transcribe.stage import Transcribe
from emoray_jobs import cli
from emoray_jobs.corpus import import_file
from emoray_jobs.export import job as export

FORMATS = ("audformat", "emotionml", "msp", "parquet")


@pytest.fixture
def config(tmp_path):
    """A lake with a corpus."""
    config = config_for(tmp_path / "lake")
    table = make_corpus()
    place = table.schema.get_field_index("corpus")
    table = table.set_column(place, table.schema.field(place), pa.array([CORPUS] * table.num_rows))
    Lake(config.lake).write_utterances(CORPUS, table)
    return config


def shown(result) -> str:
    from rich.console import Console

    console = Console(width=200)
    with console.capture() as capture:
        console.print(export.render(result))
    return capture.get()


@pytest.mark.parametrize("name", ["audformat", "emotionml", "parquet"])
def test_a_corpus_goes_out_and_comes_in_again(config, tmp_path, name):
    result = export.run(config, format=name, out=str(tmp_path / f"out{export.SUFFIXES[name]}"))
    assert result.rows == 4
    again = config.model_copy(update={"corpus": config.corpus.model_copy(update={"name": "again"})})
    import_file.run(again, path=result.address)
    lake = Lake(config.lake)
    before = {row["utterance_id"]: row for row in lake.utterances(CORPUS).to_pylist()}
    after = {row["utterance_id"]: row for row in lake.utterances("again").to_pylist()}
    assert set(after) == (set("acd") | {"b/ü 1#2%"} if name != "emotionml" else set("ac") | {"b/ü 1#2%"})
    for key, row in after.items():
        for column in ("audio_uri", "emotion", *DIMENSIONS):
            assert row[column] == before[key][column], (key, column)
        raw = [row[f"{dimension}_raw"] for dimension in DIMENSIONS]
        assert raw == pytest.approx([before[key][f"{dimension}_raw"] for dimension in DIMENSIONS])
        if name != "emotionml":
            assert (row["split"], row["speaker_id"]) == (before[key]["split"], before[key]["speaker_id"])
    with pytest.raises(InputError, match="'again'", check=of_kind("exists")):
        import_file.run(again, path=result.address)
    import_file.run(again, path=result.address, force=True)


def test_what_was_left_out_is_said(config):
    result = export.run(config, format="emotionml")
    assert result.address == Lake(config.lake).uri("exports", f"{CORPUS}.emotionml.xml")
    assert (result.rows, result.written, result.left_out) == (4, 3, {"no label": 1})
    assert set(result.columns_left_out) == {
        *("speaker_id", "gender", "language", "split", "fold", "emotion_votes", "transcript", "words"),
        *("dialogue_id", "turn"),
    }
    text = shown(result)
    assert f"corpus {CORPUS}: 3 of 4 rows as emotionml" in text
    assert "left out: 1 (no label)" in text
    assert "has no place for: speaker_id" in text
    assert result.address in text


@pytest.mark.parametrize("name", FORMATS)
def test_an_earlier_export_is_replaced_only_with_force(config, name):
    first = export.run(config, format=name)
    with pytest.raises(InputError, check=of_kind("exists")):
        export.run(config, format=name)
    assert export.run(config, format=name, force=True) == first


def test_one_split(config):
    result = export.run(config, format="msp", splits=["dev"])
    frame = pd.read_csv(result.address)
    assert frame.to_numpy().tolist() == [["ü 1#2%.wav", 7.0, 1.0, 3.1]]
    with pytest.raises(InputError, match="'gate'", check=of_kind("no_such_split")):
        export.run(config, format="msp", splits=["gate"], force=True)


def test_nothing_to_write_leaves_nothing_behind(config):
    lake = Lake(config.lake)
    lake.write_parquet(scores(failed("a")), "scores", CORPUS, "emoray-1-full.parquet")
    with pytest.raises(InputError, match="missing_file: 1", check=of_kind("nothing_to_export")):
        export.run(config, format="msp", scores=CORPUS)
    assert lake.list_files("exports", suffix="") == []


def annotate(config, stage: str, value_type: pa.StructType, name: str, value: dict[str, object]) -> None:
    mark = pipeline.fingerprints(config.annotate, None)[stage]
    outcome = {"utterance_id": name, "value": value, "error": None, "elapsed_s": 0.1}
    Lake(config.lake).append_stage(stage, mark, pa.Table.from_pylist([outcome], stage_schema(value_type)))


def test_current_annotations_come_along(config):
    value = {"text": "oh no", "words": None, "language": "en", "confidence": 0.5, "times": None}
    annotate(config, "transcribe", Transcribe.value_type, "a", value)
    result = export.run(config, format="parquet")
    table = pl.read_parquet(result.address)
    assert table["transcribe"].to_list() == [value, None, None, None]
    assert result.notes == ["annotations: transcribe"]
    assert pq.read_schema(result.address).field("transcribe").type == Transcribe.value_type
    database = audformat.Database.load(export.run(config, format="audformat").address)
    assert database["annotations"].df["transcribe.text"].dropna().to_dict() == {"/audio/a.wav": "oh no"}
    assert "transcribe" in export.run(config, format="msp").columns_left_out


def test_scores_by_name(config):
    lake = Lake(config.lake)
    lake.write_parquet(scores(score("a"), score("c", (1.0, 7.0, 3.0))), "scores", CORPUS, "emoray-3-full.parquet")
    result = export.run(config, format="msp", scores=CORPUS)
    assert result.address == lake.uri("exports", f"{CORPUS}-emoray-3-full.csv")
    assert pd.read_csv(result.address)["EmoAct"].tolist() == [4.0, 7.0]
    lake.write_parquet(scores(score("a", (3.0, 3.0, 3.0))), "scores", CORPUS, "emoray-4-none.parquet")
    with pytest.raises(
        InputError, match=f"{CORPUS}/emoray-3-full, {CORPUS}/emoray-4-none", check=of_kind("ambiguous_scores")
    ):
        export.run(config, format="msp", scores=CORPUS)
    other = export.run(config, format="msp", scores=f"{CORPUS}/emoray-4-none", splits=["train"])
    assert pd.read_csv(other.address)["EmoVal"].tolist() == [3.0]
    with pytest.raises(InputError, match=r"'x'.*emoray-3-full", check=of_kind("no_such_scores")):
        export.run(config, format="msp", scores=f"{CORPUS}/x")
    with pytest.raises(InputError, match=f"'calls'.*{CORPUS}", check=of_kind("no_such_scores")):
        export.run(config, format="msp", scores="calls")
    path = lake.uri("scores", CORPUS, "emoray-4-none.parquet")
    assert export.run(config, format="audformat", scores=path).notes == []
    with pytest.raises(InputError, match="'error'", check=of_kind("not_scores")):
        export.run(config, format="msp", scores=lake.fs.ls(lake.path("utterances", CORPUS), detail=False)[0])


def test_scores_of_segments_bring_their_times(tmp_path):
    from interchange_kit import utterance

    from emoray.schema import utterances_table

    config = config_for(tmp_path)
    lake = Lake(config.lake)
    call = {"audio_uri": "/audio/call.wav", "corpus": CORPUS}
    rows = [utterance("a", end_s=2.0, **call), utterance("b", start_s=2.0, end_s=9.5, **call)]
    lake.write_utterances(CORPUS, utterances_table(rows))
    table = scores(*(score(name, audio_uri="/audio/call.wav") for name in "ab"))
    lake.write_parquet(table, "scores", CORPUS, "emoray-3-full.parquet")
    result = export.run(config, format="emotionml", scores=CORPUS, audio_root="/audio")
    read = emotionml_reader.read(result.address).labels
    assert [(label.start_s, label.end_s) for label in read] == [(0.0, 2.0), (2.0, 9.5)]
    assert read[0].audio_uri == lake.path("exports", "call.wav")


def as_json(row: dict[str, object]) -> str:
    """A row of scores as `emoray score --json` prints it."""
    value = {name: row.get(name) for name in scores().schema.names if not name.startswith(DIMENSIONS)}
    for name in DIMENSIONS:
        value[name] = {part: row[name if part == "value" else f"{name}_{part}"] for part in PARTS}
    for name in ("utterance_id", "audio_uri", "error"):
        value.pop(name)
    return json.dumps({"utterance_id": row["utterance_id"], "value": value, "error": None})


def test_scores_as_printed_bring_their_course(config, tmp_path):
    file = tmp_path / "scored.jsonl"
    broken = json.dumps({"utterance_id": "b.wav", "value": None, "error": failed("b.wav")["error"]})
    file.write_text(as_json(score("/audio/a.wav", time_course=course(0.25, 0.5))) + "\n" + broken + "\n")
    result = export.run(config, format="emotionml", scores=str(file))
    (label,) = emotionml_reader.read(result.address).labels
    assert (label.audio_uri, label.course.values["arousal"]) == ("/audio/a.wav", (0.75, 0.5))
    assert label.intervals["valence"] == pytest.approx((0.1, 0.3))
    assert result.left_out == {"not scored: missing_file": 1}
    for text in ("{}", "[", "3"):
        file.write_text(text)
        with pytest.raises(InputError, match="line 1: ", check=of_kind("not_scores")):
            export.run(config, format="emotionml", scores=str(file), force=True)
    with pytest.raises(InputError, check=of_kind("unreadable_file")):
        export.run(config, format="emotionml", scores=str(tmp_path / "none.json"))


def test_a_table_of_scores_has_the_columns_that_the_stage_gives():
    from emoray_jobs.score.stage import ScoreStage

    columns = {"utterance_id": pa.string(), "audio_uri": pa.string()}
    for field in ScoreStage.value_type:
        if field.name in DIMENSIONS:
            columns |= {
                field.name if part.name == "value" else f"{field.name}_{part.name}": part.type for part in field.type
            }
        else:
            columns[field.name] = field.type
    found = {field.name: field.type for field in scores().schema if field.name != "error"}
    assert found == columns


def test_the_commands(config, tmp_path, capsys):
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config))
    out = str(tmp_path / "out" / "all.parquet")
    assert cli.main(["export", "parquet", "--out", out, "--config", str(file)]) == 0
    assert "4 of 4 rows as parquet" in capsys.readouterr().out
    assert cli.main(["export", "parquet", "--out", out, "--config", str(file)]) == 1
    assert "Add --force to replace it" in capsys.readouterr().err
    assert cli.main(["corpus", "import", out, "--config", str(file), "--set", "corpus.name=again"]) == 0
    assert "corpus again" in capsys.readouterr().out
    assert cli.main(["export", "csv", "--config", str(file)]) == 2
    assert cli.main(["export", "msp", "--audio-root", "/", "--config", str(file)]) == 1
    assert "--audio-root: msp does not use it" in capsys.readouterr().err


def test_what_cannot_be_exported_or_imported_is_said(config, tmp_path):
    other = config.model_copy(update={"corpus": config.corpus.model_copy(update={"name": "other"})})
    with pytest.raises(LakeError, match="'other'", check=of_kind("missing_corpus")):
        export.run(other, format="parquet")
    with pytest.raises(InputError, check=of_kind("not_below")):
        export.run(config, format="emotionml", audio_root=str(tmp_path))
    for name, kind in (("x.csv", "unknown_format"), ("x.parquet", "damaged_file")):
        (tmp_path / name).write_text("x")
        with pytest.raises(InputError, check=of_kind(kind)):
            import_file.run(other, path=str(tmp_path / name))
    pq.write_table(pa.table({"x": [1]}), tmp_path / "y.parquet")
    with pytest.raises(InputError, match="'utterance_id'", check=of_kind("missing_column")):
        import_file.run(other, path=str(tmp_path / "y.parquet"))
