import dataclasses
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import mlflow
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scoring_kit as kit
from error_kit import of_kind

from emoray.config import read_preset
from emoray.errors import ConfigError, RegistryError
from emoray.lake.tables import Lake, LakeConfig
from emoray.registry import champion, clean_process, pyfunc, versions
from emoray.registry.candidate import Check, Latency
from emoray.registry.card import model_card
from emoray.registry.champion import champions
from emoray.registry.config import TrackingConfig
from emoray.registry.gate import Decision, measure_latency
from emoray.registry.history import History
from emoray.registry.promotion import promote, rollback
from emoray.registry.publish import example, shared
from emoray.registry.publish.log import CARD, log_bundle, pip_requirements
from emoray.registry.tracking import connect, tracking_uri
from emoray.scoring.bundle import open_bundle
from emoray.scoring.scorer import load_bundle

CONFIG = TrackingConfig(**read_preset("laptop")["tracking"])
PASSED = Decision(True, (Check("gain", True, "better"),), "gate", {"latency": {"p95_ms": 1.0}})
REFUSED = Decision(False, (Check("gain", False, "worse"),), "gate", {})


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    return Lake(LakeConfig(root=str(tmp_path_factory.mktemp("registry") / "lake"), storage_options={}))


@pytest.fixture(scope="module")
def tracking(lake):
    return connect(CONFIG, lake)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return kit.make_bundle(tmp_path_factory.mktemp("bundles") / "msf")


@pytest.fixture(scope="module")
def logged(tracking, bundle):
    run_id = tracking.start_run(
        "first", params={"train": {"seed": 7, "plan": {"batch_size": 4}}}, tags={"kind": "test"}
    )
    with tracking.running(run_id):
        card = model_card(
            open_bundle(bundle), title="Test model", corpus="synthetic", facts={"run": run_id}, synthetic=True
        )
        return log_bundle(tracking, run_id, bundle, card=card, tags={"config_hash": "abc", "seed": 7})


def _more_versions(tracking, logged, count):
    """Further versions of the same files: what aliases and histories are about is numbers."""
    made = []
    for _ in range(count):
        found = tracking.client.create_model_version(logged.name, source=logged.source, run_id=logged.run_id)
        made.append(versions.by_version(tracking, found.version))
    return made


