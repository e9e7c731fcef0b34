"""The network of Beat This! (Foscarin, Schlüter and Widmer, ISMIR 2024, arXiv 2407.21658).

A port of `beat_this.model` of beat-this 1.1.0 (github.com/CPJKU/beat_this), whose transformers
derive from Phil Wang's BS-RoFormer (MIT). Modules have the names of the original, so that its
published checkpoints load strictly; the port needs neither torchaudio nor the original's helpers.
The port adds a mask: clips of different lengths run in one batch, and each has the same result as
alone. The original's licence:

MIT License. Copyright (c) 2024 Institute of Computational Perception, JKU Linz, Austria

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and
associated documentation files (the "Software"), to deal in the Software without restriction,
including without limitation the rights to use, copy, modify, merge, publish, distribute,
sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial
portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT
NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND
NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES
OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN
CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

# Legend: B batch, T frames, F frequencies, C channels, N rows of a sequence batch, S its length,
# H heads, E width of a head.


class BeatThis(nn.Module):
    """A log-mel spectrogram (B, T, F) -> beat and downbeat logits, and the states below them."""

    def __init__(
        self, *, spect_dim: int = 128, transformer_dim: int = 512, ff_mult: int = 4,
        n_layers: int = 6, head_dim: int = 32, stem_dim: int = 32, sum_head: bool = True,
        partial_transformers: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        widths = [stem_dim << block for block in range(4)]
        self.frontend = _Frontend(
            spect_dim, widths, transformer_dim, head_dim if partial_transformers else 0
        )
        self.transformer_blocks = _Transformer(transformer_dim, head_dim, ff_mult, n_layers)
        self.task_heads = _Heads(transformer_dim)
        self._sum_head = sum_head

    def forward(
        self, spectrogram_BTF: torch.Tensor, lengths: list[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (B, T, 2) of beats and downbeats in float32, and the last states (B, T, C).

        Args:
            spectrogram_BTF: Padded at the end of shorter clips.
            lengths: Frames of each clip.
        """
        length = spectrogram_BTF.shape[1]
        mask_BT = None
        if min(lengths) < length:
            ends_B = torch.tensor(lengths, device=spectrogram_BTF.device)
            mask_BT = torch.arange(length, device=spectrogram_BTF.device) < ends_B[:, None]
        states = self.transformer_blocks(self.frontend(spectrogram_BTF, mask_BT), mask_BT)
        logits_BT2 = self.task_heads.beat_downbeat_lin(states).float()
        if self._sum_head:
            # A downbeat is a beat: logits of beats are the sum of both.
            logits_BT2 = torch.stack([logits_BT2.sum(-1), logits_BT2[..., 1]], -1)
        return logits_BT2, states


class _Stem(nn.Module):
    def __init__(self, bands: int, channels: int) -> None:
        super().__init__()
        self.bn1d = nn.BatchNorm1d(bands)
        self.conv2d = nn.Conv2d(1, channels, (4, 3), stride=(4, 1), padding=(0, 1), bias=False)
        self.bn2d = nn.BatchNorm2d(channels)

    def forward(self, spectrogram_BTF: torch.Tensor, mask_BT: torch.Tensor | None) -> torch.Tensor:
        hidden_BCFT = self.bn1d(spectrogram_BTF.transpose(1, 2))[:, None]
        return functional.gelu(self.bn2d(self.conv2d(_zeroed(hidden_BCFT, mask_BT))))


