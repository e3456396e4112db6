"""Two-speaker dialogues of the synthetic corpus: a turn's label carries over to the next turn.

Only labels change, not how a turn is spoken: a model of the previous turns can learn it, one of single turns
cannot. The corpus tests the software; it is no evidence about people.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from emoray.corpora.synthetic.plan import HIGHEST, LOWEST, Speaker, UtterancePlan

#: Middle of the label scale, which carries nothing over.
MIDDLE = 0.5

Work = list[tuple[Speaker, list[UtterancePlan]]]


def converse(work: Work, seed: int, turns: int, carry_over: float, label_noise_sd: float) -> Work:
    """Let neighbouring speakers of a split take turns, and carry each turn's labels over to the next.

    With o_t what turn t is spoken with (words and delivery), x_t its label without label noise, c the carry-over: x_1 =
    o_1, x_t = ½ + sqrt(1 − c²) (o_t − ½) + c (x_{t−1} − ½), cut to the range of what is planted. Labels spread about as
    widely as without, and the class, which follows from V and A, carries over too.

    Args:
        work: Speakers with what they say, in order; the speakers of a split are neighbours.
        seed: Seed of the label noise, drawn again for each pair.
        turns: Turns of a dialogue; the last dialogue of a pair may be shorter.

    Raises:
        ValueError: A split has an odd number of speakers.
    """
    spoken: Work = []
    for pair in range(0, len(work) - 1, 2):
        (one, _), (other, _) = work[pair : pair + 2]
        if one.split != other.split:
            break
        rng = np.random.default_rng([seed, 2, pair])
        plans = [plan for both in zip(*(plans for _, plans in work[pair : pair + 2]), strict=True) for plan in both]
        labelled: list[UtterancePlan] = []
        for number, start in enumerate(range(0, len(plans), turns)):
            name = f"{one.speaker_id}-{other.speaker_id}-{number:02d}"
            labelled += _carry(plans[start : start + turns], name, carry_over, label_noise_sd, rng)
        spoken += [(one, labelled[0::2]), (other, labelled[1::2])]
    if len(spoken) != len(work):
        raise ValueError(f"split {work[len(spoken)][0].split!r} has an odd number of speakers")
    return spoken


def _carry(
    plans: Sequence[UtterancePlan], dialogue_id: str, carry_over: float, label_noise_sd: float, rng: np.random.Generator
) -> list[UtterancePlan]:
    said = []
    before = None
    for turn, plan in enumerate(plans):
        planted = np.array(plan.planted) - MIDDLE
        if before is not None:
            planted = np.sqrt(1 - carry_over**2) * planted + carry_over * before
        before = np.clip(planted, LOWEST - MIDDLE, HIGHEST - MIDDLE)
        label = np.clip(before + MIDDLE + rng.normal(0, label_noise_sd, size=3), 0, 1)
        said.append(
            replace(
                plan,
                planted=tuple((before + MIDDLE).tolist()),
                label=tuple(label.tolist()),
                dialogue_id=dialogue_id,
                turn=turn,
            )
        )
    return said
