"""Recordings read block by block: the same sound as in one go, damage named, memory bounded."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import soundfile

from emoray.audio.io import AudioConfig, decode
from emoray.audio.stream import BLOCK_S, stream
from emoray.errors import AudioError

CONFIG = AudioConfig(min_duration_s=0.1, max_duration_s=1000, silence_dbfs=-70)


def noise(seconds: float, hz: int, channels: int = 1) -> np.ndarray:
    return 0.1 * np.random.default_rng(0).standard_normal((round(seconds * hz), channels)).astype(np.float32)


@pytest.mark.parametrize(("hz", "channels", "ending"), [(16_000, 1, "wav"), (22_050, 2, "flac"), (8_000, 1, "wav")])
@pytest.mark.parametrize("span", [(None, None), (3.5, 2 * BLOCK_S + 1.25)])
def test_the_blocks_joined_are_the_clip(tmp_path, hz, channels, ending, span):
    path = str(tmp_path / f"long.{ending}")
    soundfile.write(path, noise(2 * BLOCK_S + 5, hz, channels), hz)
    blocks = list(stream(path, start_s=span[0], end_s=span[1]))
    whole = decode(path, CONFIG, start_s=span[0], end_s=span[1])
    assert len(blocks) >= 2
    assert all(block.dtype == np.float32 for block in blocks)
    np.testing.assert_allclose(np.concatenate(blocks), whole.samples, atol=1e-5)


def test_no_more_than_a_block_is_held(tmp_path):
    path = str(tmp_path / "long.wav")
    soundfile.write(path, noise(10 * BLOCK_S, 16_000), 16_000)
    tracemalloc.start()
    try:
        assert sum(len(block) for block in stream(path)) == 10 * BLOCK_S * 16_000
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 4 * BLOCK_S * 16_000 * 4, "ten blocks were read, hardly more than one may be held"


def test_damage_behind_the_beginning_is_named(tmp_path):
    path = tmp_path / "cut.flac"
    soundfile.write(path, noise(2 * BLOCK_S, 16_000), 16_000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    blocks = stream(str(path))
    assert len(next(blocks)) == BLOCK_S * 16_000
    with pytest.raises(AudioError) as caught:
        list(blocks)
    assert (caught.value.kind, caught.value.where) == ("truncated_audio", str(path))


def test_samples_that_are_no_numbers(tmp_path):
    samples = noise(1, 16_000)
    samples[77] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, 16_000, subtype="FLOAT")
    with pytest.raises(AudioError) as caught:
        list(stream(str(tmp_path / "nan.wav")))
    assert caught.value.kind == "non_finite_samples"