class _Frontend(nn.Module):
    """The transformer's input, from a spectrogram."""

    def __init__(self, bands: int, widths: Sequence[int], out: int, head_dim: int) -> None:
        super().__init__()
        self.stem = _Stem(bands, widths[0])
        self.blocks = nn.ModuleList(
            _FrontendBlock(before, after, head_dim) for before, after in pairwise(widths)
        )
        self.linear = nn.Linear(widths[-1] * (bands // 4 // 8), out)

    def forward(self, spectrogram_BTF: torch.Tensor, mask_BT: torch.Tensor | None) -> torch.Tensor:
        hidden_BCFT = self.stem(spectrogram_BTF, mask_BT)
        for block in self.blocks:
            hidden_BCFT = block(hidden_BCFT, mask_BT)
        return self.linear(hidden_BCFT.permute(0, 3, 1, 2).flatten(2))


class _Transformer(nn.Module):
    def __init__(self, width: int, head_dim: int, ff_mult: int, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList([_Attention(width, head_dim), _feed_forward(width, ff_mult)])
            for _ in range(num_layers)
        )
        self.norm = _RMSNorm(width)

    def forward(self, states_BTC: torch.Tensor, mask_BT: torch.Tensor | None) -> torch.Tensor:
        for layer in self.layers:
            attention, feed_forward = layer.children()
            states_BTC = attention(states_BTC, mask_BT) + states_BTC
            states_BTC = feed_forward(states_BTC) + states_BTC
        return self.norm(states_BTC)


class _Heads(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.beat_downbeat_lin = nn.Linear(width, 2)


class _Partial(nn.Module):
    """Attention over the frequencies of a frame, then over the frames of a frequency."""

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self.attnF, self.ffF = _Attention(width, head_dim), _feed_forward(width, 4)
        self.attnT, self.ffT = _Attention(width, head_dim), _feed_forward(width, 4)

    def forward(self, hidden_BCFT: torch.Tensor, mask_BT: torch.Tensor | None) -> torch.Tensor:
        batch, channels, bands, length = hidden_BCFT.shape
        rows = hidden_BCFT.permute(0, 3, 2, 1).reshape(batch * length, bands, channels)
        rows = rows + self.attnF(rows, None)
        rows = rows + self.ffF(rows)
        rows = rows.view(batch, length, bands, channels).transpose(1, 2)
        rows = rows.reshape(batch * bands, length, channels)
        rows = rows + self.attnT(
            rows, None if mask_BT is None else mask_BT.repeat_interleave(bands, 0)
        )
        rows = rows + self.ffT(rows)
        return rows.view(batch, bands, length, channels).permute(0, 3, 1, 2)


class _FrontendBlock(nn.Module):
    """Attention, then half as many frequencies in twice the channels."""

    def __init__(self, before: int, after: int, head_dim: int) -> None:
        super().__init__()
        self.partial = _Partial(before, head_dim) if head_dim else None
        self.conv2d = nn.Conv2d(before, after, (2, 3), stride=(2, 1), padding=(0, 1), bias=False)
        self.norm = nn.BatchNorm2d(after)

    def forward(self, hidden_BCFT: torch.Tensor, mask_BT: torch.Tensor | None) -> torch.Tensor:
        if self.partial is not None:
            hidden_BCFT = self.partial(hidden_BCFT, mask_BT)
        return functional.gelu(self.norm(self.conv2d(_zeroed(hidden_BCFT, mask_BT))))


class _RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return functional.normalize(hidden, dim=-1) * len(self.gamma) ** 0.5 * self.gamma


class _Rotary(nn.Module):
    """Rotary positions over adjacent pairs of columns."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.freqs = nn.Parameter(1e4 ** (-torch.arange(0, width, 2) / width), requires_grad=False)

    def forward(self, rows_NHSE: torch.Tensor) -> torch.Tensor:
        place_S = torch.arange(rows_NHSE.shape[2], device=rows_NHSE.device, dtype=torch.float32)
        angle = torch.outer(place_S, self.freqs.float()).repeat_interleave(2, 1)
        even, odd = rows_NHSE.float().unflatten(-1, (-1, 2)).unbind(-1)
        turned = torch.stack([-odd, even], -1).flatten(-2)
        return (rows_NHSE.float() * angle.cos() + turned * angle.sin()).to(rows_NHSE.dtype)


class _Attention(nn.Module):
    """Self-attention whose heads are gated by the queries' states."""

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self._heads = width // head_dim
        self.rotary_embed = _Rotary(head_dim)
        self.norm = _RMSNorm(width)
        self.to_qkv = nn.Linear(width, 3 * self._heads * head_dim, bias=False)
        self.to_gates = nn.Linear(width, self._heads)
        self.to_out = nn.Sequential(nn.Linear(self._heads * head_dim, width, bias=False))

    def forward(self, rows_NSC: torch.Tensor, mask_NS: torch.Tensor | None) -> torch.Tensor:
        rows_NSC = self.norm(rows_NSC)
        query, key, value = (
            self.to_qkv(rows_NSC).unflatten(-1, (3, self._heads, -1)).permute(2, 0, 3, 1, 4)
        )
        query, key = self.rotary_embed(query), self.rotary_embed(key)
        mask = None if mask_NS is None else mask_NS[:, None, None]
        rows_NHSE = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        gates_NHS = self.to_gates(rows_NSC).transpose(1, 2).sigmoid()
        return self.to_out((rows_NHSE * gates_NHS[..., None]).transpose(1, 2).flatten(2))


def _feed_forward(width: int, times: int) -> nn.Module:
    """The original's layers 0, 1 and 4; the layers between them have no weights."""
    layers = {
        "0": _RMSNorm(width),
        "1": nn.Linear(width, times * width),
        "2": nn.GELU(),
        "4": nn.Linear(times * width, width),
    }
    return nn.Sequential(OrderedDict(net=nn.Sequential(OrderedDict(layers))))


def _zeroed(hidden_BCFT: torch.Tensor, mask_BT: torch.Tensor | None) -> torch.Tensor:
    """Sets states after the end of each clip to zero, like the padding of a convolution."""
    return (
        hidden_BCFT
        if mask_BT is None
        else hidden_BCFT * mask_BT[:, None, None].to(hidden_BCFT.dtype)
    )
