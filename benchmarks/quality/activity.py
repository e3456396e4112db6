"""Accuracy and cost of voice activity detection on utterances whose times are known, in noise.

    python -m benchmarks.quality.activity [--voices 12] [--emodb FOLDER] [--hours 0]

Synthesised clips, whose first and last word are known to the millisecond, are joined with pauses of 0.6 to 2 s into one
recording with added noise. Printed per kind and level of noise: precision and recall over frames of 32 ms between first
and last word, the share of utterances that are found as exactly one, and the errors of their start and end without
padding (median, positive: too late; 95th percentile of the absolute error). `--emodb` does the same with real voices
(German, acted), where a clip's ends count as the truth, silence at its edges included. `--hours` segments a recording
of that length and prints memory and time. The figures do not cover far microphones, music, or overlapping speech.
"""

from __future__ import annotations

import argparse
import glob
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
import torch

from emoray.audio.activity import FRAME_S, Span, speech_frames, utterances
from emoray.audio.io import AUDIO_HZ
from emoray.audio.quality import snr_db
from emoray.audio.silero import SpeechDetector
from emoray.config import read_preset, validate
from emoray.corpora.segment import VadConfig, find_utterances
from emoray.corpora.synthetic.build import SyntheticConfig, build
from emoray.lake.tables import Lake, LakeConfig

Samples = npt.NDArray[np.float32]
GAP_S = (0.6, 2.0)
LEVELS_DB = (30, 20, 10, 5, 0)
CLIPS_PER_VOICE = 4


@dataclass(frozen=True)
class Recording:
    """Joined clips: the samples, and the start and end of each clip's speech."""

    samples_S: Samples
    spans: list[Span]


def synthesised(folder: str, voices: int) -> list[tuple[Samples, float, float]]:
    """(samples, start of the first word, end of the last) of synthesised clips."""
    share = {"train": voices - 3, "dev": 1, "gate": 1, "test": 1}
    options: dict[str, Any] = {"seed": 11, "opposed_fraction": 0.45, "label_noise_sd": 0.07, "processes": 2}
    options |= {"dialogue_turns": 0, "carry_over": 0.0}
    per_voice = dict.fromkeys(share, CLIPS_PER_VOICE)
    config = SyntheticConfig.model_validate({**options, "speakers": share, "utterances_per_speaker": per_voice})
    lake = Lake(LakeConfig(root=folder, storage_options={}))
    rows = build("voices", config, lake, lambda _done, _total: None).to_pylist()
    return [
        (soundfile.read(row["audio_uri"], dtype="float32")[0], row["words"][0]["start_s"], row["words"][-1]["end_s"])
        for row in rows
    ]


def real(folder: str) -> list[tuple[Samples, float, float]]:
    """EMO-DB clips, which count as speech from start to end."""
    clips = [soundfile.read(path, dtype="float32")[0] for path in sorted(glob.glob(os.path.join(folder, "*.wav")))]
    return [(samples_S, 0.0, len(samples_S) / AUDIO_HZ) for samples_S in clips]


def joined(clips: list[tuple[Samples, float, float]], seed: int) -> Recording:
    """Clips in random order, pauses between them."""
    random = np.random.default_rng(seed)
    parts: list[Samples] = []
    spans, at = [], 0
    for number in random.permutation(len(clips)):
        samples_S, begin_s, end_s = clips[number]
        gap = round(random.uniform(*GAP_S) * AUDIO_HZ)
        parts += [np.zeros(gap, np.float32), samples_S]
        at += gap
        spans.append(Span(at / AUDIO_HZ + begin_s, at / AUDIO_HZ + end_s))
        at += len(samples_S)
    return Recording(np.concatenate([*parts, np.zeros(AUDIO_HZ, np.float32)]), spans)


def noise(kind: str, samples: int, clips: list[tuple[Samples, float, float]]) -> npt.NDArray[np.float64]:
    """White, pink (power falls by 3 dB per octave), or babble (eight voices at once), of power 1."""
    random = np.random.default_rng(1)
    if kind == "babble":
        sound_S = np.zeros(samples)
        for _ in range(8):
            order = random.permutation(len(clips))
            voice_S = np.concatenate([clips[number][0] / clips[number][0].std() for number in order])
            sound_S += np.resize(np.roll(voice_S, random.integers(len(voice_S))), samples)
    else:
        sound_S = random.standard_normal(samples)
        if kind == "pink":
            spectrum = np.fft.rfft(sound_S)
            spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
            sound_S = np.fft.irfft(spectrum, samples)
    return sound_S / np.sqrt(np.mean(np.square(sound_S)))


def with_noise(recording: Recording, kind: str, level_db: float, clips: list[tuple[Samples, float, float]]) -> Samples:
    """The recording with noise at a level below its speech."""
    edges = [(round(span.start_s * AUDIO_HZ), round(span.end_s * AUDIO_HZ)) for span in recording.spans]
    speech = np.concatenate([recording.samples_S[first:last] for first, last in edges])
    sd = np.sqrt(np.mean(np.square(speech, dtype=np.float64)) / 10 ** (level_db / 10))
    return (recording.samples_S + sd * noise(kind, len(recording.samples_S), clips)).astype(np.float32)


