"""`nas serve`: searches as a service over HTTP."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

_HELP = """Serve searches over HTTP: submit, follow, cancel, results. The web page is at /, metrics are at /metrics.

Examples:

  nas serve

  nas token create ci --role submit --tokens tokens.toml

  nas serve --host 0.0.0.0 --tokens tokens.toml --model-root /models --mlflow http://mlflow:5000

  nas serve --jobs http://ray-head:8265 --root /shared/nas --search-arguments "--executor ray --workers 8"
"""

JobsAt = Annotated[
    str, typer.Option("--jobs", metavar="local|URL", help="Where searches run: here, or a Ray dashboard's address.")
]
Root = Annotated[Path, typer.Option("--root", metavar="DIR", help="Where searches and results are kept.")]
ListenOn = Annotated[str, typer.Option("--host", metavar="ADDRESS", help="The address to listen on.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="The port to listen on.")]
Tokens = Annotated[
    Path | None,
    typer.Option("--tokens", metavar="FILE", help="Tokens and their roles. Default: one new token, loopback only."),
]
ModelRoots = Annotated[
    list[Path] | None,
    typer.Option(
        "--model-root", metavar="DIR", help="Requests may name models and data in this folder. Can be repeated."
    ),
]
AllowHub = Annotated[bool, typer.Option("--allow-hub", help="Accept ids of the Hugging Face hub too.")]
Mlflow = Annotated[
    str | None, typer.Option("--mlflow", metavar="URL", help="The tracking server where searches are logged.")
]
MlflowLink = Annotated[
    str | None, typer.Option("--mlflow-link", metavar="URL", help="Its address for browsers. Default: the same.")
]
Running = Annotated[int, typer.Option("--running", min=1, help="Searches at a time on this machine.")]
Queued = Annotated[int, typer.Option("--queued", min=1, help="Searches that may wait on this machine.")]
PerMinute = Annotated[int, typer.Option("--requests-per-minute", min=1, help="The limit for one token.")]
SearchArguments = Annotated[
    str, typer.Option("--search-arguments", metavar="TEXT", help="Added to every nas search, such as its executor.")
]
TlsCertificate = Annotated[Path | None, typer.Option("--tls-certificate", metavar="FILE", help="To serve https.")]
TlsKey = Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help="The certificate's key.")]


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("serve", help=_HELP)(serve)


def serve(
    jobs: JobsAt = "local",
    root: Root = Path("nas-service"),
    host: ListenOn = "127.0.0.1",
    port: Port = 8080,
    tokens: Tokens = None,
    model_root: ModelRoots = None,
    allow_hub: AllowHub = False,
    mlflow: Mlflow = None,
    mlflow_link: MlflowLink = None,
    running: Running = 1,
    queued: Queued = 100,
    requests_per_minute: PerMinute = 600,
    search_arguments: SearchArguments = "",
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
) -> None:
    """Check what was given, take the folder, serve."""
    from search_spaces.errors import MissingExtra

    try:
        from nas.api import server
        from nas.api.model_roots import ModelRoots as Roots
        from nas.api.settings import Limits, Settings
    except ImportError as error:
        raise MissingExtra(f"nas serve needs packages ({error.name}); pip install 'nas[serve]'") from None

    valid, secret = server.prepare_tokens(tokens, host)
    settings = Settings(
        root.resolve(), Roots.of(tuple(model_root or ()), allow_hub), server.check_mlflow(mlflow),
        tuple(shlex.split(search_arguments)), Limits(per_minute=requests_per_minute),
        server.check_mlflow(mlflow_link),
    )  # fmt: skip
    with server.lock(settings.root):
        backend = server.open_jobs(jobs, settings, running, queued)
        scheme = "http" if tls_certificate is None else "https"
        print(f"nas: serving on {scheme}://{host}:{port}, searches in {settings.root}", file=sys.stderr)
        if secret is not None:
            print(f"nas: a token for this run, shown once: {secret}", file=sys.stderr)
        server.serve(settings, server.Address(host, port, tls_certificate, tls_key), backend, valid)
