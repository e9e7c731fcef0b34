"""Workers that Ray itself takes away: by its memory monitor, and with a node that is drained.

These are the real events, on real clusters, in whatever words this version of Ray reports them.
"""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tests.pipeline.conftest import noise_corpus
from tests.pipeline.nodes import Build, Node, contents, until

pytestmark = pytest.mark.slow


def test_a_worker_ended_by_rays_memory_monitor_loses_no_clip(tmp_path: Path):
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
        runtime = {"hog_once_file": str(tmp_path / "hog"), "hog_gb": 4.0}
        build = Build(corpus, tmp_path / "cache", node=node, runtime=runtime, block_clips=2)
        code, output = build.run()
        assert code == 0, output
        assert (tmp_path / "hog").exists()
        # The cause is told apart from a crash, which would count against the block.
        assert "is gone" in output, output
        assert "memory" in output, output
        assert [len(rows) for rows, *_ in contents(build.cache).values()] == [4, 4, 4]
        assert not any(failed for _, failed, _ in contents(build.cache).values())
    finally:
        node.kill()


def test_a_worker_killed_by_the_kernel_loses_no_clip(tmp_path: Path):
    """SIGKILL, as from the kernel's memory killer: it says nothing, so the block is tried again."""
    corpus = noise_corpus(tmp_path, 8)
    node = Node(num_cpus=1)
    try:
        runtime = {"die_once_file": str(tmp_path / "died")}
        build = Build(corpus, tmp_path / "cache", node=node, runtime=runtime, block_clips=2)
        code, output = build.run()
        assert code == 0, output
        assert "is gone" in output
        assert [len(rows) for rows, *_ in contents(build.cache).values()] == [4, 4]
    finally:
        node.kill()


def test_a_drained_node_costs_no_clip(tmp_path: Path):
    """Blocks of a single clip: a drained worker must not count as a clip that kills."""
    corpus = noise_corpus(tmp_path, 24)
    nodes = [Node()]
    try:
        nodes.append(Node(head=nodes[0], num_cpus=1))
        nodes.append(Node(head=nodes[0], num_cpus=1))
        runtime = {"sleep_s": 1.0}
        build = Build(corpus, tmp_path / "cache", node=nodes[0], runtime=runtime, block_clips=1)
        process = build.start()
        until(lambda: nodes[1].workers("extract") or process.poll() is not None)
        nodes[1].drain(seconds=2)
        until(lambda: nodes[1].workers("extract") or process.poll() is not None)
        nodes[1].kill()
        output, _ = process.communicate(timeout=180)
        assert process.returncode == 0, output
        assert not any(failed for _, failed, _ in contents(build.cache).values()), output
        assert [len(rows) for rows, *_ in contents(build.cache).values()] == [4] * 6
    finally:
        for node in reversed(nodes):
            node.kill()
