"""Tests that only one build writes to a corpus in an object store, with a lock that expires."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from pyarrow import fs

from manifests import cli, store_lease
from manifests.corpus import corpus
from manifests.corpus.build_folder import LOCK_FILE, open_build
from manifests.corpus.sources import detect
from manifests.errors import UserError
from manifests.storage import Folder
from tests.manifests.reference_audio import write_reference


@pytest.fixture
def folder(s3: fs.FileSystem, tmp_path: Path) -> Folder:
    """An empty folder of an object store."""
    return Folder(f"s3://data/{tmp_path.name}")


def write_other(folder: Folder, *, machine: str = "another", process: int = 1) -> None:
    """Writes the object of another process that holds the folder."""
    fields = {"holder": "process 1 on node7", "since": "2026-01-01 10:00:00 UTC"}
    fields |= {"machine": machine, "process": process, "is_holder": True}
    folder.write_atomic(f"{LOCK_FILE}-other", json.dumps(fields).encode())


def test_lease_is_held_by_one_process_only(folder: Folder):
    """Eight threads ask at once, and each keeps what it gets for a moment."""
    holders, most, refused = [], [], []
    start = threading.Barrier(8)

    def hold(name: int) -> None:
        start.wait()
        try:
            with store_lease.store_lease(folder, LOCK_FILE, what="build") as check:
                holders.append(name)
                most.append(len(holders))
                time.sleep(0.3)
                check()
                holders.remove(name)
        except UserError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=hold, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) <= {1}
    assert len(most) + len(refused) == 8
    assert all("another build is writing to s3://data/" in error for error in refused)
    assert folder.names() == []


def test_second_build_is_refused_and_names_the_first(folder: Folder, tmp_path: Path):
    (tmp_path / "set").mkdir()
    write_reference(tmp_path / "set/a.wav", 0.2)
    write_other(folder)
    message = r"another build is writing to s3://.* \(process 1 on node7, since 2026-01-01 10:00"
    with pytest.raises(UserError, match=message):
        cli.build(str(tmp_path / "set"), folder.uri)
    assert folder.names() == [f"{LOCK_FILE}-other"]
    folder.delete(f"{LOCK_FILE}-other")
    cli.build(str(tmp_path / "set"), folder.uri)
    assert corpus.Corpus(folder.uri).num_clips == 1
    assert not [name for name in folder.names() if name.startswith(LOCK_FILE)]


def test_lease_of_a_dead_process_expires(folder: Folder, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(store_lease, "EXPIRY_S", 1.5)
    monkeypatch.setattr(store_lease, "RENEWAL_S", 0.2)
    write_other(folder)
    with pytest.raises(UserError, match=r"free 1.5 s after its death"), open_build(folder):
        pass
    time.sleep(3)
    with open_build(folder) as opened:
        time.sleep(3)  # A holder that is alive keeps the folder for longer than that.
        opened.check_held()
        with pytest.raises(UserError, match="another build is writing"), open_build(folder):
            pass


def test_lease_of_a_dead_process_of_this_machine_is_removed(folder: Folder):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    write_other(folder, machine=store_lease._machine(), process=dead.pid)
    with open_build(folder):
        assert f"{LOCK_FILE}-other" not in folder.names()


def test_suspended_build_writes_nothing_more(folder: Folder, tmp_path: Path):
    """Another build has taken the folder over meanwhile, and has removed this one's object."""
    (tmp_path / "set").mkdir()
    write_reference(tmp_path / "set/a.wav", 0.2)
    lost = r"was suspended or cut off from s3://.* run the same command again"
    clips = list(detect.clips(str(tmp_path / "set"), Folder("/nowhere")))
    with open_build(folder) as opened:
        for name in folder.names():
            folder.delete(name)
        with pytest.raises(UserError, match=lost):
            corpus.build(clips, folder.uri, check_held=opened.check_held)
    assert folder.names() == []
