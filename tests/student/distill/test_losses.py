"""Tests for losses and metrics against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from manifests.streams.pitch_bins import CREPE_BINS
from student.config import HeadConfig, StreamConfig
from student.distill.kinds import constant_output, stream_counts, stream_metric, stream_sums
from student.distill.metrics import (
    average_precision,
    mean_average_precision,
    raw_pitch_accuracy,
)
from student.distill.streams import Stream
from student.model.heads import StreamHead


def covered(*flags: bool, frames: int = 1) -> torch.Tensor:
    return torch.tensor(flags)[:, None].expand(-1, frames)


def test_features_loss_is_cosine_plus_smooth_l1() -> None:
    target_BND = torch.tensor([[[1.0, 0.0]]])
    right = stream_sums("features", target_BND.clone(), target_BND, covered(True))
    wrong = stream_sums("features", torch.tensor([[[0.0, 1.0]]]), target_BND, covered(True))
    assert right.item() == pytest.approx(0.0, abs=1e-6)
    assert wrong.item() == pytest.approx(0.9 * 1.0 + 0.1 * 0.5, abs=1e-6)


def test_multilabel_and_distribution_losses_take_soft_targets() -> None:
    target_BND = torch.tensor([[[0.25, 0.75]]])
    logits_BND = torch.tensor([[[0.0, math.log(3)]]])
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    sums = stream_sums("distribution", logits_BND, target_BND, covered(True))
    assert sums.item() == pytest.approx(entropy, abs=1e-6)
    multilabel = stream_sums("multilabel", logits_BND, target_BND, covered(True))
    assert multilabel.item() == pytest.approx((math.log(2) + entropy) / 2, abs=1e-6)


def test_pitch_loss_uses_voiced_frames_for_salience_and_all_for_voicing() -> None:
    target_BND = torch.zeros(1, 2, 361)
    target_BND[0, 0, 7] = 0.5
    target_BND[0, 0, -1] = 1.0
    output_BND = torch.zeros(1, 2, 361)
    assert stream_counts("pitch", target_BND, covered(True, frames=2)).tolist() == [2, 1]
    voicing, pitch = stream_sums("pitch", output_BND, target_BND, covered(True, frames=2)).tolist()
    assert voicing == pytest.approx(2 * math.log(2), abs=1e-5)
    assert pitch == pytest.approx(math.log(360), abs=1e-5)


@pytest.mark.parametrize("kind", ["features", "multilabel", "distribution", "pitch"])
def test_clips_without_the_stream_have_no_loss_and_no_gradient(kind: str) -> None:
    """Their values are also not counted."""
    torch.manual_seed(0)
    output_BND = torch.randn(2, 3, 361, requires_grad=True)
    target_BND = torch.rand(2, 3, 361)
    sums = stream_sums(kind, output_BND, target_BND, covered(True, False, frames=3))
    single = stream_sums(kind, output_BND[:1], target_BND[:1], covered(True, frames=3))
    torch.testing.assert_close(sums, single)
    assert stream_counts(kind, target_BND, covered(True, False, frames=3))[0] == 3
    sums.sum().backward()
    assert output_BND.grad is not None
    assert output_BND.grad[1].abs().sum() == 0


def test_average_precision_matches_a_value_by_hand() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    present = np.array([True, False, True, False])
    assert average_precision(scores, present) == pytest.approx((1 + 2 / 3) / 2)


def test_average_precision_of_constant_scores_is_the_share_of_positives() -> None:
    present_ND = np.array([[True], [False], [False], [False]])
    for order in ([0, 1, 2, 3], [3, 2, 1, 0]):
        assert mean_average_precision(np.zeros((4, 1)), present_ND[order]) == 0.25


def test_mean_average_precision_ignores_absent_classes() -> None:
    scores_ND = np.array([[0.9, 0.1], [0.1, 0.9]])
    present_ND = np.array([[True, False], [False, False]])
    assert mean_average_precision(scores_ND, present_ND) == 1.0
    assert math.isnan(mean_average_precision(scores_ND, np.zeros((2, 2), bool)))


def test_raw_pitch_accuracy_tolerates_50_cents() -> None:
    bins = np.arange(360)
    target_ND = np.zeros((4, 361), np.float32)
    output_ND = np.zeros((4, 361), np.float32)
    for row, (true, predicted) in enumerate([(100, 100), (100, 102), (100, 104), (100, 200)]):
        target_ND[row, :-1] = np.exp(-((bins - true) ** 2) / 3)
        output_ND[row, :-1] = -((bins - predicted) ** 2) / 3
        target_ND[row, -1] = row != 3  # the last is not voiced
    assert raw_pitch_accuracy(output_ND, target_ND, CREPE_BINS) == pytest.approx(2 / 3)
    np.testing.assert_allclose(CREPE_BINS.peak(target_ND[:, :-1]), 100, atol=1e-4)


@pytest.mark.parametrize("kind", ["features", "multilabel", "distribution", "pitch"])
def test_constant_predictor_scores_below_the_true_targets(kind: str) -> None:
    rng = np.random.default_rng(0)
    target_ND = rng.dirichlet(np.full(40, 0.05), 200).astype(np.float32)
    target_ND[:, -1] = 1.0 if kind == "pitch" else target_ND[:, -1]
    if kind == "features":
        target_ND = rng.standard_normal((200, 40)).astype(np.float32)
    stream = Stream(name="a.b", kind=kind, dim=40, config=StreamConfig())
    constant_D = constant_output(kind, target_ND.mean(0))
    baseline = stream_metric(stream, np.broadcast_to(constant_D, target_ND.shape), target_ND)
    truth = target_ND if kind == "features" else np.log(target_ND.clip(1e-6))
    assert baseline < 0.6 < stream_metric(stream, truth, target_ND)


def test_head_gives_frames_in_the_order_of_positions() -> None:
    """Frames of a position depend on this position more than on any other."""
    torch.manual_seed(0)
    config = HeadConfig(frames_per_position=3, width=16, layers=1, attention_heads=2)
    head = StreamHead(hidden_size=8, num_positions=5, dim=2, config=config)
    hidden_BKH = torch.randn(1, 5, 8, requires_grad=True)
    frames_BND = head(hidden_BKH)
    assert frames_BND.shape == (1, 15, 2)
    frames_BND[0, 6:9].sum().backward()
    assert hidden_BKH.grad is not None
    assert hidden_BKH.grad[0].norm(dim=-1).argmax() == 2
