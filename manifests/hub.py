"""Converts failures of a model hub to one-line messages that say what to check.

`huggingface_hub` is imported when it is needed: a base installation does not have it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from manifests.errors import UserError


def endpoint() -> str:
    """Address of the hub."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co")


def failures() -> tuple[type[Exception], ...]:
    """Exceptions that `huggingface_hub` raises if it cannot provide a file."""
    from huggingface_hub.errors import HfHubHTTPError

    # The bases: OSError, and the HTTP client's error, raised where there is no connection.
    return (*HfHubHTTPError.__bases__, ValueError)


@contextlib.contextmanager
def fetching(checkpoint: str) -> Iterator[None]:
    """Converts failures of a download to a `UserError`.

    Args:
        checkpoint: OWNER/NAME@REVISION, for the message.

    Raises:
        UserError: the hub cannot be reached, or does not have the checkpoint.
    """
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        yield
    except OfflineModeIsEnabled:
        raise UserError("HF_HUB_OFFLINE is set, and fetching needs the hub; unset it") from None
    except failures() as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"cannot fetch {checkpoint} from {endpoint()} ({type(error).__name__}: {reason}); "
            "check the id and the connection, and HF_TOKEN for gated models"
        ) from None
