"""A common interface to folders on a local disk and in an object store.

pyarrow's file systems access `s3://` and `gs://` without further packages. This module adds atomic
writes: a temporary file, an fsync and a rename on a local disk; an object store shows an object
only after its upload is complete.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TypeVar

import pyarrow as pa
from pyarrow import fs

from manifests import web
from manifests.atomic_file import TEMPORARY, AtomicFile
from manifests.connections import connect_azure, connect_google, connect_hub
from manifests.errors import UserError
from manifests.uploads import SpooledUpload, pieces, upload

REQUESTS = 64
"""Number of parallel requests when many small files of an object store are read."""


def cannot_write(why: str) -> UserError:
    """The error of a write that failed permanently, with instructions for the user."""
    return UserError(
        f"cannot write to the cache: {why}; mend that (free space, permissions, credentials) and "
        "run the same command again: what is committed is kept"
    )


Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(
    function: Callable[[Item], Result], items: Sequence[Item], *, requests: int = REQUESTS
) -> Iterator[Result]:
    """Yields `map(function, items)` in order, with many calls in parallel.

    Only a few results per thread are held before the caller takes them.
    """
    if len(items) < 2:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(min(requests, len(items))) as pool:
        for first in range(0, len(items), 8 * requests):
            yield from pool.map(function, items[first : first + 8 * requests])


def check_given_address(uri: str) -> None:
    """Rejects an address with options, for addresses that come from a manifest.

    pyarrow reads options from an address (`s3://bucket?endpoint_override=HOST/key`). With them, a
    manifest could choose the host that receives requests signed with this machine's credentials.
    Addresses on the command line are the user's own and may have options.

    Raises:
        UserError: the scheme is another than s3, gs, abfs, hf, http, https or file, or the bucket
            or host is not a plain name.
    """
    scheme, separator, key = uri.partition("://")
    if not separator:
        return
    bucket = key.partition("/")[0]
    is_plain = scheme == "file" and not bucket and "?" not in key
    if scheme in ("s3", "gs"):
        is_plain = re.fullmatch(r"\w[\w.-]*", bucket) is not None
    elif scheme in ("abfs", "abfss"):
        azure = r"[\w-]+(@[\w-]+\.(dfs|blob)\.core\.windows\.net)?"
        is_plain = re.fullmatch(azure, bucket) is not None
    elif scheme == "hf":
        is_plain = bucket == "datasets"
    elif scheme in ("http", "https"):
        is_plain = re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9.-]*(:[0-9]{1,5})?", bucket) is not None
    if not is_plain:
        raise UserError(
            f"the address {uri} in the manifest is refused: expected a local path, "
            "s3://BUCKET/KEY, gs://BUCKET/KEY, abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH, "
            "hf://datasets/NAME/PATH or https://HOST/PATH, where BUCKET is a plain name "
            "without '?', ':' or '@'"
        )


def identity(uri: str) -> str | None:
    """Names the state of a file: its size with its entity tag or time of change.

    Returns:
        None where there is no such file, or nothing tells one state of it from another.

    Raises:
        OSError: a store or a web server does not answer.
    """
    scheme, separator, _ = uri.partition("://")
    if scheme in ("http", "https") and separator:
        with contextlib.suppress(FileNotFoundError):
            answer = web.get(uri, 0, 0)
            return f"{answer.size}-{answer.stamp}" if answer.stamp else None
        return None
    if scheme == "hf" and re.search(r"@[0-9a-f]{40}/", uri):
        return "commit"
    files, path = filesystem(uri)
    info = files.get_file_info(path)
    if not info.is_file or not info.mtime_ns:
        return None
    return name_state(info.size, info.mtime_ns)


def name_state(size: int, changed_ns: int) -> str:
    """Returns the `identity` of a file, from a listing."""
    return f"{size}-{changed_ns}"


def filesystem(uri: str | Path) -> tuple[fs.FileSystem, str]:
    """Returns the file system of an address, and the path within it.

    Keys of an object store are used literally, including `%`, `#` and spaces. A bucket must exist.

    Raises:
        UserError: the scheme is not known to pyarrow, or the address is malformed.
    """
    text = str(uri)
    scheme, separator, key = text.partition("://")
    if not separator:
        return fs.LocalFileSystem(), str(Path(text).expanduser().resolve())
    if scheme == "gs":
        return connect_google(), key
    if scheme == "s3":
        bucket, separator, path = key.partition("/")
        store, name = _connect(f"s3://{bucket}")
        return store, f"{name}{separator}{path}"
    if scheme in ("http", "https"):
        return fs.PyFileSystem(web.WebHandler(scheme)), key
    if scheme == "hf":
        return connect_hub(), key
    if scheme in ("abfs", "abfss"):
        container, _, path = key.partition("/")
        name = container.partition("@")[0]
        return connect_azure(f"{scheme}://{container}"), f"{name}/{path}".rstrip("/")
    return _connect(text)


@functools.lru_cache(64)
def _connect(uri: str) -> tuple[fs.FileSystem, str]:
    # pyarrow's S3 client keeps as many connections as there are threads for input and output.
    if pa.io_thread_count() < REQUESTS:
        pa.set_io_thread_count(REQUESTS)
    try:
        return fs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UserError(
            f"cannot use the address {uri}: {error}; expected a local path, s3://BUCKET/KEY, "
            "gs://BUCKET/KEY, abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH, "
            "hf://datasets/NAME/PATH or https://HOST/PATH"
        ) from None


class Folder:
    """A local or remote folder. It does not have to exist: writing creates it."""

    def __init__(self, uri: str | Path) -> None:
        self.uri = str(uri).rstrip("/")
        self._fs, self._path = filesystem(self.uri)
        self.is_local = isinstance(self._fs, fs.LocalFileSystem)
        self._is_google = self._fs.type_name == "gcs"

    def __repr__(self) -> str:
        return f"Folder({self.uri!r})"

    def __reduce__(self) -> tuple[type[Folder], tuple[str]]:
        return Folder, (self.uri,)

    def check_bucket(self) -> None:
        """Checks that the bucket of an object store exists.

        Raises:
            UserError: it does not.
        """
        if self._fs.type_name not in ("s3", "gcs", "abfs"):
            return
        bucket = self._path.partition("/")[0]
        if self._fs.get_file_info(bucket).type == fs.FileType.NotFound:
            raise UserError(f"there is no bucket {bucket}; create it, or correct {self.uri}")

    def is_file(self) -> bool:
        """Whether the address is that of a file."""
        return self._fs.get_file_info(self._path).is_file

    def child(self, name: str) -> Folder:
        """The folder `name` within this one."""
        return Folder(f"{self.uri}/{name}")

    def path(self, name: str) -> str:
        """Returns `name` as a path of the underlying file system."""
        return f"{self._path}/{name}"

    def open(self, name: str, *, memory_map: bool = False) -> pa.NativeFile:
        """Opens a file for random access, memory-mapped if requested and possible.

        Raises:
            FileNotFoundError: there is no such file.
        """
        if memory_map and self.is_local:
            return pa.memory_map(self.path(name))
        return self._fs.open_input_file(self.path(name))

    def read_bytes(self, name: str) -> bytes:
        """The whole content of a file.

        Raises:
            FileNotFoundError: there is no such file.
        """
        with self.open(name) as file:
            return file.read()

    def write_atomic(self, name: str, data: bytes | pa.Buffer | IO[bytes]) -> None:
        """Writes a file atomically: readers see either all of it or nothing.

        Args:
            name: Name of the file.
            data: Its content, or an open file that is copied piece by piece.
        """
        if not self.is_local:
            upload(self._fs, self.path(name), pieces(data))
            return
        target = Path(self.path(name))
        with AtomicFile(target.parent) as file:
            for piece in pieces(data):
                file.write(piece)
            file.publish(target.name)

    def new_file(self, name: str) -> AtomicFile | SpooledUpload:
        """Starts a file in the subfolder `name`, whose own name is chosen when it is published.

        It is written in place on a local disk, and prepared in `TMPDIR` for an object store.
        """
        if self.is_local:
            return AtomicFile(Path(self.path(name)))
        return SpooledUpload(self._fs, self.path(name))

    def exists(self, name: str) -> bool:
        """Whether there is a file or folder of that name."""
        return self._fs.get_file_info(self.path(name)).type != fs.FileType.NotFound

    def size(self, name: str) -> int | None:
        """Returns the size of a file in bytes, or None if it does not exist."""
        stamp = self.stamp(name)
        return stamp and stamp[0]

    def stamp(self, name: str) -> tuple[int, int] | None:
        """Returns (bytes, modification time in ns since 1970) of a file, or None if absent."""
        info = self._fs.get_file_info(self.path(name))
        return (info.size, info.mtime_ns or 0) if info.type == fs.FileType.File else None

    def sizes(self) -> dict[str, int]:
        """Lists the bytes of every complete file directly in the folder, sorted by name."""
        return {name: size for name, (size, _) in self.stamps().items()}

    def stamps(self, *, unfinished: bool = False) -> dict[str, tuple[int, int]]:
        """Lists (bytes, modification time in ns since 1970) of every file directly in the folder.

        Args:
            unfinished: Include temporary files that killed writers left.
        """
        return {
            info.base_name: (info.size, info.mtime_ns or 0)
            for info in self._entries()
            if info.type == fs.FileType.File
            and (unfinished or not info.base_name.startswith(TEMPORARY))
        }

    def names(self) -> list[str]:
        """Names of the complete files directly in the folder, sorted."""
        return list(self.sizes())

    def folders(self) -> list[str]:
        """Names of the subfolders, sorted."""
        return [info.base_name for info in self._entries() if info.type == fs.FileType.Directory]

    def others(self) -> list[str]:
        """Names of what is neither a file nor a folder (pipes, devices, broken links), sorted."""
        if not self.is_local:
            return []
        known = (fs.FileType.File, fs.FileType.Directory)
        usual = {info.base_name for info in self._entries() if info.type in known}
        return sorted(set(os.listdir(self.path(""))) - usual)

    def move(self, name: str, to: str) -> None:
        """Renames a file within the folder (on an object store: copy, then delete)."""
        if self.is_local:
            Path(self.path(to)).parent.mkdir(parents=True, exist_ok=True)
            self._fs.move(self.path(name), self.path(to))
        else:  # Azure's client cannot move.
            self._fs.copy_file(self.path(name), self.path(to))
            self._fs.delete_file(self.path(name))

    def delete(self, name: str) -> None:
        """Removes a file.

        Raises:
            FileNotFoundError: there is no such file.
        """
        self._fs.delete_file(self.path(name))

    def delete_all(self) -> None:
        """Removes the folder and everything below it."""
        if not self._is_google:
            self._fs.delete_dir(self._path)
            return
        # Google's client expects an object for the folder itself, which may be missing.
        self._fs.delete_dir_contents(self._path, missing_dir_ok=True)
        if self._fs.get_file_info(self._path).type == fs.FileType.Directory:
            self._fs.delete_dir(self._path)

    def _entries(self) -> Iterator[fs.FileInfo]:
        # Google's client lists folders only where an object stands for each.
        selector = fs.FileSelector(self._path, allow_not_found=True, recursive=self._is_google)
        entries = self._fs.get_file_info(selector)
        if self._is_google:
            entries = _directly_within(self._path, entries)
        yield from sorted(entries, key=lambda info: info.base_name)


def _directly_within(folder: str, entries: Sequence[fs.FileInfo]) -> list[fs.FileInfo]:
    """The files and folders of a folder, from all that is anywhere below it."""
    within: dict[str, fs.FileInfo] = {}
    for info in entries:
        name, separator, _ = info.path.removeprefix(f"{folder}/").partition("/")
        path = f"{folder}/{name}"
        within[name] = fs.FileInfo(path, fs.FileType.Directory) if separator else info
    return list(within.values())
