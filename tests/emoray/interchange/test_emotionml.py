"""EmotionML: what is written is held against the Recommendation's rules by another parser; what breaks them is refused.

The rules are those of the W3C's implementation report (2013); its numbers stand beside them.
"""

from __future__ import annotations

import dataclasses
import math
import re
import xml.etree.ElementTree as ET
from collections import Counter

import pytest
from error_kit import of_kind
from hypothesis import given
from hypothesis import strategies as st
from interchange_kit import corpus as make_corpus
from interchange_kit import course, failed, labels_of, score, scores, utterance

from emoray.errors import InputError
from emoray.interchange import emotionml, emotionml_reader
from emoray.interchange.label import ExportStats, Label, utterances
from emoray.schema import DIMENSIONS, utterances_table

EMO = "{http://www.w3.org/2009/10/emotionml}"
PAD = "http://www.w3.org/TR/emotion-voc/xml#pad-dimensions"
SHARE = re.compile(r"\d+(\.\d+)?(e-\d+)?")


def is_sharded_tensor(text: str) -> bool:
    return SHARE.fullmatch(text) is not None and 0 <= float(text) <= 1


def hold_to_the_rules(path) -> ET.Element:
    """The document, of which every rule that concerns what emoray writes is true."""
    root = ET.parse(path).getroot()
    assert root.tag == f"{EMO}emotionml"  # 100, 700
    assert root.get("version") == "1.0"  # 110
    assert {child.tag for child in root} <= {f"{EMO}emotion", f"{EMO}vocabulary", f"{EMO}info"}  # 103 to 106
    vocabularies = {one.get("id"): one for one in root.findall(f"{EMO}vocabulary")}
    for one in vocabularies.values():
        assert one.get("type") == "category"  # 602, 603
        names = [item.get("name") for item in one.findall(f"{EMO}item")]
        assert names  # 600
        assert len(set(names)) == len(names)  # 608
        assert all(re.fullmatch(r"[\w.:-]+", name) for name in names)
    for emotion in root.findall(f"{EMO}emotion"):
        dimensions = emotion.findall(f"{EMO}dimension")
        categories = emotion.findall(f"{EMO}category")
        assert dimensions or categories  # 150
        assert len(emotion.findall(f"{EMO}info")) <= 1  # 155
        assert not [
            child
            for info in emotion.iter(f"{EMO}info")
            for child in info.iter()
            if child is not info and child.tag.startswith(EMO)
        ]  # 304
        assert not dimensions or root.get("dimension-set") == PAD  # 220
        assert max(Counter(one.get("name") for one in dimensions).values(), default=1) == 1  # 223
        for one in dimensions:
            assert one.get("name") in ("pleasure", "arousal", "dominance")  # 222
            traces = one.findall(f"{EMO}trace")
            assert ("value" in one.attrib) + len(traces) == 1  # 224
            assert "value" not in one.attrib or is_sharded_tensor(one.get("value"))  # 500
            for trace in traces:
                assert re.fullmatch(r"\d+(\.\d+)? ?Hz", trace.get("freq"))  # 501, 502
                assert trace.get("samples").split()  # 503
                assert all(map(is_sharded_tensor, trace.get("samples").split()))  # 504
        items = set()
        if categories:
            vocabulary = vocabularies[emotion.get("category-set").removeprefix("#")]  # 160, 161, 210
            items = {item.get("name") for item in vocabulary}
        assert len({one.get("name") for one in categories}) == len(categories)  # 213
        for one in categories:
            assert one.get("name") in items  # 212
            assert "confidence" not in one.attrib or is_sharded_tensor(one.get("confidence"))  # 300
        for one in emotion.findall(f"{EMO}reference"):
            assert re.fullmatch(r"[\w./:%!$&'()*+,;=@~#-]+", one.get("uri"), re.ASCII)  # 410, 411
            assert one.get("role") in ("expressedBy", "experiencedBy", "triggeredBy", "targetedAt")  # 414
    return root


def written(tmp_path, *tables, **options):
    found, tally = labels_of(*tables)
    path = str(tmp_path / "all.emotionml")
    emotionml.write(path, found, tally, **options)
    return path, found, tally


