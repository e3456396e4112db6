"""P5 and P6: what is compared beside the times."""

from __future__ import annotations

from benchmarks.speed.measure import Reading
from benchmarks.speed.p6_lengths import compared, from_first_batch


def side(predictions: list[list[float]], before: float, after: float, **more: object) -> Reading:
    judged = {"before": {"predictions": predictions, "loss": before}, "after": {"predictions": [], "loss": after}}
    return Reading(1.0, 0, {**judged, **more})


def test_outputs_and_losses_of_both_trainers_are_put_side_by_side() -> None:
    ours = side([[0.5, 0.25, 0.75], [0.5, 0.5, 0.5]], 2.5, 1.25, losses=[2.0, 1.0, 0.5])
    peer = side([[0.5, 0.25, 0.75], [0.5, 0.5, 0.5004]], 2.5, 1.5, steps=4)
    said = compared(ours, peer)
    assert "differ by at most 4.0e-04" in said
    assert "loss on 2 clips 2.500 before, after: ours 1.250, Trainer 1.500" in said
    assert "Trainer's steps: 4, ours: 3" in said


def test_a_trainer_is_timed_from_its_first_batch_on() -> None:
    reading = from_first_batch(Reading(9.0, 7, {"seconds": 5.0}))
    assert (reading.seconds, reading.peak_bytes) == (5.0, 7)
