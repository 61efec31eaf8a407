"""The door to language models: outcomes, retries, the store, the budget. Over real HTTP with the official SDKs."""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from fake_vendor import Answer, Asked, FakeVendor, Script, serving

from autocaft.errors import JudgeError
from autocaft.llm.client import LanguageClient, MemoryStore
from autocaft.llm.outcomes import ChatRequest
from autocaft.llm.vendors import make_vendor
from autocaft.rundir.store import RunStore

KEY = "sk-canary-0123456789"
SCHEMA = {
    "type": "object",
    "properties": {"score": {"type": "number", "minimum": 0, "maximum": 100}},
    "required": ["score"],
    "additionalProperties": False,
}
VENDORS = ("openai", "anthropic")


def request(user: str = "rate it") -> ChatRequest:
    return ChatRequest(model="m", system="s", user=user, schema=SCHEMA, max_output_tokens=100)


@pytest.fixture(autouse=True)
def key_in_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)


def client(
    name: str, server: FakeVendor, store: RunStore | None = None, *, patience_s: float = 20.0, **options: Any
) -> LanguageClient:
    url = server.url + ("/v1" if name == "openai" else "")
    vendor = make_vendor(name, base_url=url, api_key_env="TEST_KEY", timeout_s=5.0)
    return LanguageClient(vendor, name=f"{name}:m", store=store or MemoryStore(), patience_s=patience_s, **options)


def always(text: str, **answer: Any) -> Script:
    return lambda asked: Answer(text, **answer)


@pytest.mark.parametrize("name", VENDORS)
def test_a_good_reply_gives_its_value_and_its_tokens(name: str) -> None:
    with serving(always('{"score": 40}')) as server:
        outcome = client(name, server).ask(request())
    assert (outcome.kind, outcome.value) == ("ok", {"score": 40})
    assert outcome.usage.output_tokens == len('{"score": 40}') // 4


@pytest.mark.parametrize("name", VENDORS)
def test_the_schema_is_sent_without_limits_and_checked_with_them(name: str) -> None:
    with serving(always('{"score": 140}')) as server:
        outcome = client(name, server).ask(request())
    assert server.asked[0].schema["properties"] == {"score": {"type": "number"}}
    assert (outcome.kind, outcome.reason) == ("parse_failure", "off_menu")


@pytest.mark.parametrize("name", VENDORS)
@pytest.mark.parametrize(
    ("answer", "kind", "reason"),
    [
        (Answer('{"score": 4', stop="length"), "truncated", "truncated"),
        (Answer('{"score": 4'), "parse_failure", "parse_failure"),
        (Answer('{"score": NaN}'), "parse_failure", "parse_failure"),
        (Answer('{"score": 4, "more": 1}'), "parse_failure", "parse_failure"),
        (Answer("  "), "parse_failure", "empty"),
        (Answer("I would rather not.", stop="refusal"), "refusal", "refusal"),
        (Answer(status=400), "rejected", "http_400"),
        (Answer(status=413), "rejected", "http_413"),
    ],
)
def test_a_bad_reply_is_an_outcome_with_its_reason(name: str, answer: Answer, kind: str, reason: str) -> None:
    with serving(lambda asked: answer) as server:
        outcome = client(name, server).ask(request())
    assert (outcome.kind, outcome.reason, outcome.value) == (kind, reason, None)


@pytest.mark.parametrize("name", VENDORS)
def test_a_storm_of_429_is_waited_out_as_asked(name: str) -> None:
    def script(asked: Asked) -> Answer:
        return Answer('{"score": 1}') if asked.number >= 4 else Answer(status=429, headers={"retry-after": "0.2"})

    with serving(script) as server:
        start = time.monotonic()
        outcome = client(name, server).ask(request())
        seconds = time.monotonic() - start
    assert outcome.kind == "ok" and len(server.asked) == 5
    assert seconds >= 0.8, f"Retry-After of 4 x 0.2 s was not honoured: {seconds:.2f} s"


@pytest.mark.parametrize("status", [408, 409, 500, 529])
def test_a_passing_fault_is_tried_again(status: int) -> None:
    def script(asked: Asked) -> Answer:
        return Answer('{"score": 1}') if asked.number else Answer(status=status, headers={"retry-after": "0"})

    with serving(script) as server:
        assert client("anthropic", server).ask(request()).kind == "ok"


