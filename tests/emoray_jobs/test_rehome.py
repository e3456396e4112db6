"""A lake that was copied: it refuses to write into the original, and after rehome promotes and scores as before."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import jobs_kit
import pytest
import scoring_kit
from error_kit import of_kind

from emoray.errors import InputError, RegistryError
from emoray.lake.tables import Lake
from emoray.registry import versions
from emoray.registry.promotion import crown_first
from emoray.registry.publish.log import log_bundle
from emoray_jobs import rehome

#: Lets in whatever loads.
LENIENT = ("promote.min_gain=-9", "promote.min_lower_bound=-9", "promote.max_condition_loss=null")
LENIENT += ("promote.max_group_loss=9", "promote.max_coverage_shortfall=null", "promote.max_loss={valence: null}")
LENIENT += ("promote.max_loss.arousal=null", "promote.max_loss.dominance=null", "promote.max_loss.uar=null")


def _tree(root):
    """Files and when they were written, without the store, which is read through SQLite's own files."""
    files = [path for path in root.rglob("*") if path.is_file() and "mlflow.db" not in path.name]
    return {path: os.stat(path).st_mtime_ns for path in files}


def emoray(root, *words):
    """The output of a command in a separate process: MLflow remembers, by run, where artifacts lie."""
    settings = [f"lake.root={root}", *jobs_kit.SMALL, *LENIENT]
    command = [sys.executable, "-m", "emoray_jobs", *words, *(word for one in settings for word in ("--set", one))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A lake with a corpus, a champion and a challenger."""
    root = tmp_path_factory.mktemp("original") / "lake"
    config = jobs_kit.config(root, *LENIENT)
    jobs_kit.write_corpus(Lake(config.lake))
    tracking = jobs_kit.store(config)
    for seed in (0, 1):
        bundle = scoring_kit.make_bundle(root.parent / f"b{seed}", "acoustic", seed=seed)
        version = log_bundle(tracking, tracking.start_run("made"), bundle, card="# A model", tags={})
        if seed == 0:
            crown_first(tracking, version, "test")
        else:
            versions.set_alias(tracking, versions.CHALLENGER, version)
    return root


@pytest.fixture
def copied(original, tmp_path):
    shutil.copytree(original, tmp_path / "copy")
    return jobs_kit.config(tmp_path / "copy", *LENIENT)


def test_a_copy_refuses_to_write_into_the_original(original, copied):
    with pytest.raises(RegistryError, match="emoray lake rehome", check=of_kind("moved_lake")):
        jobs_kit.store(copied)
    link = original.parent / "link"
    link.symlink_to(original)
    assert jobs_kit.store(jobs_kit.config(link)).client  # the same lake by another name


def test_after_rehome_the_copy_promotes_and_scores_as_before_and_leaves_the_original_alone(original, copied):
    own = Lake(jobs_kit.config(original).lake)
    clip = own.utterances(jobs_kit.CORPUS, ["audio_uri"])["audio_uri"][0].as_py()
    before = json.loads(emoray(original, "score", clip, "--json", "--model", "1"))
    files = _tree(original)
    done = rehome.run(copied)
    assert (done.before, done.root) == (str(original), copied.lake.root)
    clips = sum(speakers * count for speakers, count in jobs_kit.SPLITS.values())
    assert done.tables == {f"utterances/{jobs_kit.CORPUS}": clips}
    assert done.rows > 4
    lake = Lake(copied.lake)
    addresses = lake.utterances(jobs_kit.CORPUS, ["audio_uri"])["audio_uri"].to_pylist()
    assert all(one.startswith(f"{lake.root}/audio/") and os.path.isfile(one) for one in addresses)
    tracking = jobs_kit.store(copied)
    for version in versions.all_versions(tracking):
        assert str(versions.fetch(tracking, version)).startswith(lake.root)
    assert json.loads(emoray(lake.root, "promote", "--json"))["passed"]
    assert versions.by_alias(tracking, versions.CHAMPION).version == "2"
    after = json.loads(emoray(lake.root, "score", addresses[0], "--json", "--model", "1"))
    assert after["value"] == before["value"]
    assert _tree(original) == files
    assert rehome.run(copied).before == lake.root  # a second time there is nothing to do


def test_audio_elsewhere_keeps_its_address(copied):
    lake = Lake(copied.lake)
    table = lake.utterances(jobs_kit.CORPUS)
    place = table.column_names.index("audio_uri")
    outside = [
        f"{one}x/a.wav" if number else "s3://bucket/a.wav" for number, one in enumerate([lake.root] * len(table))
    ]
    lake.write_utterances(jobs_kit.CORPUS, table.set_column(place, table.schema.field(place), [outside]))
    done = rehome.run(copied)
    assert done.tables == {}
    assert lake.utterances(jobs_kit.CORPUS)["audio_uri"].to_pylist() == outside


def test_a_lake_without_a_store_asks_where_it_lay(original, copied):
    os.unlink(Lake(copied.lake).path("mlflow.db"))
    with pytest.raises(InputError, match="--before", check=of_kind("unknown_home")):
        rehome.run(copied)
    done = rehome.run(copied, before=f"{original}/")
    assert (sum(done.tables.values()) > 100, done.store) == (True, None)
