"""The utterances contract: what it lets through, and how it names what it does not."""

from __future__ import annotations

import pytest
from error_kit import of_kind
from hypothesis import given
from hypothesis import strategies as st

from emoray.errors import SchemaError
from emoray.schema import UTTERANCES, assert_speaker_disjoint, utterances_table


def row(name: str = "a", **columns: object) -> dict[str, object]:
    return {"utterance_id": name, "corpus": "c", "audio_uri": f"{name}.wav", **columns}


@pytest.mark.parametrize(
    ("rows", "kind", "named"),
    [
        ([], "empty_table", None),
        ([row("a"), row("b"), row("a")], "duplicate_id", "'a' occurs 2 times"),
        ([row("")], "empty_cell", "row 0: .*'utterance_id'"),
        (
            [row("a", valence=1.5, valence_raw=7.0, scale_min=1.0, scale_max=5.0)],
            "label_off_scale",
            r"utterance a: valence 7 .*1\.0\.\.5\.0",
        ),
        ([row("a", arousal=float("nan"))], "label_off_scale", "arousal nan"),
        ([row("a", split="validation")], "unknown_split", "'validation'"),
        ([row("a", start_s=2.0, end_s=1.0)], "bad_span", r"end_s 1\.0 .*start_s 2\.0"),
        ([row("a", duration_s="long")], "bad_column_type", "'duration_s'.*double"),
    ],
)
def test_what_breaks_the_contract_is_named(rows, kind, named):
    with pytest.raises(SchemaError, match=named, check=of_kind(kind)):
        utterances_table(rows)


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=20, unique=True), st.floats(0, 1))
def test_every_table_of_unique_ids_and_labels_on_the_scale_passes(names, label):
    table = utterances_table([row(name, valence=label, split="test2") for name in names])
    assert table.schema.equals(UTTERANCES)
    assert table["utterance_id"].to_pylist() == names


def test_no_train_speaker_may_be_tested_and_unknown_ones_are_counted():
    rows = [
        row("a", speaker_id="x", split="train"),
        row("b", speaker_id="Unknown", split="test"),
        row("c", split="dev"),
    ]
    assert assert_speaker_disjoint(utterances_table(rows)) == 2
    with pytest.raises(SchemaError, match=r"'x'.*gate", check=of_kind("speaker_in_two_splits")):
        assert_speaker_disjoint(utterances_table([*rows, row("d", speaker_id="x", split="gate")]))
