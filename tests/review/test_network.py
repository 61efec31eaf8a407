"""Who may speak to the page: every request that is not the page's own is refused, and nothing changes by it."""

from __future__ import annotations

import re
import socket
import ssl
import statistics
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlencode

import pytest

from autocaft.cli.actions import review_run
from autocaft.errors import ConfigError, RunLockedError
from autocaft.review.acts import read_acts
from autocaft.review.server import MAX_NOTE
from tests.planted_run import make_run
from tests.review.conftest import Server

Header = tuple[str, str]
BODY = urlencode({"showing": "2", "choice": "ablate", "note": "", "seconds": "1"})
WRITES = ("/answer", "/undo", "/next", "/judge")


def start(folder: Path) -> Server:
    """One card is answered, one left for later, and the third is shown: any write that got through would be seen."""
    running = Server(make_run(folder / "planted", n_latents=47, n_decoys=0), "ada")
    for number, path in enumerate(("/answer", "/next")):
        status, _ = write(running, path, BODY.replace("showing=2", f"showing={number}"))
        assert status == 200
    return running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = start(tmp_path_factory.mktemp("runs"))
    yield running
    running.kill()


def read_headers(server: Server) -> list[Header]:
    """What the browser sends for the page."""
    return [("Host", f"127.0.0.1:{server.port}"), ("Cookie", f"autocaft_review_{server.port}={server.token}"),
            ("Sec-Fetch-Site", "none"), ("Sec-Fetch-Dest", "document")]  # fmt: skip


def write_headers(server: Server) -> list[Header]:
    """What the page sends with an answer."""
    origin = f"http://127.0.0.1:{server.port}"
    return [("Host", f"127.0.0.1:{server.port}"), ("Cookie", f"autocaft_review_{server.port}={server.token}"),
            ("Origin", origin), ("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Dest", "empty"),
            ("X-Autocaft-Review", "1"), ("Content-Type", "application/x-www-form-urlencoded"),
            ("Content-Length", str(len(BODY)))]  # fmt: skip


