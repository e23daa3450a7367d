"""Following a search: its log, line by line, and its states, as server-sent events that can be taken up again.

An event's id is `RUN-OFFSET`: the run of the search, and the byte of that run's log after it. A client that sends the
last id it got is told what came after it.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
from sse_starlette import JSONServerSentEvent

from nas.api.errors import Refusal
from nas.api.jobs import LogPart, is_document
from nas.api.schemas import SearchView

LAST_ID = r"[1-9][0-9]{0,5}-[0-9]{1,15}"
_SOONEST_S, _LATEST_S = 0.2, 2.0  # between two looks; they get rarer while nothing happens
Look = Callable[[int, int], Awaitable[tuple[SearchView, int, LogPart]]]


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


async def follow(look: Look, run: int, offset: int, ending: anyio.Event) -> AsyncIterator[JSONServerSentEvent]:
    """Events of a search from a position in its log on, until it has ended.

    `state` carries the search; `log` a line; `document` what `nas search --json` prints for programs; `end` the search
    as it ended.

    Args:
        look: `Searches.read_log` of the search, beside the event loop.
        ending: set when the server ends; the client then comes back to the next one.
    """
    sent, pause = None, _SOONEST_S
    while not ending.is_set():
        view, now, part = await look(run, offset)
        if sent != (view.state, view.runs):
            sent = view.state, view.runs
            yield _build_event("state", view, now, offset if now == run else 0)
        for line, after in part.lines:
            yield JSONServerSentEvent({"line": line}, event=_get_kind(line), id=f"{now}-{after}")
        run, offset = now, part.offset
        if not part.lines and now < view.runs:
            run, offset = now + 1, 0  # what an earlier run said is told; the next one's follows
        elif not part.lines and view.state.ended:
            yield _build_event("end", view, now, offset)
            return
        elif not part.more:
            pause = _SOONEST_S if part.lines else min(_LATEST_S, pause * 1.5)
            with anyio.move_on_after(pause):
                await ending.wait()


def _get_kind(line: str) -> str:
    return "document" if is_document(line) else "log"


def _build_event(name: str, view: SearchView, run: int, offset: int) -> JSONServerSentEvent:
    return JSONServerSentEvent(view.model_dump(mode="json"), event=name, id=f"{run}-{offset}")
