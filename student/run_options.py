"""A recipe with what one run, or the runs of a study, need besides: data, output folder, seeds."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from manifests.errors import UserError
from student.arm_switches import PLAIN_ARMS, SWITCHES, Arm
from student.config import Recipe


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Recipe):
    """A recipe with its corpus, caches and output folder."""

    corpus: str
    """Folder or address of the corpus."""
    cache: str | list[str] = field(default_factory=list)
    """Folder or address of the teacher cache, or of several; not needed without distillation."""
    out: str
    """Folder of the run. An unfinished run is resumed."""
    local_copies: str | None = None
    """Folder on a local disk for copies of shards from object stores, which are also prefetched in
    the background. Caches on a local disk are not copied."""

    def recipe(self) -> Recipe:
        """The recipe alone."""
        return Recipe(**{item.name: getattr(self, item.name) for item in fields(Recipe)})


def no_targets(arm: str) -> UserError:
    """The error of an arm with heads that has nothing to learn from."""
    return UserError(
        f"the arm {arm} learns from the outputs of teachers, and there are none: pass --cache "
        "CACHE, or choose an arm without distillation (pause, sft)"
    )


@dataclass(frozen=True, kw_only=True)
class ArmsOptions(TrainOptions):
    """A recipe with its data, the arms to train and their seeds."""

    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    """One run per arm and seed, in OUT/ARM-SEED; `seed` and `arm` are not used."""
    arms: list[Arm] = field(default_factory=lambda: list(PLAIN_ARMS))
    """Arms to train. `joint.bottleneck` applies only to livr and coat+bottleneck."""

    def __post_init__(self) -> None:
        """Checks the recipe of every arm, so that none is refused after others were trained.

        Raises:
            UserError: there are no arms or seeds, one is listed twice, or an arm's recipe is wrong.
        """
        for name, values in (("arms", self.arms), ("seeds", self.seeds)):
            if not values or len(set(values)) < len(values):
                raise UserError(
                    f"{name} must list at least one value, and none twice; found {values}"
                )
        for arm in self.arms:
            try:
                own = self.arm_options(arm, self.seeds[0])
                if own.recipe().distils and not own.cache and own.streams is None:
                    raise no_targets(arm)
            except UserError as error:
                raise UserError(f"arm {arm}: {error}") from None

    def arm_options(self, arm: Arm, seed: int) -> TrainOptions:
        """The options of one run, matched to the others."""
        common = {item.name: getattr(self, item.name) for item in fields(TrainOptions)}
        joint = self.joint
        if joint is not None and not SWITCHES[arm].bottleneck:
            joint = replace(joint, bottleneck=0.0)
        own = {
            "arm": arm,
            "seed": seed,
            "joint": joint,
            "out": str(Path(self.out) / f"{arm}-{seed}"),
        }
        return TrainOptions(**(common | own))
