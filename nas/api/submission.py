"""What a client may ask of a search: the command line's own words, checked by the command line's own parsers."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from latency_models.targets import find_target
from latency_models.workload import Workload
from nas.api.model_roots import ModelRoots
from nas.request.choices import (
    PROJECTIONS,
    SEARCH,
    TOKEN_METHODS,
    check_compensation,
    check_method,
    check_tokens,
    check_trained,
)
from nas.request.quantities import Budget, ParameterLimit, parse_duration
from nas.request.search_request import parse_units
from search_spaces.errors import NasError
from search_spaces.servable import parse_servable


def _build_validator(parse: Callable[[str], object]) -> AfterValidator:
    """A text that a parser reads; what it complains of is told."""

    def check(text: str) -> str:
        if not text.isprintable():
            raise ValueError("holds characters that cannot be printed; leave them out")
        try:
            parse(text)
        except NasError as error:
            raise ValueError(str(error)) from None
        return text

    return AfterValidator(check)


_Amount = Field(min_length=1, max_length=40)
_Words = Field(min_length=1, max_length=200)
_Path = Field(min_length=1, max_length=1000)


class Submission(BaseModel):
    """A search, as `nas search` takes it. Where it is kept and logged is the server's affair."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    target: Annotated[str, _Words, _build_validator(find_target)] = Field(description="GET /v1/targets lists them")
    budget: Annotated[str, _Amount, _build_validator(Budget.parse)] = Field(description="20ms, or 0.6x of the parent's")
    model: Annotated[str, _Path, _build_validator(str)] | None = Field(
        None, description="A shipped model, a path inside a model root, or a hub id where the server allows it"
    )
    data: Annotated[str, _Path, _build_validator(str)] | None = Field(
        None, description="Of a shipped model by its name, or a path inside a model root"
    )
    workload: Annotated[str, _Words, _build_validator(Workload.parse)] | None = None
    units: Annotated[str, _Words, _build_validator(parse_units)] = "attention,cross-attention,mlp,block"
    tokens: Annotated[str, _Words, _build_validator(check_tokens)] = "off"
    compensate: Annotated[str, _Words, _build_validator(check_compensation)] = "auto"
    heal: Annotated[str, _Amount, _build_validator(parse_duration)] | None = None
    heal_train: Annotated[str, _Words, _build_validator(check_trained)] = PROJECTIONS
    percentile: Annotated[int, Field(ge=50, le=99)] = 90
    trials: Annotated[int, Field(ge=1, le=10_000)] = 48
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    time_limit: Annotated[str, _Amount, _build_validator(parse_duration)] | None = None
    max_parameters: Annotated[str, _Amount, _build_validator(ParameterLimit.parse)] | None = None
    method: Annotated[str, _Words, _build_validator(check_method)] = "nas"
    pareto: bool = False
    servable: Annotated[str, _Words, _build_validator(parse_servable)] = "any"

    @model_validator(mode="after")
    def _goes_together(self) -> "Submission":
        if self.method in TOKEN_METHODS and self.tokens != SEARCH:
            raise ValueError(f"method {self.method} drops tokens; add tokens: {SEARCH}")
        return self

    def build_arguments(self, roots: ModelRoots, out: Path) -> list[str]:
        """The arguments of `nas` that run it. Each is one word with its flag, so that no value can be another flag.

        Raises:
            UsageError: model or data are not allowed.
        """
        given = {
            "model": None if self.model is None else roots.resolve_model(self.model),
            "data": None if self.data is None else roots.resolve_data(self.data),
            **self.model_dump(exclude={"model", "data", "pareto"}, exclude_defaults=True),
        }
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items() if value is not None]
        return ["search", "--json", f"--out={out}", *flags, *(["--pareto"] if self.pareto else [])]
