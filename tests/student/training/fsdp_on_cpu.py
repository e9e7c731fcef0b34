"""Runs `coat-student` with a backbone that is sharded over CPU processes, for tests without GPUs.

torch can shard tensors on CPUs, but accelerate offers FSDP only for process groups on GPUs. This
module therefore changes the name of the process group's type.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import DistributedType

from student import cli, train
from student.training.trainer import StudentTrainer

original_init, original_step = PartialState.__init__, StudentTrainer.training_step
original_build = train.build_student
MEMORY_FILE = "COAT_TEST_MEMORY_FILE"
"""Environment variable with the file to which each rank writes its memory after building."""


def init_like_on_gpus(self: PartialState, *args: Any, **kwargs: Any) -> None:
    """`PartialState.__init__` that reports GPU processes."""
    original_init(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def step_with_check(self: StudentTrainer, *args: Any, **kwargs: Any) -> Any:
    """`StudentTrainer.training_step` that checks that the student is sharded."""
    assert self.student.is_sharded
    return original_step(self, *args, **kwargs)


def build_and_measure(*args: Any, **kwargs: Any) -> Any:
    """`build_student` that writes the private memory of the process, in kB, to a file."""
    student = original_build(*args, **kwargs)
    fields = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    own = next(line for line in fields if line.startswith("Anonymous:"))
    Path(f"{os.environ[MEMORY_FILE]}.{os.environ['RANK']}").write_text(own.split()[1])
    return student


if __name__ == "__main__":
    if MEMORY_FILE in os.environ:
        train.build_student = build_and_measure
    PartialState.__init__ = init_like_on_gpus
    StudentTrainer.training_step = step_with_check
    cli.main()
