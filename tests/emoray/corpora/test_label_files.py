"""Label files with anything in them: a table whose books balance, or an error with place and remedy."""

from __future__ import annotations

import pytest
from corpus_trees import IemocapTurn, PodcastTurn, write_iemocap, write_msp_podcast
from hypothesis import example, given, settings
from hypothesis import strategies as st

from emoray.config import read_preset, validate
from emoray.corpora import CorpusConfig, iemocap, msp_podcast
from emoray.errors import EmorayError
from emoray.schema import validate_utterances

LAPTOP = read_preset("laptop")["corpus"]
NAME = "Ses01F_impro01_F000"
FILE = "MSP-PODCAST_0001_0008.wav"
FREE = st.text(max_size=30)
IEMOCAP_LINES = st.sampled_from(
    [
        f"[1.0 - 2.0]\t{NAME}\tneu\t[2.5, 2.5, 2.5]",
        f"[1.0 - 2.0]\t{NAME}\tneu\t[2.5, nan, 1e999]",
        f"[2.0 - 1.0]\t{NAME}\tneu\t[2.5, 2.5, 2.5]",
        f"[1.0.0 - 2.0]\t{NAME}\tneu\t[,,]",
        "C-E1:\tAnger; ;;\t(((",
        "A-E1:\tval 99; act ; dom x;\t()",
        "% [a",
        "",
    ]
)
CONSENSUS_LINES = st.sampled_from(
    [f"{FILE},N,2.2,4.0,2.6,30,Male,Test1", f"{FILE},N", f"{FILE},,nan,1e999,,,,Train", ",,,,,,,", '"', f'"{FILE}']
)
RATER_LINES = st.sampled_from(
    [
        f"{FILE}; N; A:2.2; V:4.0; D:2.6;",
        "WORKER1; Neutral; Neutral,Confused; A:1; V:4; D:1;",
        "WORKER2",
        "WORKER3;;;",
        "",
    ]
)


def config(kind, folder):
    tree = {**LAPTOP, "name": "c", "kind": kind, kind: {**LAPTOP[kind], "path": str(folder)}}
    return getattr(validate(CorpusConfig, tree), kind)


def outcome(read):
    try:
        return read()
    except EmorayError as error:
        return error


def assert_balanced_or_named(read):
    result = outcome(read)
    if isinstance(result, EmorayError):
        assert result.where
        assert result.remedy
        return
    table, books = result
    validate_utterances(table)
    assert books.read == table.num_rows + sum(tally.count for tally in books.left_out.values())


@pytest.fixture(scope="module")
def iemocap_tree(tmp_path_factory):
    return write_iemocap(tmp_path_factory.mktemp("iemocap"), [IemocapTurn(NAME)])


@pytest.fixture(scope="module")
def podcast_tree(tmp_path_factory):
    return write_msp_podcast(tmp_path_factory.mktemp("podcast"), [PodcastTurn(FILE.removesuffix(".wav"))])


@settings(max_examples=60, deadline=None)
@given(st.lists(IEMOCAP_LINES | FREE, max_size=8))
@example([f"[1.0 - 2.0]\t{NAME}\tneu\t[2.5, 2.5, 2.5]"] * 2)
def test_iemocap(iemocap_tree, lines):
    file = iemocap_tree / "Session1" / "dialog" / "EmoEvaluation" / "Ses01F_impro01.txt"
    file.write_bytes("\n".join(lines).encode("utf-8", errors="replace"))
    settings_ = config("iemocap", iemocap_tree)
    assert_balanced_or_named(lambda: iemocap.read("c", settings_))


@settings(max_examples=60, deadline=None)
@given(st.lists(CONSENSUS_LINES | FREE, max_size=5), st.lists(RATER_LINES | FREE, max_size=6))
@example([f"{FILE},N,2.2,4.0,2.6,30,Male,Test1", "x" * 200_000], [])
def test_msp_podcast(podcast_tree, consensus, raters):
    header = "FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set"
    labels = podcast_tree / "Labels"
    (labels / "labels_consensus.csv").write_bytes("\n".join([header, *consensus]).encode("utf-8", errors="replace"))
    (labels / "labels.txt").write_bytes("\n".join(raters).encode("utf-8", errors="replace"))
    settings_ = config("msp_podcast", podcast_tree)
    assert_balanced_or_named(lambda: msp_podcast.read("c", settings_, lambda done, total: None))
