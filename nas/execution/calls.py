"""Calls of a function on actors, one at a time on each; what an actor had that died is done again."""

import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any

from search_spaces.errors import ExecutionError, NasError

DEATHS = 3  # of actors, over one task: then it is the task
AGAIN_S = 1.0  # between questions whether a worker whose node is gone has found another


def call_on_actors(
    actors: Sequence[Any], first: tuple[Any, ...], arguments: Sequence[tuple[Any, ...]]
) -> Iterator[tuple[int, Any]]:
    """The place of some arguments and what `actor.call(*first, arguments)` gave, as they end.

    Args:
        first: what every call is given.

    Raises:
        NasError: what a call raised.
        ExecutionError: a call over which actors die again and again.
    """
    import ray

    waiting, idle = deque(range(len(arguments))), deque(range(len(actors)))
    running: dict[Any, tuple[int, int]] = {}
    deaths: Counter[int] = Counter()
    while waiting or running:
        while waiting and idle:
            place, at = waiting.popleft(), idle.popleft()
            running[actors[at].call.remote(*first, arguments[place])] = place, at
        (reference, *_), _ = ray.wait(list(running), num_returns=1)
        place, at = running.pop(reference)
        idle.append(at)
        try:
            given = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise (error.cause if isinstance(error.cause, NasError) else error) from None
        except ray.exceptions.RayError:
            deaths[place] += 1
            if deaths[place] > DEATHS:
                raise ExecutionError(
                    f"{deaths[place]} workers died over one call; give a worker more memory, or fewer workers to a node"
                ) from None
            waiting.append(place)
            time.sleep(AGAIN_S)  # it starts again, where there is room
        else:
            yield place, given
