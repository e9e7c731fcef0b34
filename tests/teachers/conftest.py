"""A fixture that loads each embedded teacher once for all tests."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from teachers import registry
from teachers.protocol import Teacher

Load = Callable[..., Teacher]


@pytest.fixture(scope="session")
def load() -> Load:
    """`load(name, **settings)` returns a loaded teacher of the embedded preset with one thread."""

    @functools.cache
    def loaded(name: str, **settings: Any) -> Teacher:
        family, preset = registry.preset("embedded")[name]
        teacher = registry.make(name, family, {**preset, **settings})
        teacher.load(device="cpu", num_threads=1)
        return teacher

    return loaded
