"""The Whisper transcriber on tiny random checkpoints: structure, times, precision, decoders of other depths."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers.models.whisper.generation_whisper import _dynamic_time_warping

from emoray.audio.io import AUDIO_HZ
from emoray.errors import ConfigError
from emoray.stages.fingerprint import fingerprint
from emoray.stages.model_files.weights import revision
from emoray.stages.transcribe.stage import build_transcribe
from emoray.stages.transcribe.timed_whisper import warp
from emoray.stages.transcribe.whisper import whisper


@pytest.fixture(scope="module", params=[True, False], ids=["aligned", "unaligned"])
def checkpoint(request, tiny):
    """With or without alignment heads."""
    return tiny("whisper", timed=request.param), request.param


@pytest.fixture(scope="module")
def build_stage(configure):
    def build(model, language="en", **more):
        settings = {"model": model, "language": language, "device": "cpu", **more}
        return build_transcribe(configure({"transcribe": {"kind": "whisper", "whisper": settings}}).transcribe)

    return build


@pytest.fixture
def stage(checkpoint, build_stage):
    return build_stage(checkpoint[0])


@pytest.fixture(scope="module")
def variant(tiny, tmp_path_factory):
    """A checkpoint made from the tiny one: in half precision, with fewer decoder layers, with other alignment heads."""

    def make(*, half=False, decoder_layers=2, heads=None):
        network = transformers.WhisperForConditionalGeneration.from_pretrained(tiny("whisper"))
        del network.model.decoder.layers[decoder_layers:]
        network.config.decoder_layers = decoder_layers
        if heads is not None:
            network.generation_config.alignment_heads = heads
        folder = tmp_path_factory.mktemp("variant")
        shutil.copytree(tiny("whisper"), folder, dirs_exist_ok=True)
        (network.half() if half else network).save_pretrained(folder)
        return str(folder)

    return make


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
                assert 0 <= word["start_s"] <= word["end_s"] <= len(row["waveform"]) / AUDIO_HZ


@pytest.mark.parametrize("language", ["en", None])
def test_it_hears_what_transformers_pipeline_hears_at_the_same_times(checkpoint, language, spoken):
    folder, timed = checkpoint
    clips = [row["waveform"] for row in spoken[:4]]
    heard = whisper(folder, "cpu", "float32").recognise(clips, language)
    processor = transformers.WhisperProcessor.from_pretrained(folder)
    network = transformers.WhisperForConditionalGeneration.from_pretrained(folder, attn_implementation="eager").eval()
    network.generation_config.update(num_beams=1, do_sample=False)
    features = processor.feature_extractor(clips, sampling_rate=AUDIO_HZ, return_tensors="pt").input_features
    codes = {number: code.strip("<|>") for code, number in network.generation_config.lang_to_id.items()}
    detected = [codes[int(token)] for token in network.detect_language(input_features=features)]
    assert [one.language for one in heard] == ([language] * 4 if language else detected)
    pipeline = transformers.AutomaticSpeechRecognitionPipeline(
        model=network, tokenizer=processor.tokenizer, feature_extractor=processor.feature_extractor
    )
    for samples, ours in zip(clips, heard, strict=True):
        output = pipeline(
            {"raw": samples, "sampling_rate": AUDIO_HZ},
            return_timestamps="word" if timed else None,
            generate_kwargs={"language": ours.language, "task": "transcribe"},
        )
        if not timed:
            assert ours.text == output["text"].strip()
            continue
        within = [chunk for chunk in output["chunks"] if chunk["timestamp"][0] < len(samples) / AUDIO_HZ]
        assert [word for word, _, _ in ours.words] == [chunk["text"].strip() for chunk in within]
        assert [start for _, start, _ in ours.words] == [chunk["timestamp"][0] for chunk in within]


@pytest.mark.parametrize("shape", [(1, 7), (7, 1), (5, 40), (30, 200)])
def test_warping_by_diagonals_finds_the_path_of_transformers(shape):
    cost = np.random.default_rng(shape[0]).normal(size=shape)
    for ours, theirs in zip(warp(cost), _dynamic_time_warping(cost), strict=True):
        assert np.array_equal(ours, theirs)
    ties = np.round(cost)
    for ours, theirs in zip(warp(ties), _dynamic_time_warping(ties), strict=True):
        assert np.array_equal(ours, theirs)


def test_clips_are_encoded_once_for_language_and_words(tiny, spoken):
    model = whisper(tiny("whisper", timed=False), "cpu", "float32")
    passes = []
    hook = model._network.model.encoder.conv1.register_forward_hook(lambda *_: passes.append(1))
    try:
        model.recognise([row["waveform"] for row in spoken[:2]], None)
        model.recognise([row["waveform"] for row in spoken[2:4]], None)
    finally:
        hook.remove()
    assert len(passes) == 2


def test_a_clip_longer_than_the_window_is_taken_too(stage, spoken):
    long = {**spoken[0], "waveform": np.tile(spoken[0]["waveform"], 20)[: 35 * AUDIO_HZ]}
    values = stage.run([spoken[1], long])
    assert values[0] == stage.run([spoken[1]])[0]
    assert values[1]["text"]


@pytest.mark.parametrize("language", ["en", None])
def test_a_checkpoint_in_half_precision_runs_in_the_precision_that_is_asked_for(variant, build_stage, spoken, language):
    folder = variant(half=True)
    assert json.loads(Path(folder, "config.json").read_text(encoding="utf-8"))["dtype"] == "float16"
    auto = build_stage(folder, language, dtype="auto")
    values = auto.run(spoken[:3])
    assert {type(value) for value in values} == {dict}
    assert values == build_stage(folder, language, dtype="float32").run(spoken[:3])
    for dtype in ("float16", "bfloat16"):
        half = build_stage(folder, language, dtype=dtype)
        assert whisper(folder, "cpu", dtype)._network.dtype == getattr(torch, dtype)
        assert {type(value) for value in half.run(spoken[:3])} == {dict}
        assert fingerprint(half, {}) != fingerprint(auto, {})


def test_precision_is_resolved_by_device_where_the_stage_is_built(tiny, build_stage):
    assert build_stage(tiny("whisper"), dtype="auto").options()["dtype"] == "float32"
    assert build_stage(tiny("whisper"), dtype="auto", device="cuda").options()["dtype"] == "float16"
    here = "float16" if torch.cuda.is_available() else "float32"
    assert build_stage(tiny("whisper"), dtype="auto", device="auto").options()["dtype"] == here
    assert build_stage(tiny("whisper"), dtype="bfloat16").options()["dtype"] == "bfloat16"


def test_a_decoder_shallower_than_its_encoder_has_word_times(variant, build_stage, spoken):
    """Like large-v3-turbo: 32 layers that hear, 4 that write."""
    values = build_stage(variant(decoder_layers=1, heads=[[0, 0], [0, 1]])).run(spoken[:2])
    assert [value["times"] for value in values] == ["recogniser"] * 2


def test_heads_of_layers_that_a_small_decoder_lacks_give_no_times_and_that_is_said(
    variant, build_stage, spoken, caplog
):
    """Like distil-whisper, whose settings may be the teacher's."""
    folder = variant(decoder_layers=1, heads=[[1, 0], [0, 1]])
    with caplog.at_level(logging.WARNING):
        values = build_stage(folder).run(spoken[:2])
    assert "no times" in caplog.text
    for value in values:
        assert value["times"] == "none"
        assert {word["start_s"] for word in value["words"]} == {None}


def test_the_fingerprint_follows_the_weights_not_the_folder(stage, checkpoint):
    options = stage.options()
    del options["checks"]
    assert options == {"kind": "whisper", "revision": revision(checkpoint[0]), "language": "en", "dtype": "float32"}


def test_a_language_that_the_checkpoint_does_not_know_is_named(tiny, build_stage, spoken):
    with pytest.raises(ConfigError, match="de, en"):
        build_stage(tiny("whisper"), "xx").run(spoken[:1])


def test_a_model_that_is_not_there_is_named(build_stage):
    with pytest.raises(ConfigError, match="nothing/here"):
        build_stage("./nothing/here").options()
