"""An attempt ends by the wall clock, however its time is filled, and nothing that was paid for is lost by it.

No test looks at the clock. A dripping answer would be complete, and taken, after ten seconds and more: what is counted
is that it was given up and asked for again.
"""

from __future__ import annotations

import pytest
from fake_vendor import Answer, Asked, FakeVendor, Script, serving, slow

from autocaft.llm.client import LanguageClient, MemoryStore
from autocaft.llm.outcomes import ChatRequest
from autocaft.llm.vendors import make_vendor
from autocaft.rundir.store import RunStore

VENDORS = ("openai", "anthropic")
SCHEMA = {
    "type": "object",
    "properties": {"score": {"type": "number"}},
    "required": ["score"],
    "additionalProperties": False,
}
TIMEOUT_S = 1.0
DRIP = {"body": Answer('{"score": 1}', drip_s=0.1), "headers": Answer('{"score": 1}', drip_s=0.1, drips_headers=True)}


def request(user: str = "rate it") -> ChatRequest:
    return ChatRequest(model="m", system="s", user=user, schema=SCHEMA, max_output_tokens=100)


def client(name: str, server: FakeVendor, store: RunStore, patience_s: float = 20.0) -> LanguageClient:
    url = server.url + ("/v1" if name == "openai" else "")
    vendor = make_vendor(name, base_url=url, api_key_env=None, timeout_s=TIMEOUT_S)
    return LanguageClient(vendor, name=f"{name}:m", store=store, patience_s=patience_s)


def first(answer: Answer) -> Script:
    """That answer to the first attempt, a good one to the others."""
    return lambda asked: answer if asked.number == 0 else Answer('{"score": 2}')


@pytest.mark.parametrize("name", VENDORS)
@pytest.mark.parametrize("where", list(DRIP))
def test_an_answer_that_drips_is_given_up_asked_again_and_stays_held(name: str, where: str) -> None:
    store = MemoryStore()
    with serving(first(DRIP[where])) as server:
        outcome = client(name, server, store).ask(request())
        assert (outcome.kind, outcome.value, len(server.asked)) == ("ok", {"score": 2}, 2)
    assert [charge.is_held for charge in store.charges()] == [False, True], "the dripping answer may be billed"


@pytest.mark.parametrize("name", VENDORS)
def test_a_server_that_only_drips_is_a_time_out_that_ends_with_patience(name: str) -> None:
    with serving(lambda asked: DRIP["body"]) as server:
        outcome = client(name, server, MemoryStore(), patience_s=0.5).ask(request())
    assert (outcome.kind, outcome.reason) == ("failed", "timeout")


@pytest.mark.parametrize("name", VENDORS)
def test_a_connection_that_dripped_once_serves_no_other_question(name: str) -> None:
    """Half an answer must not be read as the start of the next one."""
    store = MemoryStore()
    with serving(first(DRIP["body"])) as server:
        asker = client(name, server, store)
        assert [asker.ask(request(user)).value for user in ("one", "two", "three")] == [{"score": 2}] * 3
        assert len(server.asked) == 4


@pytest.mark.parametrize("name", VENDORS)
def test_a_slow_server_is_asked_once_within_the_time_and_again_beyond_it(name: str) -> None:
    def good(asked: Asked) -> Answer:
        return Answer('{"score": 2}')

    with serving(slow(good, 0.2 * TIMEOUT_S)) as server:
        assert client(name, server, MemoryStore()).ask(request()).value == {"score": 2}
        assert len(server.asked) == 1
    with serving(slow(good, 3 * TIMEOUT_S)) as server:
        outcome = client(name, server, MemoryStore(), patience_s=0.5).ask(request())
        assert (outcome.kind, outcome.reason, len(server.asked)) == ("failed", "timeout", 1)


@pytest.mark.parametrize("name", VENDORS)
def test_proxies_of_the_environment_still_hold(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(lambda asked: Answer('{"score": 2}')) as server:
        monkeypatch.setenv("HTTP_PROXY", server.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        vendor = make_vendor(name, base_url="http://nowhere.example/v1", api_key_env=None, timeout_s=TIMEOUT_S)
        asker = LanguageClient(vendor, name=name, store=MemoryStore(), patience_s=20.0)
        assert asker.ask(request()).value == {"score": 2}
        assert server.asked[0].path.startswith("http://nowhere.example/")
