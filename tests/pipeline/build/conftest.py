"""A real Ray node for the tests that kill, stop or starve builds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.pipeline.nodes import Node


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A cluster of one node with two cores that outlives the builds."""
    head = Node(num_cpus=2)
    yield head
    head.kill()
