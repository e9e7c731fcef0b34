"""Silences progress bars and warnings of libraries that users cannot act on.

transformers shows a bar for every checkpoint it reads or writes, and repeats warnings in every
process. Errors are still shown, and `--verbose` shows everything.
"""

from __future__ import annotations

import logging
import warnings


def quiet_imports() -> None:
    """Silences messages that libraries log on import; call this before importing them."""
    # On CPUs with AVX512-BF16, bitsandbytes recommends downloading a kernel.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def quiet_libraries() -> None:
    """Silences transformers and its dependencies, unless the root logger shows details."""
    if logging.getLogger().isEnabledFor(logging.INFO):
        return
    from huggingface_hub.utils import disable_progress_bars
    from transformers.utils import logging as transformers_logging

    disable_progress_bars()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    warnings.simplefilter("ignore")


def quiet_gguf() -> None:
    """Silences the reading of GGUF files, unless the root logger shows details."""
    if not logging.getLogger().isEnabledFor(logging.INFO):
        from student.library_internals import silence_gguf

        silence_gguf()
