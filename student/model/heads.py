"""Heads that read the states of the block: one small Transformer per stream, dropped at export."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from manifests.errors import UserError
from student.config import HeadConfig

# Legend: B clips, K positions, R frames per position, H backbone width, D target width,
# C the head's own width, A audio tokens.


class StreamHead(nn.Module):
    """hidden_BKH -> frames (B, K * R, D): features or logits, depending on the stream's kind.

    The positions attend to each other, so that a head can smooth over time. It has no access to the
    audio, so its predictions must come from the block.
    """

    def __init__(self, *, hidden_size: int, num_positions: int, dim: int, config: HeadConfig):
        super().__init__()
        width = config.width
        self.dim = dim
        self.norm = nn.LayerNorm(hidden_size)
        self.project = nn.Linear(hidden_size, width)
        self.position_KC = nn.Parameter(torch.randn(num_positions, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width,
            config.attention_heads,
            dim_feedforward=4 * width,
            dropout=config.dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.encoder = nn.TransformerEncoder(
            layer, config.layers, norm=nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.predict = nn.Linear(width, config.frames_per_position * dim)

    def forward(self, hidden_BKH: Tensor) -> Tensor:
        """Frames in the order of time."""
        states_BKH = hidden_BKH.to(self.project.weight.dtype)
        states_BKC = self.project(self.norm(states_BKH)) + self.position_KC
        return self.predict(self.encoder(states_BKC)).reshape(len(hidden_BKH), -1, self.dim)


class TokenHead(nn.Module):
    """hidden_BAH -> frames (B, A, D): one frame for each audio token, from that token alone."""

    def __init__(self, *, hidden_size: int, dim: int, config: HeadConfig):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.project = nn.Linear(hidden_size, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.predict = nn.Linear(config.width, dim)

    def forward(self, hidden_BAH: Tensor) -> Tensor:
        """Computes the frames in temporal order."""
        states_BAH = self.norm(hidden_BAH.to(self.project.weight.dtype))
        return self.predict(self.dropout(nn.functional.gelu(self.project(states_BAH))))


def find_head_layer(config: HeadConfig, num_layers: int) -> int:
    """Determines the index of the hidden state that the heads read; 0 is the embeddings.

    Raises:
        UserError: the backbone has no such layer.
    """
    depth = 1 / 2 if config.per_token else 2 / 3
    chosen = round(depth * num_layers) if config.layer is None else config.layer
    if not -num_layers - 1 <= chosen <= num_layers:
        raise UserError(f"heads.layer is {chosen}; the language model has {num_layers} layers")
    return chosen % (num_layers + 1)