def send(server: Server, line: str, headers: list[Header], body: str = "") -> tuple[int, str]:
    """Status (0: the connection was closed without one) and the whole reply to a request as it stands."""
    text = "\r\n".join(
        [f"{line} HTTP/1.1", *(f"{name}: {value}" for name, value in headers), "Connection: close", "", body]
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(text.encode("latin-1"))
        reply = b""
        while piece := connection.recv(65536):
            reply += piece
    status = int(reply.split(b" ", 2)[1]) if reply.startswith(b"HTTP/") else 0
    return status, reply.decode("utf-8", "replace")


def write(server: Server, path: str, body: str = BODY) -> tuple[int, str]:
    """As the page does it."""
    headers = put("Content-Length", str(len(body)))(write_headers(server))
    return send(server, f"POST {path}", headers, body)


def state(server: Server) -> tuple[bytes, str]:
    """What is on the disk and what the page shows; each drawing of it has a ticket of its own."""
    status, reply = send(server, "GET /", read_headers(server))
    assert status == 200
    return server.log.read_bytes(), re.sub(r'"ticket": "\w{16}"', "", reply.partition("\r\n\r\n")[2])


def without(headers: list[Header], name: str) -> list[Header]:
    return [(key, value) for key, value in headers if key != name]


def put(name: str, *values: str) -> Callable[[list[Header]], list[Header]]:
    """The headers with this one replaced by these values (`PORT` and `TOKEN` are filled in)."""
    return lambda headers: without(headers, name) + [(name, value) for value in values]


# name -> (is a write, change of headers)
CASES: dict[str, tuple[bool, Callable[[list[Header]], list[Header]]]] = {
    "no cookie": (False, put("Cookie")),
    "a wrong token": (False, put("Cookie", "autocaft_review_PORT=" + "x" * 43)),
    "a cut token": (False, put("Cookie", "autocaft_review_PORT=")),
    "two tokens in one cookie header": (False, put("Cookie", "autocaft_review_PORT=x; autocaft_review_PORT=TOKEN")),
    "two cookie headers": (False, put("Cookie", "autocaft_review_PORT=TOKEN", "autocaft_review_PORT=TOKEN")),
    "the cookie of another port": (False, put("Cookie", "autocaft_review_1=TOKEN")),
    "a foreign host": (False, put("Host", "evil.example")),
    "a foreign host with our port": (False, put("Host", "evil.example:PORT")),
    "localhost, which is not the address": (False, put("Host", "localhost:PORT")),
    "a host without port": (False, put("Host", "127.0.0.1")),
    "a host with a dot": (False, put("Host", "127.0.0.1.:PORT")),
    "a host with a user": (False, put("Host", "x@127.0.0.1:PORT")),
    "a doubled host": (False, put("Host", "127.0.0.1:PORT", "127.0.0.1:PORT")),
    "no host": (False, put("Host")),
    "a forwarded host": (False, lambda h: [*put("Host", "evil.example")(h), ("X-Forwarded-Host", "127.0.0.1:PORT")]),
    "a foreign origin": (True, put("Origin", "http://evil.example")),
    "a null origin": (True, put("Origin", "null")),
    "a doubled origin": (True, put("Origin", "http://127.0.0.1:PORT", "http://evil.example")),
    "no origin": (True, put("Origin")),
    "an origin of another scheme": (True, put("Origin", "https://127.0.0.1:PORT")),
    "an origin of another port": (True, put("Origin", "http://127.0.0.1:1")),
    "a foreign origin that reads": (False, put("Origin", "http://evil.example")),
    "a cross-site write": (True, put("Sec-Fetch-Site", "cross-site")),
    "a same-site write": (True, put("Sec-Fetch-Site", "same-site")),
    "a write from the address bar": (True, put("Sec-Fetch-Site", "none")),
    "a cross-site read": (False, put("Sec-Fetch-Site", "cross-site")),
    "a doubled fetch site": (True, put("Sec-Fetch-Site", "same-origin", "cross-site")),
    "a frame": (False, put("Sec-Fetch-Dest", "iframe")),
    "an object": (False, put("Sec-Fetch-Dest", "object")),
    "a plain form": (True, put("X-Autocaft-Review")),
    "a doubled page header": (True, put("X-Autocaft-Review", "1", "1")),
    "a text body": (True, put("Content-Type", "text/plain")),
    "a multipart body": (True, put("Content-Type", "multipart/form-data; boundary=x")),
    "a body of no type": (True, put("Content-Type")),
    "a body that is too long": (True, put("Content-Length", "99999999")),
    "a body without length": (True, lambda h: [*put("Content-Length")(h), ("Transfer-Encoding", "chunked")]),
}


def filled(headers: list[Header], server: Server) -> list[Header]:
    return [(n, v.replace("PORT", str(server.port)).replace("TOKEN", server.token)) for n, v in headers]


def assert_refused(server: Server, line: str, headers: list[Header], body: str = "") -> None:
    """Nothing is given away, and neither the log nor what the server knows of the review has changed."""
    before = state(server)
    status, reply = send(server, line, headers, body)
    assert status == 0 or 400 <= status < 500, reply
    assert "Is this the unwanted concept" not in reply and "set-cookie" not in reply.lower()
    assert "access-control-allow" not in reply.lower()
    assert state(server) == before


def test_a_write_that_is_the_page_s_own_is_seen(tmp_path: Path) -> None:
    """What the tests below hold still does move: each of these writes changes the log or what is shown."""
    running = start(tmp_path)
    try:
        for path in ("/judge", "/next", "/undo", "/answer"):
            before = state(running)
            assert write(running, path)[0] == 200
            assert state(running) != before, path
    finally:
        running.kill()


@pytest.mark.parametrize("case", [case for case, (is_write, _) in CASES.items() if not is_write])
def test_a_read_that_is_not_the_page_s_own_is_refused(case: str, server: Server) -> None:
    _, change = CASES[case]
    assert_refused(server, "GET /", filled(change(read_headers(server)), server))


@pytest.mark.parametrize("path", WRITES)
@pytest.mark.parametrize("case", CASES)
def test_a_write_that_is_not_the_page_s_own_is_refused(case: str, path: str, server: Server) -> None:
    _, change = CASES[case]
    assert_refused(server, f"POST {path}", filled(change(write_headers(server)), server), BODY)


@pytest.mark.parametrize(
    "line",
    [
        *(f"{method} {path}?{BODY}" for path in WRITES for method in ("GET", "PUT", "OPTIONS")),
        "DELETE /", "HEAD /", "TRACE /",
        "GET /start", "GET /start?token=wrong", "GET /start?token=TOKEN&token=TOKEN", "GET /static/../acts.py",
        "GET /static/%2e%2e%2facts.py", "GET http://evil.example/", "CONNECT evil.example:80", "GET *",
    ],
)  # fmt: skip
def test_no_other_way_in(line: str, server: Server) -> None:
    line = line.replace("TOKEN", server.token)
    assert_refused(server, line, read_headers(server))


def test_a_websocket_is_refused(server: Server) -> None:
    upgrade = [
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="),
    ]
    headers = [*put("Origin", "http://evil.example")(read_headers(server)), *upgrade]
    assert_refused(server, "GET /", headers)


def test_https_is_not_spoken(server: Server) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    before = state(server)
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=10) as plain,
        pytest.raises((ssl.SSLError, OSError)),
    ):
        context.wrap_socket(plain, server_hostname="127.0.0.1")
    assert state(server) == before


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.168.1.7", "10.0.0.1", "evil.example", "", "127.0.0.1.evil.example"]
)
def test_no_address_that_others_can_reach_is_bound(host: str, tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "planted")
    with pytest.raises(ConfigError, match="this machine alone"):
        review_run(run_dir, "ada", host=host, port=0, export=None, import_=None)
    assert not (run_dir / "review").exists()


