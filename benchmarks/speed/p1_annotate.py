"""P1: utterances/s of annotate on one machine, compared with the same stages in a bare loop on the same cores."""

from __future__ import annotations

from pathlib import Path

from benchmarks.speed.datasets import Scale, synthetic
from benchmarks.speed.measure import EMORAY, Contender, Measurement, rounds, speed_ratio


def measure(folder: Path, scale: Scale) -> list[Measurement]:
    """Annotate a synthetic corpus from scratch, with both contenders in turn."""
    theirs = {"overrides": synthetic(folder / "bare", scale.clips), "cores": scale.cores}
    ours = {"overrides": synthetic(folder / "ray", scale.clips)}
    with (
        Contender("annotate", EMORAY, {"what": "annotate", **ours}, folder) as on_ray,
        Contender("bare loop", EMORAY, {"what": "bare loop", **theirs}, folder) as bare,
    ):
        readings = rounds([on_ray, bare], scale.pairs, scale.show)
    complete = {contender: reading[-1].results["complete"] for contender, reading in readings.items()}
    if len(set(complete.values())) > 1:
        raise RuntimeError(f"the contenders completed different numbers of utterances: {complete}")
    what = f"utterances/s of annotate over a bare loop's, {complete[bare.name]} clips, {scale.cores} cores"
    return [speed_ratio("annotate_vs_bare_loop", what, readings, on_ray.name, bare.name)]
