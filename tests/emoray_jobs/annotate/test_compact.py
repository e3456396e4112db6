"""annotate --compact: the door to compaction and to the broom."""

from __future__ import annotations

import os
import time

import pyarrow as pa
from annotate_kit import config_for

from emoray.config import to_yaml
from emoray.lake.tables import Lake
from emoray.schema import stage_schema
from emoray_jobs.cli import main

SCHEMA = stage_schema(pa.struct([("x", pa.int64())]))
DAY_S = 24 * 3600


def test_every_table_of_the_lake_is_compacted_and_old_scratch_is_gone(tmp_path, capsys):
    config = config_for(tmp_path / "lake")
    lake = Lake(config.lake)
    for stage in ("decode", "prosody"):
        for name in "abca":
            row = {"utterance_id": name, "value": {"x": 1}, "error": None, "elapsed_s": 0.1}
            lake.append_stage(stage, "0123456789abcdef", pa.Table.from_pylist([row], SCHEMA))
    for name, age_s in (("dead", 2 * DAY_S), ("alive", 60)):
        lake.write_bytes(b"x", "work", name, "part-0.parquet")
        os.utime(lake.path("work", name, "part-0.parquet"), (time.time() - age_s,) * 2)
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config))

    assert main(["annotate", "--compact", "--config", str(file)]) == 0
    said = capsys.readouterr().out
    assert "8 replaced files stay for readers that are under way" in said
    assert "1 leftovers of killed runs removed" in said
    assert lake.list_folders("work") == ["alive"]
    for stage in ("decode", "prosody"):
        assert lake.dataset("annotations", stage, "0123456789abcdef").count_rows() == 3

    assert main(["annotate", "--compact", "--config", str(file), "--set", "annotate.compact_grace_s=0"]) == 0
    assert "leftovers" not in capsys.readouterr().out
    for stage in ("decode", "prosody"):
        assert len(lake.list_files("annotations", stage, "0123456789abcdef")) == 1
