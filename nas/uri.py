"""URLs that people see: in messages, in results and in files that are shared."""

import re
from urllib.parse import unquote

_USER = re.compile(r"^([\w+.-]+://[^:/?#@]*):(.*)@")  # to the last @: a password may hold any character unescaped
_QUERY = re.compile(r"([?&][^=&]*(?:pass|pwd|token|secret|key)[^=&]*=)([^&#]*)", re.IGNORECASE)
_STARS = "***"


def without_password(uri: str) -> str:
    """The same URL with stars for its password; it is printed and kept in files that people share."""
    return _QUERY.sub(rf"\1{_STARS}", _USER.sub(rf"\1:{_STARS}@", uri))


def without_secrets(text: str, uri: str) -> str:
    """A text about a URL, such as a driver's error, without that URL's password, as written or decoded."""
    user = _USER.match(uri)
    secrets = [user[2]] if user else []
    secrets = [secret for secret in (*secrets, *(found[2] for found in _QUERY.finditer(uri))) if secret]
    for secret in sorted({each for found in secrets for each in (found, unquote(found))}, key=len, reverse=True):
        text = text.replace(secret, _STARS)
    return text
