"""A review server as a user starts it, in a process of its own, and a headless browser."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest


class Server:
    """`autocaft review RUN --name NAME`, running."""

    def __init__(self, run_dir: Path, name: str, port: int = 0, *options: str) -> None:
        command = [sys.executable, "-c", "from autocaft.cli import main; main()"]
        command += ["review", str(run_dir), "--name", name, "--port", str(port), *options]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
            # what a shell starts in the background ignores Ctrl-C, and so would the server of a suite started there
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        match = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/start\?token=([\w-]{43})", self.url)
        assert match, self.url + self._process.stdout.read()
        self.port, self.token = int(match[1]), match[2]
        self.log = run_dir / "review" / f"{name}.jsonl"

    def kill(self) -> None:
        """As `kill -9`."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """As Ctrl-C; gives the exit code."""
        return self._end(signal.SIGINT)

    def _end(self, how: signal.Signals) -> int:
        if self._process.poll() is None:
            self._process.send_signal(how)
            self._process.wait(timeout=20)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return self._process.returncode


StartServer = Callable[..., Server]


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """`start_server(run_dir, "ada", port=0)`; all are stopped at the end."""
    servers: list[Server] = []

    def start(run_dir: Path, name: str, port: int = 0, *options: str) -> Server:
        servers.append(Server(run_dir, name, port, *options))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()
