"""The Kubernetes manifests, each part held to the schema of what reads it. Nothing here runs on Kubernetes."""

from __future__ import annotations

import copy
import shlex
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray.runtime_env import RuntimeEnv
from ray.serve.schema import ServeDeploySchema

from emoray import config as settings
from emoray_jobs import cli
from emoray_jobs.config import Config
from emoray_jobs.serve import serve_config

FOLDER = Path(__file__).parents[2] / "infra" / "kuberay"
KUBERNETES = kubernetes_validate.latest_version()
JOBS = ("annotate", "train", "promote", "score")
CONFIG_PATH = "/etc/emoray/emoray.yaml"


# Fields from KubeRay's API reference (1.6), those that a manifest of ours may need. Pod templates are Kubernetes' own.
def _object(required: tuple[str, ...] = (), **properties: dict) -> dict:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


STRING, INTEGER, BOOLEAN = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
STRINGS = {"type": "object", "additionalProperties": STRING}
TEMPLATE = _object(("spec",), metadata={"type": "object"}, spec={"type": "object"})
GROUP = _object(
    ("groupName", "rayStartParams", "template"),
    groupName=STRING,
    replicas=INTEGER,
    minReplicas=INTEGER,
    maxReplicas=INTEGER,
    numOfHosts=INTEGER,
    idleTimeoutSeconds=INTEGER,
    suspend=BOOLEAN,
    rayStartParams=STRINGS,
    template=TEMPLATE,
)
CLUSTER = _object(
    ("headGroupSpec",),
    rayVersion=STRING,
    authOptions=_object(("mode",), mode={"enum": ["disabled", "token"]}, secretName=STRING),
    enableInTreeAutoscaling=BOOLEAN,
    autoscalerOptions={"type": "object"},
    headServiceAnnotations=STRINGS,
    suspend=BOOLEAN,
    headGroupSpec=_object(
        ("rayStartParams", "template"),
        serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
        enableIngress=BOOLEAN,
        rayStartParams=STRINGS,
        template=TEMPLATE,
    ),
    workerGroupSpecs={"type": "array", "items": GROUP},
)
SPECS = {
    "RayJob": _object(
        ("entrypoint", "rayClusterSpec"),
        entrypoint=STRING,
        runtimeEnvYAML=STRING,
        metadata=STRINGS,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "SidecarMode", "InteractiveMode"]},
        submitterPodTemplate=TEMPLATE,
        submitterConfig=_object(backoffLimit=INTEGER),
        shutdownAfterJobFinishes=BOOLEAN,
        ttlSecondsAfterFinished=INTEGER,
        activeDeadlineSeconds=INTEGER,
        backoffLimit=INTEGER,
        suspend=BOOLEAN,
        rayClusterSpec=CLUSTER,
    ),
    "RayService": _object(
        ("serveConfigV2", "rayClusterConfig"),
        serveConfigV2=STRING,
        rayClusterConfig=CLUSTER,
        excludeHeadPodFromServeSvc=BOOLEAN,
    ),
}


def documents(name: str) -> list[dict]:
    return list(yaml.safe_load_all((FOLDER / f"{name}.yaml").read_text()))


def only(name: str) -> dict:
    (document,) = documents(name)
    return document


def cluster_of(manifest: dict) -> dict:
    spec = manifest["spec"]
    return spec["rayClusterSpec"] if manifest["kind"] == "RayJob" else spec["rayClusterConfig"]


def templates(manifest: dict) -> list[dict]:
    cluster = cluster_of(manifest)
    found = [cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])]
    return found + ([manifest["spec"]["submitterPodTemplate"]] if "submitterPodTemplate" in manifest["spec"] else [])


def check_kuberay(manifest: dict) -> None:
    assert manifest["apiVersion"] == "ray.io/v1"
    jsonschema.validate(manifest["spec"], SPECS[manifest["kind"]])


def check_pod(template: dict) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "pod", **template.get("metadata", {})},
        "spec": template["spec"],
    }
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def configuration() -> dict:
    (config_map,) = [document for document in documents("config") if document["kind"] == "ConfigMap"]
    return config_map["data"]


