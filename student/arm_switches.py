"""Defines the arms of a study by switches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Arm = Literal["sft", "pause", "distill", "coat", "livr", "coat+bottleneck", "both"]
ARMS: tuple[Arm, ...] = get_args(Arm)
PLAIN_ARMS: tuple[Arm, ...] = ("sft", "pause", "distill", "coat")
"""The arms that `coat-student arms` trains by default."""


@dataclass(frozen=True, kw_only=True)
class ArmSwitches:
    """The switches of an arm; everything else is equal in all arms of a study."""

    block: bool = False
    """Whether the prompt has thinking positions."""
    distill_block: bool = False
    """Whether heads at the block are trained on the experts' outputs."""
    distill_audio: bool = False
    """Whether heads at the audio tokens are trained on the experts' outputs."""
    bottleneck: bool = False
    """Whether, at the start of the joint stage, text attends to the audio only through the
    block."""


SWITCHES: dict[Arm, ArmSwitches] = {
    "sft": ArmSwitches(),
    "pause": ArmSwitches(block=True),
    "distill": ArmSwitches(distill_audio=True),
    "coat": ArmSwitches(block=True, distill_block=True),
    "livr": ArmSwitches(block=True, bottleneck=True),
    "coat+bottleneck": ArmSwitches(block=True, distill_block=True, bottleneck=True),
    "both": ArmSwitches(block=True, distill_block=True, distill_audio=True),
}
"""The arms; `livr` is the two-stage bottleneck of arXiv 2512.21218."""
WITH_BLOCK: tuple[Arm, ...] = tuple(arm for arm in ARMS if SWITCHES[arm].block)
WITH_HEADS: tuple[Arm, ...] = tuple(
    arm for arm in ARMS if SWITCHES[arm].distill_block or SWITCHES[arm].distill_audio
)
BOTTLENECK_SHARE = 0.4
"""Default of `joint.bottleneck` in the arms with a bottleneck, as a share of the joint stage's
steps: the best value of arXiv 2512.21218, where 4 of 10 epochs were better than 8 of 10."""
