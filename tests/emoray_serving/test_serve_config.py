"""The application's configuration and the Serve config made from it."""

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from emoray import config as settings
from emoray.errors import ConfigError
from emoray_serving.app import difference, serve_schema
from emoray_serving.config import AppConfig, load_app_config


@pytest.mark.parametrize(
    ("override", "path", "said"),
    [
        ("serve.scorer.batch.max_size=64", "serve.scorer", "could never fill"),
        ("serve.scorer.replicas.max_replicas=0", "serve.scorer.replicas.max_replicas", "greater than or equal to 1"),
        ("serve.scorer.replicas.min_replicas=3", "serve.scorer.replicas", "less than min_replicas"),
        ("serve.gateway.replicas.target_ongoing_requests=65", "serve.gateway.replicas", "target_ongoing_requests 65"),
        ("serve.scorer.keep_previous_s=1", "serve", "keep_previous_s"),
        ("serve.limits.scoring_reserve_ms=30000", "serve", "limits.scoring_reserve_ms"),
        ("serve.http.port=0", "serve.http.port", "greater than or equal to 1"),
        ("serve.htpp.port=80", "serve.htpp", "http"),
        ("serve.describer.engine.kind=endpoint", "serve.describer.engine", "endpoint.url needs an address"),
        ("serve.describer.engine.kind=llama", "serve.describer.engine.kind", "'fitted', 'vllm', 'endpoint' or 'none'"),
        ("serve.describer.engine.retry_s=-1", "serve.describer.engine.retry_s", "greater than or equal to 0"),
        (
            "serve.describer={engine: {kind: vllm, vllm: {tensor_parallel_size: 2}}, replicas: {num_gpus: 1}}",
            "serve.describer",
            "tensor_parallel_size 2 exceeds replicas.num_gpus 1",
        ),
    ],
)
def test_what_cannot_work_is_refused_with_its_path(override, path, said):
    with pytest.raises(ConfigError) as caught:
        settings.load(AppConfig, overrides=[override], environ={})
    assert caught.value.where == path
    assert said in str(caught.value)


def test_how_long_a_server_is_waited_for_is_the_services_and_not_the_versions():
    config = settings.load(AppConfig, overrides=["serve.describer.engine.endpoint.patience_s=3"], environ={})
    fitted = config.annotate.semantics.engine
    fitted = fitted.model_copy(
        update={"kind": "endpoint", "endpoint": fitted.endpoint.model_copy(update={"url": "http://its.own/v1"})}
    )
    own = config.serve.describer.engine
    found = own.over(fitted)
    assert (found.kind, found.endpoint.url, found.vllm) == ("endpoint", "http://its.own/v1", fitted.vllm)
    assert (found.endpoint.patience_s, found.endpoint.timeout_s) == (3, own.endpoint.timeout_s)
    here = own.model_copy(update={"kind": "vllm"}).over(fitted)
    assert (here.kind, here.vllm) == ("vllm", own.vllm)


def test_builder_arguments_are_sections_or_dotted_keys():
    config = load_app_config({"lake": {"root": "/data"}, "serve.http.port": "9001", "serve.scorer.alias": "challenger"})
    assert (config.lake.root, config.serve.http.port, config.serve.scorer.alias) == ("/data", 9001, "challenger")


@pytest.mark.parametrize(
    ("args", "said"),
    [({"serv": {}}, "annotate"), ({"serve": {"prot": 1}}, "serve.prot"), ({"preset": "labtop"}, "laptop")],
)
def test_a_misspelled_argument_is_named(args, said):
    with pytest.raises(ConfigError, match=said):
        load_app_config(args)


def test_serve_config_is_accepted_by_ray_and_builds_the_same_application(tmp_path):
    overrides = [f"lake.root={tmp_path}", "serve.http.host=0.0.0.0", "serve.scorer.replicas.max_replicas=5"]
    config = settings.load(AppConfig, overrides=overrides, environ={})
    tree = yaml.safe_load(yaml.safe_dump(serve_schema(config)))
    schema = ServeDeploySchema.model_validate(tree)
    (application,) = schema.applications
    assert schema.http_options.host == "0.0.0.0"
    assert load_app_config(application.args) == config
    scorer = next(deployment for deployment in application.deployments if deployment.name == "Scorer")
    assert scorer.autoscaling_config["max_replicas"] == 5
    assert {deployment.name for deployment in application.deployments} == {
        "Scorer",
        "Transcriber",
        "Describer",
        "Gateway",
    }


def test_difference_is_what_merging_needs():
    base = {"a": {"b": 1, "c": {"d": 2}}, "e": [1]}
    other = {"a": {"b": 1, "c": {"d": 3}}, "e": [1, 2]}
    assert difference(base, other) == {"a": {"c": {"d": 3}}, "e": [1, 2]}
    assert settings.merge(base, difference(base, other)) == other
