"""The Whisper transcriber on a tiny random checkpoint: structure, times, independence of the batch."""

from __future__ import annotations

import numpy as np
import pytest

from emoray.errors import ConfigError
from emoray.stages.transcribe.stage import build_transcribe
from emoray.stages.weights import revision


@pytest.fixture(scope="module", params=[True, False], ids=["aligned", "unaligned"])
def checkpoint(request, tiny):
    """With or without alignment heads."""
    return tiny("whisper", timed=request.param), request.param


@pytest.fixture
def stage(checkpoint, configure):
    over = {"transcribe": {"kind": "whisper", "whisper": {"model": checkpoint[0], "language": "en", "device": "cpu"}}}
    return build_transcribe(configure(over).transcribe)


def test_batch_and_single_agree_and_words_make_the_text(stage, checkpoint, spoken):
    together = stage.run(spoken[:3])
    alone = [stage.run([row])[0] for row in spoken[:3]]
    assert together == alone
    for row, value in zip(spoken, together, strict=False):
        assert "".join(word["word"] for word in value["words"]) == value["text"].replace(" ", "")
        assert value["language"] == "en"
        assert value["times"] == ("recogniser" if checkpoint[1] else "none")
        for word in value["words"]:
            assert (word["start_s"] is not None) == checkpoint[1]
            if checkpoint[1]:
                assert 0 <= word["start_s"] <= word["end_s"] <= len(row["waveform"]) / 16_000


def test_a_clip_longer_than_the_window_is_taken_too(stage, spoken):
    long = {**spoken[0], "waveform": np.tile(spoken[0]["waveform"], 20)[: 35 * 16_000]}
    values = stage.run([spoken[1], long])
    assert values[0] == stage.run([spoken[1]])[0]
    assert values[1]["text"]


def test_the_fingerprint_follows_the_weights_not_the_folder(stage, checkpoint):
    assert stage.options() == {"kind": "whisper", "revision": revision(checkpoint[0]), "language": "en"}


def test_a_model_that_is_not_there_is_named(configure):
    stage = build_transcribe(
        configure({"transcribe": {"kind": "whisper", "whisper": {"model": "./nothing/here"}}}).transcribe
    )
    with pytest.raises(ConfigError, match="nothing/here"):
        stage.options()
