"""Library chatter, kept off the screen: bars and warnings that no user of a run can act on.

transformers shows a bar for every checkpoint it reads or writes, and repeats per process what a
config lacks. Errors still come through, and `--verbose` brings everything back.
"""

from __future__ import annotations

import logging
import warnings


def quiet_imports() -> None:
    """Silences what libraries log while they are imported; to be called before they are."""
    # On CPUs with AVX512-BF16, bitsandbytes advises to download a kernel.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def quiet_libraries() -> None:
    """Silences transformers and what it leans on, unless the root logger wants details."""
    if logging.getLogger().isEnabledFor(logging.INFO):
        return
    from huggingface_hub.utils import disable_progress_bars
    from transformers.utils import logging as transformers_logging

    disable_progress_bars()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    warnings.simplefilter("ignore")
