"""Several Ray nodes with different resources: what runs where, and a node lost in mid-build."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rich.console import Console

from manifests.corpus import Corpus
from pipeline import job
from pipeline.config import BuildConfig, TeacherConfig
from tests.pipeline.conftest import ENERGY, MakeCorpus
from tests.pipeline.nodes import Build, Node, contents, until

DECODE = {"num_cpus": 1, "custom": {"decoder": 1}}
TEACH = {"num_cpus": 1, "custom": {"expert": 1}}


@pytest.fixture
def cluster_of() -> Iterator[Callable[..., dict[str, Node]]]:
    """A head that computes nothing, and nodes of one CPU named after what they are for."""
    nodes: dict[str, Node] = {}

    def make(*names: str) -> dict[str, Node]:
        nodes["head"] = Node()

        def join(name: str) -> Node:
            resources = {name.rstrip("0123456789"): 1}
            return Node(head=nodes["head"], num_cpus=1, resources=resources)

        with ThreadPoolExecutor() as at_once:
            nodes.update(zip(names, at_once.map(join, names), strict=True))
        return nodes

    yield make
    for node in reversed(nodes.values()):
        node.kill()


def build(corpus: Corpus, cache: Path, head: Node, **options) -> Build:
    fields = {"resources": TEACH, "decode": DECODE, "runtime": {"sleep_s": 0.3}, **options}
    return Build(corpus, cache, node=head, block_clips=2, **fields)


def markers(cache: Path | str) -> int:
    return len(list(Path(cache).glob("teachers/*/*/markers/*.json")))


def test_decoding_and_experts_run_where_they_may(
    cluster_of: Callable[..., dict[str, Node]], make_corpus: MakeCorpus, tmp_path: Path
):
    nodes = cluster_of("decoder", "expert")
    process = build(make_corpus(24), tmp_path / "cache", nodes["head"]).start()
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
@pytest.mark.parametrize(("lost", "stand_in"), [("expert", "expert2"), ("decoder", "decoder2")])
def test_a_lost_node_costs_time_alone(
    lost: str,
    stand_in: str,
    cluster_of: Callable[..., dict[str, Node]],
    make_corpus: MakeCorpus,
    tmp_path: Path,
):
    corpus = make_corpus(48, shard=24)
    nodes = cluster_of("decoder", "expert", stand_in)
    calm = BuildConfig(
        corpus=corpus.folder.uri,
        cache=str(tmp_path / "calm"),
        preset="none",
        teacher={"energy": TeacherConfig(family=ENERGY)},
    )
    job.build(calm, Console(quiet=True))

    disturbed = build(corpus, tmp_path / "disturbed", nodes["head"])
    process = disturbed.start()
    if lost == "expert":
        # The second shard is half done: rows that are not committed lie on both experts' nodes.
        until(lambda: markers(disturbed.cache) or process.poll() is not None)
        time.sleep(0.8)
    else:
        # Decoding runs ahead: audio that nobody has heard lies on both decoders' nodes.
        until(lambda: nodes["expert"].workers("extract") or process.poll() is not None)
    nodes[lost].kill()
    assert markers(disturbed.cache) < corpus.num_shards, "the node was lost too late to matter"
    said, _ = process.communicate(timeout=180)
    assert process.returncode == 0, said
    assert "were lost with a node; it starts over" in said
    assert contents(disturbed.cache) == contents(calm.cache)
