import json
from pathlib import Path

import pytest
import scoring_kit as kit
import torch
from error_kit import of_kind

from emoray.errors import RegistryError
from emoray.schema import DIMENSIONS
from emoray.scoring.bundle import open_bundle
from emoray.scoring.scorer import load_bundle
from emoray.stages.model_files.weights import revision


def test_a_bundle_gives_back_what_went_in(tmp_path):
    folder = kit.make_bundle(tmp_path / "b", seed=3)
    bundle = open_bundle(folder)
    torch.manual_seed(3)
    assert bundle.config == kit.model_config()
    assert bundle.scale == (1.0, 7.0)
    assert bundle.norms.hash == kit.norms().hash
    assert bundle.half_widths == kit.half_widths(kit.annotate_config())
    assert bundle.conformal_level == 0.9
    assert not bundle.model.training
    assert revision(str(folder / "text_encoder")) == revision("minilm")
    assert bundle.annotate.embed.model == str(folder / "text_encoder")


def test_no_pickle_in_a_bundle(tmp_path):
    folder = kit.make_bundle(tmp_path / "b")
    for path in folder.rglob("*"):
        if path.is_file():
            assert path.suffix in {".json", ".safetensors", ".txt"}, path
            assert path.read_bytes()[:2] not in (b"\x80\x04", b"\x80\x02", b"PK")


def test_an_older_bundle_is_replaced_whole(tmp_path):
    folder = kit.make_bundle(tmp_path / "b")
    (folder / "stray.txt").write_text("old")
    kit.make_bundle(tmp_path / "b", "acoustic")
    assert open_bundle(folder).config.name == "acoustic"
    assert not (folder / "stray.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("name", ["model.json", "model.safetensors", "stages.json", "norms.json", "conformal.json"])
def test_a_missing_file_is_named(tmp_path, name):
    folder = kit.make_bundle(tmp_path / "b", "acoustic")
    (folder / name).unlink()
    with pytest.raises(RegistryError, match=name, check=of_kind("bad_bundle")):
        open_bundle(folder)


def test_a_newer_format_and_damaged_files_are_refused(tmp_path):
    folder = kit.make_bundle(tmp_path / "b", "acoustic")
    document = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(document | {"format": 99}))
    with pytest.raises(RegistryError, match="99", check=of_kind("bad_bundle")):
        open_bundle(folder)
    (folder / "model.json").write_text(json.dumps(document))
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(RegistryError, check=of_kind("bad_bundle")):
        open_bundle(folder)


BEFORE = Path(__file__).parents[2] / "fixtures" / "bundle_2026_11"


def test_a_bundle_made_before_the_files_moved_scores_as_it_did():
    """Made by revision a9030b6 with `scoring_kit.make_bundle` and a tiny RoBERTa.

    Its scores lie beside it, and the descriptions that they rest on: cues were other words then. The second clip has no
    words: a description alone, which no figure was ever given for, is no longer used.
    """
    expected = json.loads(BEFORE.with_name("bundle_2026_11_scores.json").read_text(encoding="utf-8"))
    scorer = load_bundle(BEFORE)
    own = {"semantics": scorer.bundle.fingerprints["semantics"]}
    given = [{"stage_values": {"semantics": one["semantics"]}, "stage_fingerprints": own} for one in expected]
    clips = [
        kit.request(2.0, 150.0, **given[0]),
        kit.request(2.0, 150.0, transcript=None, words=None, **given[1]),
    ]
    full, wordless = scorer.score(clips)
    assert (wordless.level, wordless.used) == ("audio", ())
    for score, before in ((full, expected[0]),):
        assert score.level == before["level"]
        assert score.gates == pytest.approx(before["gates"], abs=1e-6)
        for dimension in DIMENSIONS:
            estimate = getattr(score, dimension)
            assert (estimate.value, estimate.low, estimate.high) == pytest.approx(before[dimension], abs=1e-6)


def test_a_bundle_fitted_with_other_cues_does_without_them_and_says_so():
    scorer = load_bundle(BEFORE)
    (score,) = scorer.score([kit.request()])
    assert list(scorer.stale_stages) == ["semantics"]
    assert (score.level, score.used) == ("transcript", ("les", "gs"))
    assert scorer.bundle.fingerprints["semantics"] in score.absent["es"]


def test_a_bundle_from_before_the_numbers_reads_text_alone(tmp_path):
    annotate = kit.annotate_config()
    without = annotate.model_copy(update={"embed": annotate.embed.model_copy(update={"semantics_numbers": False})})
    folder = kit.make_bundle(tmp_path / "b", annotate=without, text_width=384)
    stages = json.loads((folder / "stages.json").read_text())
    del stages["annotate"]["embed"]["semantics_numbers"]
    (folder / "stages.json").write_text(json.dumps(stages))
    scorer = load_bundle(folder)
    assert not scorer.bundle.annotate.embed.semantics_numbers
    assert scorer.stale_stages == {}
    assert scorer.score([kit.request()])[0].used == ("les", "gs", "es")


def test_a_bundle_from_before_a_section_of_the_encoder_has_the_presets(tmp_path):
    folder = kit.make_bundle(tmp_path / "b", "acoustic")
    document = json.loads((folder / "model.json").read_text())
    del document["config"]["encoder"]["moonshine"]
    document["config"]["encoder"]["logmel"].pop("dropout")
    (folder / "model.json").write_text(json.dumps(document))
    config = open_bundle(folder).config
    assert config.encoder.kind == "logmel"
    assert config.encoder.moonshine.revision is None
    assert config.width == kit.model_config().width
