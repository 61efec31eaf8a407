"""The one retry policy: tenacity, jitter, Retry-After, a wall clock, and an end for all threads when one meets a fatal
answer.

The decision a reader would question: a Retry-After that ends beyond the wall clock gives up at once instead of
sleeping up to it.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_before_delay
from tenacity.nap import sleep_using_event
from tenacity.wait import wait_random_exponential

from autocaft.llm.outcomes import Reply, TransientError

BACKOFF = wait_random_exponential(multiplier=0.5, max=30)


def with_retries(send: Callable[[], Reply], *, patience_s: float, stop: threading.Event) -> Reply:
    """Call `send` until it answers.

    Args:
        patience_s: no attempt starts later than this after the first.
        stop: when set, waiting ends at once (`send` is then called once more and should raise).

    Raises:
        TransientError: patience is over; the last failure.
        CallError: any other kind, at once.
    """
    retrying = Retrying(
        stop=stop_before_delay(patience_s),
        wait=_wait_s,
        retry=retry_if_exception_type(TransientError),
        sleep=sleep_using_event(stop),
        reraise=True,
    )
    reply: Reply = retrying(send)
    return reply


def _wait_s(state: RetryCallState) -> float:
    """What the server asks for plus jitter (so that the threads do not come back together), else exponential with
    jitter."""
    error = state.outcome.exception() if state.outcome else None
    asked = error.retry_after_s if isinstance(error, TransientError) else None
    if asked is None:
        return float(BACKOFF(state))
    return asked + random.uniform(0.0, min(1.0, 0.1 + asked / 4))
