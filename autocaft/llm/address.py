"""Where a server is and under which name its key lies: what may stand in a config. Light: read when the command line
starts."""

from __future__ import annotations

import re
from urllib.parse import urlsplit


def check_key_name(name: str | None) -> str | None:
    """The name of an environment variable.

    Raises:
        ValueError: no such name.
    """
    if name is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", name):
        # the value is not shown: it may be the key itself
        raise ValueError("must be the NAME of an environment variable, in capitals; export the key under it")
    return name


def check_address(url: str | None) -> str | None:
    """An address without a secret in it.

    Raises:
        ValueError: no address, or one with a user, a password or a query.
    """
    parts = urlsplit(url or "")
    if url is not None and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise ValueError("must be an address such as http://127.0.0.1:8000/v1")
    if parts.username or parts.password or parts.query:
        raise ValueError("must have no user, password or query: a key goes into a variable (api_key_env)")
    return url
