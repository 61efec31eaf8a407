"""One attempt at a step in a worker's process, wherever that is.

In: a function that runs a step by its name. Out: what is told of the attempt: its error, traceback and memory.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable

from autocaft.execute.quiet import quiet_libraries
from autocaft.rundir.memory import give_memory_back, process_peak_rss_mb
from autocaft.rundir.progress import redact

Told = tuple[Exception | None, str, float]
"""The error, its traceback, the process's peak memory in MiB."""


def attempt(run_step: Callable[[str], None], step: str) -> Told:
    """Run the step to its end. An error is given back: the run's own process records it and raises it again."""
    quiet_libraries()
    error: Exception | None = None
    text = ""
    try:
        run_step(step)
    except Exception as raised:
        error, text = sendable(raised), redact(traceback.format_exc())
    give_memory_back()
    return error, text, process_peak_rss_mb()


def sendable(error: Exception) -> Exception:
    """The error itself where it can be pickled, which keeps its exit code; else its text."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an SDK's error may need arguments that pickle does not know, and raise anything
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