def test_a_corpus_goes_there_and_back(tmp_path):
    path, found, tally = written(tmp_path, make_corpus())
    assert (tally.rows, tally.written, dict(tally.left_out)) == (4, 3, {"no label": 1})
    root = hold_to_the_rules(path)
    first = root.find(f"{EMO}emotion")
    # By hand: (2.2 - 1) / 6, (4 - 1) / 6 and (2.6 - 1) / 6.
    values = {one.get("name"): float(one.get("value")) for one in first.findall(f"{EMO}dimension")}
    assert values == pytest.approx({"pleasure": 0.2, "arousal": 0.5, "dominance": 0.8 / 3})
    assert first.find(f"{EMO}category").attrib == {"name": "anger"}
    assert (
        root.findall(f"{EMO}emotion")[1].find(f"{EMO}reference").get("uri") == "file:///audio/b/%C3%BC%201%232%25.wav"
    )
    document = emotionml_reader.read(path)
    assert not document.skipped
    assert document.labels == [dataclasses.replace(one, raw={}) for one in found]
    table = utterances(document.labels, "again", path).to_pylist()
    for row, before in zip(table, make_corpus().to_pylist(), strict=False):
        for name in ("utterance_id", "audio_uri", *DIMENSIONS, "scale_min", "scale_max", "emotion"):
            assert row[name] == before[name], name
        assert [row[f"{name}_raw"] for name in DIMENSIONS] == pytest.approx(
            [before[f"{name}_raw"] for name in DIMENSIONS]
        )


def test_scores_bring_intervals_probabilities_and_their_course(tmp_path):
    shares = [{"emotion": "very sad", "probability": 0.75}, {"emotion": "calm", "probability": 0.25}]
    whole = score("a", emotion=shares, time_course=course(0.25, 0.5, 0.75), start_s=None)
    table = scores(whole, failed("b"), score("c", (1.0, 7.3, 3.0)), score("d", time_course=course(0.5)))
    path, found, tally = written(tmp_path, table)
    assert (tally.rows, tally.written) == (4, 2)
    assert tally.left_out == {"not scored: missing_file": 1, "a value outside [0, 1]": 1}
    root = hold_to_the_rules(path)
    emotions = root.findall(f"{EMO}emotion")
    assert len(emotions) == 3  # d's single window says no more than its values
    assert [one.attrib for one in emotions[0].findall(f"{EMO}category")] == [
        {"name": "very_sad", "confidence": "0.75"},
        {"name": "calm", "confidence": "0.25"},
    ]
    traces = {one.get("name"): one.find(f"{EMO}trace").attrib for one in emotions[1].findall(f"{EMO}dimension")}
    assert traces["pleasure"] == {"freq": "1.0Hz", "samples": "0.25 0.5 0.75"}
    assert traces["arousal"]["samples"] == "0.75 0.5 0.25"
    assert emotions[1].find(f"{EMO}reference").get("uri") == "file:///audio/a.wav#t=0,6"
    (read, other) = emotionml_reader.read(path).labels
    assert read == dataclasses.replace(found[0], raw={}, classes={"very_sad": 0.75, "calm": 0.25})
    assert (read.course.window_s, read.course.hop_s) == (4.0, 1.0)
    assert other.course is None


def test_a_course_of_a_stretch_is_placed_in_its_recording(tmp_path):
    table = scores(score("a", time_course=course(0.1, 0.2, start_s=0.5)))
    for name, number in (("start_s", 10.0), ("end_s", 17.25)):
        table = table.append_column(name, [[number]])
    path, found, _ = written(tmp_path, table, audio_root="/audio")
    uris = [one.get("uri") for one in hold_to_the_rules(path).iter(f"{EMO}reference")]
    assert uris == ["a.wav#t=10,17.25", "a.wav#t=10.5,15.5"]
    (read,) = emotionml_reader.read(path).labels
    assert read == dataclasses.replace(found[0], raw={}, audio_uri=str(tmp_path / "a.wav"))
    assert (read.start_s, read.end_s, read.course.start_s) == (10.0, 17.25, 0.5)


