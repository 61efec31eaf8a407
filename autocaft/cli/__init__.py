"""The command line: parse, call, print. No logic, and nothing heavy is imported before a command needs it."""

from __future__ import annotations

import sys
from types import TracebackType


def main() -> None:
    """Entry point: run the app, and turn errors a user can mend into a message and an exit code."""
    from autocaft.cli.app import app
    from autocaft.errors import AutocaftError
    from autocaft.report.plain import visible
    from autocaft.rundir.progress import redact

    sys.excepthook = _print_without_keys
    try:
        app()
    except AutocaftError as error:
        sys.stderr.write(redact(f"autocaft: {visible(str(error))}\n"))
        sys.exit(error.exit_code)
    except KeyboardInterrupt as stop:
        sys.stderr.write(f"autocaft: {stop or 'stopped; the same command continues'}\n")
        sys.exit(130)


def _print_without_keys(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """An error of autocaft itself: the traceback, in which an SDK may have put a key."""
    from traceback import format_exception

    from autocaft.rundir.progress import redact

    sys.stderr.write(redact("".join(format_exception(kind, error, traceback))))
