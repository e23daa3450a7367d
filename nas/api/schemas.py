"""What the API answers, for the OpenAPI document and for those who read it."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from nas.api.jobs import State


class ErrorDetail(BaseModel):
    """What went wrong: a word for programs, a line for people, and the id that the server's log has too."""

    code: str
    message: str
    request_id: str


class ErrorView(BaseModel):
    """The answer to every request that is not served."""

    error: ErrorDetail


class Health(BaseModel):
    """A word on how the server is."""

    status: str


class SearchView(BaseModel):
    """A search: what was asked, and how far it is."""

    id: str
    owner: str = Field(description="The name of the token that submitted it")
    created: datetime
    state: State
    started: datetime | None = None
    ended: datetime | None = None
    exit_code: int | None = Field(None, description="0 done, 1 failed, 2 wrong use, 3 nothing meets the budget")
    message: str | None = Field(None, description="Why it ended as it did")
    runs: int = Field(description="How often it was started: 1 and one more for each time it was resumed")
    request: dict[str, Any] = Field(description="As it was submitted")


class SearchPage(BaseModel):
    """Searches, the latest first; `next` is what `before` takes to get more."""

    searches: list[SearchView]
    next: str | None = None


class ArtifactView(BaseModel):
    """A file of the result folder."""

    name: str
    bytes: int
    modified: datetime


class ArtifactList(BaseModel):
    """The files of the result folder."""

    artifacts: list[ArtifactView]


class TargetView(BaseModel):
    """A device that a search can be for."""

    name: str
    runtime: str
    precision: str
    measured: bool = Field(description="This machine, where the searches run, is measured; others are predicted")
    source: str


class TargetList(BaseModel):
    """The devices, and short names of some."""

    targets: list[TargetView]
    aliases: dict[str, str]


class ProfileReceipt(BaseModel):
    """A device's profile was kept, and searches for that device, model and workload use it from now on."""

    target: str
    model: str = Field(description="Digest of the model's weights")
    workload: str
    records: int
    parent_p50_ms: float
    leave_one_out_error: float


class CertificateReceipt(BaseModel):
    """A certificate was kept beside the search's result."""

    artifact: str
    verdict: str
    reason: str
    certified: bool


class ServerView(BaseModel):
    """What a page needs to know of the server."""

    version: str
    mlflow: str | None = Field(None, description="Where MLflow's own page is")
    models: list[str] = Field(description="Names of shipped models")
    methods: list[str]
    hub: bool = Field(description="Whether ids of the model hub are taken")
