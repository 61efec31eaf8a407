"""The command line: parse, call, print. No logic, and nothing heavy is imported before a command needs it."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point: run the app, and turn errors a user can mend into a message and an exit code."""
    from autocaft.cli.app import app
    from autocaft.errors import AutocaftError

    try:
        app()
    except AutocaftError as error:
        sys.stderr.write(f"autocaft: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt as stop:
        sys.stderr.write(f"autocaft: {stop or 'stopped; the same command continues'}\n")
        sys.exit(130)