def test_a_retry_after_beyond_all_patience_is_not_slept_through() -> None:
    with serving(always("", status=429, headers={"retry-after": "3600"})) as server:
        start = time.monotonic()
        outcome = client("openai", server, patience_s=5.0).ask(request())
    assert (outcome.kind, outcome.reason) == ("rate_limited", "http_429")
    assert time.monotonic() - start < 4.0


def test_a_server_that_is_gone_ends_the_run_after_a_few_questions() -> None:
    with serving(always("", status=503, headers={"retry-after": "60"})) as server:
        asker = client("openai", server, patience_s=1.0)
        assert [asker.ask(request(str(n))).reason for n in range(2)] == ["http_503", "http_503"]
        with pytest.raises(JudgeError, match=r"did not answer.*same command continues"):
            asker.ask(request("third"))


def test_a_wrong_model_name_ends_the_run_instead_of_leaving_all_unscored() -> None:
    with serving(always("", status=404, error="no such model")) as server:
        asker = client("anthropic", server)
        assert [asker.ask(request(str(n))).reason for n in range(4)] == ["http_404"] * 4
        with pytest.raises(JudgeError, match="no such model"):
            asker.ask(request("fifth"))


@pytest.mark.parametrize("name", VENDORS)
@pytest.mark.parametrize(
    ("status", "error"), [(401, f"bad key {KEY}"), (402, "pay"), (403, "no"), (429, "You exceeded your current quota")]
)
def test_a_bad_key_or_spent_quota_stops_and_never_shows_the_key(name: str, status: int, error: str) -> None:
    with serving(always("", status=status, error=error)) as server, pytest.raises(JudgeError) as caught:
        client(name, server).ask(request())
    assert len(server.asked) == 1
    assert "same command continues" in str(caught.value) and KEY not in str(caught.value)


def test_a_fatal_answer_wakes_the_threads_that_wait() -> None:
    def script(asked: Asked) -> Answer:
        return Answer(status=401) if asked.user == "fatal" else Answer(status=429, headers={"retry-after": "15"})

    with serving(script) as server:
        asker = client("openai", server, patience_s=60.0)
        errors: list[BaseException] = []

        def wait() -> None:
            try:
                asker.ask(request("waits"))
            except JudgeError as error:
                errors.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        while not server.asked:
            time.sleep(0.01)
        with pytest.raises(JudgeError):
            asker.ask(request("fatal"))
        thread.join(timeout=5)
    assert not thread.is_alive() and len(errors) == 1


@pytest.mark.parametrize("name", VENDORS)
def test_text_is_asked_for_without_a_schema_and_without_an_empty_system_message(name: str) -> None:
    plain = dataclasses.replace(request("how many?"), schema=None, system="")
    with serving(always(" 40\n", usage=(9, 1))) as server:
        outcome = client(name, server).ask(plain)
    assert (outcome.kind, outcome.value, outcome.text) == ("ok", None, " 40\n")
    body = server.asked[0].body
    assert not {"response_format", "output_config", "system"} & set(body)
    assert body["messages"] == [{"role": "user", "content": "how many?"}]


@pytest.mark.parametrize("name", VENDORS)
def test_nothing_is_bought_twice_even_by_another_process(name: str, tmp_path: Path) -> None:
    with serving(always('{"score": 7}')) as server:
        for _ in range(2):
            with RunStore(tmp_path / "run.sqlite") as store:
                assert client(name, server, store).ask(request()).value == {"score": 7}
        with RunStore(tmp_path / "run.sqlite") as store:
            client(name, server, store).ask(request("another question"))
    assert len(server.asked) == 2


def test_an_answer_is_stored_before_it_is_read() -> None:
    class Broken(MemoryStore):
        def add_answer(self, *args: Any, **kwargs: Any) -> None:
            raise OSError("disk")

    with serving(always('{"score": 7}')) as server, pytest.raises(OSError, match="disk"):
        client("openai", server, Broken()).ask(request())


def test_a_broken_reply_is_kept_too_because_it_was_paid_for() -> None:
    store = MemoryStore()
    with serving(always("not json")) as server:
        for _ in range(2):
            assert client("openai", server, store).ask(request()).kind == "parse_failure"
    assert len(server.asked) == 1


