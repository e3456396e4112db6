"""MSP-Podcast challenge submissions: csv with `FileName,EmoAct,EmoVal,EmoDom`, in units of the corpus's scale.

The order differs from emoray's valence, arousal, dominance: activation comes before valence. The corpus's own
`labels_consensus.csv` and EMO-SUPERB's files have the same columns; manifests (emoray.corpora.manifest) know them.
"""

from __future__ import annotations

import csv
import posixpath
from collections.abc import Iterable

from emoray.errors import InputError
from emoray.interchange.label import ExportStats, Label
from emoray.schema import DIMENSIONS

#: Column → dimension, in the file's order.
COLUMNS = {"EmoAct": "arousal", "EmoVal": "valence", "EmoDom": "dominance"}
MSP_SCALE = (1.0, 7.0)


def write(path: str, labels: Iterable[Label], stats: ExportStats) -> None:
    """Write a submission; `stats` counts clips that are left out because a dimension or the scale is not known.

    Raises:
        InputError: Two clips of one audio file, or of different scales.
    """
    seen: dict[str, str] = {}
    scales: set[tuple[float, float]] = set()
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["FileName", *COLUMNS])
        for label in labels:
            name = posixpath.basename(label.audio_uri or "")
            missing = [dimension for dimension in DIMENSIONS if dimension not in label.raw]
            if missing or label.scale is None:
                without = f"no {missing[0]}" if missing and missing[0] not in label.values else "no scale"
                stats.left_out[without] += 1
                continue
            first = seen.setdefault(name, label.utterance_id)
            if first != label.utterance_id:
                raise InputError(
                    f"two clips have the file name {name}: {first} and {label.utterance_id}",
                    where="FileName",
                    remedy="A submission has one row per audio file: export another format, or fewer splits",
                    kind="duplicate_file",
                )
            scales.add(label.scale)
            if len(scales) > 1:
                shown = " and ".join(f"{low:g}..{high:g}" for low, high in sorted(scales))
                raise InputError(
                    f"the labels are on several scales: {shown}",
                    where=f"utterance {label.utterance_id}",
                    remedy="A submission is in units of one scale: export the corpora or models one by one",
                    kind="several_scales",
                )
            writer.writerow([name, *(repr(float(label.raw[dimension])) for dimension in COLUMNS.values())])
            stats.written += 1
    for low, high in scales - {MSP_SCALE}:
        stats.notes.append(f"The values are on {low:g}..{high:g}; MSP-Podcast's scale is 1..7")
