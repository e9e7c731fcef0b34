"""Tests for workers that Ray ends: by its memory monitor, by a signal, and on a drained node.

The events happen on real clusters, and are reported as the installed version of Ray reports them.
"""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tests.pipeline.conftest import noise_corpus
from tests.pipeline.nodes import Build, Node, cache_contents, wait_until

pytestmark = pytest.mark.slow


def test_worker_ended_by_rays_memory_monitor_loses_no_clip(tmp_path: Path):
    """The teacher fills the node's memory once, beyond the share that Ray allows."""
    corpus = noise_corpus(tmp_path, 12)
    memory = psutil.virtual_memory()
    allowed = (memory.total - memory.available + 2e9) / memory.total
    environment = {
        "RAY_memory_usage_threshold": f"{allowed:.3f}",
        "RAY_memory_monitor_refresh_ms": "100",
    }
    node = Node(num_cpus=1, environment=environment)
    try:
        runtime = {"fill_memory_once_file": str(tmp_path / "full"), "fill_memory_gb": 4.0}
        build = Build(corpus, tmp_path / "cache", node=node, runtime=runtime, block_clips=2)
        code, output = build.run()
        assert code == 0, output
        assert (tmp_path / "full").exists()
        # The cause is distinguished from a crash, which would count against the block.
        assert "is gone" in output, output
        assert "memory" in output, output
        assert [len(rows) for rows, *_ in cache_contents(build.cache).values()] == [4, 4, 4]
        assert not any(failed for _, failed, _ in cache_contents(build.cache).values())
    finally:
        node.kill()


def test_worker_killed_by_the_kernel_loses_no_clip(tmp_path: Path):
    """The kernel's SIGKILL for lack of memory gives no reason, so the block is retried."""
    corpus = noise_corpus(tmp_path, 8)
    node = Node(num_cpus=1)
    try:
        runtime = {"die_once_file": str(tmp_path / "died")}
        build = Build(corpus, tmp_path / "cache", node=node, runtime=runtime, block_clips=2)
        code, output = build.run()
        assert code == 0, output
        assert "is gone" in output
        assert [len(rows) for rows, *_ in cache_contents(build.cache).values()] == [4, 4]
    finally:
        node.kill()


def test_drained_node_loses_no_clip(tmp_path: Path):
    """Blocks have a single clip, which must not be taken for the cause of the lost worker."""
    corpus = noise_corpus(tmp_path, 24)
    nodes = [Node()]
    try:
        nodes.append(Node(head=nodes[0], num_cpus=1))
        nodes.append(Node(head=nodes[0], num_cpus=1))
        runtime = {"sleep_s": 1.0}
        build = Build(corpus, tmp_path / "cache", node=nodes[0], runtime=runtime, block_clips=1)
        process = build.start()
        wait_until(lambda: nodes[1].workers("extract") or process.poll() is not None)
        nodes[1].drain(seconds=2)
        wait_until(lambda: nodes[1].workers("extract") or process.poll() is not None)
        nodes[1].kill()
        output, _ = process.communicate(timeout=180)
        assert process.returncode == 0, output
        assert not any(failed for _, failed, _ in cache_contents(build.cache).values()), output
        assert [len(rows) for rows, *_ in cache_contents(build.cache).values()] == [4] * 6
    finally:
        for node in reversed(nodes):
            node.kill()
