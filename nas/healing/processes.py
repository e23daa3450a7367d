"""Training on several GPUs: a process for each; they see different items and share their gradients."""

import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas.execution.packing import Packed, pack, unpack
from nas.healing.recipe import Recipe
from nas.healing.state import TrainingState, load_state
from nas.healing.student import Student
from nas.healing.train import Training
from nas.progress import Progress, Silent
from pruning.inference.device import AUTO, count_gpus

_MEETING, _ENDED = "meeting", "ended.pt"  # files of the processes: where they find each other, what they came to


@dataclass(frozen=True)
class _Work:
    """What every process is told."""

    student: Packed
    recipe: Recipe
    file: Path
    identity: dict[str, Any]
    state: TrainingState
    until: int | None
    limit_s: float
    processes: int
    folder: Path


def run_on_every_device(
    student: Student, training: Training, state: TrainingState, progress: Progress, until: int | None = None,
    limit_s: float = math.inf, processes: int | None = None,
) -> TrainingState:  # fmt: skip
    """`Training.run`, in as many processes as there are GPUs, where there are several and no device was named.

    A step then sees as many items on each device as it does on one.

    Args:
        student: whose training it is.
        training: of this process; its model has the best weights at the end.
        processes: how many; None for one on each GPU.
    """
    count = processes or (max(1, count_gpus()) if training.recipe.device == AUTO else 1)
    if count == 1:
        return training.run(state, progress, until, limit_s)
    from torch.multiprocessing.spawn import spawn

    with progress.open_stage(f"healing on {count} devices"), tempfile.TemporaryDirectory(prefix="nas-") as name:
        work = _Work(
            pack(student), training.recipe, training.file, training.identity, state, until, limit_s, count, Path(name)
        )
        spawn(_train, args=(work,), nprocs=count)  # type: ignore[no-untyped-call]
        ended = load_state(Path(name) / _ENDED)
    assert ended is not None, "the first process has written it"
    training.weights.set(ended[1].best)
    return ended[1]


def _train(rank: int, work: _Work) -> None:
    """What each process does."""
    from torch import distributed

    here = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}  # which Accelerate asks for; they meet at a file
    os.environ.update(here, RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(work.processes))
    backend = "nccl" if count_gpus() else "gloo"
    meeting = f"file://{work.folder / _MEETING}"
    distributed.init_process_group(backend, init_method=meeting, rank=rank, world_size=work.processes)
    try:
        training = unpack(work.student).build_training(work.recipe, work.file, work.identity)
        ended = training.run(work.state, Silent(), work.until, work.limit_s)
        if training.accelerator.is_main_process:
            ended.save(work.folder / _ENDED, work.identity)
    finally:
        distributed.destroy_process_group()
