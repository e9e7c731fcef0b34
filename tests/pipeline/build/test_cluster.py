"""Tests builds on several Ray nodes with different resources, and the loss of a node."""

from __future__ import annotations

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
from tests.pipeline.nodes import Build, Node, contents, until

DECODE = {"num_cpus": 1, "custom": {"decoder": 1}}
TEACH = {"num_cpus": 1, "custom": {"expert": 1}}


@pytest.fixture(scope="module")
def head() -> Iterator[Node]:
    """A head that computes nothing; other nodes join it."""
    node = Node()
    yield node
    node.kill()


@pytest.fixture
def join(head: Node) -> Iterator[Callable[..., dict[str, Node]]]:
    """Adds nodes of one CPU to the cluster, named after what they are for."""
    nodes: dict[str, Node] = {}

    def start(name: str) -> Node:
        return Node(head=head, num_cpus=1, resources={name.rstrip("0123456789"): 1})

    def make(*names: str) -> dict[str, Node]:
        with ThreadPoolExecutor() as at_once:
            nodes.update(zip(names, at_once.map(start, names), strict=True))
        return nodes

    yield make
    for node in nodes.values():
        node.kill()


@pytest.fixture(scope="module")
def long_shards(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Two shards that take a while."""
    return noise_corpus(tmp_path_factory.mktemp("noise"), 48, shard=24)


@pytest.fixture(scope="module")
def calm(long_shards: Corpus, tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple]:
    """The cache of an undisturbed build on one machine."""
    cache = str(tmp_path_factory.mktemp("calm"))
    energy = {"energy": TeacherConfig(family=ENERGY)}
    config = BuildConfig(corpus=long_shards.folder.uri, cache=cache, preset="none", teacher=energy)
    job.build(config, Console(quiet=True))
    return contents(cache)


def build(corpus: Corpus, cache: Path, head: Node, **options) -> Build:
    fields = {"resources": TEACH, "decode": DECODE, "runtime": {"sleep_s": 0.6}, **options}
    return Build(corpus, cache, node=head, block_clips=2, **fields)


def markers(cache: Path | str) -> int:
    return len(list(Path(cache).glob("teachers/*/*/markers/*.json")))


def test_decoding_and_experts_run_where_they_may(
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
    assert len(contents(tmp_path / "cache")) == 6


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("lost", ["expert", "decoder"])
def test_a_lost_node_loses_no_clip(
    lost: str,
    head: Node,
    join: Callable[..., dict[str, Node]],
    long_shards: Corpus,
    calm: dict[int, tuple],
    tmp_path: Path,
):
    twin = f"{lost}2"
    nodes = join("decoder", "expert", twin)
    disturbed = build(long_shards, tmp_path / "disturbed", head)
    process = disturbed.start()
    if lost == "expert":
        # The second shard is half done: rows that are not committed lie on both experts' nodes.
        until(lambda: markers(disturbed.cache) or process.poll() is not None)
        victim = first_of([nodes[lost], nodes[twin]], lambda node: node.workers("extract"), process)
        time.sleep(1.2)
    else:
        # Decoding runs ahead: audio that nobody has heard lies where it was decoded. A block takes
        # milliseconds, which can be missed; who is ready is given the next one.
        victim = first_of([nodes[lost], nodes[twin]], ready, process)
        until(lambda: nodes["expert"].workers("extract") or process.poll() is not None)
    victim.kill()
    assert markers(disturbed.cache) < long_shards.num_shards, "the node was lost too late to matter"
    said, _ = process.communicate(timeout=180)
    assert process.returncode == 0, said
    assert "were lost with a node; the shard is built again" in said
    assert contents(disturbed.cache) == calm


def ready(node: Node) -> bool:
    """Whether a worker has started here."""
    return len(node.workers()) > len(node.workers("__init__"))


def first_of(
    nodes: Sequence[Node], holds: Callable[[Node], object], process: subprocess.Popen
) -> Node:
    """The first of the nodes of which something holds."""
    while process.poll() is None:
        for node in nodes:
            if holds(node):
                return node
    pytest.fail("the build ended before")