def test_the_default_store_is_a_sqlite_file_in_the_lake(lake, tracking, monkeypatch):
    assert tracking.uri == f"sqlite:///{lake.path('mlflow.db')}"
    assert lake.exists("mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert tracking_uri(CONFIG, lake) == "http://127.0.0.1:5000"
    assert tracking_uri(CONFIG.model_copy(update={"uri": "sqlite:///x.db"}), lake) == "sqlite:///x.db"


def test_a_remote_lake_needs_a_server(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    remote = Lake(LakeConfig(root="s3://bucket/lake", storage_options={"anon": True}))
    with pytest.raises(ConfigError, match=r"tracking\.uri"):
        tracking_uri(CONFIG, remote)


def test_two_processes_may_open_a_new_store_at_once(tmp_path):
    code = (
        "import sys\n"
        "from emoray.config import read_preset\n"
        "from emoray.lake.tables import Lake, LakeConfig\n"
        "from emoray.registry.config import TrackingConfig\n"
        "from emoray.registry.tracking import connect\n"
        "lake = Lake(LakeConfig(root=sys.argv[1], storage_options={}))\n"
        "tracking = connect(TrackingConfig(**read_preset('laptop')['tracking']), lake)\n"
        "print(tracking.experiment_id, tracking.start_run('x'))\n"
    )
    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(
                subprocess.run,
                [sys.executable, "-c", code, str(tmp_path)],
                capture_output=True,
                text=True,
                check=False,
                timeout=240,
            )
            for _ in range(2)
        ]
    done = [run.result() for run in runs]
    assert [one.returncode for one in done] == [0, 0], [one.stderr[-2000:] for one in done]
    (first, run_a), (second, run_b) = (one.stdout.split()[-2:] for one in done)
    assert first == second
    assert run_a != run_b


def test_a_run_holds_parameters_tags_and_its_dataset(tracking):
    run_id = tracking.start_run("r", params={"a": {"b": 1}, "c": "x" * 9000}, tags={"t": "u"})
    frame = pl.DataFrame({"utterance_id": ["a", "b"], "split": ["train", "dev"], "valence": [0.1, None]})
    dataset = tracking.log_dataset(run_id, frame, name="corpus", source="/somewhere", context="training")
    other = tracking.start_run("other")
    changed = frame.with_columns(valence=pl.lit(0.2))
    assert tracking.log_dataset(other, changed, name="corpus", source="/somewhere", context="training") != dataset
    tracking.log_metrics(run_id, {"full/ccc_mean": 0.5})
    run = tracking.client.get_run(run_id)
    assert run.data.params["a.b"] == "1"
    assert run.data.metrics["full/ccc_mean"] == 0.5
    (given,) = run.inputs.dataset_inputs
    assert (given.dataset.name, given.dataset.digest) == (dataset.name, dataset.digest)
    assert given.tags[0].value == "training"
    assert run.info.status == "RUNNING"
    with pytest.raises(ValueError, match="broken"), tracking.running(run_id):
        raise ValueError("broken")
    assert tracking.client.get_run(run_id).info.status == "FAILED"
    assert tracking.has_run(run_id)
    assert not tracking.has_run("0" * 32)


def test_the_load_of_this_machine_is_measured_where_that_is_asked_for(tracking, monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    measuring = dataclasses.replace(tracking, system_metrics=True)
    run_id = tracking.start_run("measured")
    limit = time.monotonic() + 60
    with measuring.running(run_id):
        while not tracking.client.get_run(run_id).data.metrics and time.monotonic() < limit:
            pass
    assert "system/cpu_utilization_percentage" in tracking.client.get_run(run_id).data.metrics
    assert tracking.client.get_run(run_id).info.status == "FINISHED"


def test_a_version_has_signature_pins_card_and_tags(tracking, logged):
    assert {name: value for name, value in logged.tags.items() if name not in (example.TAG, shared.HASH)} == {
        "config_hash": "abc",
        "seed": "7",
    }
    folder = versions.model_folder(tracking, logged)
    assert "no evidence about how people" in (folder / "artifacts" / CARD).read_text()
    requirements = (folder / "requirements.txt").read_text().split()
    assert "torch==2.13.0" in requirements
    assert all("==" in line and "+" not in line for line in requirements)
    info = mlflow.models.get_model_info(logged.uri)
    assert info.signature.inputs.input_names() == ["audio", "transcript", "speaker_id", "sampling_rate"]
    assert "valence_low" in info.signature.outputs.input_names()
    assert tracking.client.get_run(logged.run_id).info.status == "FINISHED"


def test_a_version_knows_its_example_by_its_scores(tracking, logged):
    scorer = versions.load(tracking, logged)
    example.check(scorer, logged.version, logged.tags, logged.source)
    example.check(scorer, logged.version, {}, logged.source)  # registered before there were such scores
    other = {**json.loads(logged.tags[example.TAG]), "arousal": 0.0}
    with pytest.raises(RegistryError, match="arousal", check=of_kind("changed_scores")):
        example.check(scorer, logged.version, {example.TAG: json.dumps(other)}, logged.source)


def test_no_pickle_anywhere(tracking, logged):
    files = [path for path in versions.model_folder(tracking, logged).rglob("*") if path.is_file()]
    assert len(files) > 20
    assert not [path for path in files if path.suffix in {".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib", ".pyc"}]
    binary = [
        path for path in files if path.suffix not in {".py", ".json", ".yaml", ".txt", ".md", ".j2", ".typed", ""}
    ]
    assert {path.suffix for path in binary} == {".safetensors"}


def test_what_is_fetched_scores_as_what_was_logged(tracking, logged, bundle):
    scorer = versions.load(tracking, logged)
    assert scorer.version == logged.version
    (there,), (here,) = scorer.score([kit.request()]), load_bundle(bundle).score([kit.request()])
    assert there.valence.value == pytest.approx(here.valence.value, abs=1e-6)


def test_the_pyfunc_scores_bytes_and_files_and_keeps_bad_rows_to_themselves(logged, bundle, tmp_path):
    wav = kit.wav_bytes(kit.speech())
    path = tmp_path / "a.wav"
    path.write_bytes(wav)
    table = pd.DataFrame({"audio": [wav, str(path), str(tmp_path / "none.wav"), b"RIFF"], "speaker_id": ["deep"] * 4})
    allowed = {"addresses": [str(tmp_path)]}
    found = mlflow.pyfunc.load_model(logged.uri, model_config=allowed).predict(table, params={"semantics": "none"})
    samples = np.round(kit.speech() * 32768).clip(-32768, 32767) / 32768
    (direct,) = load_bundle(bundle).score([kit.request(samples=samples.astype(np.float32), semantics="none")])
    for row in (0, 1):
        assert found["valence"][row] == pytest.approx(direct.valence.value, abs=1e-3)
        assert found["valence_corpus"][row] == pytest.approx(1 + 6 * found["valence"][row])
        assert found["arousal_low"][row] <= found["arousal"][row] <= found["arousal_high"][row]
        assert found["level"][row] == "audio"
    assert found["error"][2].startswith("missing_file")
    assert isinstance(found["error"][3], str)
    assert found["valence"][2:].isna().all()
    assert found["error"][:2].isna().all()


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("/clips/a.wav", ()),
        ("/clips/a.wav", ("/other", "/clip")),
        ("/clips/../etc/a.wav", ("/clips",)),
        ("file:///clips/../etc/a.wav", ("file:///clips",)),
        ("s3://bucket-of-others/a.wav", ("s3://bucket",)),
        ("s3://bucket/a.wav::file:///etc/a.wav", ("s3://bucket",)),
    ],
)
def test_a_caller_cannot_have_other_addresses_opened_than_are_allowed(logged, address, allowed):
    config = {"addresses": list(allowed)}
    found = mlflow.pyfunc.load_model(logged.uri, model_config=config).predict(pd.DataFrame({"audio": [address]}))
    assert found["error"][0].startswith("address_not_allowed")


