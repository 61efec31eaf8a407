"""The two wire formats, through the official SDKs. All that differs between vendors is here and in `batch.py`.

In: a `ChatRequest`. Out: a `Reply`, or a `CallError` of the right kind. The SDKs never retry (`max_retries=0`): one
policy does, in `traffic.py`. The decision a reader would question: addresses that the SDKs would take from the
environment are not used; the address is the one in the options, since it decides both the figures and where the key
goes.
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Collection
from typing import Any, Protocol

from autocaft.errors import JudgeError
from autocaft.llm.faults import failure_of
from autocaft.llm.outcomes import CallError, ChatRequest, RejectedError, Reply, Stop, TokenOdds, TransientError, Usage
from autocaft.llm.replies import wire_schema
from autocaft.rundir.progress import hide, redact

OPENAI_URL = "https://api.openai.com/v1"
ANTHROPIC_URL = "https://api.anthropic.com"
SCHEMA_WORDS = ("response_format", "json_schema", "json_object", "structured", "grammar", "schema")
N_ALTERNATIVES = 20
"""Alternatives per token, the most that OpenAI gives."""
FORMATS = ("json_schema", "json_object", "plain")


class Vendor(Protocol):
    """A sender of requests. `endpoint` (vendor and address) is part of the key of every stored answer."""

    endpoint: str

    @property
    def underway(self) -> Collection[str]:
        """Keys of questions that an earlier process sent and whose answers can still be had (batches)."""
        ...

    def send(self, request: ChatRequest) -> Reply:
        """One attempt.

        Raises:
            CallError: no answer came; the subclass says whether trying again can help.
        """
        ...

    def stop(self) -> None:
        """Make those that wait for an answer end, where waiting is long."""
        ...


class OpenAIChat:
    """`chat.completions` of OpenAI or of any compatible server."""

    underway: Collection[str] = ()

    def __init__(self, *, base_url: str | None, api_key_env: str | None, timeout_s: float) -> None:
        import openai

        from autocaft.llm.deadline import bound

        _quiet("openai")
        self._is_openai = base_url is None
        url = (base_url or OPENAI_URL).rstrip("/")
        self.endpoint = f"openai {url}"
        # a server of one's own mostly wants no key; OpenAI's key goes elsewhere only if it is named
        key = read_key(api_key_env or ("OPENAI_API_KEY" if self._is_openai else None))
        self.errors = (openai.OpenAIError, json.JSONDecodeError)
        http = bound(openai.DefaultHttpxClient(timeout=timeout_s))
        self.sdk = openai.OpenAI(
            api_key=key or "none", base_url=url, timeout=timeout_s, max_retries=0, http_client=http
        )
        self._format = 0
        self._gives_odds = True

    def send(self, request: ChatRequest) -> Reply:
        """One attempt; a server that does not know the schema is asked in a plainer way, and that is remembered."""
        if request.schema is None:
            return self._send_for_odds(request, "plain")
        for level in range(self._format, len(FORMATS)):
            try:
                reply = self._send_for_odds(request, FORMATS[level])
            except RejectedError as failure:
                if level + 1 == len(FORMATS) or not self._may_be_the_format(failure):
                    raise
            else:
                self._format = max(self._format, level)
                return reply
        raise AssertionError("the last format either returns or raises")

    def stop(self) -> None:
        """A call ends by its own time-out, which counts for the whole of it."""

    def _send_for_odds(self, request: ChatRequest, level: str) -> Reply:
        """One attempt; reasoning models and some servers refuse a question for odds, and are asked without."""
        try:
            return self._send(request, level)
        except RejectedError as failure:
            if not (self._gives_odds and request.logprobs and "logprob" in failure.detail.lower()):
                raise
            self._gives_odds = False
            return self._send(request, level)

    def _send(self, request: ChatRequest, level: str) -> Reply:
        try:
            answer = self.sdk.chat.completions.create(**self.body(request, level))
        except self.errors as error:
            raise failure_of(error) from None
        return self.read(answer)

    def body(self, request: ChatRequest, level: str = "json_schema") -> dict[str, Any]:
        """The request as this vendor takes it."""
        is_told = request.schema is not None and level != "json_schema"
        system = f"{request.system}\n\n{schema_in_words(request)}" if is_told else request.system
        body: dict[str, Any] = {
            "model": request.model,
            "messages": [
                *([{"role": "system", "content": system}] if system else []),
                {"role": "user", "content": request.user},
            ],
            # OpenAI's reasoning models refuse the old name, many compatible servers know no other
            ("max_completion_tokens" if self._is_openai else "max_tokens"): request.max_output_tokens,
        }
        if request.schema is not None and level == "json_schema":
            schema = {"name": "reply", "strict": True, "schema": wire_schema(request.schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif request.schema is not None and level == "json_object":
            body["response_format"] = {"type": "json_object"}
        if request.draw is not None:
            body |= {"temperature": request.draw.temperature, "seed": request.draw.seed}
        if request.logprobs and self._gives_odds:
            body |= {"logprobs": True, "top_logprobs": N_ALTERNATIVES}
        return body

    def read(self, answer: Any) -> Reply:
        """The reply in a `ChatCompletion`."""
        choices = getattr(answer, "choices", None)
        if not choices:
            raise TransientError("bad_body", "the server's answer has no choices")
        message, finish = choices[0].message, choices[0].finish_reason
        refusal = getattr(message, "refusal", None)
        stop: Stop = "refusal" if refusal or finish == "content_filter" else "length" if finish == "length" else "end"
        usage = getattr(answer, "usage", None)
        counts = Usage(getattr(usage, "prompt_tokens", 0) or 0, getattr(usage, "completion_tokens", 0) or 0)
        said = refusal or message.content or ""
        text = redact(said)
        # the pieces of an echoed key are in the odds too
        return Reply(text, stop, counts, _odds_of(choices[0]) if text == said else None)

    def _may_be_the_format(self, failure: CallError) -> bool:
        is_named = any(word in failure.detail.lower() for word in SCHEMA_WORDS)
        return failure.reason in ("http_400", "http_422") and (is_named or not self._is_openai)


class AnthropicMessages:
    """The Messages API with `output_config.format`."""

    underway: Collection[str] = ()

    def __init__(self, *, base_url: str | None, api_key_env: str | None, timeout_s: float) -> None:
        import anthropic

        from autocaft.llm.deadline import bound

        _quiet("anthropic")
        url = (base_url or ANTHROPIC_URL).rstrip("/")
        self.endpoint = f"anthropic {url}"
        key = read_key(api_key_env or ("ANTHROPIC_API_KEY" if base_url is None else None))
        self.errors = (anthropic.AnthropicError, json.JSONDecodeError)
        http = bound(anthropic.DefaultHttpxClient(timeout=timeout_s))
        self.sdk = anthropic.Anthropic(
            api_key=key or "none", base_url=url, timeout=timeout_s, max_retries=0, http_client=http
        )

    def send(self, request: ChatRequest) -> Reply:
        """One attempt."""
        try:
            answer = self.sdk.messages.create(**self.body(request))
        except self.errors as error:
            raise failure_of(error) from None
        return self.read(answer)

    def stop(self) -> None:
        """A call ends by its own time-out, which counts for the whole of it."""

    def body(self, request: ChatRequest) -> dict[str, Any]:
        """The request as this vendor takes it."""
        body: dict[str, Any] = {
            "model": request.model,
            "messages": [{"role": "user", "content": request.user}],
            "max_tokens": request.max_output_tokens,
        }
        if request.system:
            body["system"] = request.system
        if request.draw is not None:
            body["temperature"] = request.draw.temperature
        if request.schema is not None:
            body["output_config"] = {"format": {"type": "json_schema", "schema": wire_schema(request.schema)}}
        return body

    def read(self, answer: Any) -> Reply:
        """The reply in a `Message`."""
        content = getattr(answer, "content", None)
        if content is None:
            raise TransientError("bad_body", "the server's answer has no content")
        text = "".join(block.text for block in content if block.type == "text")
        by_reason: dict[str | None, Stop] = {
            "refusal": "refusal",
            "max_tokens": "length",
            "model_context_window_exceeded": "length",
        }
        usage = getattr(answer, "usage", None)
        counts = Usage(getattr(usage, "input_tokens", 0) or 0, getattr(usage, "output_tokens", 0) or 0)
        return Reply(redact(text), by_reason.get(answer.stop_reason, "end"), counts)


def make_vendor(
    name: str, *, base_url: str | None, api_key_env: str | None, timeout_s: float
) -> OpenAIChat | AnthropicMessages:
    """The vendor called `openai` or `anthropic`.

    Raises:
        JudgeError: the key is not in the environment.
    """
    kinds: dict[str, type[OpenAIChat] | type[AnthropicMessages]] = {
        "openai": OpenAIChat,
        "anthropic": AnthropicMessages,
    }
    return kinds[name](base_url=base_url, api_key_env=api_key_env, timeout_s=timeout_s)


def read_key(variable: str | None) -> str | None:
    """The key in an environment variable, from now on blacked out of every log; None if no variable is asked for.

    Raises:
        JudgeError: the variable is empty or not set.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise JudgeError(
            f"judge: no API key in the environment variable {variable}. "
            'Export it, or use judge = "offline" or "files:DIR".'
        )
    hide(key)
    return key


def _odds_of(choice: Any) -> tuple[TokenOdds, ...] | None:
    """Probabilities of a chat completion's tokens; None where the server gave none."""
    tokens = getattr(getattr(choice, "logprobs", None), "content", None)
    if not tokens:
        return None
    return tuple(
        TokenOdds(token.token, tuple((top.token, math.exp(top.logprob)) for top in token.top_logprobs or ()))
        for token in tokens
    )


def schema_in_words(request: ChatRequest) -> str:
    """For whoever takes no schema of its own."""
    return f"Reply with one JSON object and nothing else. It must fit this JSON schema:\n{json.dumps(request.schema)}"


def _quiet(sdk: str) -> None:
    """`OPENAI_LOG=debug` and `ANTHROPIC_LOG=debug` print request bodies, and the windows are the user's data; the layer
    below prints the headers of a reply, in which a server may echo the key."""
    for name in (sdk, "httpx2", "httpx", "httpcore2", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
