"""The caps on what a run may spend, in dollars and in tokens, and the record that survives a kill.

In: the store and the price. Out: a `Claim` per question, or a `BudgetError`. The most that a question can cost is
written down before it is sent and replaced by its real cost together with the answer, so money in flight counts. The
decision a reader would question: what is held for an answer that never came (a cut connection, a killed process)
counts as spent from then on. The vendor may have billed it, and a cap that assumes the best is no cap.
"""

from __future__ import annotations

import json
import threading
from decimal import Decimal

from autocaft.errors import JudgeError
from autocaft.llm.outcomes import BudgetError, ChatRequest, Usage
from autocaft.llm.prices import NANO, Price
from autocaft.rundir.store import Charge, RunStore

MARGIN_TOKENS = 1000
"""The chat template, and what a vendor adds to explain a schema."""


def most_usage(request: ChatRequest) -> Usage:
    """The most tokens a call can use: no tokenizer makes more tokens than there are bytes."""
    n_bytes = sum(len(text.encode()) for text in (request.system, request.user, json.dumps(request.schema)))
    return Usage(n_bytes + MARGIN_TOKENS, request.max_output_tokens)


class Budget:
    """What may still be spent. Threads share it; a run folder has one at a time (its lock sees to that)."""

    def __init__(
        self, store: RunStore, price: Price | None, *, judge: str, max_usd: float | None, max_tokens: int | None
    ) -> None:
        """Takes over what the run has spent before, and what an earlier process held and never settled.

        Raises:
            JudgeError: there is a cap in dollars, and a price is not known.
        """
        if max_usd is not None and price is None:
            raise unknown_price(judge)
        self.store = store
        self.price = price
        self.judge = judge
        self.max_usd = max_usd
        self.max_nano = None if max_usd is None else int(Decimal(str(max_usd)) * NANO)
        self.max_tokens = max_tokens
        charges = store.charges()
        self.tokens = sum(charge.input_tokens + charge.output_tokens for charge in charges)
        self.nano_usd = sum(self._nano_of(charge) for charge in charges)
        self._n_open = 0
        self._turn = threading.Condition()

    def _nano_of(self, charge: Charge) -> int:
        if charge.nano_usd is not None:
            return charge.nano_usd
        if charge.judge == self.judge and self.price is not None:
            return self.price.nano_usd(Usage(charge.input_tokens, charge.output_tokens))
        if self.max_usd is not None:
            raise unknown_price(charge.judge)
        return 0

    def take(self, tokens: int, nano_usd: int, stop: threading.Event) -> None:
        """Take the most that one question can cost. Waits while others in flight may still give some back.

        Raises:
            BudgetError: it does not fit, and nothing is in flight.
        """
        with self._turn:
            while not self._fits(tokens, nano_usd):
                if self._n_open == 0 or stop.is_set():
                    raise BudgetError("budget", self._full())
                self._turn.wait(0.2)
            self._n_open += 1
            self.tokens += tokens
            self.nano_usd += nano_usd

    def reopen(self) -> None:
        """A question whose cost is held already is in flight again."""
        with self._turn:
            self._n_open += 1

    def give_back(self, tokens: int, nano_usd: int) -> None:
        """The question is over; this much of what was taken was not spent."""
        with self._turn:
            self._n_open -= 1
            self.tokens -= tokens
            self.nano_usd -= nano_usd
            self._turn.notify_all()

    def _fits(self, tokens: int, nano_usd: int) -> bool:
        if self.max_tokens is not None and self.tokens + tokens > self.max_tokens:
            return False
        return self.max_nano is None or self.nano_usd + nano_usd <= self.max_nano

    def _full(self) -> str:
        caps = [f"judge.max_usd = {self.max_usd:g}"] if self.max_usd is not None else []
        caps += [f"judge.max_total_tokens = {self.max_tokens}"] if self.max_tokens is not None else []
        spent = f"${self.nano_usd / NANO:.4f} and {self.tokens:,} tokens are spent or held"
        return f"the next question could pass {' or '.join(caps)}: {spent}"


class Claim:
    """One question's part of the budget, from before it is sent until its cost is known."""

    def __init__(self, budget: Budget, key: str, request: ChatRequest, *, is_underway: bool = False) -> None:
        """`is_underway`: an earlier process sent the question in a batch and held its cost; that hold is taken up."""
        self._budget = budget
        self._key = key
        self._most = most_usage(request)
        self._tokens = self._most.input_tokens + self._most.output_tokens
        self._nano = 0 if budget.price is None else budget.price.nano_usd(self._most)
        self._is_open = False
        self._hold: int | None = None
        if is_underway and (holds := budget.store.holds_of(key)):
            self._hold = holds[-1]
            self._is_open = True
            budget.reopen()

    def open(self, stop: threading.Event) -> None:
        """Take the question's highest cost out of the budget, unless it is taken already.

        Raises:
            BudgetError: a cap could be passed.
        """
        if not self._is_open:
            self._budget.take(self._tokens, self._nano, stop)
            self._is_open = True

    def hold(self) -> None:
        """Write down what was taken, durably. Call it right before the question is sent."""
        if self._hold is None:
            nano = None if self._budget.price is None else self._nano
            self._hold = self._budget.store.hold(self._key, self._budget.judge, self._tokens, nano)

    def abandon(self) -> None:
        """The question may have been billed and its answer is lost: what is written down stays for good."""
        if self._hold is None:
            self.release()
        elif self._is_open:
            self._hold, self._is_open = None, False
            self._budget.give_back(0, 0)

    def release(self) -> None:
        """Nothing was billed since the claim was opened."""
        if self._hold is not None:
            self._budget.store.release(self._hold)
        if self._is_open:
            self._hold, self._is_open = None, False
            self._budget.give_back(self._tokens, self._nano)

    def settle(self, request: object, response: object, usage: Usage) -> None:
        """Keep the answer and its cost, and let go of the hold, in one transaction."""
        used = self._most if usage == Usage() else usage  # a server that does not count is taken at its highest
        nano = None if self._budget.price is None else self._budget.price.nano_usd(used)
        self._budget.store.add_answer(
            self._key,
            self._budget.judge,
            request,
            response,
            used.input_tokens,
            used.output_tokens,
            nano_usd=nano,
            hold=self._hold,
        )
        self._hold, self._is_open = None, False
        self._budget.give_back(self._tokens - used.input_tokens - used.output_tokens, self._nano - (nano or 0))


def unknown_price(judge: str) -> JudgeError:
    """What to do when there is a cap in dollars and no price."""
    return JudgeError(
        f"judge: judge.max_usd is set and the price of {judge} is not known. Write a TOML file with the table "
        f'["{judge}"], `input = ` and `output = ` in dollars per million tokens, and name it in judge.prices '
        "(0 for a server of your own); or cap tokens with judge.max_total_tokens"
    )
