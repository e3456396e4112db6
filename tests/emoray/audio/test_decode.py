import io
import threading

import fsspec
import numpy as np
import pytest
import soundfile
from moto.server import ThreadedMotoServer

from emoray.audio import AUDIO_HZ, AudioConfig, decode
from emoray.errors import AudioError, TransientError

CONFIG = AudioConfig(min_duration_s=0.1, max_duration_s=60, silence_dbfs=-70)


def tone(seconds=1.0, hz=AUDIO_HZ, frequency=440.0, amplitude=0.5):
    return (amplitude * np.sin(2 * np.pi * frequency * np.arange(round(seconds * hz)) / hz)).astype(np.float32)


def audio_bytes(samples, hz=AUDIO_HZ, kind="WAV", subtype=None):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, hz, format=kind, subtype=subtype)
    return buffer.getvalue()


def refused(source, **options):
    with pytest.raises(AudioError) as caught:
        decode(source, CONFIG, **options)
    assert caught.value.remedy
    return caught.value


def test_a_pcm16_clip_comes_back_sample_by_sample():
    samples = tone()
    waveform = decode(audio_bytes(samples), CONFIG)
    assert waveform.samples.dtype == np.float32
    np.testing.assert_allclose(waveform.samples, samples, atol=1 / 32768)
    assert (waveform.duration_s, waveform.source_hz, waveform.channels) == (1.0, 16000, 1)
    # A sine of amplitude a has an RMS of a / sqrt(2): -9.03 dBFS at one half.
    assert waveform.rms_dbfs == pytest.approx(-9.03, abs=0.01)
    assert waveform.clipped_fraction == 0


def test_8_khz_stereo_is_averaged_and_resampled():
    left, right = tone(2.0, 8000, 300.0, 0.4), tone(2.0, 8000, 500.0, 0.2)
    waveform = decode(audio_bytes(np.stack([left, right], axis=1), 8000), CONFIG)
    assert (waveform.source_hz, waveform.channels, waveform.duration_s) == (8000, 2, 2.0)
    assert len(waveform.samples) == 32000
    spectrum = np.abs(np.fft.rfft(waveform.samples)) * 2 / 32000
    assert spectrum[600] == pytest.approx(0.2, rel=0.02)  # 300 Hz at 2 bins per Hz, half of 0.4
    assert spectrum[1000] == pytest.approx(0.1, rel=0.02)


@pytest.mark.parametrize(
    ("kind", "subtype"), [("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III"), ("WAV", "FLOAT")]
)
def test_containers(tmp_path, kind, subtype):
    path = tmp_path / "clip"
    path.write_bytes(audio_bytes(tone(1.0, 44100), 44100, kind, subtype))
    waveform = decode(str(path), CONFIG)
    assert waveform.duration_s == pytest.approx(1.0, abs=0.06)  # lossy coders pad
    assert waveform.rms_dbfs == pytest.approx(-9.03, abs=0.3)


def test_a_span_is_the_same_part_of_the_clip():
    samples = tone(3.0) * np.linspace(0.1, 1, 48000, dtype=np.float32)
    content = audio_bytes(samples, subtype="FLOAT")
    waveform = decode(content, CONFIG, start_s=1.0, end_s=1.5)
    np.testing.assert_array_equal(waveform.samples, samples[16000:24000])
    assert waveform.duration_s == 0.5
    np.testing.assert_array_equal(decode(content, CONFIG, start_s=2.5).samples, samples[40000:])
    # Corpora round their ends: a span that reaches a little over the end of the file is cut there.
    np.testing.assert_array_equal(decode(content, CONFIG, start_s=2.5, end_s=3.01).samples, samples[40000:])


def test_a_span_of_a_long_recording_is_no_long_clip():
    content = audio_bytes(tone(70.0, 8000), 8000)
    assert refused(content).kind == "audio_too_long"
    assert decode(content, CONFIG, start_s=60.0, end_s=62.0).duration_s == 2.0


def test_missing_file(tmp_path):
    error = refused(str(tmp_path / "nowhere.wav"))
    assert error.kind == "missing_file"
    assert "nowhere.wav" in str(error)
    assert refused(str(tmp_path)).kind == "missing_file"


