"""The command line in a process of its own, without importing torch and transformers anew for each command.

A server imports what most commands need and forks a child for each: the same entry point in its own memory, with its
own folder, output and exit code. What a cold start does is for the tests that start one.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

Result = subprocess.CompletedProcess[str]
IMPORTED = (
    "pandas", "sae_lens", "scipy.stats", "sklearn.linear_model", "statsmodels.stats.multitest", "peft",
    "transformers.trainer", "transformers.models.llama.modeling_llama", "autocaft.cli.actions", "autocaft.stages",
    "autocaft.trainings",
)  # fmt: skip
ENVIRONMENT = {"OPENAI_API_KEY": "sk-not-to-be-used-000000", "OMP_NUM_THREADS": "1"}


class CommandLine:
    """Runs commands one after the other; the server starts with the first one."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[str] | None = None

    def __call__(self, *arguments: str | Path, cwd: Path, check: bool = True) -> Result:
        """`autocaft ARGUMENTS` in a folder; without `check` any exit code is taken."""
        words = [str(word) for word in arguments]
        with tempfile.TemporaryDirectory() as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            code = self._ask({"words": words, "cwd": str(cwd), "out": str(out), "err": str(err)})
            result = Result(["autocaft", *words], code, out.read_text(), err.read_text())
        assert not check or result.returncode == 0, result.stderr
        return result

    def _ask(self, request: dict[str, Any]) -> int:
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, __file__], env={**os.environ, **ENVIRONMENT}, cwd=Path(__file__).parent.parent,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(f"{json.dumps(request)}\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())

    def close(self) -> None:
        """End the server."""
        if self._server is not None:
            self._server.communicate()


def serve() -> None:
    """Fork a child for each line of the standard input, and print its exit code when it has ended."""
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # so that a step's collection does not look through all modules
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            return _run(json.loads(line))
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _run(request: dict[str, Any]) -> None:
    from autocaft.cli import main

    os.chdir(request["cwd"])
    for number, path, flags in ((0, os.devnull, os.O_RDONLY), (1, request["out"], None), (2, request["err"], None)):
        opened = os.open(path, flags if flags is not None else os.O_WRONLY | os.O_CREAT)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv = ["autocaft", *request["words"]]
    main()


if __name__ == "__main__":
    serve()
