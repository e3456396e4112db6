"""The command over a corpus in which one clip in six is bad, in ten ways."""

from __future__ import annotations

import os

import polars as pl
from annotate_kit import CHEAP_STAGES, config_for, leave_out_encoder
from benchmarks.clips import BAD, make_bad_clips, make_clips, utterance, write_corpus

from emoray.config import to_yaml
from emoray.lake.tables import Lake
from emoray_jobs.annotate.state import state as annotation_state
from emoray_jobs.cli import main
from emoray_jobs.pipeline import pending

GOOD = 50


def test_all_good_clips_come_through_and_the_exit_status_tells_whether_too_many_were_bad(
    tmp_path, ray_session, monkeypatch, capsys
):
    leave_out_encoder(monkeypatch)
    rows = make_clips(tmp_path / "good", GOOD)
    bad = make_bad_clips(tmp_path / "bad", GOOD, len(BAD))
    places = {"folder": tmp_path, "below a file": tmp_path / "good" / "000000.wav" / "clip.wav"}
    for number, place in enumerate(places.values(), start=GOOD + len(BAD)):
        bad[f"c{number:06d}"] = utterance(number, str(place), None), "missing_file"
    os.mkfifo(tmp_path / "pipe.wav")  # nobody will ever write into it
    bad["c000099"] = utterance(99, str(tmp_path / "pipe.wav"), None), "not_audio"
    config = config_for(tmp_path / "lake", "corpus.name=clips", "annotate.max_error_fraction=0.25")
    lake = Lake(config.lake)
    write_corpus(lake, rows + [row for row, _ in bad.values()])
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config))
    assert main(["annotate", "--config", str(file)]) == 0
    assert f"{GOOD} complete + 0 partial + {len(bad)} quarantined" in capsys.readouterr().out

    fingerprints = annotation_state(lake, config.corpus.name, config.annotate).fingerprints
    ids = pl.Series(lake.utterances(config.corpus.name, ["utterance_id"])["utterance_id"]).sort()
    assert len(ids) == GOOD + len(bad)
    for stage in CHEAP_STAGES:
        answers = pending.outcome_status(lake, stage, fingerprints[stage], ids)
        assert answers["answered"].all()
        failed = {name: kind for name, kind in zip(ids, answers["failed"], strict=True) if kind}
        kinds = {name: kind if stage == "decode" else "missing_input" for name, (_, kind) in bad.items()}
        assert failed == kinds, stage
    assert {error["type"] for error in pending.errors(lake, "decode", fingerprints["decode"]).values()} == {
        kind for _, kind in BAD.values()
    }

    assert main(["annotate", "--config", str(file), "--set", "annotate.max_error_fraction=0.1"]) == 1
    printed = capsys.readouterr()
    assert f"{len(bad)} quarantined" in printed.out  # the summary is there all the same
    error = printed.err.strip().splitlines()[-1]
    assert f"{len(bad)} of {GOOD + len(bad)} utterances failed" in error
    assert "--retry-failed" in error
