"""Who gets in: every route against every role, tokens, limits, and what a server refuses to start with."""

import json
import logging
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from command_line import nas
from fastapi.routing import APIRoute, iter_route_contexts
from serving_kit import ASKED, Service, await_state, serve_fixture, service, submit  # noqa: F401
from starlette.routing import Mount

from nas.api import server
from nas.api.authentication import GuardedRoute
from nas.api.credentials import Role, TokenFile, create_token, find
from nas.api.jobs import State
from nas.api.settings import Limits, Settings
from search_spaces.errors import UsageError

Serve = Callable[..., Service]
R, S, D = Role.READ, Role.SUBMIT, Role.DEVICE
PUBLIC = {("GET", "/healthz"), ("GET", "/"), ("GET", "/openapi.json"), ("HEAD", "/openapi.json"), ("*", "/static")}
ROLES = {  # written down apart from the code: a route that is new, or open to more, fails here
    ("POST", "/v1/searches"): S,
    ("GET", "/v1/searches"): R,
    ("GET", "/v1/searches/{id}"): R,
    ("POST", "/v1/searches/{id}/cancel"): S,
    ("POST", "/v1/searches/{id}/resume"): S,
    ("GET", "/v1/searches/{id}/events"): R,
    ("GET", "/v1/searches/{id}/result"): R,
    ("GET", "/v1/searches/{id}/artifacts"): R,
    ("GET", "/v1/searches/{id}/artifacts/{name:path}"): R,
    ("POST", "/v1/searches/{id}/certificates"): D,
    ("POST", "/v1/profiles"): D,
    ("GET", "/v1/targets"): R,
    ("GET", "/v1/server"): R,
    ("GET", "/readyz"): R,
    ("GET", "/metrics"): R,
}
MAY = {"read": {R}, "submit": {R, S}, "device": {D}, "all": {R, S, D}}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    made = service(tmp_path_factory.mktemp("served"), limits=Limits(per_minute=100_000))
    yield made
    made.jobs.close()


def test_the_table_names_every_route(served: Service) -> None:
    found, public = {}, set()
    for context in iter_route_contexts(served.app.routes):
        route = context.original_route
        if isinstance(route, Mount):
            public.add(("*", route.path))
            continue
        for method in context.methods:
            if isinstance(route, GuardedRoute):
                found[method, context.path] = Role(route.openapi_extra["x-role"])
            else:
                public.add((method, context.path))
    assert found == ROLES
    assert public == PUBLIC


def test_a_guarded_route_without_a_role_cannot_be_made() -> None:
    with pytest.raises(KeyError):
        GuardedRoute("/forgotten", lambda: None)
    assert issubclass(GuardedRoute, APIRoute)


@pytest.mark.parametrize("who", ["nobody", "wrong", "almost", "basic", "expired", *MAY])
@pytest.mark.parametrize(("method", "path"), ROLES)
def test_every_route_for_every_role(served: Service, method: str, path: str, who: str) -> None:
    role, real = ROLES[method, path], served.secrets["all"]
    secret, token = create_token("old", Role, datetime.now(UTC) - timedelta(seconds=1))
    served.tokens[4:] = [token]
    headers = {
        "nobody": {},
        "wrong": {"Authorization": "Bearer nas_wrong"},
        "almost": {"Authorization": f"Bearer {real[:-1]}{'A' if real[-1] != 'A' else 'B'}"},
        "basic": {"Authorization": f"Basic {real}"},
        "expired": {"Authorization": f"Bearer {secret}"},
        **{name: served.headers(name) for name in MAY},
    }[who]
    url = path.replace("{id}", "none").replace("{name:path}", "none")
    client = served.client(None)
    answer = client.request(method, url, headers=headers, json=ASKED | {"budget": "no budget"})
    if who not in MAY:
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    elif role not in MAY[who]:
        assert answer.status_code == 403
    else:
        assert answer.status_code in (200, 404, 413, 422)
    if answer.status_code >= 400:
        error = answer.json()["error"]
        assert set(error) == {"code", "message", "request_id"}
        assert error["request_id"] == answer.headers["X-Request-ID"]
        assert real not in answer.text


def test_nothing_of_a_body_is_looked_at_before_the_token(served: Service) -> None:
    client = served.client(None)
    assert client.post("/v1/searches", content=b"{broken", headers={"Content-Type": "application/json"}).status_code
    answer = client.post("/v1/searches", content=b"{" * 10_000_000, headers={"Content-Type": "application/json"})
    assert answer.status_code == 401


