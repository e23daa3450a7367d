"""The searches of a server: what was asked, by whom, under which folder, and the jobs that run it."""

import json
import logging
import secrets
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nas.api.errors import Refusal, make_damaged, make_unavailable, make_unknown
from nas.api.jobs import Job, Jobs, LogPart, State
from nas.api.model_roots import ModelRoots
from nas.api.schemas import SearchPage, SearchView
from nas.api.submission import Submission
from nas.storage.private_files import make_private, write_private
from nas.storage.result_folder import RESULT

_LOG = logging.getLogger("nas.api")
_FILE, _OUT = "search.json", "result"
_ONCE_AGAIN = (State.INTERRUPTED, State.LOST, State.CANCELLED, State.FAILED)


@dataclass(frozen=True)
class Search:
    """One search on disk. `arguments` are those of `nas`; `jobs` are the runs of it, the last one counts."""

    id: str
    owner: str
    created: str
    request: dict[str, Any]
    arguments: tuple[str, ...]
    jobs: tuple[str, ...]


class Searches:
    """Every search under a folder. All calls may block, and may come from several threads at once.

    Args:
        folder: one folder for each search, which holds its result folder.
        extra: arguments that the operator adds to every search, such as where it is logged.
    """

    def __init__(self, folder: Path, jobs: Jobs, roots: ModelRoots, extra: Sequence[str] = ()) -> None:
        self._folder, self.jobs, self._roots, self._extra = folder, jobs, roots, tuple(extra)
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        known = (_load(path) for path in sorted(folder.glob(f"*/{_FILE}")))
        self._searches = {search.id: search for search in known if search is not None}

    def submit(self, submission: Submission, owner: str) -> SearchView:
        """Start a search.

        Raises:
            UsageError: model or data are not allowed.
            Refusal: there is no room for it.
        """
        now = datetime.now(UTC)
        id = f"{now:%Y%m%d-%H%M%S%f}-{secrets.token_hex(3)}"
        arguments = [*submission.build_arguments(self._roots, self._folder / id / _OUT), *self._extra]
        request = submission.model_dump(exclude_none=True)
        search = Search(id, owner, now.isoformat(), request, tuple(arguments), (id,))
        self._start(search, id)
        return self.get(id)

    def resume(self, id: str) -> SearchView:
        """Run a search again that stopped early, or whose result is damaged; it goes on from what its folder holds.

        Raises:
            Refusal: it is not known, runs, or is done.
        """
        with self._lock:
            search, state = self._find_known(id), self.get(id).state
            if state not in _ONCE_AGAIN and not (state is State.SUCCEEDED and self._has_damaged_result(id)):
                raise Refusal(409, "conflict", f"search {id} is {state}; only one that stopped early can be resumed")
            job = f"{id}-{len(search.jobs) + 1}"
            self._start(replace(search, jobs=(*search.jobs, job)), job)
        return self.get(id)

    def cancel(self, id: str) -> SearchView:
        """Ask a search to end; one that has ended stays as it is."""
        job = self._find_known(id).jobs[-1]
        with suppress(KeyError):  # nobody remembers that job, so it does not run
            self.jobs.cancel(job)
        return self.get(id)

    def get(self, id: str) -> SearchView:
        """One search.

        Raises:
            Refusal: it is not known.
        """
        search = self._find_known(id)
        try:
            job = self.jobs.get(search.jobs[-1])
        except KeyError:
            job = self._describe_lost(search)
        return _build_view(search, job)

    def list_page(self, limit: int, before: str | None = None, state: State | None = None) -> SearchPage:
        """The latest searches, or the latest before one of them."""
        jobs = {job.id: job for job in self.jobs.list_all()}
        views: list[SearchView] = []
        for id in sorted(self._searches, reverse=True):
            if before is not None and id >= before:
                continue
            search = self._searches[id]
            job = jobs.get(search.jobs[-1]) or self._describe_lost(search)
            if state is None or job.state is state:
                views.append(_build_view(search, job))
            if len(views) > limit:
                return SearchPage(searches=views[:limit], next=views[limit - 1].id)
        return SearchPage(searches=views)

    def count_states(self) -> Counter[State]:
        """How many searches there are in each state."""
        jobs = {job.id: job for job in self.jobs.list_all()}
        return Counter((jobs.get(s.jobs[-1]) or self._describe_lost(s)).state for s in tuple(self._searches.values()))

    def read_log(self, id: str, run: int, offset: int) -> tuple[SearchView, int, LogPart]:
        """The search, a run of it (the last one where there are not so many), and the run's log from a byte on.

        The search is looked at first: when it has ended, what it wrote last is in the log.
        """
        search, view = self._find_known(id), self.get(id)
        if run > len(search.jobs):
            run, offset = len(search.jobs), 0
        try:
            return view, run, self.jobs.read_log(search.jobs[run - 1], offset)
        except KeyError:
            return view, run, LogPart((), offset)

    def get_folder(self, id: str) -> Path:
        """The result folder of a search; it may not be there yet.

        Raises:
            Refusal: the search is not known.
        """
        return self._folder / self._find_known(id).id / _OUT

    def read_result(self, id: str) -> dict[str, Any]:
        """The document that the search wrote.

        Raises:
            Refusal: the search is not known, has none yet, or it is damaged.
        """
        try:
            document = json.loads((self.get_folder(id) / RESULT).read_text())
        except FileNotFoundError:
            state = self.get(id).state
            raise Refusal(404, "no_result", f"search {id} is {state} and has no result; follow its events") from None
        except (OSError, ValueError, RecursionError):
            raise make_damaged(id) from None
        if not isinstance(document, dict):
            raise make_damaged(id)
        return document

    def check(self) -> None:
        """Whether searches could be started.

        Raises:
            Refusal: they could not, and why.
        """
        self.jobs.check()

    def _find_known(self, id: str) -> Search:
        if id not in self._searches:
            raise make_unknown(f"search {id[:80]!r}")
        return self._searches[id]

    def _start(self, search: Search, job: str) -> None:
        """Write it down and run it; a search that cannot be run is not there."""
        earlier = self._searches.get(search.id)
        try:
            self._save(search)
        except OSError as error:
            raise make_unavailable(f"the search cannot be written down ({error.strerror}); make room first") from None
        try:
            self.jobs.submit(job, search.arguments, {"nas.search": search.id, "nas.owner": search.owner})
        except BaseException:
            if earlier is None:
                (self._folder / search.id / _FILE).unlink(missing_ok=True)
                (self._folder / search.id).rmdir()
            else:
                self._save(earlier)
            raise
        self._searches[search.id] = search

    def _has_damaged_result(self, id: str) -> bool:
        try:
            self.read_result(id)
        except Refusal as refused:
            return refused.status == make_damaged(id).status
        return False

    def _save(self, search: Search) -> None:
        path = self._folder / search.id / _FILE
        path.parent.mkdir(exist_ok=True)
        write_private(path, json.dumps(asdict(search)) + "\n")

    def _describe_lost(self, search: Search) -> Job:
        """What can be said of a search whose job nobody remembers: a cluster forgets when it is started anew."""
        done = (self._folder / search.id / _OUT / RESULT).exists()
        return Job(search.jobs[-1], State.SUCCEEDED if done else State.LOST)


def _load(path: Path) -> Search | None:
    """A search of an earlier server; None, and a line in the log, where its file is damaged."""
    make_private(path)
    try:
        document = json.loads(path.read_text())
        document |= {"arguments": tuple(document["arguments"]), "jobs": tuple(document["jobs"])}
        search = Search(**document)
        _build_view(search, Job(search.jobs[-1], State.LOST))  # it can be shown
        if search.id != path.parent.name:
            raise ValueError(f"it is of search {search.id}")
        return search
    except (OSError, LookupError, TypeError, ValueError, RecursionError) as error:
        _LOG.warning("left out", extra={"fields": {"file": str(path), "damaged": str(error)}})
        return None


def _build_view(search: Search, job: Job) -> SearchView:
    return SearchView(
        id=search.id, owner=search.owner, created=datetime.fromisoformat(search.created), state=job.state,
        started=_parse_time(job.started), ended=_parse_time(job.ended), exit_code=job.exit_code, message=job.message,
        runs=len(search.jobs), request=search.request,
    )  # fmt: skip


def _parse_time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
