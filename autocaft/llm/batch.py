"""The vendors' batch APIs: half the price, an answer within a day.

In: questions from many waiting threads. Out: their replies, when the vendor is done. The decision a reader would
question: a batch is written down before it is handed over and its name before anybody asks how it is, so a killed
process takes up what it left: it never hands the same questions over twice while answers to them can still be had. In
between, the vendor's own list of batches says whether it has one of ours.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Protocol

from autocaft.llm.faults import failure_of, failure_of_status
from autocaft.llm.gather import Answer, Call, Gatherer, give
from autocaft.llm.outcomes import CallError, ChatRequest, FatalError, RejectedError, Reply, TransientError, UnclearError
from autocaft.llm.vendors import AnthropicMessages, OpenAIChat
from autocaft.rundir.store import BatchRow, RunStore

PATIENCE_S = 3 * 86_400.0
"""A question that expired is tried again in the next batch."""
LINGER_S, POLL_S = 3.0, 30.0
TRANSFER_S = 3600.0
"""Longest time for a whole file of questions or answers: tens of megabytes, where another request has `timeout_s`."""
MOST_REQUESTS = 10_000
"""Of one batch; both vendors take more."""
CLOCK_SKEW_S = 120.0
"""How far the vendor's clock may be behind ours."""
Result = tuple[str, Reply | CallError]


class BatchApi(Protocol):
    """What a vendor's batches need; every method raises `CallError`."""

    def create(self, calls: Sequence[Call], mark: str) -> str:
        """Hand the questions over; gives the batch's name."""
        ...

    def find(self, row: BatchRow, mark: str, known: Collection[str | None]) -> str | None:
        """The name of a batch, none of the `known`, that was handed over by somebody who did not live to hear it."""
        ...

    def is_ended(self, name: str) -> bool:
        """Whether there are results."""
        ...

    def results(self, name: str) -> Iterator[Result]:
        """Key and reply, or why there is none."""
        ...