def test_the_page_forbids_frames_other_scripts_and_caching(server: Server) -> None:
    status, reply = send(server, "GET /", read_headers(server))
    assert status == 200 and "Is this the unwanted concept" in reply
    head = reply.split("\r\n\r\n")[0].lower()
    assert "frame-ancestors 'none'" in head and "x-frame-options: deny" in head and "no-store" in head
    assert "unsafe" not in head and "script-src 'self'" in head and "\r\nserver:" not in head
    assert server.token not in reply


def test_the_token_goes_into_a_cookie_no_script_and_no_other_site_can_use(server: Server) -> None:
    status, reply = send(server, f"GET /start?token={server.token}", without(read_headers(server), "Cookie"))
    assert status == 303 and "location: /\r\n" in reply
    (cookie,) = [line.lower() for line in reply.split("\r\n") if line.lower().startswith("set-cookie")]
    assert "httponly" in cookie and "samesite=strict" in cookie


def test_ctrl_c_stops_the_server_and_lets_the_next_one_in(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "planted")
    first = Server(run_dir, "ada")
    assert first.stop() == 130
    second = Server(run_dir, "ada", first.port)
    assert second.token != first.token
    second.kill()


def test_a_second_server_for_one_person_is_refused(server: Server) -> None:
    run_dir = server.log.parent.parent
    with pytest.raises(RunLockedError, match="another"):
        review_run(run_dir, "ada", host="127.0.0.1", port=0, export=None, import_=None)
    with pytest.raises(ConfigError, match="--port"):
        review_run(run_dir, "bob", host="127.0.0.1", port=server.port, export=None, import_=None)


def test_the_page_s_own_write_is_on_the_disk_before_the_reply(server: Server) -> None:
    """After those that hold the state still: it is the first that changes anything. `pytest -s` prints the times."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as browsers do
    milliseconds = []
    for n_before, showing in enumerate(range(2, 102), start=len(read_acts(server.log))):
        body = BODY.replace("showing=2", f"showing={showing}")
        headers = dict(put("Content-Length", str(len(body)))(write_headers(server)))
        start = time.perf_counter()
        connection.request("POST", "/answer", body, headers)
        reply = connection.getresponse()
        assert reply.status == 200 and b"Saved: ablate." in reply.read()
        milliseconds.append(1000 * (time.perf_counter() - start))
        assert len(read_acts(server.log)) == n_before + 1, "on the disk before the reply"
    p50, p95 = statistics.median(milliseconds), statistics.quantiles(milliseconds, n=20)[-1]
    print(f"\nsaving an answer, next card included: p50 {p50:.1f} ms, p95 {p95:.1f} ms")  # noqa: T201


def test_a_note_of_the_greatest_length_is_saved_in_any_script(server: Server) -> None:
    note = "\u6f22" * MAX_NOTE
    status, _ = write(server, "/answer", urlencode({"showing": "102", "choice": "keep", "note": note, "seconds": "1"}))
    assert status == 200 and read_acts(server.log)[-1].note == note


def test_a_part_says_what_it_is_and_not_what_the_judge_said(tmp_path: Path) -> None:
    server = Server(make_run(tmp_path / "planted"), "ada", 0, "--doubtful")
    try:
        status, reply = send(server, "GET /", read_headers(server))
    finally:
        server.kill()
    assert status == 200 and "0 of 6" in reply, "two without a score, two random, two of them a second time"
    assert "the 2 of 46 directions that the judge is not sure of, with random ones among them" in reply
    assert not any(words in reply for words in ("judge&#39;s words", "judge&#39;s reasons", "too few windows", "L8."))
