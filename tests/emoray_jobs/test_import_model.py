"""import-model: a public checkpoint becomes a version that scores and is judged as any other."""

from __future__ import annotations

import jobs_kit
import pytest
import torch
from jobs_kit import CORPUS, config, store, write_corpus
from public_checkpoints_kit import SMALL, write_odyssey, write_wav2vec2_dim

from emoray.errors import ConfigError
from emoray.lake.tables import Lake
from emoray.registry import versions
from emoray.registry.publish.log import CARD
from emoray_jobs import cli, import_model
from emoray_jobs.evaluate import job as evaluate
from emoray_jobs.score import job as score


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A lake with a corpus, which no version was trained on, and a public checkpoint."""
    folder = tmp_path_factory.mktemp("import")
    torch.manual_seed(5)
    write_wav2vec2_dim(folder / "dim", **SMALL)
    made = config(folder / "lake")
    write_corpus(Lake(made.lake))
    return made, folder


def test_it_is_registered_scored_and_judged(place, capsys):
    made, folder = place
    overrides = [f"--set={item}" for item in (f"lake.root={made.lake.root}", *jobs_kit.SMALL)]
    assert cli.main(["import-model", str(folder / "dim"), "--scale", "1", "7", "--champion", *overrides]) == 0
    said = capsys.readouterr().out
    for part in (
        "Licence by its card: cc-by-nc-sa-4.0",
        "Its outputs: arousal, dominance, valence; here: valence, arousal, dominance. Scale: 1 to 7.",
        "Version 1 of emoray, alias champion.",
    ):
        assert part in said
    version = versions.by_alias(store(made), versions.CHAMPION)
    assert version.tags["emoray.licence"] == "cc-by-nc-sa-4.0"
    card = (versions.model_folder(store(made), version) / "artifacts" / CARD).read_text()
    assert "by their card: cc-by-nc-sa-4.0" in card
    assert "arXiv 2203.07378" in card

    clip = Lake(made.lake).utterances(CORPUS, ["audio_uri"])["audio_uri"][0].as_py()
    (one,) = score.run(made, sources=[clip]).scores
    assert (one["error"], one["value"]["level"], one["value"]["scale"]) == (None, "audio", [1.0, 7.0])
    assert one["value"]["valence"]["low"] is None
    report = evaluate.run(made, model="champion").reports[0]
    assert list(report.metrics["levels"]) == ["audio"]
    assert report.metrics["n_clips"] == 18


def test_the_same_files_are_imported_once(place):
    made, folder = place
    before = import_model.run(made, source=str(folder / "dim"))
    again = import_model.run(made, source=str(folder / "dim"))
    assert again.version == before.version
    assert (again.reused, again.alias) == (True, None)
    # A call that was killed before it named its version is made good by the next.
    versions.drop_alias(store(made), versions.CHALLENGER)
    assert import_model.run(made, source=str(folder / "dim")).alias == versions.CHALLENGER
    # On another scale it is another version: its scores have other units.
    other = import_model.run(made, source=str(folder / "dim"), scale=(1.0, 5.0))
    assert (other.reused, other.scale) == (False, (1.0, 5.0))
    assert other.version != before.version


def test_one_whose_encoder_lies_elsewhere_becomes_the_challenger(place):
    made, folder = place
    _, wavlm = write_odyssey(folder / "odyssey", **SMALL)
    import_model.run(made, source=str(folder / "dim"), champion=True)
    result = import_model.run(made, source=str(folder / "odyssey"), encoder=str(wavlm), champion=True)
    assert (result.alias, result.licence, result.scale) == ("challenger", "mit", None)
    # Without a scale the scores have no corpus units.
    clip = Lake(made.lake).utterances(CORPUS, ["audio_uri"])["audio_uri"][0].as_py()
    (one,) = score.run(made, sources=[clip], model="challenger").scores
    assert (one["error"], one["value"]["scale"], one["value"]["valence"]["corpus"]) == (None, None, None)


def test_what_cannot_be_found_is_named_and_nothing_is_registered(place, tmp_path, monkeypatch):
    made, _ = place
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    count = len(versions.all_versions(store(made)))
    with pytest.raises(ConfigError, match="no such folder"):
        import_model.run(made, source=str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match=r"cannot fetch 'nobody/nothing'.*or give a folder"):
        import_model.run(made, source="nobody/nothing")
    assert len(versions.all_versions(store(made))) == count