def test_what_is_public_shows_nothing_of_the_searches(served: Service) -> None:
    client = served.client()
    id = submit(client)
    client = served.client(None)
    for path in ("/", "/static/page.js", "/static/page.css", "/openapi.json", "/healthz"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert id not in answer.text
    for path in ("/docs", "/redoc", "/static/../app.py", "/static/%2e%2e/app.py", "/v1/searches/"):
        assert client.get(path).status_code == 404


def test_headers_for_browsers_are_at_every_answer(served: Service) -> None:
    client = served.client(None)
    for path in ("/", "/static/page.js", "/v1/searches", "/nowhere"):
        headers = client.get(path).headers
        assert headers["Content-Security-Policy"].startswith("default-src 'self'")
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "Access-Control-Allow-Origin" not in headers
        assert headers.get("server") is None


def test_the_page_is_three_files_of_this_site_without_script_in_the_page() -> None:
    static = Path(server.__file__).parent / "static"
    page = (static / "index.html").read_text()
    links = set(re.findall(r'(?:src|href)="(?!#)([^"]*)"', page))
    assert links == {"/static/icon.svg", "/static/page.css", "/static/page.js"}
    assert not re.search(r"<script(?![^>]*src=)|\son\w+=|\sstyle=|<style", page)
    script, style = (static / "page.js").read_text(), (static / "page.css").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|localStorage", script)
    assert "http://" not in script + style
    assert "https://" not in script + style
    for id in re.findall(r'<label[^>]*for="([^"]+)"', page):
        assert f'id="{id}"' in page
    inputs = re.findall(r'<(?:input|select)[^>]*\sid="([^"]+)"', page)
    assert inputs
    assert all(f'for="{id}"' in page for id in inputs)


# Limits.


def test_a_body_that_is_too_large_is_refused_however_it_comes(tmp_path: Path, serve: Serve) -> None:
    served = serve(tmp_path, limits=Limits(request_bytes=1000, upload_bytes=2000))

    def pieces(size: int):
        yield from (b" " * 100 for _ in range(size // 100))

    json_type = {"Content-Type": "application/json"}
    client = served.client()
    for path, limit in (("/v1/searches", 1000), ("/v1/profiles", 2000), ("/v1/searches/x/certificates", 2000)):
        for content in (b" " * (limit + 1), pieces(limit + 100)):
            answer = client.post(path, content=content, headers=json_type)
            assert answer.status_code == 413
            assert answer.json()["error"]["code"] == "too_large"
        assert client.post(path, content=b" " * limit, headers=json_type).status_code in (404, 422)
    long = {**json_type, "Content-Length": "9" * 5000}
    assert client.post("/v1/searches", content=b"{}", headers=long).status_code == 413
    assert client.post("/v1/searches/x/cancel", content=b"{}").status_code == 404  # it has no body to read
    assert client.post("/v1/searches", json=ASKED).status_code == 201


def test_a_token_that_asks_too_often_waits_and_others_do_not(tmp_path: Path, serve: Serve) -> None:
    served = serve(tmp_path, limits=Limits(per_minute=5))
    client = served.client("read")
    codes = [client.get("/v1/targets").status_code for _ in range(7)]
    assert codes == [200] * 5 + [429] * 2
    refused = client.get("/v1/targets")
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert refused.json()["error"]["code"] == "too_many_requests"
    assert client.get("/v1/targets", headers=served.headers("submit")).status_code == 200
    assert client.get("/healthz").status_code == 200


def test_log_lines_say_who_asked_what_and_hold_no_secret(served: Service, caplog: pytest.LogCaptureFixture) -> None:
    from nas.api.middleware import JsonLines

    logging.getLogger("nas.api").propagate = True
    client = served.client("read")
    with caplog.at_level(logging.INFO, "nas.api"):
        client.get("/v1/searches/some-id?access_token=in-the-query")
        client.get("/v1/searches", headers={"Authorization": "Bearer nas_wrong-secret", "X-Request-ID": "forged"})
        client.get("/v1/%0aforged")
    lines = [JsonLines().format(record) for record in caplog.records if record.name == "nas.api"]
    reported = [json.loads(line) for line in lines]
    assert all("\n" not in line for line in lines)
    assert [(t["method"], t["route"], t["status"], t["token"]) for t in reported] == [
        ("GET", "/v1/searches/{id}", 404, "read"), ("GET", "/v1/searches", 401, None), ("GET", "unmatched", 404, None),
    ]  # fmt: skip
    assert all(t["ms"] >= 0 and re.fullmatch("[0-9a-f]{32}", t["id"]) and t["time"] for t in reported)
    for secret in (served.secrets["read"], "nas_wrong-secret", "in-the-query", "forged"):
        assert secret not in "".join(lines)


def test_a_failure_of_ours_is_told_to_the_log_and_not_to_the_client(
    tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    served = serve(tmp_path)

    def broken(*_: object) -> None:
        raise RuntimeError("a secret of the inside")

    monkeypatch.setattr(served.app.state.searches, "list_page", broken)
    logging.getLogger("nas.api").propagate = True
    client = served.client()
    with caplog.at_level(logging.INFO, "nas.api"):
        answer = client.get("/v1/searches")
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal"
    assert "secret" not in answer.text
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    failed = next(record for record in caplog.records if record.getMessage() == "failed")
    assert "a secret of the inside" in failed.fields["traceback"]
    assert failed.fields["id"] == answer.json()["error"]["request_id"]


def test_figures_count_by_template_and_cannot_be_blown_up(served: Service) -> None:
    client = served.client()
    for number in range(5):
        client.get(f"/v1/searches/number-{number}")
        client.get(f"/nowhere-{number}")
        client.request(f"WORD{number}", "/healthz")
    text = client.get("/metrics").text
    assert re.search(r'nas_http_requests_total\{method="GET",route="/v1/searches/\{id\}",status="404"\} [5-9]', text)
    assert 'method="other"' in text
    assert "number-" not in text
    assert "nowhere" not in text
    assert "WORD" not in text
    assert "nas_event_clients 0.0" in text
    assert 'nas_searches{state="running"}' in text


# Tokens.


def test_a_tokens_file_holds_no_token_and_is_for_its_owner_only(tmp_path: Path) -> None:
    file = TokenFile(tmp_path / "tokens.toml")
    secret = file.add("ci", [Role.SUBMIT], datetime(2099, 1, 31, tzinfo=UTC))
    other = file.add("board", [Role.DEVICE])
    text = file.path.read_text()
    assert secret not in text
    assert secret.removeprefix("nas_") not in text
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert [entry["name"] for entry in tomllib.loads(text)["token"]] == ["ci", "board"]
    kept = TokenFile(file.path).read_tokens()
    found = find(secret, kept)
    assert found is not None
    assert (found.name, found.roles, found.expires) == ("ci", {Role.SUBMIT}, datetime(2099, 1, 31, tzinfo=UTC))
    assert find(other, kept) == kept[1]
    assert find("", kept) is None
    assert find(found.digest, kept) is None
    with pytest.raises(UsageError, match="already"):
        file.add("ci", [Role.READ])


def test_a_token_that_is_taken_out_is_refused_at_once(tmp_path: Path, serve: Serve) -> None:
    file = TokenFile(tmp_path / "tokens.toml")
    headers = {"Authorization": f"Bearer {file.add('going', [Role.READ])}"}
    file.add("staying", [Role.READ])
    served = serve(tmp_path / "root")
    served.app.state.access.tokens = TokenFile(file.path).read_tokens
    client = served.client(None)
    assert client.get("/v1/targets", headers=headers).status_code == 200
    file.remove("going")
    assert client.get("/v1/targets", headers=headers).status_code == 401


@pytest.mark.parametrize(
    "text",
    [
        "token = 3",
        '[[token]]\nname = "a"',
        '[[token]]\nname = "a"\nsha256 = "nas_plain"\nroles = ["read"]',
        f'[[token]]\nname = "a"\nsha256 = "{"0" * 64}"\nroles = ["admin"]',
        f'[[token]]\nname = "a"\nsha256 = "{"0" * 64}"\nroles = []',
        f'[[token]]\nname = "a b"\nsha256 = "{"0" * 64}"\nroles = ["read"]',
        f'[[token]]\nname = "a"\nsha256 = "{"0" * 64}"\nroles = ["read"]\nexpires = 2030-01-01',
        f'[[token]]\nname = "a"\nsha256 = "{"0" * 64}"\nroles = ["read"]\nrole = "read"',
        2 * f'[[token]]\nname = "a"\nsha256 = "{"0" * 64}"\nroles = ["read"]\n',
        "[[token",
    ],
)
def test_a_damaged_tokens_file_lets_nobody_in(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokens.toml").write_text(text)
    with pytest.raises(UsageError, match="is no tokens file"):
        TokenFile(tmp_path / "tokens.toml").read_tokens()


def test_only_loopback_is_served_without_a_tokens_file(tmp_path: Path) -> None:
    for host in ("127.0.0.1", "::1", "localhost"):
        tokens, secret = server.prepare_tokens(None, host)
        assert secret is not None
        assert find(secret, tokens()) is not None
    assert server.prepare_tokens(None, "127.0.0.1")[1] != server.prepare_tokens(None, "127.0.0.1")[1]
    for host in ("0.0.0.0", "::", "192.0.2.7", "server.example"):
        with pytest.raises(UsageError, match="tokens are needed"):
            server.prepare_tokens(None, host)
    (tmp_path / "tokens.toml").write_text("")
    with pytest.raises(UsageError, match="holds no token"):
        server.prepare_tokens(tmp_path / "tokens.toml", "127.0.0.1")


@pytest.mark.parametrize("url", ["file:///etc", "mlflow:5000", "http://", "http://me:secret@mlflow:5000"])
def test_an_address_of_mlflow_is_one_of_a_server_and_holds_no_password(url: str) -> None:
    with pytest.raises(UsageError) as refused:
        server.check_mlflow(url)
    assert "secret" not in str(refused.value)


def test_the_page_links_to_where_a_browser_finds_mlflow(tmp_path: Path) -> None:
    inside, outside = "http://mlflow:5000", "https://mlflow.example"
    assert Settings(tmp_path).mlflow_page is None
    assert Settings(tmp_path, mlflow=inside).mlflow_page == inside
    settings = Settings(tmp_path, mlflow=inside, mlflow_link=outside)
    assert settings.mlflow_page == outside
    assert settings.extra_arguments == (f"--tracking-uri={inside}",)


def test_tokens_on_the_command_line(tmp_path: Path) -> None:
    made = nas("token", "create", "ci", "--role", "submit", "--role", "device", "--expires", "2099-12-31", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert re.fullmatch(r"nas_[\w-]{43}\n", made.stdout)
    listed = json.loads(nas("token", "list", "--json", cwd=tmp_path).stdout)
    assert listed["tokens"] == [
        {"name": "ci", "roles": ["device", "submit"], "expires": "2099-12-31T00:00:00+00:00"}
    ]  # fmt: skip
    assert nas("token", "revoke", "ci", cwd=tmp_path).returncode == 0
    for wrong in (("revoke", "ci"), ("create", "x", "--role", "admin"), ("create", "x/y", "--role", "read")):
        refused = nas("token", *wrong, cwd=tmp_path)
        assert refused.returncode == 2
        assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--host", "0.0.0.0"], "tokens are needed"),
        (["--tokens", "nowhere.toml"], "does not exist"),
        (["--jobs", "ftp://head"], "neither local nor the address"),
        (["--model-root", "nowhere"], "is no folder"),
        (["--mlflow", "sqlite:///x.db"], "no address of a server"),
        (["--mlflow-link", "127.0.0.1:5000"], "no address of a server"),
    ],
)
def test_a_server_refuses_to_start_so(
    tmp_path: Path, arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "serve", None)
    done = nas("serve", "--port", "0", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_one_server_for_a_folder(tmp_path: Path) -> None:
    with server.lock(tmp_path / "root"):
        command = "import sys; from pathlib import Path; from nas.api.server import lock; lock(Path(sys.argv[1]))"
        other = subprocess.run(
            [sys.executable, "-c", command, str(tmp_path / "root")], capture_output=True, text=True, check=False
        )
    assert "belongs to a server that runs" in other.stderr


def test_the_server_does_not_import_what_searches_need() -> None:
    code = "import sys, nas.api.server; print([m for m in ('torch', 'ray', 'mlflow', 'optuna') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "text", [None, "nonsense", 'token = "x"', "[[token]]\n", "[[token]]\nname = 1\n", "\x00", "[[token]]\nroles = 1"]
)
def test_a_broken_tokens_file_is_the_server_s_fault(
    tmp_path: Path, serve: Serve, caplog: pytest.LogCaptureFixture, text: str | None
) -> None:
    served = serve(tmp_path / "root")
    file = TokenFile(tmp_path / "tokens.toml")
    file.add("ci", [Role.READ])
    if text is None:
        file.path.unlink()
    else:
        file.path.write_text(text)
    served.app.state.access.tokens = file.read_tokens
    answer = served.client("read").get("/v1/searches")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
    assert answer.headers["Retry-After"]
    assert str(tmp_path) not in answer.text
    assert str(file.path) in caplog.records[0].fields["error"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"winner": 1}', '{"winner": {"architecture": {}}}'])
def test_a_certificate_for_a_damaged_result_is_not_the_device_s_fault(tmp_path: Path, serve: Serve, text: str) -> None:
    from test_api_devices import certificate

    served = serve(tmp_path / "root")
    id = submit(served.client("submit"))
    await_state(served.client("submit"), id, State.SUCCEEDED)
    (served.settings.searches / id / "result" / "result.json").write_text(text)
    answer = served.client("device").post(f"/v1/searches/{id}/certificates", json=certificate(tmp_path))
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "damaged_result")
