"""Tests that `Account` places workers on nodes as Ray would."""

from __future__ import annotations

import pytest

from pipeline.build.backend import Node
from pipeline.build.placement import Account
from pipeline.config import Resources


def count_placed(account: Account, resources: Resources, **options) -> int:
    placed = 0
    while account.place(resources, **options) is not None:
        placed += 1
    return placed


@pytest.mark.parametrize(
    ("share", "expected"), [(0.4, 16), (0.5, 16), (0.6, 8), (1.0, 8), (2.0, 4)]
)
def test_fractional_gpus_do_not_span_two_gpus(share: float, expected: int):
    node = Node("a", "a", {"CPU": 100.0, "GPU": 8.0})
    assert count_placed(Account([node]), Resources(num_cpus=1, num_gpus=share)) == expected


def test_running_workers_occupy_their_resources():
    nodes = [Node("a", "a", {"CPU": 4.0}), Node("b", "b", {"CPU": 2.0})]
    item = Resources()
    account = Account(nodes, taken=[("a", item), ("a", item), ("b", item)])
    assert count_placed(account, item) == 3
    assert count_placed(Account(nodes, taken=[("gone", item)]), item, avoid=["a"]) == 2


def test_resources_of_other_jobs_are_not_used():
    nodes = [Node("a", "a", {"CPU": 4.0}), Node("b", "b", {"CPU": 4.0})]
    item = Resources()
    # Two workers of this build run; three of the eight CPUs are available.
    account = Account(
        nodes, taken=[("a", item), ("a", item)], placed=[item, item], available={"CPU": 3.0}
    )
    assert count_placed(account, item) == 3


def test_worker_is_placed_on_the_node_with_most_free_resources():
    nodes = [Node("a", "a", {"CPU": 2.0}), Node("b", "b", {"CPU": 8.0})]
    account = Account(nodes)
    assert [account.place(Resources()) for _ in range(6)] == ["b"] * 6
