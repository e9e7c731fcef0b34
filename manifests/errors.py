"""Errors that are not defects of this project.

A command line shows a `UserError` as one line and exits with code 2. Any other exception is a
defect of this project and keeps its traceback.
"""

import errno
import re

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Codes of writes for which there is no room: a full disk, a quota, a limit on a file's size."""
_FULL_TEXTS = re.compile(
    r"No space left on device|[Dd]isk quota exceeded|File too large"
    r"|PytorchStreamWriter failed|^\d+ requested and \d+ written$"
)
"""Texts of errors without such a code: of safetensors, torch, and numpy's `tofile`."""


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or what it was raised from, is a write for which there is no room."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in FULL:
            return True
        if isinstance(cause, Exception) and _FULL_TEXTS.search(str(cause)):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def explain(error: Exception) -> str:
    """Describes an exception about the structure of a file's content, without Python's names."""
    if isinstance(error, KeyError):
        return f"it has no {error}"
    if isinstance(error, AttributeError | IndexError | TypeError):
        return f"it has another structure ({error})"
    return str(error)


class UserError(Exception):
    """Input from the user cannot be used.

    The message states what was found, what was expected and what to do, in one or two sentences.
    """


class StoreError(OSError):
    """A storage service could not be reached: a timeout, a rejected request, credentials.

    The error says nothing about the data itself, so callers retry and record nothing about the
    clip.
    """


class AudioError(Exception):
    """The audio of a clip cannot be used, now or later."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        """missing, moved, unreadable, empty, not-finite, out-of-range, beyond-end, too-long,
        too-short or bad-rate: a short, stable name for counting."""

    def __reduce__(self) -> tuple[type["AudioError"], tuple[str, str]]:
        return AudioError, (self.reason, str(self))


class Interrupted(KeyboardInterrupt):
    """The user, or the system, asked this process to end (SIGINT, SIGTERM)."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = 128 + number


def check_least(option: str, value: float, least: float) -> None:
    """Checks the number that an option has.

    Raises:
        UserError: it is below `least`.
    """
    if value < least:
        raise UserError(f"{option} must be at least {least:g}; it is {value:g}")


def not_utf8(source: str, error: UnicodeDecodeError) -> UserError:
    """Describes a file or an option whose content is not UTF-8 text."""
    return UserError(
        f"{source} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
    )