class BatchVendor:
    """A `Vendor` whose `send` returns when the batch with its question has ended."""

    def __init__(
        self,
        wire: OpenAIChat | AnthropicMessages,
        store: RunStore,
        *,
        hands_over: bool = True,
        linger_s: float = LINGER_S,
        poll_s: float = POLL_S,
    ) -> None:
        """Without `hands_over` only what earlier processes left is waited for, and new questions go out one by one."""
        self.endpoint = wire.endpoint
        self._wire = wire
        self._hands_over = hands_over
        self._api: BatchApi = OpenAIBatches(wire) if isinstance(wire, OpenAIChat) else AnthropicBatches(wire)
        self._store = store
        self._poll_s = poll_s
        self._gatherer = Gatherer(self._hand_over, linger_s=linger_s, most=MOST_REQUESTS)
        self._turn = threading.Lock()
        self._answers: dict[int, dict[str, Answer]] = {}
        """By batch and key, what is waited for, or will be when somebody asks what an earlier process asked."""
        self._left: dict[str, BatchRow] = {}
        for row in store.batches(self.endpoint):
            open_keys = [key for key in row.keys if store.answer(key) is None]
            if open_keys:
                self._left |= dict.fromkeys(open_keys, row)
            else:
                store.end_batch(row.id)
        self.underway = frozenset(self._left)

    def send(self, request: ChatRequest) -> Reply:
        """Wait for the answer: of the batch that an earlier process handed over, else of the next one."""
        call = Call(request.key(self.endpoint), request)
        with self._turn:
            row = self._left.pop(call.key, None)
            if row is not None and row.id not in self._answers:
                self._answers[row.id] = {key: Answer() for key in row.keys}
                self._start(self._take_up, row)
        if row is not None:
            return self._gatherer.wait(self._answers[row.id][call.key])
        return self._gatherer.ask(call) if self._hands_over else self._wire.send(request)

    def stop(self) -> None:
        """End all waiting; what was handed over is taken up by the next process."""
        self._gatherer.stop()

    def _start(self, target: Any, *arguments: Any) -> None:
        threading.Thread(target=target, args=arguments, daemon=True, name="batch").start()

    def _hand_over(self, calls: Sequence[Call]) -> None:
        """Write the batch down, hand it over, write its name down, and let a thread follow it."""
        started_at = time.time()
        keys = tuple(call.key for call in calls)
        batch = self._store.start_batch(self.endpoint, keys, started_at)
        row = BatchRow(batch, self.endpoint, keys, None, started_at)
        try:
            name = self._api.create(calls, _mark(row))
        except CallError as failure:
            # whatever it answers, the vendor may have taken the batch
            is_unclear = isinstance(failure, TransientError) and failure.reason != "http_429"
            found = self._find(row) if is_unclear else None
            if found is None:
                self._store.end_batch(batch)
                raise
            name = found
        self._store.name_batch(batch, name)
        self._answers[batch] = {call.key: call.answer for call in calls}
        self._start(self._follow, batch, name)

    def _find(self, row: BatchRow) -> str | None:
        """The vendor's name for a batch that it may have; None if it has not. Handing it over again unasked could buy
        it twice."""
        known = {other.vendor_id for other in self._store.batches(self.endpoint)}
        try:
            return self._api.find(row, _mark(row), known)
        except CallError as failure:
            raise UnclearError("batch", f"cannot find out whether the vendor has it: {failure}") from None

    def _take_up(self, row: BatchRow) -> None:
        """Go on with a batch that an earlier process left."""
        try:
            name = row.vendor_id or self._find(row)
        except UnclearError as failure:
            return self._answer_all(row.id, failure)
        if name is None:
            self._store.end_batch(row.id)
            return self._answer_all(row.id, TransientError("not_sent", "the batch was never handed over"))
        self._store.name_batch(row.id, name)
        self._follow(row.id, name)

    def _follow(self, batch: int, name: str) -> None:
        """Wait for the end of a batch and answer its calls. Its row stays until all its answers are kept."""
        while not self._gatherer.stopped.is_set():
            try:
                if self._api.is_ended(name):
                    for key, result in self._api.results(name):
                        if key in self._answers[batch]:
                            give(self._answers[batch][key], result)
                    return self._answer_all(
                        batch, TransientError("expired", "the batch has no answer to this question")
                    )
            except TransientError:
                pass  # the vendor is away for a moment; the batch is not
            except CallError as failure:
                if isinstance(failure, RejectedError):  # failed as a whole, or long forgotten: nothing to come back to
                    self._store.end_batch(batch)
                else:
                    failure.may_be_billed = True  # the vendor goes on with it
                return self._answer_all(batch, failure)
            self._gatherer.stopped.wait(self._poll_s)

    def _answer_all(self, batch: int, failure: CallError) -> None:
        """The same failure for all that have no answer yet."""
        for answer in self._answers[batch].values():
            give(answer, failure)