def evaluate(samples_S: Samples, spans: list[Span], config: VadConfig) -> dict[str, float]:
    """Compare the detected utterances with the truth."""
    speech_N = SpeechDetector().probabilities(samples_S)
    is_speech_N = speech_frames(speech_N, config.activity)
    centres_s = (np.arange(len(speech_N)) + 0.5) * FRAME_S
    true_N = np.zeros(len(speech_N), bool)
    for span in spans:
        true_N |= (centres_s >= span.start_s) & (centres_s < span.end_s)
    hits = float((true_N & is_speech_N).sum())
    duration_s, most_s = len(samples_S) / AUDIO_HZ, config.max_utterance_s
    found = utterances(speech_N, config.activity, duration_s=duration_s, pad_s=0.0, max_utterance_s=most_s)
    starts, ends = [], []
    for span in spans:
        overlapping = [one for one in found if one.start_s < span.end_s and one.end_s > span.start_s]
        only = overlapping[0] if len(overlapping) == 1 else None
        alone = only and sum(o.start_s < only.end_s and o.end_s > only.start_s for o in spans) == 1
        if only and alone:
            starts.append(only.start_s - span.start_s)
            ends.append(only.end_s - span.end_s)
    return {
        "precision": hits / max(1.0, is_speech_N.sum()),
        "recall": hits / true_N.sum(),
        "one_to_one": len(starts) / len(spans),
        "start_ms": 1000 * float(np.median(starts)) if starts else float("nan"),
        "end_ms": 1000 * float(np.median(ends)) if ends else float("nan"),
        "start_p95_ms": 1000 * float(np.percentile(np.abs(starts), 95)) if starts else float("nan"),
        "end_p95_ms": 1000 * float(np.percentile(np.abs(ends), 95)) if ends else float("nan"),
        "snr_db": snr_db(samples_S, is_speech_N) or float("nan"),
    }


def table(clips: list[tuple[Samples, float, float]], config: VadConfig) -> None:
    """Print a line per kind and level of noise."""
    recording = joined(clips, seed=0)
    print("noise    level dB  precision  recall  one to one  start ms (p95)   end ms (p95)   SNR measured dB")
    conditions = [("none", None), *((kind, level) for kind in ("white", "pink", "babble") for level in LEVELS_DB)]
    for kind, level_db in conditions:
        clean = level_db is None
        samples_S = recording.samples_S if clean else with_noise(recording, kind, level_db, clips)
        one = evaluate(samples_S, recording.spans, config)
        print(
            f"{kind:<9}{'' if clean else level_db:>8}{one['precision']:>11.3f}{one['recall']:>8.3f}"
            f"{one['one_to_one']:>12.3f}{one['start_ms']:>9.0f} ({one['start_p95_ms']:>4.0f})"
            f"{one['end_ms']:>9.0f} ({one['end_p95_ms']:>4.0f}){one['snr_db']:>15.1f}"
        )


def long_recording(clips: list[tuple[Samples, float, float]], hours: float, config: VadConfig, folder: str) -> None:
    """Segment a recording of many hours; print time and memory."""
    recording = joined(clips, seed=0)
    path, left = os.path.join(folder, "long.wav"), round(hours * 3600 * AUDIO_HZ)
    with soundfile.SoundFile(path, "w", AUDIO_HZ, 1, "PCM_16") as file:
        while left > 0:
            file.write(recording.samples_S[:left])
            left -= len(recording.samples_S)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as alone:
        found, cpu_s, wall_s, warm_mib, peak_mib = alone.submit(_measured, path, config).result()
    print(
        f"\n{hours:g} h in one file: {found} utterances, {cpu_s:.1f} s of a core ({wall_s:.1f} s on the clock),"
        f" {hours * 3600 / cpu_s:.0f} × real time; peak memory {peak_mib:.0f} MiB, after a minute of it {warm_mib:.0f}"
    )


def _measured(path: str, config: VadConfig) -> tuple[int, float, float, float, float]:
    """In its own process: utterances; CPU and wall seconds; peak MiB after a minute of audio, and after all."""
    torch.set_num_threads(1)
    find_utterances({"audio_uri": path, "start_s": None, "end_s": 60.0}, config)
    warm_mib = _peak_mib()
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    found = find_utterances({"audio_uri": path, "start_s": None, "end_s": None}, config)
    cpu_s, wall_s = time.process_time() - began_cpu_s, time.perf_counter() - began_s
    return len(found["spans"]), cpu_s, wall_s, warm_mib, _peak_mib()


def _peak_mib() -> float:
    """Largest resident memory of this process; getrusage's also counts that of the parent before it became this one."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voices", type=int, default=12, help="synthesised voices (default: %(default)s)")
    parser.add_argument("--emodb", help="folder with EMO-DB's wav files")
    parser.add_argument("--hours", type=float, default=0.0, help="also segment a recording of this many hours")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = validate(VadConfig, read_preset("laptop")["corpus"]["manifest"]["segment"]["vad"])
    with tempfile.TemporaryDirectory(prefix="emoray-activity-") as folder:
        clips = synthesised(folder, options.voices)
        print(f"synthesised: {len(clips)} clips of {options.voices} voices")
        table(clips, config)
        if options.emodb:
            voices = real(options.emodb)
            print(f"\nEMO-DB: {len(voices)} clips; a clip's ends count as the truth")
            table(voices, config)
        if options.hours:
            long_recording(clips, options.hours, config, folder)


if __name__ == "__main__":
    main()
