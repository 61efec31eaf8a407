"""A chat model in this process: no server, no key, its own probabilities.

In: requests from many threads. Out: replies, written several at once where several wait, each held to its schema token
by token (llguidance). The decision a reader would question: decoding is greedy and a reply cannot leave the schema, so
even a small model's answers have the right form unless they are cut off. How sure it was, the probabilities say: they
are the model's own, among the tokens that the schema allows at that place.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor

from autocaft.errors import JudgeError
from autocaft.llm.gather import Call, Gatherer, give
from autocaft.llm.outcomes import ChatRequest, RejectedError, Reply, TokenOdds, Usage
from autocaft.llm.vendors import N_ALTERNATIVES, schema_in_words

MOST_AT_ONCE = 8
"""Requests that are answered together."""
LINGER_S = 0.05
MIN_ROOM = 64
"""Tokens that must be left for a reply."""
Likeliest = tuple[list[int], list[float]]
Loader = Callable[[], tuple[Any, Any]]
"""Gives the model and its fast tokenizer; called with the first question."""


class LocalChat:
    """A `Vendor` whose server is a `PreTrainedModel`."""

    underway: Collection[str] = ()

    def __init__(self, load: Loader, *, identity: str) -> None:
        """`identity` changes when the weights do; it is part of the key of every stored answer."""
        self.endpoint = f"local {identity}"
        self._load = load
        self._writer: Writer | None = None
        self._gatherer = Gatherer(self._answer, linger_s=LINGER_S, most=MOST_AT_ONCE)

    def send(self, request: ChatRequest) -> Reply:
        """The model's reply; waits for its turn."""
        assert request.draw is None, "decoding here is greedy"
        return self._gatherer.ask(Call(request.key(self.endpoint), request))

    def stop(self) -> None:
        """End all waiting; a reply that is being written is thrown away."""
        self._gatherer.stop()

    def _answer(self, calls: Sequence[Call]) -> None:
        if self._writer is None:
            self._writer = Writer(*self._load())
        prompts = [self._writer.prompt(call.request) for call in calls]
        room = [self._writer.n_context - len(prompt) for prompt in prompts]
        for call, n_left in zip(calls, room, strict=True):
            if n_left < MIN_ROOM:
                give(
                    call.answer,
                    RejectedError("too_long", f"the question leaves {n_left} tokens of the model's context"),
                )
        kept = [row for row, n_left in enumerate(room) if n_left >= MIN_ROOM]
        if kept:
            replies = self._writer.write([calls[row].request for row in kept], [prompts[row] for row in kept])
            for row, reply in zip(kept, replies, strict=True):
                give(calls[row].answer, reply)