class OpenAIBatches:
    """File up, batch, poll, file down. `metadata` carries our mark."""

    def __init__(self, wire: OpenAIChat) -> None:
        self._wire = wire
        self._sdk = wire.sdk

    def create(self, calls: Sequence[Call], mark: str) -> str:
        """Upload the questions as a file and start the batch."""
        rows = [
            {
                "custom_id": call.key,
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": self._wire.body(call.request),
            }
            for call in calls
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        try:
            file = self._sdk.files.create(file=("autocaft.jsonl", lines.encode()), purpose="batch", timeout=TRANSFER_S)
            batch = self._sdk.batches.create(
                input_file_id=file.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={"autocaft": mark},
            )
        except self._wire.errors as error:
            raise failure_of(error) from None
        return batch.id

    def find(self, row: BatchRow, mark: str, known: Collection[str | None]) -> str | None:
        """The batch with our mark."""
        try:
            for batch in self._sdk.batches.list(limit=100):
                if (batch.metadata or {}).get("autocaft") == mark:
                    return batch.id
                if batch.created_at < row.started_at - CLOCK_SKEW_S:
                    break
        except self._wire.errors as error:
            raise failure_of(error) from None
        return None

    def is_ended(self, name: str) -> bool:
        """Completed, expired or cancelled; a batch that failed as a whole raises."""
        batch = self._retrieve(name)
        if batch.status == "failed":
            errors = batch.errors.data if batch.errors and batch.errors.data else []
            raise RejectedError("batch_failed", "; ".join(str(error.message) for error in errors)[:300])
        return batch.status in ("completed", "expired", "cancelled")

    def results(self, name: str) -> Iterator[Result]:
        """Lines of the output file and of the error file."""
        batch = self._retrieve(name)
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id is None:
                continue
            try:
                text = self._sdk.files.content(file_id, timeout=TRANSFER_S).text
            except self._wire.errors as error:
                raise failure_of(error) from None
            for line in text.splitlines():
                row = json.loads(line)
                yield row["custom_id"], self._result(row)

    def _result(self, row: dict[str, Any]) -> Reply | CallError:
        from openai.types.chat import ChatCompletion

        response = row.get("response") or {}
        if response.get("status_code") == 200:
            try:
                return self._wire.read(ChatCompletion.construct(**response["body"]))
            except CallError as failure:
                return failure
        error = row.get("error") or (response.get("body") or {}).get("error") or {}
        message = str(error.get("message", error))
        if "status_code" not in response:
            return TransientError(str(error.get("code", "expired")), message)
        return failure_of_status(response["status_code"], message)

    def _retrieve(self, name: str) -> Any:
        try:
            return self._sdk.batches.retrieve(name)
        except self._wire.errors as error:
            raise failure_of(error) from None


class AnthropicBatches:
    """Message batches. They carry no mark of ours: one whose name we missed is known by its age and its size."""

    def __init__(self, wire: AnthropicMessages) -> None:
        self._wire = wire
        self._batches = wire.sdk.messages.batches

    def create(self, calls: Sequence[Call], mark: str) -> str:
        """Hand the questions over in one request."""
        requests: Any = [{"custom_id": call.key, "params": self._wire.body(call.request)} for call in calls]
        try:
            return self._batches.create(requests=requests, timeout=TRANSFER_S).id
        except self._wire.errors as error:
            raise failure_of(error) from None

    def find(self, row: BatchRow, mark: str, known: Collection[str | None]) -> str | None:
        """The oldest unknown batch since then with as many questions."""
        found = None
        try:
            for batch in self._batches.list(limit=100):
                if batch.created_at.timestamp() < row.started_at - CLOCK_SKEW_S:
                    break
                counts = batch.request_counts
                n = counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired
                found = batch.id if n == len(row.keys) and batch.id not in known else found
        except self._wire.errors as error:
            raise failure_of(error) from None
        return found

    def is_ended(self, name: str) -> bool:
        """Whether processing has ended."""
        try:
            return bool(self._batches.retrieve(name).processing_status == "ended")
        except self._wire.errors as error:
            raise failure_of(error) from None

    def results(self, name: str) -> Iterator[Result]:
        """One line a question, in any order."""
        try:
            for row in self._batches.results(name, timeout=TRANSFER_S):
                yield row.custom_id, self._result(row.result)
        except self._wire.errors as error:
            raise failure_of(error) from None

    def _result(self, result: Any) -> Reply | CallError:
        if result.type == "succeeded":
            try:
                return self._wire.read(result.message)
            except CallError as failure:
                return failure
        if result.type != "errored":
            return TransientError(result.type, "the batch ended before this question's turn")
        kind, message = result.error.error.type, result.error.error.message
        if kind in ("authentication_error", "permission_error", "billing_error"):
            return FatalError(kind, message)
        return failure_of_status(400 if kind in ("invalid_request_error", "not_found_error") else 500, message)


def _mark(row: BatchRow) -> str:
    """What a batch of ours is known by: its questions and when it was written down."""
    return hashlib.sha256(f"{row.started_at} {' '.join(row.keys)}".encode()).hexdigest()[:32]
