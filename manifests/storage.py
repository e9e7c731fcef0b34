"""A folder on a local disk or in an object store, behind one small interface.

pyarrow's own file systems reach `s3://` and `gs://` with no further package. What they lack is a
write that is whole or absent: on a local disk that is a temporary file, an fsync and a rename; an
object store shows an object only once its upload is complete. The cache needs nothing else.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TypeVar

import pyarrow as pa
from pyarrow import fs

from manifests import web
from manifests.errors import UserError

REQUESTS = 64
"""Requests under way at once where many small files of an object store are read."""
TEMPORARY = ".tmp-"
"""Prefix of files that a killed writer may leave behind; no reader ever looks at them."""
PIECE = 1 << 23
"""Bytes of a file that are copied at a time."""


def cannot_write(why: str) -> UserError:
    """The error of a write that failed for good, as its user can mend it."""
    return UserError(
        f"cannot write to the cache: {why}; mend that (free space, permissions, credentials) and "
        "run the same command again: what is committed is kept"
    )


Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(
    function: Callable[[Item], Result], items: Sequence[Item], *, requests: int = REQUESTS
) -> Iterator[Result]:
    """`map(function, items)` in order, with many calls waiting for their answers at once.

    At most a few results per request are held that nobody has taken yet.
    """
    if len(items) < 2:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(min(requests, len(items))) as pool:
        for first in range(0, len(items), 8 * requests):
            yield from pool.map(function, items[first : first + 8 * requests])


def check_given_address(uri: str) -> None:
    """Refuses an address that names more than a place, for addresses that a manifest gives.

    pyarrow reads options from an address (`s3://bucket?endpoint_override=HOST/key`): with them, a
    manifest would choose which host receives requests signed with this machine's credentials.
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


def filesystem(uri: str | Path) -> tuple[fs.FileSystem, str]:
    """The file system of an address, and the path in it.

    Keys of an object store are taken literally, `%`, `#`, spaces and all. A bucket must exist.

    Raises:
        UserError: the scheme is not known to pyarrow, or the address is malformed.
    """
    text = str(uri)
    scheme, separator, key = text.partition("://")
    if not separator:
        return fs.LocalFileSystem(), str(Path(text).expanduser().resolve())
    if scheme in ("s3", "gs"):
        bucket = key.partition("/")[0]
        return _connect(f"{scheme}://{bucket}")[0], key
    if scheme in ("http", "https"):
        return fs.PyFileSystem(web.WebHandler(scheme)), key
    if scheme == "hf":
        return _connect_hub(), key
    if scheme in ("abfs", "abfss"):
        container, _, path = key.partition("/")
        name = container.partition("@")[0]
        return _connect_azure(f"{scheme}://{container}"), f"{name}/{path}".rstrip("/")
    return _connect(text)


@functools.lru_cache(4)
def _connect_hub() -> fs.FileSystem:
    """The hub's repositories by huggingface_hub, which also knows the user's token."""
    try:
        from huggingface_hub import HfFileSystem
    except ModuleNotFoundError:
        raise UserError(
            "addresses with hf:// need the package huggingface-hub; pip install 'coat-distill[hub]'"
        ) from None
    return fs.PyFileSystem(fs.FSSpecHandler(HfFileSystem()))


