"""Peer of P4: `librosa.load` to 16 kHz mono, or `librosa.pyin` on the result; one thread."""

from __future__ import annotations

import time

import librosa
import numpy as np
from protocol import serve, task

TASK = task()
HZ = 16_000
LATEST: list[np.ndarray] = []


def load() -> None:
    """Decode and resample all files."""
    LATEST[:] = [librosa.load(path, sr=HZ, mono=True)[0] for path in TASK["clips"]]


def pitch() -> None:
    """F0 of all clips; the window holds almost four periods of the lowest F0 and is half as long as by default."""
    LATEST[:] = [
        np.nan_to_num(
            librosa.pyin(
                samples,
                sr=HZ,
                fmin=TASK["f0_floor_hz"],
                fmax=TASK["f0_ceiling_hz"],
                frame_length=1024,
                hop_length=round(TASK["hop_s"] * HZ),
            )[0]
        )
        for samples in SAMPLES
    ]


def found() -> str:
    """Path of the latest arrays."""
    np.savez(TASK["out"], *LATEST)
    return str(TASK["out"])


if __name__ == "__main__":
    load()
    SAMPLES = list(LATEST)
    serve({"decode": load, "f0": pitch}[TASK["what"]], found=found, clock=time.process_time)
