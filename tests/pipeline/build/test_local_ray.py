"""A local Ray that does not start: one line that says what to do."""

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
def test_a_ray_that_does_not_start_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(UserError, match="a local Ray cluster does not start on this machine"):
        cluster._start_local({})


def test_a_defect_is_not_reported_as_a_store_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "init", lambda *_, **__: {}["missing"])
    with pytest.raises(KeyError):
        cluster._start_local({})