class Writer:
    """The loaded model."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        from llguidance.hf import from_tokenizer

        if tokenizer.chat_template is None:
            raise JudgeError("judge: the local model has no chat template; name one that was tuned to chat (-Instruct)")
        self._model = model
        self._tokenizer = tokenizer
        self._grammar_tokenizer = from_tokenizer(tokenizer, n_vocab=model.config.get_text_config().vocab_size)
        self._end = int(tokenizer.eos_token_id)
        self.n_context = int(model.config.get_text_config().max_position_embeddings)

    def prompt(self, request: ChatRequest) -> list[int]:
        """Token ids of the question in the model's chat template."""
        told = [] if request.schema is None else [schema_in_words(request)]
        system = "\n\n".join([*([request.system] if request.system else []), *told])
        user = {"role": "user", "content": request.user}
        try:
            text = self._in_template(*([{"role": "system", "content": system}] if system else []), user)
        except TemplateError:  # some templates refuse the role
            text = self._in_template({"role": "user", "content": f"{system}\n\n{request.user}"})
        return list(self._tokenizer(text, add_special_tokens=False).input_ids)

    def _in_template(self, *messages: dict[str, str]) -> str:
        return str(self._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))

    def write(self, requests: Sequence[ChatRequest], prompts: Sequence[Sequence[int]]) -> list[Reply]:
        """Replies to a batch of questions, greedily."""
        width = max(len(prompt) for prompt in prompts)
        pad = self._tokenizer.pad_token_id
        ids_BT = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts])
        mask_BT = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        forms = Forms([self._matcher(request) for request in requests], self._end, width)
        out_BT = self._model.generate(
            input_ids=ids_BT.to(self._model.device),
            attention_mask=mask_BT.to(self._model.device),
            max_new_tokens=min(max(request.max_output_tokens for request in requests), self.n_context - width),
            do_sample=False,
            eos_token_id=self._end,
            pad_token_id=pad,
            logits_processor=[forms],
        )
        rows = [
            row[: request.max_output_tokens] for row, request in zip(out_BT[:, width:].tolist(), requests, strict=True)
        ]
        return [
            self._reply(row, len(prompt), forms.likeliest[n] if request.logprobs else None)
            for n, (row, prompt, request) in enumerate(zip(rows, prompts, requests, strict=True))
        ]

    def _matcher(self, request: ChatRequest) -> Any:
        """What follows the schema of one request, token by token. No optional white space: a small model may go on and
        on with it. None where text is asked for."""
        if request.schema is None:
            return None
        import llguidance

        layout: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
        grammar = llguidance.LLMatcher.grammar_from_json_schema(dict(request.schema), overrides=layout)
        matcher = llguidance.LLMatcher(self._grammar_tokenizer, grammar)
        if matcher.is_error():
            raise RejectedError("schema", matcher.get_error())
        return matcher

    def _reply(self, row: Sequence[int], n_prompt: int, likeliest: Sequence[Likeliest] | None) -> Reply:
        is_whole = self._end in row
        tokens = row[: row.index(self._end)] if is_whole else row
        usage = Usage(n_prompt, len(tokens) + is_whole)
        odds = None
        if likeliest is not None:
            odds = tuple(self._odds(token, *step) for token, step in zip(tokens, likeliest, strict=False))
        return Reply(self._tokenizer.decode(tokens), "end" if is_whole else "length", usage, odds)

    def _odds(self, token: int, ids: Sequence[int], shares: Sequence[float]) -> TokenOdds:
        """Alternatives that the schema forbids have no share and are left out."""
        alternatives = tuple(
            (self._tokenizer.decode([i]), share) for i, share in zip(ids, shares, strict=True) if share
        )
        return TokenOdds(self._tokenizer.decode([token]), alternatives)


class Forms:
    """A logits processor: each row may only go on as its schema allows; notes how likely that was."""

    def __init__(self, matchers: Sequence[Any], end: int, n_prompt: int) -> None:
        self._matchers = matchers
        self._end = end
        self._n_prompt = n_prompt
        self.likeliest: list[list[Likeliest]] = [[] for _ in matchers]
        """By row and step, after the schema: ids of the likeliest tokens and their probabilities."""

    def __call__(self, ids_BT: Tensor, logits_BV: Tensor) -> Tensor:
        """Logits of the next token, minus infinity where the schema says no."""
        allowed_BV = torch.zeros_like(logits_BV, dtype=torch.bool)
        for row, matcher in enumerate(self._matchers):
            if matcher is None:
                allowed_BV[row] = True
                continue
            if ids_BT.shape[1] > self._n_prompt and not matcher.is_stopped():
                matcher.consume_token(int(ids_BT[row, -1]))
            if matcher.is_stopped():
                allowed_BV[row, self._end] = True
            else:
                bias_V = torch.frombuffer(bytearray(matcher.compute_logit_bias()), dtype=torch.uint8)
                allowed_BV[row, : len(bias_V)] = (bias_V > 0).to(allowed_BV.device)
        logits_BV = logits_BV.float().masked_fill(~allowed_BV, float("-inf"))
        shares_BK, ids_BK = logits_BV.softmax(-1).topk(N_ALTERNATIVES)
        for row, step in enumerate(zip(ids_BK.tolist(), shares_BK.tolist(), strict=True)):
            self.likeliest[row].append(step)
        return logits_BV