def test_audio_that_is_taken_for_an_address_is_not_repeated_whole(logged):
    found = mlflow.pyfunc.load_model(logged.uri).predict(pd.DataFrame({"audio": ["UklGR" * 9999]}))
    assert found["error"][0].startswith("address_not_allowed")
    assert "data:audio/wav;base64," in found["error"][0]
    assert len(found["error"][0]) < 400


def test_a_link_does_not_lead_out_of_an_allowed_folder(tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "secret.wav").write_bytes(b"")
    (tmp_path / "clips" / "link.wav").symlink_to(tmp_path / "secret.wav")
    assert not pyfunc._below(str(tmp_path / "clips" / "link.wav"), str(tmp_path / "clips"))
    assert pyfunc._below(str(tmp_path / "clips" / "own.wav"), str(tmp_path / "clips"))


def test_samples_and_bytes_and_data_uris_score_alike(logged):
    samples = np.round(kit.speech() * 32768).clip(-32768, 32767).astype(np.int16)
    wav = kit.wav_bytes(samples / 32768)
    model = mlflow.pyfunc.load_model(logged.uri)
    floats = (samples / 32768).astype(np.float32)
    audio = [wav, pyfunc.data_uri(wav), samples, floats, floats.tolist()]
    found = model.predict(pd.DataFrame({"audio": audio}), params={"semantics": "none"})
    assert found["error"].isna().all()
    assert found["arousal"].tolist() == pytest.approx([found["arousal"][0]] * 5, abs=1e-5)
    slow = model.predict(
        pd.DataFrame({"audio": [floats.repeat(2)], "sampling_rate": [32_000]}), params={"semantics": "none"}
    )
    assert slow["arousal"][0] == pytest.approx(found["arousal"][0], abs=0.02)
    wrong = model.predict(pd.DataFrame({"audio": [np.zeros((2, 9), np.float32), samples.astype(np.int64), [1.0, "a"]]}))
    assert wrong["error"].str.contains("samples").all()


def test_what_a_server_would_answer_is_strict_json(logged):
    frame = mlflow.pyfunc.load_model(logged.uri).predict(
        pd.DataFrame({"audio": [b"RIFF", kit.wav_bytes(kit.speech())]})
    )
    document = json.dumps(frame.to_dict("records"), allow_nan=False)
    bad, good = json.loads(document)
    assert (bad["arousal"], good["error"]) == (None, None)
    assert 0 <= good["arousal"] <= 1


def test_classes_come_with_their_probabilities(lake, tracking, tmp_path):
    folder = kit.make_bundle(tmp_path / "b", "acoustic", classes=["anger", "joy"])
    version = log_bundle(tracking, tracking.start_run("classes"), folder, card="# A model", tags={})
    found = mlflow.pyfunc.load_model(version.uri).predict(pd.DataFrame({"audio": [kit.wav_bytes(kit.speech())]}))
    probabilities = json.loads(found["probabilities"][0])
    assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert found["emotion"][0] == max(probabilities, key=probabilities.get)


