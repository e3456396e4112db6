"""What a reply shows of a description."""

from __future__ import annotations

import pytest
import scoring_kit as kit
from engine_kit import RECORD

from emoray.audio.io import Waveform
from emoray.scoring.scorer import load_bundle
from emoray_serving.clip_semantics import ClipSemantics
from emoray_serving.http.reply import build_reply, shown_description
from emoray_serving.http.schemas import ModelInfo, ScoreParameters

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


@pytest.mark.parametrize("dimensional", [True, False])
def test_a_version_of_classes_alone_has_no_dimensions(tmp_path, dimensional):
    folder = kit.make_bundle(tmp_path / "b", "acoustic", dimensional=dimensional, classes=["joy", "anger"])
    request = kit.request(6.0, time_course=True)
    score = load_bundle(folder).score([request])[0]
    clip = Waveform(request.samples, 6.0, source_hz=16_000, channels=1, rms_dbfs=-20.0, clipped_fraction=0.0)
    served = ModelInfo(name="m", version="1", alias="champion")
    reply = build_reply("r", ScoreParameters(), clip, ClipSemantics(), served, score, {})
    assert [one is not None for one in (reply.valence, reply.arousal, reply.dominance)] == [dimensional] * 3
    assert (reply.time_course is not None) == dimensional
    assert set(reply.emotion) == {"joy", "anger"}
