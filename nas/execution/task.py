"""What an executor is given, and its contract."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from nas.quality.precision import Precision
from nas.quality.quality import Quality
from search_spaces.architecture import Architecture

VALIDATION = "validation"


@dataclass(frozen=True)
class Task:
    """An architecture to be judged on items of a split.

    Attributes:
        cuts: growing numbers of items, at least two: a quality of the items between each and the next is computed, the
            first alone, then the second. All candidates are cut at the same items, so that they see the same batches.
            Empty: the whole split as one, without shared states.
        final: the candidate is adjusted with all calibration items, else with a few.
    """

    architecture: Architecture
    cuts: tuple[int, ...] = ()
    precision: Precision = Precision.FP32
    split: str = VALIDATION
    final: bool = False


Pieces = tuple[Quality, ...]  # one between each cut of a task and the next


class Executor(Protocol):
    """Runs tasks in any order and anywhere; what they give does not depend on where."""

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Pieces]]:
        """The position of a task and what it gave, as soon as it is there.

        Raises:
            NasError: what the evaluation of a task raised.
            ExecutionError: there is nobody left to run it.
        """

    def close(self) -> None:
        """Give back what it holds; it is not used any more."""