@pytest.fixture
def config(tmp_path) -> Config:
    path = tmp_path / "emoray.yaml"
    path.write_text(configuration()["emoray.yaml"])
    return settings.load(Config, file=path, environ={})


@pytest.mark.parametrize("name", [*JOBS, "serve"])
def test_kuberay_knows_every_field(name):
    check_kuberay(only(name))


@pytest.mark.parametrize("name", [*JOBS, "serve"])
def test_kubernetes_knows_every_field_of_the_pods(name):
    for template in templates(only(name)):
        check_pod(template)


@pytest.mark.parametrize("name", ["config", "network-policy"])
def test_kubernetes_knows_every_field_of_its_own_kinds(name):
    for document in documents(name):
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_the_schemas_would_notice_a_misspelling():
    manifest = only("train")
    wrong = copy.deepcopy(manifest)
    wrong["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplica"] = 4
    with pytest.raises(jsonschema.ValidationError, match="maxReplica"):
        check_kuberay(wrong)
    wrong = copy.deepcopy(templates(manifest)[0])
    wrong["spec"]["containers"][0]["resource"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="resource"):
        check_pod(wrong)


@pytest.mark.parametrize("name", JOBS)
def test_the_entrypoint_is_a_command_of_ours(name, config):
    words = shlex.split(only(name)["spec"]["entrypoint"])
    assert words[:3] == ["python", "-m", "emoray_jobs"]
    assert words[3] == name
    _, bound, _ = cli.app.parse_args(words[3:], exit_on_error=False, print_error=False)
    assert str(bound.arguments["common"].config) == CONFIG_PATH
    assert config.lake.root.startswith("s3://")


def test_a_refusal_of_the_gate_is_no_failed_job():
    spec = only("promote")["spec"]
    assert "--refusal-is-success" in shlex.split(spec["entrypoint"])
    assert spec["backoffLimit"] == 0


@pytest.mark.parametrize("name", JOBS)
def test_ray_accepts_the_runtime_environment(name):
    RuntimeEnv(**yaml.safe_load(only(name)["spec"]["runtimeEnvYAML"]))


def test_the_mounted_configuration_is_where_the_entrypoint_looks():
    folder, file = CONFIG_PATH.rsplit("/", 1)
    assert file in configuration()
    for name in (*JOBS, "serve"):
        for template in templates(only(name))[: 1 + len(cluster_of(only(name))["workerGroupSpecs"])]:
            (container,) = template["spec"]["containers"]
            mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
            volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
            assert mounts["config"] == folder
            assert volumes["config"]["configMap"]["name"] == "emoray-config"


def test_the_serve_config_is_what_emoray_builds(config):
    stated = yaml.safe_load(only("serve")["spec"]["serveConfigV2"])
    ServeDeploySchema.model_validate(stated)
    assert stated == yaml.safe_load(serve_config(config)), "paste what `emoray serve --build` prints"


def test_all_clusters_have_the_same_head_and_the_locks_ray():
    heads = []
    lock = (Path(__file__).parents[2] / "requirements" / "lock.txt").read_text().splitlines()
    for name in JOBS:
        cluster = cluster_of(only(name))
        assert f"ray=={cluster['rayVersion']}" in lock
        heads.append(cluster["headGroupSpec"])
    assert all(head == heads[0] for head in heads)


def test_no_door_is_open():
    for name in (*JOBS, "serve"):
        cluster = cluster_of(only(name))
        assert cluster["authOptions"]["mode"] == "token"
        assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
        assert not cluster["headGroupSpec"].get("enableIngress")
        for template in templates(only(name)):
            assert template["metadata"]["labels"]["app.kubernetes.io/part-of"] == "emoray", (
                "else no network policy covers it"
            )
    ray, clients = documents("network-policy")
    assert ray["spec"]["podSelector"]["matchLabels"] == {"app.kubernetes.io/part-of": "emoray"}
    assert {port["port"] for rule in clients["spec"]["ingress"] for port in rule["ports"]} == {8000}
    for rule in ray["spec"]["ingress"] + clients["spec"]["ingress"]:
        assert all("podSelector" in source and source["podSelector"] != {} for source in rule["from"])
