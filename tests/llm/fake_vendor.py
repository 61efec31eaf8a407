"""A server on 127.0.0.1 that speaks both vendors' wire formats, and a truthful reader behind it.

A test hands it a script: from what was asked to what is answered. The official SDKs talk to it over real HTTP.
"""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DATA = re.compile(r"<data ([0-9a-f]{16})>\n(.*?)\n</data \1>", re.DOTALL)


@dataclass
class Asked:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    number: int

    @property
    def system(self) -> str:
        if "messages" in self.path:
            return str(self.body["system"])
        return str(self.body["messages"][0]["content"])

    @property
    def user(self) -> str:
        return str(self.body["messages"][-1]["content"])

    @property
    def part(self) -> str:
        if "classified" in self.system:
            return "verify"
        return "rate" if "Concept U" in self.user else "describe"

    @property
    def schema(self) -> dict[str, Any]:
        if "output_config" in self.body:
            return dict(self.body["output_config"]["format"]["schema"])
        form = self.body.get("response_format", {})
        return dict(form["json_schema"]["schema"]) if "json_schema" in form else {}

    def lines(self) -> list[dict[str, str]]:
        """The data blocks in order, as name -> text."""
        return [dict(line.split(": ", 1) for line in text.split("\n")) for _, text in DATA.findall(self.user)]

    def outside(self) -> str:
        """What stands outside all fences: the only text an honest reader takes orders from."""
        return self.system + DATA.sub("", self.user)


@dataclass
class Answer:
    """What to send back: a reply in the vendor's format, or any status and body."""

    text: str = ""
    stop: str = "end"
    """`end`, `length` or `refusal`."""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    error: str = "an error"
    odds: list[tuple[str, dict[str, float]]] | None = None
    """Tokens with the probabilities of what may stand there; sent only where the format has a place for them."""


Script = Callable[[Asked], Answer]


class FakeVendor:
    """The server. `asked` keeps every request."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked: list[Asked] = []
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                headers = {name.lower(): value for name, value in self.headers.items()}
                with outer.lock:
                    asked = Asked(self.path, headers, body, len(outer.asked))
                    outer.asked.append(asked)
                answer = outer.script(asked)
                sent = json.dumps(_wire(asked, answer)).encode()
                self.send_response(answer.status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(sent)))
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(sent)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler


def _wire(asked: Asked, answer: Answer) -> dict[str, Any]:
    if answer.status != 200:
        return {"type": "error", "error": {"type": "an_error", "message": answer.error}}
    n_in, n_out = len(asked.system + asked.user) // 4, len(answer.text) // 4
    if "messages" in asked.path:
        stops = {"end": "end_turn", "length": "max_tokens", "refusal": "refusal"}
        return {
            "id": "msg_1", "type": "message", "role": "assistant", "model": asked.body["model"],
            "content": [{"type": "text", "text": answer.text}],
            "stop_reason": stops[answer.stop], "stop_sequence": None,
            "usage": {"input_tokens": n_in, "output_tokens": n_out},
        }  # fmt: skip
    is_refusal = answer.stop == "refusal"
    message = {
        "role": "assistant",
        "content": None if is_refusal else answer.text,
        "refusal": answer.text if is_refusal else None,
    }
    finish = "length" if answer.stop == "length" else "stop"
    logprobs = {"content": _logprobs(answer.odds)} if answer.odds and asked.body.get("logprobs") else None
    return {
        "id": "chat_1", "object": "chat.completion", "created": 0, "model": asked.body["model"],
        "choices": [{"index": 0, "finish_reason": finish, "message": message, "logprobs": logprobs}],
        "usage": {"prompt_tokens": n_in, "completion_tokens": n_out, "total_tokens": n_in + n_out},
    }  # fmt: skip


def _logprobs(odds: list[tuple[str, dict[str, float]]]) -> list[dict[str, Any]]:
    def token(text: str, share: float) -> dict[str, Any]:
        return {"token": text, "logprob": math.log(share), "bytes": list(text.encode())}

    return [
        {**token(text, shares[text]), "top_logprobs": [token(name, share) for name, share in shares.items()]}
        for text, shares in odds
    ]


@contextmanager
def serving(script: Script) -> Iterator[FakeVendor]:
    """A running server."""
    vendor = FakeVendor(script)
    thread = threading.Thread(target=vendor.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield vendor
    finally:
        vendor.server.shutdown()
        vendor.server.server_close()
        thread.join()
