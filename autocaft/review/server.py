"""The review page: a small web server on this machine, for one reviewer.

In: a run folder and a name. Out: the page, and `review/<name>.jsonl`. The decision a reader would question: handlers
save before they answer and run one at a time, on one thread; a review is a person pressing keys, and what counts is
that nothing confirmed is lost.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from autocaft.errors import ConfigError
from autocaft.report.figures import resource
from autocaft.report.plain import environment
from autocaft.report.words import duration
from autocaft.review.acts import CHOICES, ActLog, log_path
from autocaft.review.deck import ShownCard, doubtful_part, load_deck, signed
from autocaft.review.guard import MAX_BODY, START, Guard, loopback
from autocaft.review.session import Draft, Review

if TYPE_CHECKING:
    from jinja2 import Environment
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp

STATIC = {
    "htmx.min.js": "text/javascript",
    "review.js": "text/javascript",
    "review.css": "text/css",
    "shade.css": "text/css",
    "icon.svg": "image/svg+xml",
}
MAX_NOTE = 2000
SAID = {"ablate": "ablate", "keep": "keep", "unsure": "not sure"}


class Page:
    """Handlers of one review."""

    def __init__(self, review: Review, *, run_dir: Path, token: str, cookie: str) -> None:
        self._review = review
        self._run_dir = run_dir
        self._token = token
        self._cookie = cookie

    def app(self) -> Starlette:
        """The routes."""
        from starlette.applications import Starlette
        from starlette.routing import Route

        return Starlette(
            routes=[
                Route("/", self.show, methods=["GET"]),
                Route(START, self.start, methods=["GET"]),
                Route("/static/{name}", self.static, methods=["GET"]),
                Route("/answer", self.answer, methods=["POST"]),
                Route("/next", self.next, methods=["POST"]),
                Route("/undo", self.undo, methods=["POST"]),
                Route("/judge", self.judge, methods=["POST"]),
            ]
        )

    async def start(self, request: Request) -> Response:
        """Take the token of the printed address into a cookie, and out of the address."""
        from starlette.responses import PlainTextResponse, RedirectResponse

        given = request.query_params.getlist("token")
        if len(given) != 1 or not secrets.compare_digest(given[0].encode("utf-8", "replace"), self._token.encode()):
            return PlainTextResponse("Refused: open the address that autocaft printed when it started.\n", 403)
        response = RedirectResponse("/", 303)
        response.set_cookie(self._cookie, self._token, httponly=True, samesite="strict", path="/")
        return response

    async def static(self, request: Request) -> Response:
        """One of our own files; the shading of tokens is the report's."""
        from starlette.responses import PlainTextResponse, Response

        name = request.path_params["name"]
        if name not in STATIC:
            return PlainTextResponse("No such file.\n", 404)
        content = resource(name) if name == "shade.css" else _resource(f"static/{name}")
        return Response(content, media_type=STATIC[name])

    async def show(self, request: Request) -> Response:
        """The whole page, where the review stands."""
        return self._render(status="", part="page")

    async def answer(self, request: Request) -> Response:
        """Save an answer and show the next card."""
        form = await _form(request)
        showing, choice, draft = _number(form, len(self._review.order)), form.get("choice", ""), _draft(form)
        if showing is None or choice not in CHOICES:
            return self._render(status="That was no answer; nothing was saved.", code=400)
        outcome = self._review.answer(showing, choice, draft.note, draft.seconds, form.get("ticket", ""))
        if outcome == "answered otherwise":
            status = f"{self._answered(showing, 'in another window ')} Nothing was changed.{_not_saved(draft)}"
            return self._render(status=status, code=409)
        instead = ", instead of what was sent before" if outcome == "saved anew" else ""
        return self._render(status=f"Saved: {SAID[choice]}{instead}.")

    async def next(self, request: Request) -> Response:
        """Leave the card for later."""
        form = await _form(request)
        showing = _number(form, len(self._review.order))
        if showing is None:
            return self._render(status="There is no such card; nothing was changed.", code=400)
        unsaved = self._keep_draft(form)
        if self._review.said_of(showing) is not None:
            return self._render(status=f"{self._answered(showing)} Undo takes that back.{unsaved}", code=409)
        self._review.leave_for_later(showing)
        return self._render(status="Left for later.")

    async def undo(self, request: Request) -> Response:
        """Take the last answer back."""
        form = await _form(request)
        taken = self._review.undo(form.get("ticket", ""))
        status = "Nothing to take back." if taken is None else f"Taken back: {SAID[taken.choice]}."
        return self._render(status=status + self._keep_draft(form))

    async def judge(self, request: Request) -> Response:
        """The judge's words: on the direction answered last, or where it differs when all is answered."""
        review = self._review
        if review.current is None:
            review.see_judge(list(review.deck.cards))
            return self._render(status="", part="judge", differing=self._differing())
        last = review.last
        if last is None:
            return self._render(status="Answer first: the judge’s words come after yours.", part="judge")
        if not review.may_see_judge(last.direction_id):
            return self._render(status="The judge’s words on that one come at the end.", part="judge")
        review.see_judge([last.direction_id])
        return self._render(status="", part="judge", judged=last.direction_id)

    def _render(
        self,
        *,
        status: str,
        part: str = "review",
        code: int = 200,
        judged: str | None = None,
        differing: Sequence[str] | None = None,
    ) -> Response:
        """One part of the page, or all of it (`page`), as the review stands now."""
        from starlette.responses import HTMLResponse

        review, showing = self._review, self._review.current
        template = _environment().get_template("page.html.jinja" if part == "page" else "update.html.jinja")
        html = template.render(
            body=f"{part}.html.jinja",
            review=review,
            deck=review.deck,
            run_dir=self._run_dir,
            showing=showing,
            card=None if showing is None else review.card(showing),
            progress=review.progress,
            status=status,
            judged=judged,
            differing=differing,
            draft=review.draft,
            ticket=secrets.token_hex(8),
            said=SAID,
        )
        return HTMLResponse(html, code)

    def _answered(self, showing: int, where: str = "") -> str:
        answer = self._review.said_of(showing)
        assert answer is not None
        return f"That one was answered {where}already: {SAID[answer.choice]}."

    def _keep_draft(self, form: Mapping[str, str]) -> str:
        """Keep what is on a card that is left without an answer; gives what to say of a note that cannot be kept."""
        showing, draft = _number(form, len(self._review.order)), _draft(form)
        if showing is None:
            return ""
        answer = self._review.said_of(showing)
        if answer is not None:
            return "" if draft.note == answer.note else _not_saved(draft)
        self._review.keep_draft(showing, draft)
        return ""

    def _differing(self) -> list[str]:
        """Directions on which the rule decided otherwise than the person, who was not unsure."""
        decisions = self._review.deck.decisions
        return [
            direction_id
            for direction_id, answer in sorted(self._review.first.items())
            if direction_id in decisions and answer.choice == ("keep" if decisions[direction_id].ablate else "ablate")
        ]


