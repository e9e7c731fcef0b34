"""`coat-student` with a backbone that is cut over CPU processes, for tests without GPUs.

torch shards tensors on CPUs as on GPUs; accelerate alone offers FSDP to none but GPUs, by the kind
of its process group, which is therefore renamed here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import DistributedType

from student import cli, train
from student.training.trainer import StudentTrainer

begin, step = PartialState.__init__, StudentTrainer.training_step
build = train.build_student
MEMORY_FILE = "COAT_TEST_MEMORY_FILE"
"""Names the file to which each rank writes its memory once its student is built."""


def as_on_gpus(self: PartialState, *args: Any, **kwargs: Any) -> None:
    """`PartialState.__init__`, under the other name."""
    begin(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self._shared_state["distributed_type"] = DistributedType.MULTI_GPU


def shard_group(self: StudentTrainer, *args: Any, **kwargs: Any) -> Any:
    """`StudentTrainer.training_step`, which must find the student cut."""
    assert self.student.is_sharded
    return step(self, *args, **kwargs)


def measured(*args: Any, **kwargs: Any) -> Any:
    """`build_student`, after which this process' own memory is written down, in bytes."""
    student = build(*args, **kwargs)
    fields = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    own = next(line for line in fields if line.startswith("Anonymous:"))
    Path(f"{os.environ[MEMORY_FILE]}.{os.environ['RANK']}").write_text(own.split()[1])
    return student


if __name__ == "__main__":
    if MEMORY_FILE in os.environ:
        train.build_student = measured
    PartialState.__init__ = as_on_gpus
    StudentTrainer.training_step = shard_group
    cli.main()
