"""The gate: fewer at once when the server says so, more again when it answers, none for a while when it is gone."""

from __future__ import annotations

import threading
import time

import pytest

from autocaft.llm import traffic
from autocaft.llm.outcomes import TransientError
from autocaft.llm.traffic import Traffic

GO = threading.Event()


def attempt(gate: Traffic, failure: TransientError | None = None) -> None:
    try:
        with gate.slot(GO):
            if failure is not None:
                raise failure
    except TransientError:
        pass


def test_one_overload_cuts_once_however_many_meet_it() -> None:
    gate = Traffic(32)
    all_in = threading.Barrier(32)

    def refused() -> None:
        try:
            with gate.slot(GO):
                all_in.wait()
                raise TransientError("http_429")
        except TransientError:
            pass

    threads = [threading.Thread(target=refused) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert gate.limit == pytest.approx(32 * traffic.DECREASE)
    attempt(gate, TransientError("http_429"))
    assert gate.limit == pytest.approx(32 * traffic.DECREASE**2)


def test_a_round_of_answers_adds_one_and_never_more_than_allowed() -> None:
    gate = Traffic(8)
    for _ in range(40):
        attempt(gate, TransientError("http_503"))
        gate._n_failed_in_a_row = gate._pause_s = gate._closed_until = 0  # the breaker has a test of its own
    assert gate.limit == 1.0
    attempt(gate)
    assert gate.limit == 2.0
    for _ in range(2):
        attempt(gate)
    assert 2.8 < gate.limit <= 3.0
    for _ in range(100):
        attempt(gate)
    assert gate.limit == 8.0


def test_no_more_are_in_flight_than_the_limit() -> None:
    gate = Traffic(3)
    most = 0

    def hold() -> None:
        nonlocal most
        with gate.slot(GO):
            most = max(most, gate.n_in_flight)
            time.sleep(0.01)

    threads = [threading.Thread(target=hold) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 3 and gate.n_in_flight == 0


def test_a_server_that_is_gone_is_left_alone_and_then_tried_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "FIRST_PAUSE_S", 0.2)
    gate = Traffic(8)
    for _ in range(traffic.MAX_FAILURES_IN_A_ROW):
        attempt(gate, TransientError("connection"))
    started: list[float] = []
    start = time.monotonic()

    def trial() -> None:
        with gate.slot(GO):
            started.append(time.monotonic() - start)
            time.sleep(0.1)

    threads = [threading.Thread(target=trial) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, *others = sorted(started)
    assert first >= 0.2, "a request went out while the breaker was open"
    assert min(others) >= first + 0.09, "the trial had company"


def test_429_never_opens_the_breaker() -> None:
    gate = Traffic(8)
    for _ in range(3 * traffic.MAX_FAILURES_IN_A_ROW):
        attempt(gate, TransientError("http_429"))
    start = time.monotonic()
    attempt(gate)
    assert time.monotonic() - start < 0.1


def test_who_waits_at_the_gate_is_let_through_when_all_ends() -> None:
    gate, stop = Traffic(1), threading.Event()
    with gate.slot(GO):
        waiting = threading.Thread(target=lambda: gate.slot(stop).__enter__())
        waiting.start()
        stop.set()
        waiting.join(2)
        assert not waiting.is_alive()
