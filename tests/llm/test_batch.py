"""The vendors' batch APIs, through the real SDKs: one batch a round, half the price, nothing handed over twice."""

from __future__ import annotations

import multiprocessing
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import pytest
from fake_vendor import Answer, Asked, Script, serving

from autocaft.errors import JudgeError
from autocaft.llm.batch import BatchVendor
from autocaft.llm.client import LanguageClient, MemoryStore
from autocaft.llm.outcomes import ChatRequest, Outcome
from autocaft.llm.prices import Price
from autocaft.llm.vendors import make_vendor
from autocaft.rundir.store import RunStore

VENDORS = ("openai", "anthropic")
SCHEMA = {
    "type": "object",
    "properties": {"score": {"type": "number"}},
    "required": ["score"],
    "additionalProperties": False,
}
PRICE = Price("test", lambda n_in, n_out: Decimal(n_in + n_out) / 10**6, share=Decimal("0.5"))
GOOD: Script = lambda asked: Answer('{"score": 1}', usage=(100, 20))  # noqa: E731


def request(number: int) -> ChatRequest:
    return ChatRequest("m", "s", f"question {number}", SCHEMA, 100)


@contextmanager
def batching(
    name: str, url: str, store: RunStore, max_usd: float | None = None, *, hands_over: bool = True
) -> Iterator[LanguageClient]:
    address = url + ("/v1" if name == "openai" else "")
    wire = make_vendor(name, base_url=address, api_key_env=None, timeout_s=5.0)
    vendor = BatchVendor(wire, store, hands_over=hands_over, linger_s=0.1, poll_s=0.05)
    client = LanguageClient(vendor, name=name, store=store, price=PRICE, concurrency=99, max_usd=max_usd)
    try:
        yield client
    finally:
        client.stop()


def ask(client: LanguageClient, numbers: range) -> list[Outcome]:
    with ThreadPoolExecutor(len(numbers)) as pool:
        return list(pool.map(lambda number: client.ask(request(number)), numbers))


@pytest.mark.parametrize("name", VENDORS)
def test_questions_of_many_threads_go_out_as_one_batch_and_come_back_to_who_asked(name: str) -> None:
    def echo(asked: Asked) -> Answer:
        return Answer(f'{{"score": {asked.user.split()[1]}}}', usage=(100, 20))

    store = MemoryStore()
    with serving(echo) as server, batching(name, server.url, store) as client:
        outcomes = ask(client, range(20))
        assert [outcome.value for outcome in outcomes] == [{"score": number} for number in range(20)]
        assert len(server.batches.made) == 1
        ask(client, range(20))
        assert len(server.batches.made) == 1, "a warm rerun handed something over"
    assert {row.nano_usd for row in store.answers()} == {60_000}, "half of 120 tokens at a dollar a million"
    assert not any(charge.is_held for charge in store.charges())


@pytest.mark.parametrize("name", VENDORS)
@pytest.mark.parametrize("is_named", [True, False])
def test_a_killed_process_takes_up_its_batch_and_holds_its_money_once(
    name: str, is_named: bool, tmp_path: Path
) -> None:
    """Killed while polling, or after the vendor took the batch and before its name was written down."""
    path = tmp_path / "run.sqlite"
    with serving(GOOD) as server:
        server.batches.n_polls = 10**9
        child = multiprocessing.get_context("spawn").Process(target=ask_in_child, args=(name, server.url, path))
        child.start()
        while not named_batches(path):
            assert child.is_alive()
            time.sleep(0.02)
        child.kill()
        child.join()
        if not is_named:
            with RunStore(path) as store:
                store._query("UPDATE batches SET vendor_id = NULL")
        server.batches.n_polls = 0
        with RunStore(path) as store, batching(name, server.url, store) as client:
            assert [charge.is_held for charge in store.charges()] == [True] * 5
            assert [outcome.kind for outcome in ask(client, range(8))] == ["ok"] * 8
            assert sorted(len(batch["rows"]) for batch in server.batches.made.values()) == [3, 5]
            assert len(store.answers()) == 8 and not any(charge.is_held for charge in store.charges())
            spent = sum(row.nano_usd or 0 for row in store.answers())
            assert client.budget.nano_usd == spent
    assert set(server.n_answered.values()) == {1}


def ask_in_child(name: str, url: str, path: Path) -> None:
    with RunStore(path) as store, batching(name, url, store) as client:
        ask(client, range(5))


def named_batches(path: Path) -> list[str]:
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
            return [row[0] for row in connection.execute("SELECT vendor_id FROM batches WHERE vendor_id IS NOT NULL")]
    except sqlite3.OperationalError:  # not made yet
        return []


@pytest.mark.parametrize("name", VENDORS)
@pytest.mark.parametrize("hands_over", [True, False])
def test_who_stops_waiting_keeps_the_money_held_and_finds_the_answers_later(name: str, hands_over: bool) -> None:
    """Also when the next run is one without batches."""
    store = MemoryStore()
    with serving(GOOD) as server:
        server.batches.n_polls = 10**9
        with batching(name, server.url, store) as client, ThreadPoolExecutor(3) as pool:
            futures = [pool.submit(client.ask, request(number)) for number in range(3)]
            while not any(row.vendor_id for row in store.batches(client._vendor.endpoint)):
                time.sleep(0.01)
            client.stop()
            assert {type(future.exception()) for future in futures} == {JudgeError}
        assert [charge.is_held for charge in store.charges()] == [True] * 3
        server.batches.n_polls = 0
        with batching(name, server.url, store, hands_over=hands_over) as client:
            assert {outcome.kind for outcome in ask(client, range(3))} == {"ok"}
            assert server.n_asked == 3
            assert client.ask(request(4)).kind == "ok" and server.n_asked == 4
        assert len(server.batches.made) == 1 + hands_over and not any(charge.is_held for charge in store.charges())


@pytest.mark.parametrize("name", VENDORS)
def test_a_batch_that_was_taken_although_its_answer_was_an_error_is_not_lost(name: str) -> None:
    store = MemoryStore()
    with serving(GOOD) as server, batching(name, server.url, store) as client:
        server.batches.lose_next = True
        assert {outcome.kind for outcome in ask(client, range(3))} == {"ok"}
        assert len(server.batches.made) == 1, "handed over twice"
    assert len(store.answers()) == 3


@pytest.mark.parametrize("name", VENDORS)
def test_a_question_that_fails_in_a_batch_goes_into_the_next_and_a_bad_one_is_rejected(name: str) -> None:
    seen: set[str] = set()

    def script(asked: Asked) -> Answer:
        if asked.user == "question 0":
            return Answer(status=400, error="bad question")
        if asked.user == "question 1" and asked.user not in seen:
            seen.add(asked.user)
            return Answer(status=500, error="a fault")
        return Answer('{"score": 1}')

    with serving(script) as server, batching(name, server.url, MemoryStore()) as client:
        assert [outcome.kind for outcome in ask(client, range(4))] == ["rejected", "ok", "ok", "ok"]
        assert sorted(len(batch["rows"]) for batch in server.batches.made.values()) == [1, 4]


def test_the_cap_counts_a_batch_in_flight() -> None:
    with serving(GOOD) as server, batching("openai", server.url, MemoryStore(), max_usd=0.0008) as client:
        reasons = [outcome.reason for outcome in ask(client, range(6))]
        assert "budget" in reasons and None in reasons
        assert client.budget.nano_usd <= 0.0008 * 1e9
