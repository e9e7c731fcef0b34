"""Tests for the error when a local Ray cluster does not start."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from manifests.errors import UserError
from pipeline.build import cluster


@pytest.mark.parametrize(
    "error",
    [
        Exception("The current node timed out during startup. This could happen because ..."),
        RuntimeError("no memory"),
    ],
)
def test_failed_start_of_ray_raises_a_user_error(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(UserError, match="a local Ray cluster does not start on this machine"):
        cluster._start_local({})


def test_defect_at_the_start_of_ray_keeps_its_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "init", lambda *_, **__: {}["missing"])
    with pytest.raises(KeyError):
        cluster._start_local({})