def test_mlflows_evaluate_takes_a_dimension_as_the_prediction(logged):
    table = pd.DataFrame({"audio": [kit.wav_bytes(kit.speech(hz=hz)) for hz in (90.0, 200.0)], "label": [0.4, 0.6]})
    found = mlflow.models.evaluate(
        logged.uri,
        table,
        targets="label",
        predictions="arousal",
        model_type="regressor",
        evaluators="default",
        evaluator_config={"log_explainer": False},
    )
    assert 0 <= found.metrics["mean_absolute_error"] <= 1


def test_a_version_pins_what_its_own_encoder_needs(tmp_path):
    def names(**encoder):
        config = open_bundle(kit.make_bundle(tmp_path / "b", "acoustic", encoder=encoder)).config
        return [one.partition("==")[0] for one in pip_requirements(config)]

    assert {"moonshine-voice", "onnxruntime", "flatbuffers"} <= set(names(kind="moonshine"))
    assert not {"moonshine-voice", "peft"} & set(names(kind="logmel"))


def test_a_clean_process_loads_and_scores_with_the_models_own_code(tracking, logged, bundle):
    found = clean_process.check(versions.model_folder(tracking, logged), 300)
    assert found.passed, found.message
    assert "code/emoray/__init__.py" in found.message
    scores = mlflow.pyfunc.load_model(logged.uri)
    here = scores.predict(scores.input_example)
    assert found.scores == pytest.approx([here[name][0] for name in ("valence", "arousal", "dominance")], abs=1e-5)


def test_a_new_environment_of_a_versions_requirements_loads_and_scores_it(tracking, tmp_path):
    """With the offline encoder, which needs most packages, and the text encoder from the tracking store."""
    folder = kit.make_bundle(tmp_path / "msf", encoder={"kind": "moonshine_logmel", "speaker_norms": True})
    run_id = tracking.start_run("moonshine")
    version = log_bundle(tracking, run_id, folder, card="# Card", tags={})
    found = clean_process.check(
        versions.model_folder(tracking, version), 300, tracking_uri=tracking.uri, install_s=1800
    )
    assert found.passed, found.message
    assert "code/emoray/__init__.py in a new environment" in found.message
    scores = mlflow.pyfunc.load_model(version.uri)
    here = scores.predict(scores.input_example)
    assert found.scores == pytest.approx([here[name][0] for name in ("valence", "arousal", "dominance")], abs=1e-5)


def test_requirements_that_cannot_be_installed_fail_the_check(tracking, logged, tmp_path):
    (tmp_path / "requirements.txt").write_text("no-such-package-of-emoray==0.0.1\n")
    found = clean_process.check(tmp_path, 300, install_s=300)
    assert not found.passed
    assert "cannot be installed" in found.message
    assert "no-such-package-of-emoray" in found.message
    assert "not installed within" in clean_process.check(tmp_path, 300, install_s=0.01).message


def test_a_version_without_its_code_fails_the_clean_check(tracking, logged, tmp_path):
    import shutil

    folder = shutil.copytree(
        versions.model_folder(tracking, logged), tmp_path / "m", ignore=shutil.ignore_patterns("text_encoder")
    )
    shutil.rmtree(folder / "code" / "emoray")
    found = clean_process.check(folder, 300)
    assert not found.passed
    assert "emoray" in found.message


def test_aliases_numbers_and_latest_name_versions(tracking, logged):
    assert versions.find_alias(tracking, "staging") is None
    versions.set_alias(tracking, "staging", logged)
    for reference in ("staging", "@staging", logged.version):
        assert versions.resolve(tracking, reference).version == logged.version
    (newer,) = _more_versions(tracking, logged, 1)
    assert versions.resolve(tracking, "latest").version == newer.version
    versions.drop_alias(tracking, "staging")
    versions.drop_alias(tracking, "staging")
    assert versions.find_alias(tracking, "staging") is None
    with pytest.raises(RegistryError, match="999", check=of_kind("no_such_version")):
        versions.by_version(tracking, 999)


def test_an_empty_registry_says_what_to_do(tracking):
    empty = dataclasses.replace(tracking, model_name="nothing")
    for alias, remedy in (("champion", "emoray promote"), ("challenger", "emoray train")):
        with pytest.raises(RegistryError, match=remedy) as caught:
            versions.by_alias(empty, alias)
        assert caught.value.kind == f"no_{alias}"
    with pytest.raises(RegistryError, check=of_kind("no_such_version")):
        versions.resolve(empty, "latest")
    with pytest.raises(RegistryError) as caught:
        rollback(empty)
    assert caught.value.kind == "no_champion"
    assert champions(empty) == []