def test_what_xml_cannot_hold_is_left_out_and_counted(tmp_path):
    path, _, tally = written(tmp_path, utterances_table([utterance("a\x01"), utterance("<&\"\n'>")]))
    assert (tally.written, dict(tally.left_out)) == (1, {emotionml.NO_XML: 1})
    hold_to_the_rules(path)
    (read,) = emotionml_reader.read(path).labels
    assert read.utterance_id == "<&\"\n'>"


def test_classes_that_would_become_one_are_refused(tmp_path):
    rows = [utterance("a", emotion="very sad"), utterance("b", emotion="very_sad")]
    with pytest.raises(InputError, match=r"utterance b: .*'very sad'.*'very_sad'", check=of_kind("duplicate_class")):
        written(tmp_path, utterances_table(rows))


def test_a_course_at_uneven_steps_is_refused():
    points = course(0.1, 0.2, 0.3)
    points[2]["start_s"] += 0.5
    with pytest.raises(InputError, match=r"utterance a: .*2\.5 s", check=of_kind("uneven_time_course")):
        labels_of(scores(score("a", time_course=points)))


shares = st.floats(0, 1)
texts = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="\ufffe\uffff"), min_size=1, max_size=12
)


@given(texts, st.dictionaries(st.sampled_from(DIMENSIONS), shares, min_size=1), st.none() | st.floats(0.5, 1e5), shares)
def test_any_label_goes_there_and_back(tmp_path_factory, name, values, start_s, share):
    path = str(tmp_path_factory.mktemp("emotionml") / "x.xml")
    start_s = None if start_s is None else round(start_s, 6)
    label = Label(name, f"/{name}", start_s, values=values, classes={"joy": share})
    emotionml.write(path, [label], ExportStats())
    hold_to_the_rules(path)
    (read,) = emotionml_reader.read(path).labels
    assert dataclasses.replace(read, audio_uri=None) == dataclasses.replace(label, audio_uri=None)
    assert math.isclose(share, read.classes["joy"], abs_tol=0)


# --- what others write, and what breaks the rules --------------------------------------------------------------------

FOREIGN = """<?xml version="1.0"?>
<e:emotionml xmlns:e="http://www.w3.org/2009/10/emotionml" version="1.0">
 <e:info>by hand</e:info>
 <e:emotion id="first" dimension-set="http://www.w3.org/TR/emotion-voc/xml#pad-dimensions"
   category-set="http://www.w3.org/TR/emotion-voc/xml#big6">
  <e:reference role="triggeredBy" uri="other.wav"/>
  <e:dimension name="arousal" value=".5" confidence="0.9"/> some text <e:category name="anger" value="1"/>
  <e:reference uri="my%20files/one.wav#t=npt:2,3.5"/>
 </e:emotion>
 <e:emotion dimension-set="http://www.w3.org/TR/emotion-voc/xml#pad-dimensions">
  <e:dimension name="pleasure"><e:trace freq=".5 Hz" samples="0 1e-1 1"/></e:dimension>
  <e:appraisal name="x" value="0"/>
 </e:emotion>
</e:emotionml>"""


def read(tmp_path, text: str):
    path = tmp_path / "x.xml"
    path.write_text(text, encoding="utf-8")
    return emotionml_reader.read(str(path))


