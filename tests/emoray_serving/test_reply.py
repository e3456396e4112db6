"""What a reply shows of a description."""

from __future__ import annotations

import pytest
from engine_kit import RECORD

from emoray_serving.http.reply import shown_description

NOTHING = dict.fromkeys(RECORD)


@pytest.mark.parametrize(
    ("description", "shown"),
    [
        ({**RECORD, "text": "t", "texts": None}, RECORD),
        ({**RECORD, "text": "t", "texts": ["t", "u"]}, RECORD),
        ({**NOTHING, "vocal_delivery": "Loud.", "text": "t"}, {**NOTHING, "vocal_delivery": "Loud."}),  # cues
        ({**NOTHING, "text": "A paragraph.", "texts": None}, {"text": "A paragraph."}),
    ],
)
def test_the_record_is_shown_and_free_text_where_there_is_none(description, shown):
    assert shown_description(description) == shown
