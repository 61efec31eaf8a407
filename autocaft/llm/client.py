"""The one door: `LanguageClient.ask(request) -> Outcome`.

In: a request. Out: an outcome, from the store if the same question was answered before, else from the vendor. Every
paid answer is stored before anything reads it, so a process killed at any moment pays for at most the answers that
were still on their way. The decision a reader would question: one item that fails is data, but several in a row stop
the run: they mean that the server is gone or the model's name is wrong, and a table full of unscored directions would
hide that.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from autocaft.errors import JudgeError
from autocaft.llm.budget import Budget, Claim
from autocaft.llm.outcomes import (
    CallError,
    ChatRequest,
    FatalError,
    Kind,
    Outcome,
    RejectedError,
    Reply,
    StoppedError,
    TransientError,
)
from autocaft.llm.prices import Price
from autocaft.llm.replies import read_reply
from autocaft.llm.traffic import Traffic, with_retries
from autocaft.llm.vendors import Vendor
from autocaft.rundir.store import RunStore

Job = TypeVar("Job")
Found = TypeVar("Found")
MAX_FAILED_IN_A_ROW = 3
"""Questions given up one after the other after all patience: the server is gone."""
MAX_REJECTED_AT_FIRST = 5
"""Questions refused with 4xx before any was answered: the request as such is wrong."""


class MemoryStore(RunStore):
    """Answers in memory: for notebooks and tests."""

    def __init__(self) -> None:
        super().__init__(Path(":memory:"))


class LanguageClient:
    """Asks one vendor. Safe to use from many threads."""

    def __init__(
        self,
        vendor: Vendor,
        *,
        name: str,
        store: RunStore,
        price: Price | None = None,
        patience_s: float = 900.0,
        concurrency: int = 8,
        max_usd: float | None = None,
        max_total_tokens: int | None = None,
    ) -> None:
        """`name` is who is asked, for messages and the store; the caps count all that the store has.

        Raises:
            JudgeError: there is a cap in dollars and no price.
        """
        self.name = name
        self.budget = Budget(store, price, judge=name, max_usd=max_usd, max_tokens=max_total_tokens)
        self.traffic = Traffic(concurrency)
        self._vendor = vendor
        self._store = store
        self._patience_s = patience_s
        self._counts_lock = threading.Lock()
        self._asking: dict[str, threading.Lock] = {}
        self._stop = threading.Event()
        self._stop_message = ""
        self._n_answered = self._n_rejected = self._n_failed_in_a_row = 0

    def ask(self, request: ChatRequest) -> Outcome:
        """The outcome of one request.

        Raises:
            JudgeError: no request can be answered (bad key, spent quota, server gone); stored answers stay.
        """
        key = request.key(self._vendor.endpoint)
        with self._counts_lock:
            asking = self._asking.setdefault(key, threading.Lock())
        with asking:  # the same question from two threads is bought once
            stored = self._store.answer(key)
            if stored is not None:
                return read_reply(Reply.from_row(stored.response), request.schema)
            return self._buy(key, request)

    def _buy(self, key: str, request: ChatRequest) -> Outcome:
        claim = Claim(self.budget, key, request, is_underway=key in self._vendor.underway)
        asked = {"model": request.model, "system": request.system, "user": request.user}
        try:
            reply = with_retries(lambda: self._send(claim, request), patience_s=self._patience_s, stop=self._stop)
            claim.settle(asked, reply.to_row(), reply.usage)
        except (CallError, JudgeError) as failure:
            claim.release()
            return self._note(failure)
        except BaseException:  # Ctrl-C, a full disk: nobody knows what was billed
            claim.abandon()
            raise
        with self._counts_lock:
            self._n_answered += 1
            self._n_failed_in_a_row = 0
        return read_reply(reply, request.schema)

    def _send(self, claim: Claim, request: ChatRequest) -> Reply:
        """One attempt: its cost is held first, and stays held if nobody can say whether it was billed."""
        # before the gate: who waits for money must not keep the place of one who could give some back
        claim.open(self._stop)
        with self.traffic.slot(self._stop):
            if self._stop.is_set():
                raise JudgeError(self._stop_message)
            claim.hold()
            try:
                return self._vendor.send(request)
            except CallError as failure:
                if failure.may_be_billed:
                    claim.abandon()
                raise

    def stop(self) -> None:
        """Let no further request start; those that wait to be tried again end."""
        self._stop_message = self._stop_message or "stopped"
        self._stop.set()
        self._vendor.stop()

    def _note(self, failure: CallError | JudgeError) -> Outcome:
        """The outcome of a question that got no answer; raises where no other would get one either."""
        if isinstance(failure, JudgeError):
            raise failure
        if isinstance(failure, StoppedError):
            raise JudgeError(self._stop_message) from None
        if isinstance(failure, FatalError):
            raise self._end(f"{self.name} answers no request ({failure})") from None
        with self._counts_lock:
            self._n_rejected += isinstance(failure, RejectedError)
            self._n_failed_in_a_row += isinstance(failure, TransientError)
            is_hopeless = self._n_answered == 0 and self._n_rejected >= MAX_REJECTED_AT_FIRST
            is_gone = self._n_failed_in_a_row >= MAX_FAILED_IN_A_ROW
        if is_hopeless:
            raise self._end(f"{self.name} refused the first {self._n_rejected} requests ({failure})") from None
        if is_gone:
            waited = f"{self._patience_s:.0f} s, several times"
            raise self._end(f"{self.name} did not answer for {waited} ({failure})") from None
        return Outcome(_kind_of(failure), reason=failure.reason, detail=failure.detail)

    def _end(self, what: str) -> JudgeError:
        self._stop_message = f"judge: {what}. All answers so far are kept: mend this, then the same command continues."
        self.stop()
        return JudgeError(self._stop_message)


def at_once(
    ask: Callable[[Job], Found],
    jobs: Iterable[Job],
    client: LanguageClient,
    *,
    concurrency: int,
    advance: Callable[[int], object],
) -> list[Found]:
    """What `ask` says to each job, in order, with so many under way; an error or Ctrl-C ends all of them."""
    with ThreadPoolExecutor(concurrency) as pool:
        try:
            found = []
            for one in pool.map(ask, jobs):
                found.append(one)
                advance(1)
            return found
        except BaseException:  # the pool waits for its threads, so they must not sleep on
            client.stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _kind_of(failure: CallError) -> Kind:
    if isinstance(failure, RejectedError):
        return "rejected"
    return "rate_limited" if failure.reason == "http_429" else "failed"
