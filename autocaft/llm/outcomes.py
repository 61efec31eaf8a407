"""What is asked and what comes back, in words that no vendor owns.

A `ChatRequest` goes in; a vendor turns the wire answer into a `Reply` (stored as it came); reading it gives an
`Outcome`. The decision a reader would question: a bad reply is an outcome, not an exception. Exceptions (`CallError`)
are for answers that never came.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Stop = Literal["end", "length", "refusal"]
Kind = Literal["ok", "refusal", "parse_failure", "truncated", "rejected", "rate_limited", "failed"]
"""A fatal answer is no outcome: it ends the run (`FatalError`, for the caller a `JudgeError`)."""


@dataclass(frozen=True, slots=True)
class Draw:
    """One of many answers to the same question: how freely it is drawn, and which one it is."""

    temperature: float
    seed: int
    """For servers that take one; where it is not taken it still tells one answer from the next."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One question in a fresh context. `schema` is a closed JSON schema that the reply must fit; None asks for text."""

    model: str
    system: str
    user: str
    schema: Mapping[str, Any] | None
    max_output_tokens: int
    logprobs: bool = False
    """Ask for the probabilities of the reply's tokens, where the vendor gives them."""
    draw: Draw | None = None
    """None leaves temperature and seed to the vendor, and asks each question once."""

    def key(self, endpoint: str) -> str:
        """Hash of everything that decides the reply: the same question to the same endpoint is bought once."""
        everything = {"endpoint": endpoint, **asdict(self)}
        if self.draw is None:  # as the keys of answers were before there were draws: those are not bought again
            del everything["draw"]
        return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the vendor counts them; 0 where a server does not say."""

    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class TokenOdds:
    """One token of a reply and what might have stood in its place."""

    text: str
    """The token that was sampled."""
    alternatives: tuple[tuple[str, float], ...]
    """Token text and probability, the likeliest first; the sampled one is among them if it is likely enough."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A paid answer as it came, before anybody judged it. This is what the store keeps."""

    text: str
    stop: Stop
    usage: Usage
    token_odds: tuple[TokenOdds, ...] | None = None
    """In the order of the reply's tokens; None if not asked for or not given."""

    def to_row(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Reply:
        """The reply that `to_row` wrote."""
        odds = row.get("token_odds")
        return cls(
            text=row["text"],
            stop=row["stop"],
            usage=Usage(**row["usage"]),
            token_odds=None if odds is None else tuple(_token_odds(token) for token in odds),
        )


def _token_odds(row: Mapping[str, Any]) -> TokenOdds:
    return TokenOdds(row["text"], tuple((text, float(share)) for text, share in row["alternatives"]))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request. `value` is the checked JSON object if a schema was asked for and `kind` is `ok`."""

    kind: Kind
    text: str = ""
    usage: Usage = field(default_factory=Usage)
    reason: str | None = None
    """None if ok; else `parse_failure`, `off_menu`, `truncated`, `empty`, `refusal`, `http_400`, `http_503`,
    `timeout`, `budget`, ..."""
    detail: str = ""
    """One line for whoever must mend it; also what a repair request says."""
    value: dict[str, Any] | None = None
    token_odds: tuple[TokenOdds, ...] | None = None
    """Of the reply's tokens in order; None where the vendor gives none."""

    @property
    def is_mendable(self) -> bool:
        """A reply came, and asking again with what was wrong may bring a better one."""
        return self.kind in ("ok", "parse_failure", "truncated")


class CallError(Exception):
    """No usable answer came. `reason` is short (`http_429`), `detail` is a redacted line."""

    may_be_billed = False
    """Whether the vendor may have answered and charged all the same."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class TransientError(CallError):
    """Worth another try: 408, 409, 429, 5xx, 529, a time-out, a broken connection."""

    def __init__(self, reason: str, detail: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(reason, detail)
        self.retry_after_s = retry_after_s
        # a status is an answer that costs nothing; without one the reply may have been lost on its way back
        self.may_be_billed = reason in ("timeout", "connection", "bad_body")


class RejectedError(CallError):
    """The server will not answer this question, another one perhaps: 400, 404, 413, 422."""


class BudgetError(CallError):
    """The next question could pass the cap."""


class FatalError(CallError):
    """No question will be answered: 401, 402, 403, spent quota."""


class UnclearError(FatalError):
    """Nobody can say now whether the vendor has taken the questions: to send them again could buy them twice."""

    may_be_billed = True


class StoppedError(CallError):
    """We were told to stop while the answer was on its way."""

    may_be_billed = True
