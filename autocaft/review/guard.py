"""Who may speak to the page: this machine, the browser that has the token, from the page itself, and nobody else.

In: a request's method, path and headers. Out: None, or the reason why it is refused, before anything else looks at it.
The decision a reader would question: everything is checked though the socket is on the loopback interface, because any
web page that is open in the same browser, and any name that resolves to 127.0.0.1, reaches that too. A header that
must be there once and is there twice is refused, not read.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping, Sequence
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING

from autocaft.errors import ConfigError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

WRITE_HEADER = "x-autocaft-review"
"""A page of another origin cannot send it without asking first, and is told no."""
MAX_BODY = 32_768
"""Of a note of the greatest length, each letter of which is sent as nine."""
FORM = "application/x-www-form-urlencoded"
PAGE_DESTINATIONS = {"document", "empty", "script", "style", "image"}
START = "/start"

SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}

Headers = Mapping[str, Sequence[str]]
"""Lower-case name -> every value that was sent."""


def loopback(host: str) -> str:
    """The address to bind.

    Raises:
        ConfigError: it would be reachable from other machines.
    """
    address = "127.0.0.1" if host == "localhost" else host
    try:
        is_loopback = ipaddress.ip_address(address).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise ConfigError(
            f"--host {host}: the review page is for this machine alone. Leave --host out, and use "
            "`ssh -L PORT:127.0.0.1:PORT` from another machine (with --port PORT on both sides)."
        )
    return address


class Guard:
    """Refuses, or lets through with headers that forbid framing, scripts of others and caching."""

    def __init__(self, app: ASGIApp, *, authority: str, token: str, cookie: str) -> None:
        """`authority` is host:port as the browser has it; `cookie` the name that carries the token."""
        self._app = app
        self._authority = authority
        self._origin = f"http://{authority}"
        self._token = token
        self._cookie = cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request."""
        if scope["type"] != "http":
            return
        from starlette.responses import PlainTextResponse

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *extra]}
            await send(message)

        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        refusal = self.refusal(scope["method"], scope["path"], headers)
        if refusal is None:
            await self._app(scope, receive, send_guarded)
        else:
            await PlainTextResponse(f"Refused: {refusal}.\n", 403)(scope, receive, send_guarded)

    def refusal(self, method: str, path: str, headers: Headers) -> str | None:
        """Why a request is refused; None lets it through."""
        if method not in ("GET", "POST") or not path.startswith("/"):
            return "only GET and POST of a path"
        if list(headers.get("host", ())) != [self._authority]:
            return f"the page is at {self._origin} and nowhere else"
        is_write = method == "POST"
        return (
            self._wrong_sender(is_write, headers)
            or self._wrong_form(is_write, headers)
            or self._no_token(path, headers)
        )

    def _wrong_sender(self, is_write: bool, headers: Headers) -> str | None:
        """Whose page sent it, as far as the browser says so."""
        origins = list(headers.get("origin", ()))
        if origins != [self._origin] and (is_write or origins):
            return "another page sent this"
        sites = list(headers.get("sec-fetch-site", ()))
        if sites not in ([], ["same-origin"]) and (is_write or sites != ["none"]):
            return "another site sent this; open the address that autocaft printed in a tab of its own"
        destinations = list(headers.get("sec-fetch-dest", ()))
        if destinations and (len(destinations) > 1 or destinations[0] not in PAGE_DESTINATIONS):
            return "the page does not go into a frame"
        return None

    def _wrong_form(self, is_write: bool, headers: Headers) -> str | None:
        """Whether a write is one that only our script sends."""
        if not is_write:
            return None
        if list(headers.get(WRITE_HEADER, ())) != ["1"]:
            return "a write without the page's own header"
        if [value.split(";")[0].strip().lower() for value in headers.get("content-type", ())] != [FORM]:
            return "a write of another type"
        lengths = list(headers.get("content-length", ()))
        if len(lengths) != 1 or not lengths[0].isdigit() or int(lengths[0]) > MAX_BODY:
            return "a write without a length, or too long"
        return None

    def _no_token(self, path: str, headers: Headers) -> str | None:
        if path == START:
            return None  # the token is in the query there, and checked where it is read
        found = [value for header in headers.get("cookie", ()) for value in self._tokens_in(header)]
        if len(found) == 1 and self.is_token(found[0]):
            return None
        return "this browser has no pass; open the address that autocaft printed when it started"

    def _tokens_in(self, header: str) -> list[str]:
        """Values of our cookie in one Cookie header; a name that is there twice gives two."""
        found = []
        for part in header.split(";"):
            try:
                morsels: SimpleCookie = SimpleCookie(part)
            except CookieError:
                continue
            found += [morsel.value for name, morsel in morsels.items() if name == self._cookie]
        return found

    def is_token(self, text: str) -> bool:
        """Whether this is the token, in constant time."""
        return hmac.compare_digest(text.encode("utf-8", "replace"), self._token.encode())
