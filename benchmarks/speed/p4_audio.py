"""P4: hours of audio per core-hour. Decode and resample compared with librosa.load, F0 and energy with librosa.pyin.

Times are CPU times, so that other programs on the machine matter less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from benchmarks.speed import environments
from benchmarks.speed.datasets import Scale, voices
from benchmarks.speed.measure import EMORAY, Contender, Measurement, Reading, rounds, speed_ratio

from emoray.audio.io import AUDIO_HZ

#: (rate, channels, format, subtype) of the files, in turn, as in published corpora.
KINDS = (
    (16_000, 1, "WAV", "PCM_16"),
    (44_100, 2, "WAV", "PCM_16"),
    (48_000, 1, "WAV", "PCM_24"),
    (44_100, 1, "FLAC", "PCM_16"),
    (8_000, 1, "WAV", "PCM_16"),
)


def measure(folder: Path, scale: Scale) -> list[Measurement]:
    """Both comparisons, over the same files."""
    clips, seconds = _files(folder, scale.audio_clips)
    prosody = {"hop_s": 0.01, "f0_floor_hz": 60.0, "f0_ceiling_hz": 500.0}
    peer = (str(environments.python("librosa")), str(environments.script("librosa_audio.py")))
    measurements = []
    for what, files, name, text, compare in (
        ("decode", clips, "decode_vs_librosa", "decode and resample over librosa.load", _equal_samples),
        ("f0", clips[: scale.f0_clips], "prosody_vs_pyin", "F0 and energy over librosa.pyin", _agreeing_pitch),
    ):
        task = {"what": what, "clips": files, **prosody}
        hours = sum(seconds[: len(files)]) / 3600
        with (
            Contender(f"{what} ours", EMORAY, task | {"out": str(folder / f"{what}-ours.npz")}, folder) as ours,
            Contender(f"{what} librosa", peer, task | {"out": str(folder / f"{what}-peer.npz")}, folder) as theirs,
        ):
            readings = rounds([ours, theirs], scale.pairs, scale.show)
        note = f"{compare(readings[ours.name][-1], readings[theirs.name][-1])}; {_rates(readings, hours)}"
        measurements.append(speed_ratio(name, f"hours per core-hour, {text}", readings, ours.name, theirs.name, note))
    return measurements


def _files(folder: Path, count: int) -> tuple[list[str], list[float]]:
    paths, seconds = [], []
    for number, samples in enumerate(voices(folder, count)):
        hz, channels, container, subtype = KINDS[number % len(KINDS)]
        path = folder / f"p4-{number:04d}.{container.lower()}"
        resampled = soxr.resample(samples, AUDIO_HZ, hz) if hz != AUDIO_HZ else samples
        stereo = np.stack([resampled, 0.8 * resampled], axis=1)[:, :channels]
        soundfile.write(path, stereo, hz, format=container, subtype=subtype)
        paths.append(str(path))
        seconds.append(len(samples) / AUDIO_HZ)
    return paths, seconds


def _rates(readings: Mapping[str, Sequence[Reading]], hours: float) -> str:
    rates = {
        contender: hours / (np.median([reading.seconds for reading in taken]) / 3600)
        for contender, taken in readings.items()
    }
    return ", ".join(f"{name} {rate:,.0f} h per core-hour" for name, rate in rates.items())


def _arrays(reading: Reading) -> list[Any]:
    stored = np.load(reading.results)
    return [stored[name] for name in stored.files]


def _equal_samples(ours: Reading, theirs: Reading) -> str:
    pairs = list(zip(_arrays(ours), _arrays(theirs), strict=True))
    apart = max(float(np.abs(mine[: len(peer)] - peer[: len(mine)]).max()) for mine, peer in pairs)
    longer = max(abs(len(mine) - len(peer)) for mine, peer in pairs)
    return f"largest difference of a sample {apart:.1e} of full scale, of a length {longer}"


def _agreeing_pitch(ours: Reading, theirs: Reading) -> str:
    voiced, both, apart = [], [], []
    for mine, peer in zip(_arrays(ours), _arrays(theirs), strict=True):
        frames = min(len(mine), len(peer))
        mine_T, peer_T = mine[:frames], peer[:frames]
        together_T = (mine_T > 0) & (peer_T > 0)
        voiced.append((mine_T > 0) == (peer_T > 0))
        both.append(together_T)
        apart.append(np.abs(12 * np.log2(mine_T[together_T] / peer_T[together_T])))
    close = float(np.mean(np.concatenate(apart) < 0.5))
    return (
        f"same voicing in {np.mean(np.concatenate(voiced)):.0%} of the frames; where both find a pitch "
        f"({np.mean(np.concatenate(both)):.0%}), within half a semitone in {close:.0%}"
    )
