"""What the OpenAPI document says and what the server does are compared on requests that nobody thought of."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import booleans
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from serving_kit import ASKED, QUICK, Service, await_state, serve_fixture, submit  # noqa: F401

from nas.api.jobs import State
from nas.api.settings import Limits

Serve = Callable[..., Service]

CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance,
    response_schema_conformance,
]  # fmt: skip


def test_no_request_finds_a_failure_or_an_answer_that_is_not_documented(tmp_path: Path, serve: Serve) -> None:
    served = serve(tmp_path, limits=Limits(per_minute=10**6, free_bytes=0), running=1, queued=3)
    client = served.client()
    finished = submit(client, seed=QUICK)
    await_state(client, finished, State.SUCCEEDED)
    schema = schemathesis.openapi.from_asgi("/openapi.json", served.app)
    seen: Counter[tuple[str, int]] = Counter()
    for found in schema.get_all_operations():
        operation = found.ok()

        @given(case=operation.as_strategy(), known=booleans())
        @settings(
            max_examples=settings().max_examples // 3, deadline=None, derandomize=True, database=None,
            phases=[Phase.generate], suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        def answers_as_documented(case: schemathesis.Case, known: bool) -> None:
            if known and "id" in case.path_parameters:
                case.path_parameters["id"] = finished
            if known and case.operation.label == "POST /v1/searches":
                numbers = {n: v for n, v in case.body.items() if n in ("trials", "percentile", "pareto")}
                case.body = numbers | ASKED | {"seed": QUICK}
            answer = case.call(headers=served.headers("all"))
            seen[case.operation.label, answer.status_code] += 1
            case.validate_response(answer, checks=CHECKS)

        answers_as_documented()
    assert len({label for label, _ in seen}) == 16
    assert {200, 201, 202, 404, 409, 422} <= {status for _, status in seen}


def test_the_document_says_which_role_each_route_needs(tmp_path: Path, serve: Serve) -> None:
    document = serve(tmp_path).client(None).get("/openapi.json").json()
    assert document["info"]["version"]
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["description"]
            if path != "/healthz":
                assert operation["x-role"] in ("read", "submit", "device")
                assert operation["security"] == [{"HTTPBearer": []}]
                assert {"401", "403", "422", "429"} <= set(operation["responses"])
    assert "HTTPValidationError" not in json.dumps(document)
