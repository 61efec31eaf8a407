"""Many threads ask one by one; what they ask is answered together.

In: calls from threads, each of which waits. Out: lists of calls for a handler, which answers each when it can. Used by
the vendors' batch APIs and by a model in this process. The decision a reader would question: a list is closed when no
further call came for a moment, not by a clock or a count, because only the callers know how many they are.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field

from autocaft.llm.outcomes import ChatRequest, Reply, StoppedError

Answer = Future[Reply]
"""What a thread waits for."""


@dataclass(frozen=True, slots=True)
class Call:
    """One question that a thread waits for."""

    key: str
    request: ChatRequest
    answer: Answer = field(default_factory=Future)


def give(answer: Answer, result: Reply | Exception) -> None:
    """Let the thread that waits go on. The first result counts: it may have been told to stop meanwhile."""
    with contextlib.suppress(InvalidStateError):
        if isinstance(result, Reply):
            answer.set_result(result)
        else:
            answer.set_exception(result)


class Gatherer:
    """Hands calls to `handle` in lists, on a thread of its own that starts with the first call."""

    def __init__(self, handle: Callable[[Sequence[Call]], None], *, linger_s: float, most: int) -> None:
        """`linger_s`: a list is closed when no call came for so long, or when it has `most`."""
        self._handle = handle
        self._linger_s = linger_s
        self._most = most
        self._calls: queue.Queue[Call] = queue.Queue()
        self._open: set[Answer] = set()
        self._turn = threading.Lock()
        self._thread: threading.Thread | None = None
        self.stopped = threading.Event()

    def ask(self, call: Call) -> Reply:
        """Queue the call and wait for its answer."""
        with self._turn:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True, name="gatherer")
                self._thread.start()
        self._calls.put(call)
        return self.wait(call.answer)

    def wait(self, answer: Answer) -> Reply:
        """Wait for an answer that somebody else gives."""
        with self._turn:
            self._open.add(answer)
        if self.stopped.is_set():
            give(answer, StoppedError("stopped"))
        try:
            return answer.result()
        finally:
            with self._turn:
                self._open.discard(answer)

    def stop(self) -> None:
        """End all waiting."""
        self.stopped.set()
        with self._turn:
            waiting = list(self._open)
        for answer in waiting:
            give(answer, StoppedError("stopped"))

    def _work(self) -> None:
        while not self.stopped.is_set():
            calls = [self._calls.get()]
            while len(calls) < self._most:
                try:
                    calls.append(self._calls.get(timeout=self._linger_s))
                except queue.Empty:
                    break
            try:
                self._handle(calls)
            except Exception as error:  # the waiting threads raise it; this one has nobody to tell
                for call in calls:
                    give(call.answer, error)
