"""Bearer tokens: who may do what. Only their SHA-256 is kept; a token is shown once, when it is made."""

import hashlib
import hmac
import re
import secrets
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from nas.storage.private_files import write_private
from search_spaces.errors import UsageError

_PREFIX = "nas_"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HEADER = (
    "# Tokens of `nas serve`: names, roles and SHA-256 digests, no tokens. `nas token` writes it; "
    "a server reads it again when it changes.\n"
)


class Role(StrEnum):
    """`read` may look, `submit` also start and cancel searches, `device` only upload profiles and certificates.

    Example:
        >>> secret = TokenFile(Path("tokens.toml")).add("ci", [Role.SUBMIT])
    """

    READ = "read"
    SUBMIT = "submit"
    DEVICE = "device"


@dataclass(frozen=True)
class Token:
    """What is known of a token: a name for logs, the digest in hexadecimal, roles, and when it ends."""

    name: str
    digest: str
    roles: frozenset[Role]
    expires: datetime | None = None

    def has_role(self, role: Role) -> bool:
        """Whether it has a role; `submit` includes `read`."""
        return role in self.roles or (role is Role.READ and Role.SUBMIT in self.roles)

    def has_ended(self, now: datetime) -> bool:
        """Whether its time is over."""
        return self.expires is not None and now >= self.expires


def create_token(name: str, roles: Iterable[Role], expires: datetime | None = None) -> tuple[str, Token]:
    """A secret of 256 random bits, and what is kept of it.

    Raises:
        UsageError: a name that does not fit in a log line, or no role.
    """
    chosen = frozenset(roles)
    if not _NAME.fullmatch(name):
        raise UsageError(f"token name {name!r}: letters, digits, '.', '_' and '-', at most 64; for example ci-runner")
    if not chosen:
        raise UsageError(f"token {name!r} has no role; give --role {', '.join(Role)}")
    secret = _PREFIX + secrets.token_urlsafe(32)
    return secret, Token(name, compute_digest(secret), chosen, expires)


def compute_digest(secret: str) -> str:
    """What is kept of a secret. It is random, so a plain hash cannot be searched backwards."""
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()


def find(secret: str, tokens: Iterable[Token]) -> Token | None:
    """The token of a secret; takes the same time wherever it is in the list, and however much of it is right."""
    digest, match = compute_digest(secret), None
    for token in tokens:
        if hmac.compare_digest(token.digest.encode(), digest.encode()):
            match = token
    return match


class TokenFile:
    """A TOML file of tokens, read again when it changes: a token that is taken out is refused at once.

    Example:
        >>> tokens = TokenFile(Path("tokens.toml"))
        >>> secret = tokens.add("ci", [Role.SUBMIT])
        >>> tokens.remove("ci")
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read: tuple[tuple[int, int, int], tuple[Token, ...]] | None = None

    def read_tokens(self) -> tuple[Token, ...]:
        """Those in the file now.

        Raises:
            UsageError: it is missing or is no tokens file.
        """
        try:
            stat = self.path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if self._read is None or self._read[0] != stamp:
                self._read = stamp, _parse(self.path.read_text())
            return self._read[1]
        except FileNotFoundError:
            raise UsageError(f"tokens file {self.path} does not exist; make it with nas token create") from None
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OSError) as error:
            raise UsageError(f"{self.path} is no tokens file ({error}); make it with nas token create") from None

    def add(self, name: str, roles: Iterable[Role], expires: datetime | None = None) -> str:
        """Add a token and return its secret, which is not kept.

        Raises:
            UsageError: the name is taken or not usable.
        """
        known = self.read_tokens() if self.path.exists() else ()
        if any(token.name == name for token in known):
            raise UsageError(f"token {name!r} is in {self.path} already; revoke it first, or choose another name")
        secret, token = create_token(name, roles, expires)
        self._write((*known, token))
        return secret

    def remove(self, name: str) -> None:
        """Take a token out.

        Raises:
            UsageError: there is none of that name.
        """
        known = self.read_tokens()
        if all(token.name != name for token in known):
            raise UsageError(f"token {name!r} is not in {self.path}; nas token list shows what is")
        self._write(tuple(token for token in known if token.name != name))

    def _write(self, tokens: tuple[Token, ...]) -> None:
        """Complete or not at all, for this account only."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_private(self.path, _HEADER + "".join(_format_toml(token) for token in tokens))


def _format_toml(token: Token) -> str:
    """Names, roles and digests hold nothing that would have to be escaped."""
    roles = ", ".join(f'"{role}"' for role in sorted(token.roles))
    lines = [f'name = "{token.name}"', f'sha256 = "{token.digest}"', f"roles = [{roles}]"]
    if token.expires is not None:
        lines.append(f"expires = {token.expires.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}")
    return "\n[[token]]\n" + "\n".join(lines) + "\n"


def _parse(text: str) -> tuple[Token, ...]:
    tokens = tuple(_read_token(entry) for entry in tomllib.loads(text).get("token", []))
    if len({token.name for token in tokens}) != len(tokens):
        raise ValueError("a name occurs twice")
    return tokens


def _read_token(entry: dict[str, object]) -> Token:
    unknown = entry.keys() - {"name", "sha256", "roles", "expires"}
    if unknown:
        raise ValueError(f"unknown key {sorted(unknown)[0]!r}")
    name, digest, roles, expires = entry["name"], entry["sha256"], entry["roles"], entry.get("expires")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"name {name!r}")
    if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise ValueError(f"sha256 of {name!r} is not 64 hexadecimal digits")
    if not isinstance(roles, list) or not roles:
        raise ValueError(f"roles of {name!r} are no list of {', '.join(Role)}")
    if expires is not None and (not isinstance(expires, datetime) or expires.tzinfo is None):
        raise ValueError(f"expires of {name!r} is no time with a zone, such as 2030-01-31T12:00:00Z")
    return Token(name, digest, frozenset(Role(role) for role in roles), expires)