def test_empty_file(tmp_path):
    (tmp_path / "empty.wav").touch()
    assert refused(str(tmp_path / "empty.wav")).kind == "empty_file"
    assert refused(b"").kind == "empty_file"


def test_text_named_wav(tmp_path):
    (tmp_path / "text.wav").write_text("this is no audio\n" * 100)
    error = refused(str(tmp_path / "text.wav"))
    assert error.kind == "not_audio"
    assert "ffmpeg" in error.remedy


@pytest.mark.parametrize("kept", [0.5, 0.999, 0.01])
def test_a_wav_that_was_cut_off(kept):
    content = audio_bytes(tone(2.0))
    assert refused(content[: int(len(content) * kept)]).kind == "truncated_audio"


def test_a_wav_that_was_cut_in_its_header():
    assert refused(audio_bytes(tone())[:30]).kind == "truncated_audio"


def test_a_wav_from_a_pipe_that_did_not_know_its_length_is_whole():
    content = bytearray(audio_bytes(tone()))
    assert content[36:40] == b"data"
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    assert len(decode(bytes(content), CONFIG).samples) == 16000


def test_a_flac_that_was_cut_off():
    noise = np.random.default_rng(0).normal(0, 0.1, 32000)
    content = audio_bytes(noise, kind="FLAC")
    assert refused(content[: len(content) // 2]).kind == "truncated_audio"


def test_a_clip_of_50_ms():
    error = refused(audio_bytes(tone(0.05)))
    assert error.kind == "audio_too_short"
    assert "0.050 s" in str(error)


def test_a_span_behind_the_end_is_too_short():
    assert refused(audio_bytes(tone(1.0)), start_s=4.0, end_s=5.0).kind == "audio_too_short"


@pytest.mark.parametrize("samples", [np.zeros(16000), np.full(16000, 1e-5)])
def test_silence(samples):
    assert refused(audio_bytes(samples, subtype="FLOAT")).kind == "silent_audio"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers(bad):
    samples = tone()
    samples[100] = bad
    error = refused(audio_bytes(samples, subtype="FLOAT"))
    assert error.kind == "non_finite_samples"
    assert str(error).startswith("<")  # the bytes have no name


def test_clipping_is_measured():
    waveform = decode(audio_bytes(np.clip(tone(amplitude=2.0), -1, 1)), CONFIG)
    # |sin| stays above one half for two thirds of a period.
    assert waveform.clipped_fraction == pytest.approx(2 / 3, abs=0.02)


@pytest.fixture(scope="module")
def object_store():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    options = {"endpoint_url": f"http://{host}:{port}", "key": "k", "secret": "s", "use_listings_cache": False}
    fsspec.filesystem("s3", **options).mkdir("clips")
    yield options
    server.stop()


def test_clips_on_an_object_store(object_store):
    samples = tone(3.0)
    system = fsspec.filesystem("s3", **object_store)
    system.pipe_file("clips/one.wav", audio_bytes(samples, subtype="FLOAT"))
    whole = decode("s3://clips/one.wav", CONFIG, storage_options=object_store)
    np.testing.assert_array_equal(whole.samples, samples)
    part = decode("s3://clips/one.wav", CONFIG, start_s=1.0, end_s=2.0, storage_options=object_store)
    np.testing.assert_array_equal(part.samples, samples[16000:32000])
    assert refused("s3://clips/two.wav", storage_options=object_store).kind == "missing_file"
    assert refused("s3://nobucket/two.wav", storage_options=object_store).kind == "missing_file"


def test_a_store_that_does_not_answer_is_worth_a_retry():
    options = {
        "endpoint_url": "http://127.0.0.1:9", "key": "k", "secret": "s",
        "config_kwargs": {"retries": {"max_attempts": 0}, "connect_timeout": 2},
    }  # fmt: skip
    with pytest.raises(TransientError) as caught:
        decode("s3://clips/one.wav", CONFIG, storage_options=options)
    assert caught.value.retryable


def test_threads_may_decode_at_once():
    contents = [audio_bytes(tone(1.0, 8000, 200.0 + 50 * index), 8000) for index in range(8)]
    alone = [decode(content, CONFIG).samples for content in contents]
    together = [None] * 8

    def work(index):
        together[index] = decode(contents[index], CONFIG).samples

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)
