"""What goes into a packed training set: the corpus, within the filters."""

from __future__ import annotations

import contextlib

import pyarrow as pa
from jobs_kit import config, write_corpus

from emoray.lake.tables import Lake
from emoray.schema import stage_schema
from emoray.stages import pipeline
from emoray.stages.conditions import FittedCondition
from emoray.stages.decode import Decode
from emoray_jobs.train.training_set import ensure_training_set, training_keys

UNANNOTATED = [FittedCondition("unknown/reference", {}, "")]


def pack(settings, lake):
    with contextlib.ExitStack() as stack:
        return ensure_training_set(
            lake,
            settings.cluster,
            settings.launch,
            stack,
            corpus=settings.corpus.name,
            conditions=UNANNOTATED,
            model=settings.model,
            audio=settings.annotate.audio,
            keys=training_keys(lake, settings.corpus.name, settings.annotate, UNANNOTATED),
        )


def test_filtered_utterances_are_not_packed(tmp_path):
    everything = config(tmp_path, "launch.workers=0")
    lake = Lake(everything.lake)
    write_corpus(lake)
    ids = sorted(lake.utterances(everything.corpus.name)["utterance_id"].to_pylist())
    whole = pack(everything, lake)
    assert sorted(whole.frame["utterance_id"]) == ids

    filtered = config(tmp_path, "launch.workers=0", "annotate.filters.duration_s={min: 2.0}")
    measured = [{"utterance_id": name, "value": {"duration_s": 1.0 + 2.0 * (n % 2)}} for n, name in enumerate(ids)]
    decode = pipeline.fingerprints(filtered.annotate, None)["decode"]
    lake.append_stage("decode", decode, pa.Table.from_pylist(measured, stage_schema(Decode.value_type)))
    half = pack(filtered, lake)
    assert sorted(half.frame["utterance_id"]) == ids[1::2]
    assert half.set_hash != whole.set_hash
    assert pack(everything, lake).set_hash == whole.set_hash