def test_missing_files_are_named(tracking, logged, tmp_path):
    gone = tracking.client.create_model_version(logged.name, source=str(tmp_path / "gone"), run_id=logged.run_id)
    with pytest.raises(RegistryError) as caught:
        versions.fetch(tracking, versions.by_version(tracking, gone.version))
    assert caught.value.kind == "version_files_missing"


@pytest.fixture
def fresh(tracking, logged):
    """A separate registered model with four versions."""
    name = f"model-{len(tracking.client.search_registered_models())}"
    tracking.client.create_registered_model(name)
    own = dataclasses.replace(tracking, model_name=name)
    return own, _more_versions(own, dataclasses.replace(logged, name=name), 4)


def test_promotion_moves_the_alias_and_records_the_decision(fresh):
    tracking, (one, two, *_) = fresh
    versions.set_alias(tracking, "challenger", one)
    assert promote(tracking, one, PASSED, None).previous is None
    assert versions.by_alias(tracking, "champion").version == one.version
    assert versions.find_alias(tracking, "challenger") is None
    versions.set_alias(tracking, "challenger", two)
    assert promote(tracking, two, PASSED, one).previous.version == one.version
    found = versions.by_alias(tracking, "champion")
    assert found.version == two.version
    assert found.tags["emoray.decision"] == "passed"
    assert found.tags["emoray.previous_champion"] == one.version
    record = json.loads(mlflow.artifacts.load_text(f"runs:/{two.run_id}/{found.tags['emoray.decision_record']}"))
    assert record["previous_champion"] == one.version
    assert record["checks"] == [{"name": "gain", "passed": True, "message": "better"}]


def test_a_refusal_changes_no_alias_and_is_recorded(fresh):
    tracking, (one, two, *_) = fresh
    promote(tracking, one, PASSED, None)
    versions.set_alias(tracking, "challenger", two)
    promote(tracking, two, REFUSED, one)
    assert versions.by_alias(tracking, "champion").version == one.version
    assert versions.by_alias(tracking, "challenger").version == two.version
    assert versions.by_version(tracking, two.version).tags["emoray.decision"] == "refused"
    assert champions(tracking) == [one.version]


def test_rolling_back_twice_goes_back_two_champions_and_then_no_further(fresh):
    tracking, (one, two, three, _) = fresh
    for version, before in ((one, None), (two, one), (three, two)):
        promote(tracking, version, PASSED, before)
    back = rollback(tracking)
    assert (back.stepped_down.version, back.champion.version) == (three.version, two.version)
    back = rollback(tracking)
    assert (back.stepped_down.version, back.champion.version) == (two.version, one.version)
    assert versions.by_alias(tracking, "champion").version == one.version
    with pytest.raises(RegistryError) as caught:
        rollback(tracking)
    assert caught.value.kind == "no_previous_champion"
    promote(tracking, three, PASSED, one)
    assert champions(tracking) == [one.version, three.version]


def test_an_alias_set_by_other_hands_counts(fresh):
    tracking, (one, two, *_) = fresh
    promote(tracking, one, PASSED, None)
    versions.set_alias(tracking, "champion", two)
    assert champions(tracking) == [one.version, two.version]
    assert rollback(tracking).champion.version == one.version
    assert [entry.kind for entry in History(tracking).entries()] == ["first", "found", "rolled back"]


def test_champions_from_before_there_was_a_history_count(fresh):
    tracking, (one, two, three, _) = fresh
    tag = json.dumps([one.version, two.version])
    tracking.client.set_registered_model_tag(tracking.model_name, champion.HISTORY, tag)
    versions.set_alias(tracking, "champion", two)
    assert champions(tracking) == [one.version, two.version]
    promote(tracking, three, PASSED, two)
    tracking.client.delete_registered_model_tag(tracking.model_name, champion.HISTORY)
    assert champions(tracking) == [one.version, two.version, three.version]
    assert [rollback(tracking).champion.version for _ in range(2)] == [two.version, one.version]


def test_latency_is_measured_per_clip(bundle):
    scorer = load_bundle(bundle)
    found = measure_latency(scorer, [kit.request(semantics="none") for _ in range(5)])
    assert isinstance(found, Latency)
    assert found.clips == 5
    assert 0 < found.p50_ms <= found.p95_ms
