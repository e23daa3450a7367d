"""Who gets which tasks: neighbours, which agree up to a late block, go to one worker; who is idle takes from others."""

from collections import deque
from collections.abc import Sequence

from nas.execution.task import Task
from pruning.inference.prefix_cache import Prefix, list_prefixes


class Shares:
    """The tasks that nobody was given yet, a stretch of them for each worker."""

    def __init__(self, tasks: Sequence[Task], workers: int) -> None:
        """Stretches of about the same length, of tasks in an order in which each resumes from the one before."""
        order = sorted(range(len(tasks)), key=lambda position: _build_sort_key(tasks[position], position), reverse=True)
        ends = [len(order) * (worker + 1) // workers for worker in range(workers)]
        self._stretches = [deque(order[start:end]) for start, end in zip([0, *ends], ends, strict=False)]

    def take_next(self, worker: int) -> int | None:
        """The position of a worker's next task: of its own stretch, else the last of the longest; None at the end."""
        if self._stretches[worker]:
            return self._stretches[worker].popleft()
        longest = max(self._stretches, key=len)
        return longest.pop() if longest else None

    def put_back(self, position: int, worker: int) -> None:
        """A task that was given to a worker and not done: the next of its stretch."""
        self._stretches[worker].appendleft(position)


def _build_sort_key(task: Task, position: int) -> tuple[str, tuple[Prefix, ...], int]:
    """Sorts architectures by what they keep, block by block; latest changes first, equal ones in the given order."""
    return task.split, tuple(list_prefixes(task.architecture)), -position