@functools.lru_cache(64)
def _connect_azure(uri: str) -> fs.FileSystem:
    """Azure's Blob Storage by pyarrow itself: abfs://CONTAINER@ACCOUNT.dfs.core.windows.net, or
    abfs://CONTAINER where the environment names the account, as for Azure's own tools."""
    container, separator, host = uri.partition("://")[2].partition("@")
    account = host.partition(".")[0] if separator else os.environ.get("AZURE_STORAGE_ACCOUNT", "")
    if not account:
        raise UserError(
            f"{uri} names no storage account; write abfs://{container}@ACCOUNT.dfs.core.windows.net"
            "/PATH, or set AZURE_STORAGE_ACCOUNT (and AZURE_STORAGE_KEY)"
        )
    endpoint = os.environ.get("AZURE_STORAGE_BLOB_ENDPOINT", "")
    scheme, _, authority = endpoint.rstrip("/").partition("://")
    options = (
        {"blob_storage_authority": authority, "blob_storage_scheme": scheme} if authority else {}
    )
    key = os.environ.get("AZURE_STORAGE_KEY")
    try:
        return fs.AzureFileSystem(account, account_key=key, **options)
    except AttributeError:
        raise UserError(
            f"{uri}: this build of pyarrow cannot reach Azure; install pyarrow from PyPI"
        ) from None


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
    """A folder, local or remote. It need not exist: writing makes it."""

    def __init__(self, uri: str | Path) -> None:
        self.uri = str(uri).rstrip("/")
        self._fs, self._path = filesystem(self.uri)
        self.is_local = isinstance(self._fs, fs.LocalFileSystem)

    def __repr__(self) -> str:
        return f"Folder({self.uri!r})"

    def __reduce__(self) -> tuple[type[Folder], tuple[str]]:
        return Folder, (self.uri,)

    def child(self, name: str) -> Folder:
        """The folder `name` within this one."""
        return Folder(f"{self.uri}/{name}")

    def path(self, name: str) -> str:
        """`name` as a path of the underlying file system."""
        return f"{self._path}/{name}"

    def open(self, name: str, *, memory_map: bool = False) -> pa.NativeFile:
        """The file for random access, memory-mapped where that is asked for and possible.

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
        """Writes a file so that readers see all of it or nothing, whatever happens meanwhile.

        Args:
            name: Name of the file.
            data: Its content, or a file that holds it, which is then copied piece by piece.
        """
        if not self.is_local:
            with self._fs.open_output_stream(self.path(name)) as stream:
                for piece in _pieces(data):
                    stream.write(piece)
            return
        target = Path(self.path(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{TEMPORARY}{target.name}-{secrets.token_hex(4)}")
        try:
            with temporary.open("wb") as file:
                for piece in _pieces(data):
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        _sync_folder(target.parent)

    def exists(self, name: str) -> bool:
        """Whether there is a file or folder of that name."""
        return self._fs.get_file_info(self.path(name)).type != fs.FileType.NotFound

    def size(self, name: str) -> int | None:
        """Bytes of a file, or None where there is none."""
        stamp = self.stamp(name)
        return stamp and stamp[0]

    def stamp(self, name: str) -> tuple[int, int] | None:
        """(bytes, time of change in ns since 1970) of a file, or None where there is none."""
        info = self._fs.get_file_info(self.path(name))
        return (info.size, info.mtime_ns or 0) if info.type == fs.FileType.File else None

    def sizes(self) -> dict[str, int]:
        """Name -> bytes of every finished file directly within; one listing, sorted by name."""
        return {name: size for name, (size, _) in self.stamps().items()}

    def stamps(self, *, unfinished: bool = False) -> dict[str, tuple[int, int]]:
        """Name -> (bytes, time of change in ns since 1970) of every file directly within.

        Args:
            unfinished: Include what killed writers left behind.
        """
        return {
            info.base_name: (info.size, info.mtime_ns or 0)
            for info in self._entries()
            if info.type == fs.FileType.File
            and (unfinished or not info.base_name.startswith(TEMPORARY))
        }

    def names(self) -> list[str]:
        """Names of the finished files directly within, sorted."""
        return list(self.sizes())

    def folders(self) -> list[str]:
        """Names of the folders directly within, sorted."""
        return [info.base_name for info in self._entries() if info.type == fs.FileType.Directory]

    def move(self, name: str, to: str) -> None:
        """Renames a file within the folder (on an object store: copy, then delete)."""
        if self.is_local:
            Path(self.path(to)).parent.mkdir(parents=True, exist_ok=True)
        self._fs.move(self.path(name), self.path(to))

    def delete(self, name: str) -> None:
        """Removes a file.

        Raises:
            FileNotFoundError: there is no such file.
        """
        self._fs.delete_file(self.path(name))

    def delete_all(self) -> None:
        """Removes the folder and everything below it."""
        self._fs.delete_dir(self._path)

    def _entries(self) -> Iterator[fs.FileInfo]:
        selector = fs.FileSelector(self._path, allow_not_found=True)
        yield from sorted(self._fs.get_file_info(selector), key=lambda info: info.base_name)


def _pieces(data: bytes | pa.Buffer | IO[bytes]) -> Iterator[bytes | memoryview]:
    if isinstance(data, bytes):
        yield data
    elif isinstance(data, pa.Buffer):
        yield memoryview(data)  # pyright: ignore[reportArgumentType]
    else:
        data.seek(0)
        while piece := data.read(PIECE):
            yield piece


def _sync_folder(folder: Path) -> None:
    """Makes a rename durable: the folder's own entry list goes to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
