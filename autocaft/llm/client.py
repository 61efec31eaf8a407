"""The one door: `LanguageClient.ask(request) -> Outcome`.

In: a request. Out: an outcome, from the store if the same question was answered before, else from the vendor. Every
paid answer is stored before anything reads it, so a process killed at any moment pays for at most the answers that
were still on their way. The decision a reader would question: one item that fails is data, but several in a row stop
the run: they mean that the server is gone or the model's name is wrong, and a table full of unscored directions would
hide that.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from autocaft.errors import JudgeError
from autocaft.llm.outcomes import (
    ChatRequest,
    FatalError,
    Outcome,
    RejectedError,
    Reply,
    TransientError,
)
from autocaft.llm.replies import read_reply
from autocaft.llm.retry import with_retries
from autocaft.llm.vendors import Vendor

MAX_FAILED_IN_A_ROW = 3
"""Questions given up one after the other after all patience: the server is gone."""
MAX_REJECTED_AT_FIRST = 5
"""Questions refused with 4xx before any was answered: the request as such is wrong."""


class StoredAnswer(Protocol):
    """One answer as the store gives it back."""

    @property
    def judge(self) -> str:
        """Who was asked, as `put` under this name."""
        ...

    @property
    def response(self) -> Any:
        """The reply as `Reply.to_row` wrote it."""
        ...

    @property
    def input_tokens(self) -> int:
        """Tokens of the question."""
        ...

    @property
    def output_tokens(self) -> int:
        """Tokens of the reply."""
        ...


class AnswerStore(Protocol):
    """Where paid answers live: the run's store, or `MemoryStore`. Threads share it."""

    def answer(self, key: str) -> StoredAnswer | None:
        """The stored answer, or None."""
        ...

    def answers(self) -> Sequence[StoredAnswer]:
        """All of them."""
        ...

    def add_answer(
        self, key: str, judge: str, request: Any, response: Any, input_tokens: int, output_tokens: int
    ) -> None:
        """Keep an answer; durable when it returns."""
        ...


@dataclass(frozen=True, slots=True)
class MemoryAnswer:
    """One answer in a `MemoryStore`."""

    judge: str
    request: Any
    response: Any
    input_tokens: int
    output_tokens: int


class MemoryStore:
    """Answers in memory: for notebooks and tests."""

    def __init__(self) -> None:
        self.rows: dict[str, MemoryAnswer] = {}

    def answer(self, key: str) -> MemoryAnswer | None:
        """The stored answer, or None."""
        return self.rows.get(key)

    def answers(self) -> list[MemoryAnswer]:
        """All of them."""
        return list(self.rows.values())

    def add_answer(
        self, key: str, judge: str, request: Any, response: Any, input_tokens: int, output_tokens: int
    ) -> None:
        """Keep an answer until the process ends."""
        self.rows.setdefault(key, MemoryAnswer(judge, request, response, input_tokens, output_tokens))


class TokenBudget:
    """A cap that is reserved before a call and settled after it, so that calls in flight together cannot pass it."""

    def __init__(self, limit: int | None, spent: int = 0) -> None:
        self.limit = limit
        self.spent = spent
        self._lock = threading.Lock()

    def reserve(self, n_tokens: int) -> bool:
        """Take tokens out of the budget, or False if they do not fit."""
        with self._lock:
            if self.limit is not None and self.spent + n_tokens > self.limit:
                return False
            self.spent += n_tokens
            return True

    def settle(self, reserved: int, used: int) -> None:
        """Replace a reservation by what was really used."""
        with self._lock:
            self.spent += used - reserved


class LanguageClient:
    """Asks one vendor. Safe to use from many threads."""

    def __init__(
        self,
        vendor: Vendor,
        *,
        name: str,
        store: AnswerStore,
        patience_s: float = 900.0,
        max_total_tokens: int | None = None,
    ) -> None:
        """`name` is who is asked, for messages and the store; the cap counts what was stored under it before."""
        self.name = name
        self._vendor = vendor
        self._store = store
        self._patience_s = patience_s
        spent = sum(row.input_tokens + row.output_tokens for row in store.answers() if row.judge == name)
        self._budget = TokenBudget(max_total_tokens, spent)
        self._counts_lock = threading.Lock()
        self._stop = threading.Event()
        self._stop_message = ""
        self._n_answered = self._n_rejected = self._n_failed_in_a_row = 0

    def ask(self, request: ChatRequest) -> Outcome:
        """The outcome of one request.

        Raises:
            JudgeError: no request can be answered (bad key, spent quota, server gone); stored answers stay.
        """
        key = request.key(self._vendor.endpoint)
        stored = self._store.answer(key)
        if stored is not None:
            return read_reply(Reply.from_row(stored.response), request.schema)
        reserved = _most_tokens(request)
        if not self._budget.reserve(reserved):
            return Outcome("failed", reason="budget", detail=f"the cap of {self._budget.limit} tokens is reached")
        used = 0
        try:
            reply = with_retries(lambda: self._send(request), patience_s=self._patience_s, stop=self._stop)
            used = reply.usage.input_tokens + reply.usage.output_tokens
        except FatalError as failure:
            raise self._end(f"{self.name} answers no request ({failure})") from None
        except RejectedError as failure:
            return self._note_rejected(failure)
        except TransientError as failure:
            return self._note_failed(failure)
        finally:
            self._budget.settle(reserved, used)
        self._keep(key, request, reply)
        return read_reply(reply, request.schema)

    def stop(self) -> None:
        """Let no further request start; those that wait to be tried again end."""
        self._stop_message = self._stop_message or "stopped"
        self._stop.set()

    def _send(self, request: ChatRequest) -> Reply:
        if self._stop.is_set():
            raise JudgeError(self._stop_message)
        return self._vendor.send(request)

    def _keep(self, key: str, request: ChatRequest, reply: Reply) -> None:
        asked = {"model": request.model, "system": request.system, "user": request.user}
        usage = reply.usage
        self._store.add_answer(key, self.name, asked, reply.to_row(), usage.input_tokens, usage.output_tokens)
        with self._counts_lock:
            self._n_answered += 1
            self._n_failed_in_a_row = 0

    def _note_rejected(self, failure: RejectedError) -> Outcome:
        with self._counts_lock:
            self._n_rejected += 1
            is_hopeless = self._n_answered == 0 and self._n_rejected >= MAX_REJECTED_AT_FIRST
        if is_hopeless:
            raise self._end(f"{self.name} refused the first {self._n_rejected} requests ({failure})")
        return Outcome("rejected", reason=failure.reason, detail=failure.detail)

    def _note_failed(self, failure: TransientError) -> Outcome:
        with self._counts_lock:
            self._n_failed_in_a_row += 1
            is_gone = self._n_failed_in_a_row >= MAX_FAILED_IN_A_ROW
        if is_gone:
            raise self._end(f"{self.name} did not answer for {self._patience_s:.0f} s, several times ({failure})")
        return Outcome("failed", reason=failure.reason, detail=failure.detail)

    def _end(self, what: str) -> JudgeError:
        self._stop_message = f"judge: {what}. All answers so far are kept: mend this, then the same command continues."
        self._stop.set()
        return JudgeError(self._stop_message)


def _most_tokens(request: ChatRequest) -> int:
    """An upper bound: no tokenizer makes more tokens than there are bytes; 200 for the chat template."""
    n_bytes = sum(len(text.encode()) for text in (request.system, request.user, str(dict(request.schema))))
    return n_bytes + 200 + request.max_output_tokens
