"""P2: transcription of clips of mixed length by a small Whisper with random weights, compared with other tools.

Ours is annotate's executor with the stages decode and transcribe. All contenders have the same model, clips and cores,
and greedy decoding with the language given; their texts are compared. The model writes the same number of tokens for
every clip, so these figures do not show what batches of equal length save with a real model.
"""

from __future__ import annotations

import sys
from pathlib import Path

import soundfile
from benchmarks.speed import environments
from benchmarks.speed.datasets import Scale, voices
from benchmarks.speed.measure import EMORAY, Contender, Measurement, rounds, speed_ratio
from benchmarks.tiny import Size, make

from emoray.audio.io import AUDIO_HZ
from emoray.lake.tables import Lake, LakeConfig
from emoray.schema import empty_row, utterances_table

CORPUS = "mixed"
MODEL = Size(width=256, layers=4, answer_tokens=48, timed=False)
OBJECT_STORE_MIB = 1024
#: Peer → its program, its environment (None: ours), and its clips per batch.
PEERS: dict[str, tuple[str, str | None, int]] = {
    "hf_pipeline": ("hf_pipeline.py", None, 8),
    "ray_data": ("ray_data.py", None, 8),
    "daft": ("daft_asr.py", "daft", 8),
    "data_juicer": ("data_juicer_asr.py", "data-juicer", 8),
}
OUR_BATCH = 8


def measure(folder: Path, scale: Scale) -> list[Measurement]:
    """Ours and every peer in turn; a peer that cannot be installed is reported and left out."""
    import contextlib

    model = make("whisper", folder / "whisper", size=MODEL)
    clips = _clips(folder, scale.asr_clips)
    overrides = [
        f"lake.root={folder / 'lake'}",
        f"corpus.name={CORPUS}",
        "annotate.transcribe.kind=whisper",
        f"annotate.transcribe.whisper.model={model}",
        "annotate.transcribe.whisper.language=en",
        f"annotate.batch_rows={OUR_BATCH}",
        "summary.track=false",
        f"cluster.num_cpus={scale.cores}",
        f"cluster.object_store_mib={OBJECT_STORE_MIB}",
    ]
    with contextlib.ExitStack() as stack:
        contenders = [
            stack.enter_context(Contender("emoray", EMORAY, {"what": "transcribe", "overrides": overrides}, folder))
        ]
        for name, (program, environment, batch) in PEERS.items():
            try:
                python = str(environments.python(environment)) if environment else sys.executable
            except environments.NotInstalledError as missing:
                scale.show(f"{name}: not measured: {missing}")
                continue
            task = {
                "clips": clips,
                "model": model,
                "cores": scale.cores,
                "batch": batch,
                "out": str(folder / f"{name}.out"),
                "object_store_bytes": OBJECT_STORE_MIB * 2**20,
            }
            command = (python, str(environments.script(program)))
            contenders.append(stack.enter_context(Contender(name, command, task, folder)))
        readings = rounds(contenders, scale.pairs, scale.show)
    texts = readings["emoray"][-1].results
    what = f"clips/s over {{}}'s, {len(clips)} clips of mixed length, Whisper {MODEL.layers} × {MODEL.width}"
    measurements = []
    for contender in contenders[1:]:
        theirs = readings[contender.name][-1].results
        equal = sum(theirs[name] == texts.get(name) for name in clips)
        note = f"{equal} of {len(clips)} texts equal"
        name = f"asr_vs_{contender.name}"
        measurements.append(speed_ratio(name, what.format(contender.name), readings, "emoray", contender.name, note))
    return measurements


def _clips(folder: Path, count: int) -> dict[str, str]:
    """Write the clips and their table; utterance_id → path."""
    clips, rows = {}, []
    for number, samples in enumerate(voices(folder, count)):
        name, path = f"m{number:05d}", folder / f"p2-{number:05d}.wav"
        soundfile.write(path, samples, AUDIO_HZ, subtype="PCM_16")
        clips[name] = str(path)
        seconds = len(samples) / AUDIO_HZ
        row = {"utterance_id": name, "corpus": CORPUS, "audio_uri": str(path), "duration_s": seconds}
        rows.append(empty_row() | row)
    lake = Lake(LakeConfig(root=str(folder / "lake"), storage_options={}))
    lake.write_utterances(CORPUS, utterances_table(rows))
    return clips
