"""Whisper with word times: the transcriber beside transformers' own pipeline, in turn, on the same clips and one core.

    python -m benchmarks.speed.whisper --clips 8 --rounds 5

The network is about Whisper tiny's size with random weights, saved in half precision as large-v3 and turbo are. The
other side is transformers' recognition pipeline, asked for word times, with the language detected beforehand: how
emoray called it before. Printed: how many times as fast, least and most; whether texts and times are equal; memory per
clip.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.speed.datasets import voices
from benchmarks.speed.measure import Contender, rounds, speed_ratio
from benchmarks.speed.peers.protocol import serve, task
from benchmarks.tiny import Size, make

from emoray.audio.io import AUDIO_HZ

SIDES = ("emoray", "pipeline")
#: What a random network writes, it writes to the end: as many tokens as a sentence of real speech has.
SIZE = Size(width=384, layers=4, answer_tokens=48)


def main() -> None:
    if len(sys.argv) == 2 and sys.argv[1].endswith(".json"):
        run_side(task())
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--batch", type=int, default=2, help="clips at a time; the pipeline takes half a GiB for each")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--language", help="given; without it, it is detected")
    parser.add_argument("--untimed", action="store_true", help="a checkpoint without alignment heads")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="emoray-whisper-") as work:
        figures = measure(Path(work), given, timed=not given.untimed)
    print(json.dumps(figures, indent=1))
    if given.out:
        given.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def measure(folder: Path, given: argparse.Namespace, *, timed: bool) -> dict[str, Any]:
    """Both sides in turn."""
    size = Size(SIZE.width, SIZE.layers, SIZE.answer_tokens, timed)
    common = {
        "model": _in_half_precision(make("whisper", folder / "whisper", size=size)),
        "clips": str(folder / "clips.npz"),
        "language": given.language,
        "batch": given.batch,
    }
    np.savez(common["clips"], *voices(folder, given.clips))
    command = (sys.executable, "-m", "benchmarks.speed.whisper")
    show = functools.partial(print, file=sys.stderr, flush=True)
    tasks = {name: {"side": name, "out": str(folder / f"{name}.out"), **common} for name in SIDES}
    with (
        Contender(SIDES[0], command, tasks[SIDES[0]], folder) as ours,
        Contender(SIDES[1], command, tasks[SIDES[1]], folder) as theirs,
    ):
        readings = rounds([ours, theirs], given.rounds, show)
    measurement = speed_ratio("whisper", "seconds of the pipeline over ours", readings, *SIDES)
    found = {name: readings[name][-1].results for name in SIDES}
    pairs = list(zip(*(found[name]["heard"] for name in SIDES), strict=True))
    return {
        "ratio": {"median": measurement.median, "min": min(measurement.ratios), "max": max(measurement.ratios)},
        "seconds": measurement.seconds,
        "clips": given.clips,
        "equal": {part: sum(a[part] == b[part] for a, b in pairs) for part in ("text", "language", "words")},
        "mib_per_clip": {
            name: round(max(one.results["peak_bytes"] for one in readings[name]) / given.batch / 2**20, 1)
            for name in SIDES
        },
    }


def run_side(given: dict[str, Any]) -> None:
    """One side, in its own process."""
    import torch

    torch.set_num_threads(1)
    with np.load(given["clips"]) as file:
        clips = [file[name] for name in file.files]
    recognise = {"emoray": _emoray, "pipeline": _pipeline}[given["side"]](given["model"], given["language"])
    found: dict[str, Any] = {}

    def work() -> None:
        before = _reset_peak()
        batches = [clips[start : start + given["batch"]] for start in range(0, len(clips), given["batch"])]
        found["heard"] = [heard for batch in batches for heard in recognise(batch)]
        found["peak_bytes"] = _status_bytes("VmHWM") - before

    serve(work, found=lambda: found)


def _emoray(model: str, language: str | None) -> Any:
    from emoray.stages.transcribe.whisper import Whisper

    whisper = Whisper(model, "cpu", "float32")

    def recognise(clips: list[np.ndarray]) -> list[dict[str, Any]]:
        return [
            {"text": heard.text, "language": heard.language, "words": heard.words}
            for heard in whisper.recognise(clips, language)
        ]

    return recognise


def _pipeline(model: str, language: str | None) -> Any:
    import torch
    import transformers

    processor = transformers.WhisperProcessor.from_pretrained(model)
    network = transformers.WhisperForConditionalGeneration.from_pretrained(model, dtype=torch.float32).eval()
    settings = network.generation_config
    timed = getattr(settings, "alignment_heads", None) is not None
    if timed:
        network.set_attn_implementation("eager")
    settings.update(num_beams=1, do_sample=False)
    pipeline = transformers.AutomaticSpeechRecognitionPipeline(
        model=network, tokenizer=processor.tokenizer, feature_extractor=processor.feature_extractor
    )
    codes = {number: code.strip("<|>") for code, number in settings.lang_to_id.items()}

    def detect(clips: list[np.ndarray]) -> list[str]:
        features = processor.feature_extractor(clips, sampling_rate=AUDIO_HZ, return_tensors="pt").input_features
        with torch.inference_mode():
            return [codes[int(token)] for token in network.detect_language(input_features=features)]

    def recognise(clips: list[np.ndarray]) -> list[dict[str, Any]]:
        languages = [language] * len(clips) if language else detect(clips)
        outputs = pipeline(
            [{"raw": samples, "sampling_rate": AUDIO_HZ} for samples in clips],
            batch_size=len(clips),
            return_timestamps="word" if timed else None,
            generate_kwargs={"language": languages, "task": "transcribe"},
        )
        return [
            {"language": spoken, **_as_ours(output, len(samples) / AUDIO_HZ, timed=timed)}
            for output, samples, spoken in zip(outputs, clips, languages, strict=True)
        ]

    return recognise


def _as_ours(output: dict[str, Any], duration_s: float, *, timed: bool) -> dict[str, Any]:
    """Text and words that begin within the clip."""
    if not timed:
        return {"text": output["text"].strip(), "words": None}
    heard = [chunk for chunk in output["chunks"] if chunk["text"].strip() and chunk["timestamp"][0] < duration_s]
    words = [[chunk["text"].strip(), chunk["timestamp"][0], chunk["timestamp"][1] or duration_s] for chunk in heard]
    return {"text": "".join(chunk["text"] for chunk in heard).strip(), "words": words}


def _in_half_precision(folder: str) -> str:
    """The same checkpoint saved in float16."""
    import transformers

    network = transformers.WhisperForConditionalGeneration.from_pretrained(folder)
    network.half().save_pretrained(folder)
    return folder


def _reset_peak() -> int:
    """Forget the largest memory of this process so far; what it has now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status_bytes("VmRSS")


def _status_bytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main()
