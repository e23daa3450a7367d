"""`nas certify`: measure the winner of a search on its target and write the certificate."""

from pathlib import Path
from typing import Annotated

import typer

from nas.cli import options

_HELP = """Measure the best candidates of a search on their target, choose again by measurement, write the certificate.

Evaluations of the search are not repeated. A device that has no profile yet is profiled first.

Examples:

  nas certify nas-results/python-lm-jetson-orin-20ms --host user@device

  nas certify nas-results/python-lm-host-0.6x
"""


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    app.command("certify", help=_HELP)(certify)


def certify(
    folder: Annotated[Path, typer.Argument(metavar="RESULT_DIR", help="The result folder of a search.")],
    host: options.Host = None,
    python: options.Python = "python3",
    port: options.Port = None,
    ssh_config: options.SshConfig = None,
    json: options.Json = False,
) -> None:
    """Run the search's end once more with the device at hand, print the result."""
    from nas.cli import console

    progress = console.begin("certify")
    import shlex

    from latency_models.targets import find_target
    from nas.cli.summary import print_summary
    from nas.pipeline.run import run
    from nas.profiling.ssh import SshTarget
    from nas.request.search_request import SearchRequest
    from search_spaces.errors import Interrupted, UsageError

    request = SearchRequest.load(folder)
    target = find_target(request.target)
    ssh_target = None if host is None else SshTarget(host, python, port, ssh_config)
    if ssh_target is None and not target.is_host:
        raise UsageError(f"target {target.name} cannot be measured from here; give --host user@device")
    try:
        result = run(request, progress, ssh_target)
    except KeyboardInterrupt:
        raise Interrupted(shlex.join(["nas", "certify", str(folder)])) from None
    console.emit_json(result.to_json()) if json else print_summary(result, request.out)
