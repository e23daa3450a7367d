"""Figures for Prometheus, in a registry of the app's own."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from nas.api.jobs import State

_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})  # a client can send any word
_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # s


class Metrics:
    """Counts what is answered, and how long it takes."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        names = ("method", "route")
        self._requests = Counter(
            "nas_http_requests", "Requests answered", (*names, "status"), registry=self.registry
        )  # fmt: skip
        self._seconds = Histogram(
            "nas_http_request_seconds", "Time to the whole answer", names, buckets=_BUCKETS, registry=self.registry
        )
        self._followers = Gauge("nas_event_clients", "Clients that follow a search", registry=self.registry)
        self.following = 0
        self._searches = Gauge("nas_searches", "Searches in each state", ("state",), registry=self.registry)

    def count_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        known = method if method in _METHODS else "other"
        self._requests.labels(known, route, str(status)).inc()
        self._seconds.labels(known, route).observe(seconds)

    @contextmanager
    def count_follower(self) -> Iterator[None]:
        """Count a client for as long as it follows a search; to be used in the event loop only."""
        self.following += 1
        self._followers.set(self.following)
        try:
            yield
        finally:
            self.following -= 1
            self._followers.set(self.following)

    def render_text(self, searches: Mapping[State, int]) -> bytes:
        """Everything in Prometheus' text format."""
        for state in State:
            self._searches.labels(str(state)).set(searches.get(state, 0))
        return generate_latest(self.registry)
