"""Word times: both forms of a TextGrid, SPHINX's segmentation, and whose spelling wins."""

from __future__ import annotations

import pytest
from corpus_trees import textgrid
from hypothesis import given, settings
from hypothesis import strategies as st

from emoray.corpora import alignment
from emoray.corpora.import_report import ImportReport

SHORT = '''File type = "ooTextFile"
Object class = "TextGrid"

0
1.5
<exists>
2
"IntervalTier"
"phones"
0
1.5
1
0
1.5
"AH1"
"IntervalTier"
"words"
0
1.5
3
0
0.25
""
0.25
0.75
"say ""when"""
0.75
1.5
"<unk>"
'''
HEAD = 'File type = "ooTextFile"\nObject class = "TextGrid"\n'


def times(words):
    return [(word["word"], word["start_s"], word["end_s"]) for word in words]


def test_the_long_form_takes_the_words_and_not_the_phones():
    said = [("seven", 0.25, 0.5), ("2.5", 0.5, 0.75), ("sp", 0.75, 1.0)]
    assert times(alignment.textgrid(textgrid(said, 1.5))) == said[:2]


def test_the_short_form_with_quotes_in_a_text():
    assert times(alignment.textgrid(SHORT)) == [('say "when"', 0.25, 0.75), ("<unk>", 0.75, 1.5)]


@pytest.mark.parametrize(
    "text",
    ["", "hello", HEAD, SHORT[: SHORT.index('"words"')], SHORT[:-20]],
)
def test_what_is_no_whole_textgrid_gives_none(text):
    assert alignment.textgrid(text) is None


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40), st.integers(0, len(SHORT)))
def test_a_textgrid_with_something_else_in_it_never_raises(text, place):
    words = alignment.textgrid(SHORT[:place] + text + SHORT[place:])
    assert words is None or all(word["start_s"] < word["end_s"] for word in words)


def test_frames_of_ten_milliseconds_end_with_their_last():
    text = "\t SFrm  EFrm    SegAScr Word\n\t    0    40     -17530 <s>\n\t   41    72     -17530 WHAT(2)\n"
    text += "\t   73    80        -30 ++LAUGHTER++\n\t   81    81        -30 WELL\n Total score:   -12\n"
    assert times(alignment.wdseg(text)) == [("what", pytest.approx(0.41), pytest.approx(0.73)), ("well", 0.81, 0.82)]
    assert alignment.wdseg("Total score: -12\n") is None


def words_of(*names):
    return [{"word": name, "start_s": at, "end_s": at + 1, "emphasised": None} for at, name in enumerate(names)]


@pytest.mark.parametrize(
    ("aligned", "transcript", "expected"),
    [
        (("dont", "go"), "Don't -- go!", ["Don't", "go!"]),
        (("<unk>", "said"), "Pikachu said", ["Pikachu", "said"]),
        (("ha", "yes"), "Ha [LAUGHTER] yes.", ["Ha", "yes."]),
        (("go",), "Don't go", None),
        (("stay",), "go", None),
        (("go",), None, None),
    ],
)
def test_the_transcripts_spelling_where_both_agree(aligned, transcript, expected):
    found = alignment.spelled(words_of(*aligned), transcript)
    assert (found and [word["word"] for word in found]) == expected


def test_words_that_differ_stay_as_aligned_and_are_counted():
    books = ImportReport("there")
    words = alignment.taken(SHORT, alignment.textgrid, "never", "a", books)
    assert [word["word"] for word in words] == ['say "when"', "<unk>"]
    assert alignment.taken(None, alignment.textgrid, "never", "b", books) is None
    assert {what: tally.first for what, tally in books.noted.items()} == {
        "alignment has other words than the transcript": ["a"],
        "no word times": ["b"],
    }


def test_a_textgrid_that_promises_too_much_gives_none():
    assert alignment.textgrid(SHORT.replace("\n3\n", "\n1e999\n")) is None
