"""Memory of this process: its peak, and what a finished step gives back."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from contextlib import suppress


def give_memory_back() -> None:
    """Let go of what a finished step left: unreachable models, and the freed blocks that the C library keeps.

    glibc holds on to freed blocks below its growing mmap threshold; without this each step's peak stands on the heap
    of the steps before it.
    """
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def process_peak_rss_mb() -> float:
    """Peak resident memory of this process since its start, in MiB (the kernel gives KiB, on macOS bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)