def test_a_document_of_others(tmp_path):
    document = read(tmp_path, FOREIGN)
    first, second = document.labels
    assert (first.utterance_id, first.audio_uri) == ("first", str(tmp_path / "my files/one.wav"))
    assert (first.start_s, first.end_s, first.values, first.classes) == (2.0, 3.5, {"arousal": 0.5}, {"anger": None})
    assert (second.utterance_id, second.audio_uri, second.values) == ("emotion-2", None, {})
    assert (second.course.hop_s, second.course.values) == (2.0, {"valence": (0.0, 0.1, 1.0)})
    assert document.skipped == {"appraisal": 1}
    with pytest.raises(InputError, match="'emotion-2'", check=of_kind("missing_audio")):
        utterances(document.labels, "c", "x.xml")
    table = utterances(document.labels[:1], "c", "x.xml").to_pylist()
    assert (table[0]["arousal"], table[0]["arousal_raw"], table[0]["emotion"]) == (0.5, None, "anger")


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('value=".5"', 'value="1.01"', "line 7: value '1.01'"),
        ('value=".5"', 'value="NaN"', "line 7: value 'NaN'"),
        ('value=".5"', "", "line 7: "),
        ('name="arousal"', 'name="valence"', "line 7: dimension 'valence'.*pleasure"),
        ('<e:trace freq=".5 Hz"', '<e:trace freq="0Hz"', "line 11: freq '0Hz'"),
        ('<e:trace freq=".5 Hz"', '<e:trace freq="5"', "line 11: freq '5'"),
        ('samples="0 1e-1 1"', 'samples="0 2"', "line 11: samples '2'"),
        ('samples="0 1e-1 1"', 'samples=" "', "line 11: samples ''"),
        ('version="1.0">', 'version="2.0">', "line 2: version '2.0'.*1.0"),
        (
            "2009/10/emotionml",
            "2009/11/emotionml",
            "line 2: .*http://www.w3.org/2009/11",
        ),
        (
            '#pad-dimensions"\n',
            '#fsre-dimensions"\n',
            "line 7: dimension-set 'http://www.w3.org/TR/emotion-voc/xml#fsre",
        ),
        ('#big6"', '#big6" ', None),
        ('category-set="http://www.w3.org/TR/emotion-voc/xml#big6"', "", "line 7: .*category-set"),
        (
            '="http://www.w3.org/TR/emotion-voc/xml#big6"',
            '="#own"',
            "line 7: .*'own'",
        ),
        ('role="triggeredBy"', 'role="saidBy"', "line 6: role 'saidBy'.*expressedBy"),
        ("#t=npt:2,3.5", "#xywh=1,2,3,4", "line 8: .*'xywh=1,2,3,4'"),
        ("#t=npt:2,3.5", "#t=3,2", "line 8: .*'t=3,2'"),
        ("</e:info>", "</e:inf>", r"line 3: .*\(mismatched tag\)"),
        ("<e:info>by hand</e:info>", "<e:emotion/>", "line 3: an <emotion>"),
        ("<e:info>by hand</e:info>", "<e:item/>", "line 3: <item>"),
        (' id="first"', ' id="emotion-2"', "line 10: 'emotion-2'"),
    ],
)
def test_what_breaks_a_rule_is_refused_with_its_line(tmp_path, old, new, named):
    assert old in FOREIGN
    text = (
        FOREIGN.replace(old, new, 1)
        if old != ' id="first"'
        else FOREIGN.replace(old, new).replace("<e:appraisal", '<e:dimension name="arousal" value="1"/><e:appraisal')
    )
    if named is None:
        assert read(tmp_path, text).labels
        return
    with pytest.raises(InputError, match=named) as caught:
        read(tmp_path, text)
    assert caught.value.where.startswith(str(tmp_path / "x.xml"))
    assert caught.value.remedy
    assert caught.value.kind == ("damaged_file" if "mismatched tag" in named else "invalid_markup")


def test_classes_are_held_against_the_vocabulary_of_the_document(tmp_path):
    written(tmp_path, make_corpus())
    text = (tmp_path / "all.emotionml").read_text(encoding="utf-8").replace('<item name="anger"', '<item name="rage"')
    with pytest.raises(InputError, match=r"category 'anger'.*'classes'", check=of_kind("invalid_markup")):
        read(tmp_path, text)
    with pytest.raises(InputError, match="'joy'", check=of_kind("invalid_markup")):
        read(tmp_path, text.replace('<item name="rage"', '<item name="joy"'))
    with pytest.raises(InputError, match="'feeling'", check=of_kind("invalid_markup")):
        read(tmp_path, text.replace('type="category"', 'type="feeling"'))


def test_an_empty_or_missing_file_is_said(tmp_path):
    with pytest.raises(InputError, check=of_kind("damaged_file")):
        read(tmp_path, "")
    with pytest.raises(InputError, match=r"none\.xml", check=of_kind("unreadable_file")):
        emotionml_reader.read(str(tmp_path / "none.xml"))
