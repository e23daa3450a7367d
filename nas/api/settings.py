"""How a server is set up."""

from dataclasses import dataclass, field
from pathlib import Path

from nas.api.model_roots import ModelRoots


@dataclass(frozen=True)
class Limits:
    """What one client may take.

    Attributes:
        request_bytes: of a submission; upload_bytes: of a profile or a certificate.
        per_minute: requests of one token.
        followers: clients that follow searches, all tokens together.
        free_bytes: of disk, below which the server says it is not ready.
        connections: at a time; a new one then takes the place of the one that has waited longest for a request.
        head_s, body_s: for the head of a request, and for its body.
        unread_s: until a client that does not read its answer is let go.

    Example:
        >>> Limits(per_minute=60).followers
        1000
    """

    request_bytes: int = 64 << 10
    upload_bytes: int = 8 << 20
    per_minute: int = 600
    followers: int = 1000
    free_bytes: int = 1 << 30
    connections: int = 2048
    head_s: float = 15.0
    body_s: float = 120.0
    unread_s: float = 60.0


@dataclass(frozen=True)
class Settings:
    """How a server is set up.

    Attributes:
        root: where everything is kept.
        mlflow: the tracking server: searches log there, and the page links to it.
        search_arguments: what is added to every search.
        mlflow_link: where a browser finds that server, if not under the address that searches use.

    Example:
        >>> Settings(Path("/srv/nas"), limits=Limits(per_minute=60)).searches
        PosixPath('/srv/nas/searches')
    """

    root: Path
    roots: ModelRoots = field(default_factory=ModelRoots)
    mlflow: str | None = None
    search_arguments: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    mlflow_link: str | None = None

    @property
    def searches(self) -> Path:
        """The searches' folders."""
        return self.root / "searches"

    @property
    def jobs(self) -> Path:
        """The folders of jobs that run on this machine."""
        return self.root / "jobs"

    @property
    def mlflow_page(self) -> str | None:
        """Where a browser finds MLflow; None for a database."""
        link = self.mlflow_link or self.mlflow
        return link if link is not None and link.startswith(("http://", "https://")) else None

    @property
    def extra_arguments(self) -> tuple[str, ...]:
        """Of every search."""
        tracked = () if self.mlflow is None else (f"--tracking-uri={self.mlflow}",)
        return (*tracked, *self.search_arguments)
