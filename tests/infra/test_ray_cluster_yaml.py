"""ray_cluster.yaml, through the validation that `ray up` itself does."""

from __future__ import annotations

import copy
from pathlib import Path

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cluster() -> dict:
    return yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())


def test_rays_own_validation_accepts_it(cluster):
    prepared = prepare_config(copy.deepcopy(cluster))
    validate_config(prepared)
    assert prepared["available_node_types"]["head"]["max_workers"] == 0


def test_rays_own_validation_would_notice_a_misspelling(cluster):
    cluster["idle_timeout_minuts"] = 10
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout_minuts"):
        validate_config(prepare_config(cluster))


def test_it_has_a_head_cpu_workers_and_gpu_workers(cluster):
    types = cluster["available_node_types"]
    assert cluster["head_node_type"] == "head"
    assert set(types) == {"head", "cpu", "gpu"}
    assert sum(kind.get("max_workers", 0) for kind in types.values()) <= cluster["max_workers"]


def test_its_ports_are_closed(cluster):
    starts = cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"]
    for command in (line for line in starts if "ray start" in line):
        assert "RAY_AUTH_MODE=token" in command
        assert "RAY_AUTH_TOKEN_PATH=" in command
        assert "0.0.0.0" not in command
    (head,) = (line for line in cluster["head_start_ray_commands"] if "ray start" in line)
    assert "--dashboard-host=127.0.0.1" in head
