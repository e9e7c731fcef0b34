"""Tests that all workers of a build are actors of one Ray class, which Ray exports once."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from pipeline.build import cluster
from pipeline.config import Resources


class RecordedClass:
    """Replaces the result of `ray.remote`; each instance counts as an export to the cluster."""

    num_created = 0

    def __init__(self, wrapped: type) -> None:
        type(self).num_created += 1
        self.wrapped = wrapped
        self.started: list[dict[str, Any]] = []

    def options(self, **options: Any) -> RecordedClass:
        self.started.append(options)
        return self

    def remote(self, *_: Any, **__: Any) -> RecordedClass:
        return self


def test_thousand_workers_share_one_actor_class(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(RecordedClass, "num_created", 0)
    monkeypatch.setattr(ray, "remote", RecordedClass)
    backend = cluster.RayBackend()
    workers = {
        backend.start_worker(Resources(num_cpus=1 + place % 2), [], node_id=f"{place:056x}")
        for place in range(1000)
    }
    assert RecordedClass.num_created == 1
    (actor_class,) = workers
    assert actor_class.wrapped is cluster.WorkerActor
    assert len(actor_class.started) == 1000