def serve(
    run_dir: Path, name: str, *, host: str, port: int, announce: Callable[[str], None], doubtful: bool = False
) -> None:
    """Serve until stopped.

    Args:
        doubtful: only what the judge is not sure of, and the controls.
        port: 0 takes a free one.
        announce: is given the address, with its token, when the page can be opened.

    Raises:
        ConfigError: not a loopback address, or the port is taken.
    """
    import uvicorn

    address = loopback(host)
    path = log_path(run_dir, name)
    deck = load_deck(run_dir)
    deck = doubtful_part(deck) if doubtful else deck
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.create_server((address, port), family=family)
    except OSError as error:
        raise ConfigError(
            f"--port {port}: cannot listen there ({error.strerror}). Leave it out for a free one."
        ) from error
    # asyncio sets this only on sockets that name their protocol; without it each reply waits 40 ms for the last packet
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with listener, ActLog(path) as log:
        app, url = make_app(Review(deck, log, name), run_dir, address, listener.getsockname()[1])
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, proxy_headers=False, lifespan="off",
            ws="none", timeout_graceful_shutdown=1,
        )  # fmt: skip
        announce(url)
        uvicorn.Server(config).run(sockets=[listener])


def make_app(review: Review, run_dir: Path, address: str, port: int) -> tuple[ASGIApp, str]:
    """The guarded application, and the address that opens it."""
    token = secrets.token_urlsafe(32)
    cookie = f"autocaft_review_{port}"  # browsers do not keep the cookies of two ports apart
    authority = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    page = Page(review, run_dir=run_dir, token=token, cookie=cookie)
    guarded = Guard(page.app(), authority=authority, token=token, cookie=cookie)
    return guarded, f"http://{authority}{START}?token={token}"


async def _form(request: Request) -> dict[str, str]:
    """Fields of a form; the guard has seen to its length, and a field that is there twice counts as absent."""
    body = (await request.body())[:MAX_BODY]
    try:
        fields = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=20)
    except ValueError:
        return {}
    return {name: values[0] for name, values in fields.items() if len(values) == 1}


def _number(form: Mapping[str, str], n: int) -> int | None:
    """The showing that a form is about."""
    text = form.get("showing", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 and int(text) < n else None


def _draft(form: Mapping[str, str]) -> Draft:
    """What was typed on a card and how long it was in view."""
    return Draft(form.get("note", "").strip()[:MAX_NOTE], _seconds(form))


def _not_saved(draft: Draft) -> str:
    """A note that is saved nowhere can be read once more, and copied."""
    return f" Your note was not saved: “{draft.note}”" if draft.note else ""


def _seconds(form: Mapping[str, str]) -> float | None:
    """How long the card was in view, as the page measured it; what is no number was not measured."""
    try:
        seconds = float(form.get("seconds", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < 1e6 else None


@cache
def _environment() -> Environment:
    """Everything that is shown is text of an attacker: nothing is marked safe."""
    found = environment(_template)
    found.globals["duration"] = duration
    found.globals["bars"] = bars
    found.globals["signed"] = signed
    return found


def _template(name: str) -> str:
    return resources.files("autocaft.review").joinpath("templates", name).read_text(encoding="utf-8")


def bars(card: ShownCard) -> list[dict[str, Any]]:
    """The histogram's bars in a box of 280 x 64: counts on a log scale, so that the rare ends can be seen."""
    from math import log10

    top = max((log10(1 + b.n) for b in card.bins), default=1.0) or 1.0
    width = 280 / max(len(card.bins), 1)
    return [
        {
            "x": round(i * width + 0.5, 2), "width": round(width - 1, 2), "low": b.low, "high": b.high, "n": b.n,
            "height": round(64 * log10(1 + b.n) / top, 2), "kind": "neg" if b.high <= 0 else "pos",
        }
        for i, b in enumerate(card.bins)
    ]  # fmt: skip


@cache
def _resource(name: str) -> bytes:
    return resources.files("autocaft.review").joinpath(name).read_bytes()
