"""`coat-student` with a backbone that is cut over CPU processes, for tests without GPUs.

torch shards tensors on CPUs as on GPUs; accelerate alone offers FSDP to none but GPUs, by the kind
of its process group, which is therefore renamed here.
"""

from __future__ import annotations

from typing import Any

from accelerate import PartialState
from accelerate.utils import DistributedType

from student import cli
from student.training.trainer import StudentTrainer

begin, step = PartialState.__init__, StudentTrainer.training_step


def as_on_gpus(self: PartialState, *args: Any, **kwargs: Any) -> None:
    """`PartialState.__init__`, under the other name."""
    begin(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def of_shards(self: StudentTrainer, *args: Any, **kwargs: Any) -> Any:
    """`StudentTrainer.training_step`, which must find the student cut."""
    assert self.student.is_sharded
    return step(self, *args, **kwargs)


if __name__ == "__main__":
    PartialState.__init__ = as_on_gpus
    StudentTrainer.training_step = of_shards
    cli.main()