@pytest.mark.parametrize(("n_refused", "form"), [(0, "json_schema"), (1, "json_object"), (2, None)])
def test_a_server_without_json_schema_is_asked_more_plainly_and_that_is_remembered(
    n_refused: int, form: str | None
) -> None:
    forms = ["json_schema", "json_object", None]

    def script(asked: Asked) -> Answer:
        level = forms.index(asked.body.get("response_format", {}).get("type"))
        return Answer('```json\n{"score": 3}\n```') if level >= n_refused else Answer(status=400)

    with serving(script) as server:
        asker = client("openai", server)
        assert asker.ask(request()).value == {"score": 3}
        assert asker.ask(request("again")).value == {"score": 3}
    last = server.asked[-1]
    assert len(server.asked) == n_refused + 2
    assert last.body.get("response_format", {}).get("type") == form
    assert form == "json_schema" or '"additionalProperties": false' in last.system


def odds_request() -> ChatRequest:
    return dataclasses.replace(request(), logprobs=True)


def test_token_odds_come_with_the_reply_and_again_from_the_store() -> None:
    odds = [('{"score": ', {'{"score": ': 1.0}), ("40", {"40": 0.75, "50": 0.25}), ("}", {"}": 1.0})]
    store = MemoryStore()
    with serving(always('{"score": 40}', odds=odds)) as server:
        outcomes = [client("openai", server, store).ask(odds_request()) for _ in range(2)]
        assert client("openai", server, store).ask(request()).token_odds is None, "odds nobody asked for"
    assert len(server.asked) == 2 and "logprobs" not in server.asked[1].body
    for outcome in outcomes:
        assert outcome.token_odds is not None and [token.text for token in outcome.token_odds] == [t for t, _ in odds]
        assert dict(outcome.token_odds[1].alternatives) == pytest.approx({"40": 0.75, "50": 0.25})


def test_a_vendor_without_token_odds_gives_none() -> None:
    with serving(always('{"score": 40}')) as server:
        assert client("anthropic", server).ask(odds_request()).token_odds is None
        assert client("openai", server).ask(odds_request()).token_odds is None


def test_a_model_that_refuses_the_question_for_odds_is_asked_without() -> None:
    def script(asked: Asked) -> Answer:
        return (
            Answer(status=400, error="logprobs are not supported")
            if "logprobs" in asked.body
            else Answer('{"score": 1}')
        )

    with serving(script) as server:
        asker = client("openai", server)
        assert [asker.ask(odds_request()).value for _ in range(2)] == [{"score": 1}] * 2
        assert len(server.asked) == 2


def test_the_key_goes_only_to_the_server_it_is_named_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(always('{"score": 1}')) as server:
        vendor = make_vendor("openai", base_url=server.url + "/v1", api_key_env=None, timeout_s=5.0)
        LanguageClient(vendor, name="n", store=MemoryStore()).ask(request())
    assert KEY not in json.dumps(server.asked[0].headers)


def test_a_missing_key_is_named() -> None:
    with pytest.raises(JudgeError, match="NOT_THERE"):
        make_vendor("anthropic", base_url=None, api_key_env="NOT_THERE", timeout_s=5.0)


def test_addresses_in_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://evil.example")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://evil.example")
    for name in VENDORS:
        vendor = make_vendor(name, base_url=None, api_key_env="TEST_KEY", timeout_s=5.0)
        assert "evil" not in str(vendor.sdk.base_url) and "evil" not in vendor.endpoint


@pytest.mark.parametrize("name", VENDORS)
def test_nothing_of_a_request_is_logged_at_debug_level(
    name: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_LOG", "debug")
    monkeypatch.setenv("ANTHROPIC_LOG", "debug")
    with serving(always('{"score": 1}')) as server, caplog.at_level(logging.DEBUG):
        client(name, server).ask(request("a private window"))
    assert KEY not in caplog.text and "a private window" not in caplog.text


def test_the_store_never_has_the_key(tmp_path: Path) -> None:
    with serving(always('{"score": 7}')) as server, RunStore(tmp_path / "run.sqlite") as store:
        client("openai", server, store).ask(request())
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.iterdir())
