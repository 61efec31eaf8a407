"""When a request may be sent: the one gate that all threads pass, and the one retry policy.

In: the outcomes of attempts. Out: permission to send, or to try again after a while. A request that is refused for load
(429, 503, 529) cuts the limit by a third, each full round of answers adds one, and a server that fails several times in
a row is left alone for a while, then tried with a single request. The decision a reader would question: of the requests
that were in flight together only the first refusal counts. They all met the same overload, and 32 of them would cut 32
times.

The retry policy is tenacity's, with jitter, Retry-After and a wall clock; a Retry-After that ends beyond the wall clock
gives up at once instead of sleeping up to it.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_before_delay
from tenacity.nap import sleep_using_event
from tenacity.wait import wait_random_exponential

from autocaft.llm.outcomes import Reply, TransientError

OVERLOADED = frozenset({"http_429", "http_503", "http_529"})
DECREASE = 0.67
MAX_FAILURES_IN_A_ROW = 8
"""Transient failures other than 429, over all threads, until the breaker opens."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
BACKOFF = wait_random_exponential(multiplier=0.5, max=30)


class Traffic:
    """The gate in front of one server. An own one: a library breaker (pybreaker) holds its lock during the call."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = float(most)
        self.n_in_flight = 0
        self._n_failed_in_a_row = 0
        self._pause_s = 0.0
        self._closed_until = 0.0
        self._last_cut = 0.0
        self._turn = threading.Condition()

    @contextmanager
    def slot(self, stop: threading.Event) -> Iterator[None]:
        """Wait for a place (or for `stop`), hold it while the block runs, and learn from how the block ends."""
        self._enter(stop)
        start = time.monotonic()
        try:
            yield
        except TransientError as failure:
            self._leave(failure, start)
            raise
        except BaseException:
            self._leave(None, start)
            raise
        self._leave(None, start)

    def _enter(self, stop: threading.Event) -> None:
        with self._turn:
            while not stop.is_set() and not self._has_room():
                # bounded: `stop` has no way to wake this condition, and a pause ends by the clock
                self._turn.wait(min(0.2, max(0.01, self._closed_until - time.monotonic())))
            self.n_in_flight += 1

    def _has_room(self) -> bool:
        if time.monotonic() < self._closed_until:
            return False
        # after a pause one request goes first; the others follow when it is answered
        return self.n_in_flight < (1 if self._pause_s else max(1, int(self.limit)))

    def _leave(self, failure: TransientError | None, start: float) -> None:
        with self._turn:
            self.n_in_flight -= 1
            if failure is None:
                self.limit = min(float(self.most), self.limit + 1 / self.limit)
                self._n_failed_in_a_row, self._pause_s = 0, 0.0
            elif failure.reason in OVERLOADED and start >= self._last_cut:
                self.limit = max(1.0, self.limit * DECREASE)
                self._last_cut = time.monotonic()
            if failure is not None and failure.reason != "http_429":
                self._note_failure()
            self._turn.notify_all()

    def _note_failure(self) -> None:
        self._n_failed_in_a_row += 1
        if self._pause_s or self._n_failed_in_a_row >= MAX_FAILURES_IN_A_ROW:
            self._pause_s = min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, 2 * self._pause_s))
            self._closed_until = time.monotonic() + self._pause_s


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
