"""Connections to object stores and to the hub, as the environment of this process describes them.

pyarrow's own clients are used. What their addresses cannot say (a key, an emulator's address) comes
from the variables that the stores' own tools read.
"""

from __future__ import annotations

import functools
import os
from datetime import timedelta
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from manifests.errors import UserError

RETRY_FOR = timedelta(seconds=60)
"""Time after which a request to Google's store counts as failed; its client's own is 15 minutes."""


@functools.lru_cache(1)
def connect_hub() -> fs.FileSystem:
    """The hub's repositories by huggingface_hub, which also knows the user's token."""
    try:
        from huggingface_hub import HfFileSystem
    except ModuleNotFoundError:
        raise UserError(
            "addresses with hf:// need the package huggingface-hub; pip install -e '.[hub]'"
        ) from None
    return fs.PyFileSystem(fs.FSSpecHandler(HfFileSystem()))


@functools.lru_cache(1)
def connect_google() -> fs.FileSystem:
    """Connects to Google Cloud Storage, or to the emulator in STORAGE_EMULATOR_HOST, a variable
    of Google's own tools."""
    emulator = os.environ.get("STORAGE_EMULATOR_HOST", "")
    if not emulator:
        return fs.GcsFileSystem(retry_time_limit=RETRY_FOR)
    address = urlsplit(emulator if "://" in emulator else f"http://{emulator}")
    return fs.GcsFileSystem(
        anonymous=True,
        scheme=address.scheme,
        endpoint_override=address.netloc,
        retry_time_limit=RETRY_FOR,
    )


@functools.lru_cache(64)
def connect_azure(uri: str) -> fs.FileSystem:
    """Connects to Azure's Blob Storage.

    Addresses are abfs://CONTAINER@ACCOUNT.dfs.core.windows.net, or abfs://CONTAINER.

    The account, if the address does not name it, its key or shared access signature and an
    emulator's address come from AZURE_STORAGE_CONNECTION_STRING, or from AZURE_STORAGE_ACCOUNT,
    AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN and AZURE_STORAGE_BLOB_ENDPOINT.

    Raises:
        UserError: no account is named, or this build of pyarrow cannot reach Azure.
    """
    stated = _connection_string()
    own = os.environ.get("AZURE_STORAGE_ACCOUNT") or stated.get("AccountName", "")
    container, _, host = uri.partition("://")[2].partition("@")
    account = host.partition(".")[0] or own
    if not account:
        raise UserError(
            f"{uri} names no storage account; write abfs://{container}@ACCOUNT.dfs.core.windows.net"
            "/PATH, or set AZURE_STORAGE_ACCOUNT (and AZURE_STORAGE_KEY)"
        )
    key = os.environ.get("AZURE_STORAGE_KEY") or stated.get("AccountKey")
    token = os.environ.get("AZURE_STORAGE_SAS_TOKEN") or stated.get("SharedAccessSignature")
    if own not in ("", account):
        # The credentials in the environment belong to another account.
        key = token = None
    endpoint = os.environ.get("AZURE_STORAGE_BLOB_ENDPOINT") or stated.get("BlobEndpoint", "")
    address = urlsplit(endpoint)
    options = {}
    if address.netloc and not address.netloc.startswith(f"{account}."):
        # An emulator serves both interfaces of Azure at one address.
        for service in ("blob", "dfs"):
            options |= {
                f"{service}_storage_authority": address.netloc,
                f"{service}_storage_scheme": address.scheme,
            }
    try:
        return fs.AzureFileSystem(
            account, account_key=key, sas_token=None if key else token, **options
        )
    except AttributeError:
        raise UserError(
            f"{uri}: this build of pyarrow cannot reach Azure; install pyarrow from PyPI"
        ) from None
    except pa.ArrowInvalid as error:
        raise UserError(f"{uri} cannot be reached: {error}; check AZURE_STORAGE_KEY") from None


def _connection_string() -> dict[str, str]:
    parts = os.environ.get("AZURE_STORAGE_CONNECTION_STRING", "").split(";")
    return {key: value for key, _, value in (part.partition("=") for part in parts) if value}
