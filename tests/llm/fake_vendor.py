"""A server on 127.0.0.1 that speaks both vendors' wire formats, their batches included.

A test hands it a script: from what was asked to what is answered. The official SDKs talk to it over real HTTP.
`storm` makes any script misbehave; `serving_elsewhere` runs it in a process of its own.
"""

from __future__ import annotations

import email
import json
import math
import multiprocessing
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
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
        if "short texts" in self.system:
            return "verify"
        if "in words alone" in self.system:
            return "rate_words"
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
    usage: tuple[int, int] | None = None
    """Input and output tokens; by default a quarter of the characters."""
    cut: str = ""
    """`reset`: the connection is reset instead of an answer; `body`: half an answer, then the end of the connection."""
    drip_s: float = 0.0
    """Seconds between one byte of the body and the next; 0 sends all at once."""
    drips_headers: bool = False
    """Let status and headers drip too."""
    odds: list[tuple[str, dict[str, float]]] | None = None
    """Tokens with the probabilities of what may stand there; sent only where the format has a place for them."""


Script = Callable[[Asked], Answer]


class FakeVendor:
    """The server. `asked` keeps every request (without its body if `keep_bodies` is false), `n_answered` counts whole
    replies by what was asked."""

    def __init__(self, script: Script, *, keep_bodies: bool = True) -> None:
        self.script = script
        self.asked: list[Asked] = []
        self.n_asked = 0
        self.n_answered: Counter[str] = Counter()
        self.batches = FakeBatches(self)
        self.keep_bodies = keep_bodies
        self.lock = threading.Lock()
        self.server = _Server(("127.0.0.1", 0), self._handler())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> tuple[Asked, Answer]:
        """One question: what the script says to it, counted."""
        with self.lock:
            asked = Asked(path, headers, body, self.n_asked)
            self.n_asked += 1
            if self.keep_bodies:
                self.asked.append(asked)
        answer = self.script(asked)
        if answer.status == 200 and not answer.cut:
            with self.lock:
                self.n_answered[asked.user] += 1
        return asked, answer

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                self._send(*outer.batches.get(self.path))

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers["content-length"]))
                if "/batches" in self.path or "/files" in self.path:
                    self._send(*outer.batches.post(self.path, raw, self.headers["content-type"]))
                    return
                headers = {name.lower(): value for name, value in self.headers.items()}
                asked, answer = outer.answer(self.path, headers, json.loads(raw))
                if answer.cut == "reset":
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.close_connection = True
                    return
                if answer.drip_s:
                    self._drip(json.dumps(wire(asked, answer)).encode(), answer)
                    return
                self._send(answer.status, wire(asked, answer), answer.headers, answer.cut == "body")

            def _send(
                self, status: int, body: Any, headers: Mapping[str, str] | None = None, is_cut: bool = False
            ) -> None:
                sent = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(sent)))
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(sent[: len(sent) // 2] if is_cut else sent)
                self.close_connection = self.close_connection or is_cut

            def _drip(self, body: bytes, answer: Answer) -> None:
                head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
                sent = head.encode() + body
                at_once = 0 if answer.drips_headers else len(head)
                self.wfile.write(sent[:at_once])
                for byte in sent[at_once:]:  # ends with an error when the client has gone
                    time.sleep(answer.drip_s)
                    self.wfile.write(bytes([byte]))

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no news."""


class FakeBatches:
    """Files and batches of both vendors. A batch is answered when it is asked about after `n_polls` times."""

    def __init__(self, vendor: FakeVendor) -> None:
        self.vendor = vendor
        self.n_polls = 1
        self.lose_next = False
        """Take the next batch and break the connection before its name is sent."""
        self.files: dict[str, bytes] = {}
        self.made: dict[str, dict[str, Any]] = {}

    def post(self, path: str, raw: bytes, kind: str) -> tuple[int, Any]:
        number = len(self.files) + len(self.made)
        if path.endswith("/files"):
            name = f"file-{number}"
            self.files[name] = (
                email.message_from_bytes(b"content-type: " + kind.encode() + b"\n\n" + raw)
                .get_payload()[-1]
                .get_payload(decode=True)
            )  # type: ignore[union-attr, index, assignment]
            return 200, {
                "id": name, "object": "file", "bytes": len(raw), "created_at": 0, "filename": "f", "purpose": "batch",
            }  # fmt: skip
        body = json.loads(raw)
        is_openai = "input_file_id" in body
        if is_openai:
            rows = [json.loads(line) for line in self.files[body["input_file_id"]].decode().splitlines()]
        else:
            rows = [{"custom_id": row["custom_id"], "body": row["params"]} for row in body["requests"]]
        name = f"batch_{number}"
        self.made[name] = {
            "rows": rows, "polls": 0, "body": body, "openai": is_openai, "at": time.time(), "results": None,
        }  # fmt: skip
        lose, self.lose_next = self.lose_next, False
        return (503, {"error": {"message": "lost"}}) if lose else (200, self._shown(name))

    def get(self, path: str) -> tuple[int, Any]:
        parts = path.split("?")[0].strip("/").split("/")
        if parts[-1] == "batches":
            names = sorted(self.made, key=lambda name: -self.made[name]["at"])
            data = [self._shown(name) for name in names]
            return 200, {"object": "list", "data": data, "has_more": False, "first_id": None, "last_id": None}
        if parts[-1] == "content":
            return 200, self.files[parts[-2]]
        if parts[-1] == "results":
            return 200, self.made[parts[-2]]["results"]
        batch = self.made[parts[-1]]
        batch["polls"] += 1
        if batch["polls"] > self.n_polls and batch["results"] is None:
            self._answer(parts[-1])
        return 200, self._shown(parts[-1])

    def _answer(self, name: str) -> None:
        batch = self.made[name]
        lines = []
        for row in batch["rows"]:
            path = "/v1/chat/completions" if batch["openai"] else "/v1/messages"
            asked, answer = self.vendor.answer(path, {}, row["body"])
            lines.append({"custom_id": row["custom_id"], **self._result(batch["openai"], asked, answer)})
        batch["results"] = "".join(json.dumps(line) + "\n" for line in lines).encode()
        self.files[f"out-{name}"] = batch["results"]

    @staticmethod
    def _result(is_openai: bool, asked: Asked, answer: Answer) -> dict[str, Any]:
        body = wire(asked, answer)
        if is_openai:
            return {"response": {"status_code": answer.status, "request_id": "r", "body": body}, "error": None}
        if answer.status == 200:
            return {"result": {"type": "succeeded", "message": body}}
        kind = "invalid_request_error" if answer.status == 400 else "api_error"
        error = {"type": "error", "error": {"type": kind, "message": answer.error}, "request_id": None}
        return {"result": {"type": "errored", "error": error}}

    def _shown(self, name: str) -> dict[str, Any]:
        batch = self.made[name]
        is_ended = batch["results"] is not None
        if batch["openai"]:
            return {
                "id": name, "object": "batch", "endpoint": "/v1/chat/completions", "completion_window": "24h",
                "input_file_id": batch["body"]["input_file_id"], "created_at": int(batch["at"]),
                "status": "completed" if is_ended else "in_progress", "metadata": batch["body"].get("metadata"),
                "output_file_id": f"out-{name}" if is_ended else None, "error_file_id": None,
            }  # fmt: skip
        n = len(batch["rows"])
        counts = {"processing": 0 if is_ended else n, "succeeded": n if is_ended else 0}
        at = datetime.fromtimestamp(batch["at"], UTC).isoformat()
        return {
            "id": name, "type": "message_batch", "processing_status": "ended" if is_ended else "in_progress",
            "request_counts": counts | {"errored": 0, "canceled": 0, "expired": 0}, "created_at": at, "expires_at": at,
            "ended_at": at if is_ended else None, "archived_at": None, "cancel_initiated_at": None,
            "results_url": f"{self.vendor.url}/v1/messages/batches/{name}/results" if is_ended else None,
        }  # fmt: skip


def wire(asked: Asked, answer: Answer) -> dict[str, Any]:
    if answer.status != 200:
        return {"type": "error", "error": {"type": "an_error", "message": answer.error}}
    n_in, n_out = answer.usage or (len(asked.system + asked.user) // 4, len(answer.text) // 4)
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


def storm(
    script: Script, *, seed: int = 0, p_429: float = 0.3, p_500: float = 0.1, p_reset: float = 0.02, p_cut: float = 0.02
) -> Script:
    """The script behind a server in trouble: 429 with a short Retry-After, 500, resets, answers that break off."""

    def stormy(asked: Asked) -> Answer:
        draw = random.Random(f"{seed} {asked.number}").random()
        faults = (
            (p_429, Answer(status=429, headers={"retry-after": "0.05"})),
            (p_500, Answer(status=500, headers={"retry-after": "0.02"})),
            (p_reset, Answer(cut="reset")),
            (p_cut, replace(script(asked), cut="body")),
        )
        for share, fault in faults:
            if draw < share:
                return fault
            draw -= share
        return script(asked)

    return stormy


def slow(script: Script, seconds: float) -> Script:
    """The same answers, each after a while in which nothing is sent."""

    def waiting(asked: Asked) -> Answer:
        time.sleep(seconds)
        return script(asked)

    return waiting


@contextmanager
def serving(script: Script, *, keep_bodies: bool = True) -> Iterator[FakeVendor]:
    """A running server."""
    vendor = FakeVendor(script, keep_bodies=keep_bodies)
    thread = threading.Thread(target=vendor.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield vendor
    finally:
        vendor.server.shutdown()
        vendor.server.server_close()
        thread.join()


@contextmanager
def serving_elsewhere(make_script: Callable[[], Script]) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """A server in a process of its own, so that what the caller's process uses is the client's alone. Gives its address
    and a function that tells what it has counted."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve_for, args=(make_script, there), daemon=True)
    process.start()

    def counts() -> dict[str, Any]:
        here.send("counts")
        told: dict[str, Any] = here.recv()
        return told

    try:
        yield here.recv(), counts
    finally:
        here.send("end")
        process.join(10)


def _serve_for(make_script: Callable[[], Script], pipe: Any) -> None:
    with serving(make_script(), keep_bodies=False) as vendor:
        pipe.send(vendor.url)
        while pipe.recv() != "end":
            pipe.send({"n_asked": vendor.n_asked, "n_answered": dict(vendor.n_answered)})
