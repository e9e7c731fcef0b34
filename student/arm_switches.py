"""The arms of a study: a row of switches for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Arm = Literal["sft", "pause", "distill", "coat", "livr", "coat+bottleneck", "both"]
ARMS: tuple[Arm, ...] = get_args(Arm)
PLAIN_ARMS: tuple[Arm, ...] = ("sft", "pause", "distill", "coat")
"""The arms that `coat-student arms` trains unless others are named."""


@dataclass(frozen=True, kw_only=True)
class ArmSwitches:
    """The switches of an arm; everything else is the same in all arms of a study."""

    block: bool = False
    """There are thinking positions in the prompt."""
    distill_block: bool = False
    """Heads at the block are trained on the experts' outputs."""
    distill_audio: bool = False
    """Heads at the audio tokens are trained on the experts' outputs."""
    bottleneck: bool = False
    """Whether the text reads the audio through the block alone as the joint stage begins."""


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
"""Share of the joint stage's steps in the arms with a bottleneck, unless `joint.bottleneck` says
another: the best of arXiv 2512.21218, where 4 of 10 epochs beat 8 of 10."""
