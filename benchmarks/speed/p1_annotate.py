"""P1: utterances/s of annotate on one machine, against the same stages called in a bare loop on the same cores."""

from __future__ import annotations

from pathlib import Path

from benchmarks.speed.datasets import Scale, synthetic
from benchmarks.speed.measure import OWN, Contender, Measurement, against, rounds


def measure(folder: Path, scale: Scale) -> list[Measurement]:
    """Annotate a synthetic corpus from nothing, by both ways in turn."""
    theirs = {"overrides": synthetic(folder / "bare", scale.clips), "cores": scale.cores}
    ours = {"overrides": synthetic(folder / "ray", scale.clips)}
    with (
        Contender("annotate", OWN, {"what": "annotate", **ours}, folder) as on_ray,
        Contender("bare loop", OWN, {"what": "bare loop", **theirs}, folder) as bare,
    ):
        readings = rounds([on_ray, bare], scale.pairs, scale.show)
    complete = {side: reading[-1].results["complete"] for side, reading in readings.items()}
    if len(set(complete.values())) > 1:
        raise RuntimeError(f"the sides completed different numbers of utterances: {complete}")
    what = f"utterances/s of annotate over a bare loop's, {complete[bare.name]} clips, {scale.cores} cores"
    return [against("annotate_vs_bare_loop", what, readings, on_ray.name, bare.name)]
