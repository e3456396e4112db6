"""annotate on a real S3 API that throttles, delays and breaks off: the same tables, whole files, or a reason."""

from __future__ import annotations

import io
import re

import pyarrow.parquet as pq
import pytest
import soundfile
from annotate_kit import (
    CORPUS,
    assert_same_value,
    by_hand,
    config_for,
    leave_out_encoder,
    stored,
    utterance,
)
from s3_faults import BUCKET, KEYS, faulty_s3
from scoring_kit import speech

from emoray.audio.io import AUDIO_HZ
from emoray.config import to_yaml
from emoray.lake.tables import Lake
from emoray.schema import utterances_table
from emoray_jobs.annotate import job as annotate
from emoray_jobs.annotate.state import state as annotation_state
from emoray_jobs.annotate.summary import Counts
from emoray_jobs.cli import main

pytestmark = pytest.mark.long

CLIPS = 8


def s3_config(address: str, *overrides: str):
    options = [f"lake.storage_options.{name}={value}" for name, value in {**KEYS, "endpoint_url": address}.items()]
    return config_for(f"s3://{BUCKET}/lake", *options, *overrides)


def make_s3_corpus(config) -> None:
    """Clips and their table, all on s3://."""
    lake, rows = Lake(config.lake), []
    for number in range(CLIPS):
        file = io.BytesIO()
        soundfile.write(file, speech(1.5, 110.0 + 30 * (number % 4), seed=number), AUDIO_HZ, format="WAV")
        rows.append(utterance(number, lake.write_bytes(file.getvalue(), "audio", f"u{number:03d}.wav")))
    lake.write_utterances(CORPUS, utterances_table(rows))


def test_throttled_slow_and_cut_short_it_still_gives_the_same_tables(ray_session, monkeypatch):
    leave_out_encoder(monkeypatch)
    with faulty_s3() as (faults, address):
        config = s3_config(address)
        make_s3_corpus(config)
        faults.slow_down_every, faults.cut_every, faults.delay_s = 13, 5, 0.02
        result = annotate.run(config)
        assert faults.slowed > 5
        assert faults.cut > 1
        faults.slow_down_every = faults.cut_every = 0
        assert result.counts == Counts(CLIPS, CLIPS, 0, 0, {})
        lake = Lake(config.lake)
        for path in lake.fs.find(lake.path("annotations")):
            with lake.fs.open(path) as file:
                pq.read_table(file)  # only whole files, though half of some arrived
        expected = by_hand(config, annotation_state(lake, config.corpus.name, config.annotate))
        for stage, table in stored(config, result.fingerprints).items():
            assert table["utterance_id"].to_list() == [f"u{number:03d}" for number in range(CLIPS)]
            for row in table.iter_rows(named=True):
                name = row["utterance_id"]
                assert_same_value(row["value"], expected[stage][name].value, f"{stage} {name}")


@pytest.mark.parametrize(
    ("root", "deny", "reason"),
    [
        ("s3://no-such-bucket/lake", False, "no such bucket. Create it, or fix the address"),
        (f"s3://{BUCKET}/lake", True, "not allowed .*Check the permissions; on s3:// the credentials"),
    ],
)
def test_what_cannot_pass_is_not_retried_and_says_what_to_do(tmp_path, capsys, root, deny, reason):
    with faulty_s3() as (faults, address):
        config = s3_config(address)
        config = config.model_copy(update={"lake": config.lake.model_copy(update={"root": root})})
        file = tmp_path / "config.yaml"
        file.write_text(to_yaml(config))
        faults.deny = deny
        before = faults.requests
        assert main(["annotate", "--config", str(file)]) == 1
        assert faults.requests - before <= 3
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"error: {root}")
    assert re.search(reason, error), error
