"""URLs that people see: in messages, in results and in files that are shared. Also those that are mistyped."""

import re
from pathlib import Path
from urllib.parse import unquote

_STARS = "***"
_OPENING = r"^([\"'(<\[{]*"  # of quotes around a URL in a text
# To the last @: a password may hold any character unescaped.
_USER = re.compile(_OPENING + r"[\w+.-]+://[^:/?#@]*):(.*)@", re.DOTALL)
_NO_HOST = re.compile(_OPENING + r"(?:sqlite[\w+]*|journal|file):///)", re.IGNORECASE)
# One slash, none or three, no colon, another sign: what stands between the first word and the last @ is hidden.
_MISTYPED = re.compile(_OPENING + r"(?:[\w+.-]*:[/\\]*|[\w+.-]+[;/\\]+(?=[^@]*:)|//+(?=[^@]*:)))(.*)@", re.DOTALL)
_USER_ONLY = re.compile(_OPENING + r"[\w+.-]+://[^:/?#@]*@)")
# No @ at all, and a port that is no number: a password whose @ was forgotten or encoded.
_PORT = re.compile(
    _OPENING
    + r"(?:postgres\w*|mysql|mariadb|mssql|oracle|https?)(?:\+\w+)?:/*[^:/?#@\[]*):(?!\d{1,5}(?:[/?#]|\W*$))([^@]+)$",
    re.IGNORECASE,
)
_QUERY = re.compile(r"([?&][^=&\s]*(?:pass|pwd|token|secret|key)[^=&\s]*=)(?!\*)([^&#\s]*)", re.IGNORECASE)
_KEYWORD = re.compile(r"(\b(?:ssl)?(?:password|passwd|pwd)\s*=\s*)(?!\*)('[^']*'|[^\s'&#]+)", re.IGNORECASE)


def build_sqlite_url(path: Path) -> str:
    """The URL of a SQLite file, whatever its folders are called.

    SQLAlchemy decodes the path of a URL; MLflow, which makes the folders of `sqlite:///` URLs, does not, and leaves
    those alone that name the driver.
    """
    text = str(path.resolve())
    quoted = text.replace("%", "%25").replace("?", "%3F").replace("#", "%23")
    return f"sqlite:///{text}" if quoted == text else f"sqlite+pysqlite:///{quoted}"


def remove_password(uri: str) -> str:
    """The same URL with stars for its password; it is printed and kept in files that people share.

    Of one that is mistyped, so that nobody can tell where its password begins, all that could be one is hidden.
    """
    return _KEYWORD.sub(rf"\1{_STARS}", _QUERY.sub(rf"\1{_STARS}", _remove_user(uri)))


def remove_passwords(text: str) -> str:
    """A text, such as a message, with stars for the passwords of all URLs in it."""
    if "@" not in text and "=" not in text and "://" not in text:
        return text
    words = re.sub(r"\S+", lambda match: _remove_user(match[0]), text)
    return _KEYWORD.sub(rf"\1{_STARS}", _QUERY.sub(rf"\1{_STARS}", words))


def remove_secrets(text: str, uri: str) -> str:
    """A text about a URL, such as a driver's error, without that URL's password, as written or decoded."""
    secrets = [*_list_user_secrets(uri), *(each[2] for each in _QUERY.finditer(uri))]
    secrets += [each[2] for each in _KEYWORD.finditer(uri)]
    # Of user:password, which a mistyped URL does not tell apart, the password alone may be quoted.
    secrets += [secret.rpartition(":")[2] for secret in secrets]
    forms = {form for secret in secrets for form in (secret, unquote(secret)) if form}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, _STARS)
    return remove_passwords(text)


def _list_user_secrets(uri: str) -> list[str]:
    if _NO_HOST.match(uri) or _USER_ONLY.match(uri):
        return []
    matches = (pattern.match(uri) for pattern in (_USER, _MISTYPED, _PORT))
    return [each[2] for each in matches if each][:1]


def _remove_user(uri: str) -> str:
    if _NO_HOST.match(uri):
        return uri
    if _USER.match(uri):
        return _USER.sub(rf"\1:{_STARS}@", uri)
    if "@" not in uri:
        return _PORT.sub(rf"\1:{_STARS}", uri)
    return uri if _USER_ONLY.match(uri) else _MISTYPED.sub(rf"\1{_STARS}@", uri)
