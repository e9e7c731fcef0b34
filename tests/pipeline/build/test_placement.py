"""The account of a cluster's resources against what Ray would place."""

from __future__ import annotations

import pytest

from pipeline.build.backend import Node
from pipeline.build.placement import Account
from pipeline.config import Resources


def count(account: Account, resources: Resources, **options) -> int:
    placed = 0
    while account.place(resources, **options) is not None:
        placed += 1
    return placed


@pytest.mark.parametrize(("share", "fit"), [(0.4, 16), (0.5, 16), (0.6, 8), (1.0, 8), (2.0, 4)])
def test_shares_of_a_gpu_are_packed_gpu_by_gpu(share: float, fit: int):
    node = Node("a", "a", {"CPU": 100.0, "GPU": 8.0})
    assert count(Account([node]), Resources(num_cpus=1, num_gpus=share)) == fit


def test_workers_that_run_already_take_their_room():
    nodes = [Node("a", "a", {"CPU": 4.0}), Node("b", "b", {"CPU": 2.0})]
    item = Resources()
    account = Account(nodes, taken=[("a", item), ("a", item), ("b", item)])
    assert count(account, item) == 3
    assert count(Account(nodes, taken=[("gone", item)]), item, avoid=["a"]) == 2


def test_what_other_jobs_take_is_left_to_them():
    nodes = [Node("a", "a", {"CPU": 4.0}), Node("b", "b", {"CPU": 4.0})]
    item = Resources()
    # Two of ours run, three CPUs belong to others.
    account = Account(
        nodes, taken=[("a", item), ("a", item)], placed=[item, item], available={"CPU": 3.0}
    )
    assert count(account, item) == 3


def test_a_worker_is_placed_on_the_node_with_most_room():
    nodes = [Node("a", "a", {"CPU": 2.0}), Node("b", "b", {"CPU": 8.0})]
    account = Account(nodes)
    assert [account.place(Resources()) for _ in range(6)] == ["b"] * 6
