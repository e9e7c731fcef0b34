"""Private names of other libraries that this package uses, each with the version it was seen in.

`tests/test_library_internals.py` has a test per name, which fails when a new version moves it.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
import tqdm
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedModel, Trainer, modeling_gguf_pytorch_utils

TOKEN_ROWS = "trainable_tokens"
"""Part of the names of parameters that PEFT (0.21) keeps for `trainable_token_indices`."""


def is_token_row(name: str) -> bool:
    """Whether a parameter contains embeddings of the thinking tokens."""
    return TOKEN_ROWS in name


def attention_kernel(model: PreTrainedModel) -> str:
    """Name of the attention kernel that a model runs, e.g. `sdpa` (transformers 5.24).

    `set_attn_implementation` is public, but the kernel in use is kept in `_attn_implementation`.
    """
    return str(model.config.get_text_config()._attn_implementation)


def storage_identity(tensor: Tensor) -> int:
    """A number that identifies the storage of a tensor while it exists, even without an address.

    Storages on the meta device have the address 0; `_cdata` is the object itself (torch 2.13).
    """
    return tensor.untyped_storage()._cdata


def silence_gguf() -> None:
    """Hides the progress bar with which transformers (5.24) reads the tensors of a GGUF file.

    The bar is tqdm's own, so `disable_progress_bar` of transformers has no effect on it.
    """
    modeling_gguf_pytorch_utils.tqdm = functools.partial(tqdm.tqdm, disable=True)  # pyright: ignore


def grouped_product_operator() -> Any:
    """The operator with which transformers computes a mixture of experts (torch 2.13)."""
    return torch.ops.aten._grouped_mm


class TrainerHooks(Trainer):
    """transformers' Trainer (5.24), with public names for three of its private methods."""

    def save_trained(self, folder: Path, state_dict: dict[str, Tensor] | None) -> None:
        """Writes the trained state to a folder.

        Args:
            folder: A checkpoint, or the folder of the stage.
            state_dict: The gathered weights of the whole model, if it is sharded.
        """
        raise NotImplementedError

    def load_trained(self, checkpoint: Path) -> None:
        """Reads the state that `save_trained` has written."""
        raise NotImplementedError

    def training_sampler(self) -> Sampler | None:
        """The sampler of the training examples; None for the default."""
        return None

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if self.args.should_save:
            self.save_trained(Path(output_dir or str(self.args.output_dir)), state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.load_trained(Path(resume_from_checkpoint))

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        sampler = self.training_sampler()
        return super()._get_train_sampler(train_dataset) if sampler is None else sampler
