"""Following a search: its log, line by line, and its states, as server-sent events that can be taken up again.

An event's id is `RUN-OFFSET`: the run of the search, and the byte of that run's log after it. A client that sends the
last id it got is told what came after it.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TypeVar

import anyio
from sse_starlette import JSONServerSentEvent

from nas.serving.errors import Refusal
from nas.serving.jobs import LogPart, is_document
from nas.serving.searches import Searches
from nas.serving.views import SearchView

LAST_ID = r"[1-9][0-9]{0,5}-[0-9]{1,15}"
_SOONEST_S, _LATEST_S = 0.2, 2.0  # between two looks; they get rarer while nothing happens
_T = TypeVar("_T")
InThread = Callable[[Callable[[], _T]], Awaitable[_T]]
_Look = Callable[[int, int], Awaitable[tuple[SearchView, int, LogPart]]]


def parse_last_id(text: str | None) -> tuple[int, int]:
    """The run and the offset of an event's id; the beginning where there is none.

    Raises:
        Refusal: it is none that this server gave.
    """
    if text is None or text == "":
        return 1, 0
    if not re.fullmatch(LAST_ID, text):
        raise Refusal(422, "invalid", "Last-Event-ID is none of this server's; leave it out to start at the beginning")
    run, _, offset = text.partition("-")
    return int(run), int(offset)


async def follow(
    searches: Searches, id: str, run: int, offset: int, in_thread: InThread[tuple[SearchView, int, LogPart]]
) -> AsyncIterator[JSONServerSentEvent]:
    """Events of a search from a place in its log on, until it has ended.

    `state` carries the search; `log` a line; `document` what `nas search --json` prints for programs; `end` the search
    as it ended.

    Args:
        in_thread: runs what blocks beside the event loop.
    """
    told, pause = None, _SOONEST_S
    while True:
        view, now, part = await in_thread(partial(searches.log, id, run, offset))
        known = (view.state, view.runs)
        if known != told:
            told = known
            yield _event("state", view, now, offset if now == run else 0)
        for line, after in part.lines:
            yield JSONServerSentEvent({"line": line}, event=_kind(line), id=f"{now}-{after}")
        moved = bool(part.lines) or now != run
        run, offset = now, part.offset
        if not part.lines and now < view.runs:
            run, offset, moved = now + 1, 0, True  # an earlier run; the next one follows
        elif view.state.ended and not moved:
            yield _event("end", view, run, offset)
            return
        pause = _SOONEST_S if moved else min(_LATEST_S, pause * 1.5)
        if not moved:
            await anyio.sleep(pause)


def _kind(line: str) -> str:
    return "document" if is_document(line) else "log"


def _event(name: str, view: SearchView, run: int, offset: int) -> JSONServerSentEvent:
    return JSONServerSentEvent(view.model_dump(mode="json"), event=name, id=f"{run}-{offset}")
