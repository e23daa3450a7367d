"""`nas token`: the tokens of `nas serve`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas.cli import options

if TYPE_CHECKING:
    from nas.api.credentials import TokenFile

_HELP = """Create, list and revoke the tokens of `nas serve`. A running server applies changes at once.

Roles: read may look; submit may also start and cancel searches; device may only upload profiles and certificates.

Examples:

  nas token create ci --role submit --tokens tokens.toml

  nas token create board-7 --role device --expires 2030-01-31 --tokens tokens.toml

  nas token list --tokens tokens.toml

  nas token revoke ci --tokens tokens.toml
"""

Name = Annotated[str, typer.Argument(metavar="NAME", help="Its name in logs.")]
File = Annotated[Path, typer.Option("--tokens", metavar="FILE", help="The tokens file.")]
Roles = Annotated[list[str], typer.Option("--role", metavar="ROLE", help="read, submit or device. Can be repeated.")]
Expires = Annotated[
    str | None, typer.Option("--expires", metavar="DATE", help="The day from which it is refused: 2030-01-31 (UTC).")
]
_USUAL = Path("tokens.toml")


def register(app: typer.Typer) -> None:
    """Add the verb to the program."""
    group = typer.Typer(help=_HELP, no_args_is_help=True)
    group.command("create", help="Create a token and print it, once. Only its SHA-256 is kept.")(create)
    group.command("list", help="List names, roles and expiry dates.")(show)
    group.command("revoke", help="Revoke a token.")(revoke)
    app.add_typer(group, name="token")


def create(name: Name, role: Roles, expires: Expires = None, tokens: File = _USUAL) -> None:
    """Print the token on stdout, alone."""
    from datetime import UTC, datetime

    from nas.api.credentials import Role
    from search_spaces.errors import UsageError

    unknown = [word for word in role if word not in set(Role)]
    if unknown:
        raise UsageError(f"role {unknown[0]!r} is none of {', '.join(Role)}")
    try:
        end = None if expires is None else datetime.strptime(expires, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise UsageError(f"expires {expires!r} is not a date; write for example 2030-01-31") from None
    print(_open_file(tokens).add(name, [Role(word) for word in role], end))


def show(tokens: File = _USUAL, json: options.Json = False) -> None:
    """Print what is known of each."""
    from nas.cli import console

    known = _open_file(tokens).read_tokens()
    if json:
        rows = [
            {"name": t.name, "roles": sorted(t.roles), "expires": t.expires and t.expires.isoformat()} for t in known
        ]
        console.emit_json({"schema_version": 1, "tokens": rows})
        return
    lines = (f"{t.name:<24} {', '.join(sorted(t.roles)):<24} {t.expires or 'never expires'}" for t in known)
    console.emit_text("\n".join(lines))


def revoke(name: Name, tokens: File = _USUAL) -> None:
    """Say nothing where it worked."""
    _open_file(tokens).remove(name)


def _open_file(path: Path) -> "TokenFile":
    from nas.api.credentials import TokenFile

    return TokenFile(path)
