"""Tests that the YAML files in docs/cluster.md are valid."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from jsonargparse import ArgumentError, ArgumentParser

from pipeline.config import BuildConfig
from tests.pipeline.conftest import ROOT


def yaml_block(start: str) -> dict[str, Any]:
    """Returns the YAML block of the guide that has a line with this start."""
    text = (ROOT / "docs" / "cluster.md").read_text()
    for block in re.findall(r"```yaml\n(.*?)```", text, re.S):
        if re.search(f"^{start}", block, re.M):
            return yaml.safe_load(block)
    raise AssertionError(f"no block has {start!r}")


def test_build_config_of_the_guide_is_valid():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(BuildConfig, "build")
    config = parser.parse_object({"build": yaml_block("corpus")}).build
    assert config.teacher["asr"].resources.num_gpus == 0.25
    assert config.decode.custom == {"decoder": 1}
    with pytest.raises(ArgumentError, match="num_gpu"):
        parser.parse_object({"build": {**yaml_block("corpus"), "decode": {"num_gpu": 1}}})


def test_cluster_config_matches_rays_schema():
    schema = json.loads((Path(ray.__path__[0]) / "autoscaler" / "ray-schema.json").read_text())
    cluster = yaml_block("cluster_name")
    jsonschema.validate(cluster, schema)
    assert cluster["head_node_type"] in cluster["available_node_types"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**cluster, "max_workers": "many"}, schema)


def test_ray_job_mounts_its_volumes_and_matches_its_resources():
    job = yaml_block("kind: RayJob")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    head = cluster["headGroupSpec"]["template"]["spec"]
    mounted = {mount["name"] for mount in head["containers"][0]["volumeMounts"]}
    assert mounted == {volume["name"] for volume in head["volumes"]}
    (group,) = cluster["workerGroupSpecs"]
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    container = group["template"]["spec"]["containers"][0]
    assert container["resources"]["requests"] == container["resources"]["limits"]
    named = json.loads(json.loads(group["rayStartParams"]["resources"]))
    assert named == {"decoder": int(container["resources"]["limits"]["cpu"])}
