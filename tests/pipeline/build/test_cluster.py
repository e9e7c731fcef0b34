"""Tests for builds on several Ray nodes with different resources, and for the loss of a node."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rich.console import Console

from manifests.corpus.corpus import Corpus
from pipeline import job
from pipeline.config import BuildConfig, TeacherConfig
from tests.pipeline.conftest import ENERGY, MakeCorpus, noise_corpus
from tests.pipeline.nodes import Build, Node, cache_contents, wait_until

DECODE = {"num_cpus": 1, "custom": {"decoder": 1}}
EXTRACT = {"num_cpus": 1, "custom": {"expert": 1}}


@pytest.fixture(scope="module")
def head() -> Iterator[Node]:
    """A head node without resources for workers; other nodes join it."""
    node = Node()
    yield node
    node.kill()


@pytest.fixture
def join(head: Node) -> Iterator[Callable[..., dict[str, Node]]]:
    """Adds nodes of one CPU to the cluster, named after the resource that they offer."""
    nodes: dict[str, Node] = {}

    def start(name: str) -> Node:
        return Node(head=head, num_cpus=1, resources={name.rstrip("0123456789"): 1})

    def make(*names: str) -> dict[str, Node]:
        with ThreadPoolExecutor() as pool:
            nodes.update(zip(names, pool.map(start, names), strict=True))
        return nodes

    yield make
    for node in nodes.values():
        node.kill()


@pytest.fixture(scope="module")
def long_shards(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """A corpus of two shards that take several seconds each."""
    return noise_corpus(tmp_path_factory.mktemp("noise"), 48, shard=24)


@pytest.fixture(scope="module")
def undisturbed(long_shards: Corpus, tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple]:
    """Contents of the cache of an undisturbed build on one machine."""
    cache = str(tmp_path_factory.mktemp("undisturbed"))
    energy = {"energy": TeacherConfig(family=ENERGY)}
    config = BuildConfig(corpus=long_shards.folder.uri, cache=cache, preset="none", teacher=energy)
    job.build(config, Console(quiet=True))
    return cache_contents(cache)


def build(corpus: Corpus, cache: Path, head: Node, **options) -> Build:
    fields = {"resources": EXTRACT, "decode": DECODE, "runtime": {"sleep_s": 0.6}, **options}
    return Build(corpus, cache, node=head, block_clips=2, **fields)


def count_markers(cache: Path | str) -> int:
    return len(list(Path(cache).glob("teachers/*/*/markers/*.json")))


def test_decoding_and_extraction_run_on_nodes_with_their_resources(
    head: Node, join: Callable[..., dict[str, Node]], make_corpus: MakeCorpus, tmp_path: Path
):
    nodes = {"head": head, **join("decoder", "expert")}
    process = build(make_corpus(24), tmp_path / "cache", head).start()
    seen = set()
    while process.poll() is None:
        for name, node in nodes.items():
            for worker in node.workers("decode") + node.workers("commit"):
                seen.add((name, "decodes and commits", worker.pid))
            for worker in node.workers("extract"):
                seen.add((name, "extracts", worker.pid))
        time.sleep(0.005)
    assert process.returncode == 0, process.communicate()
    assert {(name, does) for name, does, _ in seen} == {
        ("decoder", "decodes and commits"),
        ("expert", "extracts"),
    }
    assert len(cache_contents(tmp_path / "cache")) == 6


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("lost", ["expert", "decoder"])
def test_build_survives_the_loss_of_a_node(
    lost: str,
    head: Node,
    join: Callable[..., dict[str, Node]],
    long_shards: Corpus,
    undisturbed: dict[int, tuple],
    tmp_path: Path,
):
    replacement = f"{lost}2"
    nodes = join("decoder", "expert", replacement)
    disturbed = build(long_shards, tmp_path / "disturbed", head)
    process = disturbed.start()
    if lost == "expert":
        # The second shard is half done: both experts' nodes hold rows that are not committed.
        wait_until(lambda: count_markers(disturbed.cache) or process.poll() is not None)
        victim = wait_for_first(
            [nodes[lost], nodes[replacement]], lambda node: node.workers("extract"), process
        )
        time.sleep(1.2)
    else:
        # Decoding runs ahead: decoded audio waits on its node. A block takes milliseconds, which
        # polling can miss, so this waits for a worker that is ready for the next block.
        victim = wait_for_first([nodes[lost], nodes[replacement]], has_ready_worker, process)
        wait_until(lambda: nodes["expert"].workers("extract") or process.poll() is not None)
    victim.kill()
    assert count_markers(disturbed.cache) < long_shards.num_shards, (
        "the node was lost too late to matter"
    )
    output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    assert "were lost with a node; the shard is built again" in output
    assert cache_contents(disturbed.cache) == undisturbed


# After SIGTERM, Ray leaves the driver only milliseconds.
@pytest.mark.parametrize(
    "signal_name", ["SIGKILL", pytest.param("SIGTERM", marks=pytest.mark.slow)]
)
def test_build_whose_own_node_ends_says_so(
    signal_name: str, long_shards: Corpus, tmp_path: Path
) -> None:
    """Ray ends such a driver with exit code 1, and the last words promised other workers."""
    node = Node(num_cpus=2)
    try:
        disturbed = Build(
            long_shards, tmp_path / "cache", node=node, block_clips=2, runtime={"sleep_s": 0.6}
        )
        process = disturbed.start()
        wait_until(lambda: count_markers(disturbed.cache) or process.poll() is not None)
        assert node.raylet is not None
        node.raylet.send_signal(getattr(signal, signal_name))
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 2, output
        assert "Ray's process on this machine has ended" in output.splitlines()[-1]
        assert "other workers take over" not in output
        assert 0 < count_markers(disturbed.cache) < long_shards.num_shards
    finally:
        node.kill()


def test_teacher_that_requests_more_workers_than_fit_leaves_room_for_decoding(
    make_corpus: MakeCorpus, tmp_path: Path
) -> None:
    """It took all cores, and the build waited for ever for a worker that decodes."""
    node = Node(num_cpus=2)
    try:
        code, output = Build(
            make_corpus(8), tmp_path / "cache", node=node, resources={"max_workers": 4}
        ).run()
        assert code == 0, output
    finally:
        node.kill()


def has_ready_worker(node: Node) -> bool:
    """Returns whether a worker has started on the node."""
    return len(node.workers()) > len(node.workers("__init__"))


def wait_for_first(
    nodes: Sequence[Node], condition: Callable[[Node], object], process: subprocess.Popen
) -> Node:
    """Waits until a condition holds for a node, and returns this node."""
    while process.poll() is None:
        for node in nodes:
            if condition(node):
                return node
    pytest.fail("the build ended before the condition held")
