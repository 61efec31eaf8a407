"""What every judge is: cards and a concept in, verdicts out.

A `Card` is everything a judge may see of one direction, plus the key to its held-out items, which only the tool uses.
The decision a reader would question: the key travels on the card object, yet `Card.shown()` (the only form that is
sent, written for others to fill in or hashed) leaves it and the raw projections out, so a judge cannot read its own
marks.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from autocaft.records import Source, Verdict
from autocaft.rundir.progress import Progress

MARK_OPEN, MARK_CLOSE = "\u27e6", "\u27e7"
"""Brackets around marked tokens; rare enough in text that a mark is not mistaken for it."""

BREAK_SIGN, SPACE_SIGN = "\u21b5", "\u2423"
"""What a marked line break and a marked space look like."""

N_CHOICES = 4
"""Texts of a discrimination item: one belongs, the others are other directions'."""

LINE_BREAK = re.compile(r"[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+")


@dataclass(frozen=True, slots=True)
class Concept:
    """The question: what must go and what the task needs, as plain text from the recipe."""

    undesired: str
    wanted: str


@dataclass(frozen=True, slots=True)
class Window:
    """One window of a `describe` split. `tokens` are decoded text: joined, they read as the document does."""

    id: str
    """`top1`, `bottom3`, `random2`: stable within the card."""
    tokens: tuple[str, ...]
    marked: tuple[bool, ...]
    """True where the projection reaches a share of the pole's own peak; never for middle and random windows."""
    projections: tuple[float, ...]

    @property
    def text(self) -> str:
        """The window without marks."""
        return "".join(self.tokens)

    def shown(self) -> str:
        """One line with marked tokens in brackets: what a reader sees."""
        return marked_line(self.tokens, self.marked)


@dataclass(frozen=True, slots=True)
class VerifyItem:
    """One held-out window. Neither its pole nor its projections are here."""

    id: str
    """`i01`, `i02`, ... in shuffled order."""
    tokens: tuple[str, ...]

    @property
    def text(self) -> str:
        """The window's text."""
        return "".join(self.tokens)

    def shown(self) -> str:
        """One line, nothing marked."""
        return marked_line(self.tokens, (False,) * len(self.tokens))


@dataclass(frozen=True, slots=True)
class Card:
    """What a judge sees of one direction."""

    direction_id: str
    source: Source
    layer: int
    top: tuple[Window, ...]
    bottom: tuple[Window, ...]
    """Empty for an SAE latent, which has a top only."""
    middle: tuple[Window, ...]
    random: tuple[Window, ...]
    """Windows drawn without looking at the direction: the contrast."""
    verify: tuple[VerifyItem, ...]
    answer_key: Mapping[str, Mapping[str, bool | None]]
    """item id -> pole -> does the item belong to the pole; None where its projection is too close to call (not
    counted)."""
    choices: Mapping[str, tuple[VerifyItem, ...]] = field(default_factory=dict)
    """pole -> four held-out texts, one of the pole and three of other directions; for all poles or for none."""
    choice_key: Mapping[str, str] = field(default_factory=dict)
    """pole -> id of the one that belongs."""

    @property
    def poles(self) -> tuple[str, ...]:
        """The poles that have windows."""
        return tuple(pole for pole in ("top", "bottom") if self.windows(pole))

    def windows(self, pole: str) -> tuple[Window, ...]:
        """The windows of `top`, `bottom`, `middle` or `random`."""
        groups = {"top": self.top, "bottom": self.bottom, "middle": self.middle, "random": self.random}
        return groups[pole]

    def shown(self) -> dict[str, Any]:
        """The card as JSON without the key and without numbers: all that another reader may get."""
        groups = ("top", "bottom", "middle", "random")
        windows = {group: _lines(self.windows(group)) for group in groups}
        choices = {pole: _lines(items) for pole, items in self.choices.items()}
        return {
            "direction_id": self.direction_id,
            "windows": {group: shown for group, shown in windows.items() if shown},
            "verify": _lines(self.verify),
        } | ({"choices": choices} if choices else {})

    @property
    def hash(self) -> str:
        """16 hex digits of what is shown. Rounding of projections does not change it, another mark does."""
        return hashlib.sha256(json.dumps(self.shown(), sort_keys=True).encode()).hexdigest()[:16]

    def to_row(self) -> dict[str, Any]:
        """The whole card as JSON, with projections and the answer key: for the run folder and the report."""
        row = asdict(self)
        row["answer_key"] = {item: dict(truth) for item, truth in self.answer_key.items()}
        row["choices"], row["choice_key"] = dict(row["choices"]), dict(self.choice_key)
        row["hash"] = self.hash
        return row


def _lines(items: Iterable[Window | VerifyItem]) -> list[dict[str, str]]:
    return [{"id": item.id, "text": item.shown()} for item in items]


@dataclass(frozen=True, slots=True)
class JudgeUsage:
    """What one verdict cost, whether bought now or found in the store."""

    n_calls: int = 0
    n_repairs: int = 0
    n_quotes_dropped: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    nano_usd: int = 0
    """Billionths of a dollar at today's prices, of the calls whose price is known."""
    n_unpriced: int = 0
    """Calls whose price nobody knows."""

    def __add__(self, other: JudgeUsage) -> JudgeUsage:
        return JudgeUsage(**{name: getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__})


@dataclass(slots=True)
class UsageBook:
    """Usage by direction id. A judge that costs nothing leaves it empty."""

    by_direction: dict[str, JudgeUsage] = field(default_factory=dict)


class Judge(Protocol):
    """A reader of cards. `judge` yields verdicts in any order, one per card, and never raises for a bad reply."""

    name: str
    """`offline`, `openai:MODEL`, ...: goes into every verdict."""
    prompt_hash: str
    """Hash of all prompts (or of the method's version and settings) behind the verdicts."""
    usage: UsageBook
    readers: Mapping[str, str]
    """Who describes, verifies and rates, by part: a summary says when they are the same."""
    reads_together: bool
    """Whether a score rests on all cards of the call: an interrupted run is then judged anew, not continued."""

    def judge(self, cards: Sequence[Card], concept: Concept, progress: Progress) -> Iterator[Verdict]:
        """One verdict per card. Advances a task of `progress` (unit "directions") by one each.

        Raises:
            JudgeError: the judge cannot go on at all (no key, no credit, replies to be filled in).
        """
        ...


def marked_line(tokens: Sequence[str], marked: Sequence[bool]) -> str:
    """Tokens as one line; runs of marked tokens share a bracket, line breaks become spaces.

    White space stays outside the brackets; where it is all that is marked, a sign stands for it: some directions fire
    on nothing else. One line, because a window that could open a line of its own could pretend to be the end of the
    data.
    """
    parts: list[str] = []
    is_open = False
    for token, is_marked in zip(tokens, marked, strict=True):
        # a lone surrogate (half a character) cannot be sent as UTF-8
        token = token.encode("utf-8", "replace").decode()
        clean = LINE_BREAK.sub(" ", token.replace(MARK_OPEN, "[[").replace(MARK_CLOSE, "]]"))
        if is_open and not is_marked:
            parts.append(MARK_CLOSE)
            is_open = False
        if is_marked and not is_open and clean.strip():
            body = clean.lstrip()
            parts += [clean[: len(clean) - len(body)], MARK_OPEN, body]
            is_open = True
        elif is_marked and not is_open and clean:
            parts.append(f"{MARK_OPEN}{BREAK_SIGN if LINE_BREAK.search(token) else SPACE_SIGN}{MARK_CLOSE}")
        else:
            parts.append(clean)
    return "".join(parts) + (MARK_CLOSE if is_open else "")


def may_pass(reason: str | None) -> bool:
    """Whether what kept a judge from an answer may be over when it is asked again: no money, no line, a busy server."""
    reason = reason or ""
    return reason in ("budget", "timeout", "connection", "bad_body", "http_429") or reason.startswith("http_5")


def unscored(card: Card, judge: Judge, reason: str, *, rationale: str = "") -> Verdict:
    """A verdict without scores: the reason is kept, nothing is made up."""
    return Verdict(
        direction_id=card.direction_id,
        pole="top",
        description="",
        confidence=None,
        pole_relation="unclear" if len(card.poles) > 1 else "single",
        detection=None,
        detection_low=None,
        detection_high=None,
        discrimination=None,
        relevance=None,
        wanted_relevance=None,
        quotes=(),
        unscored_reason=reason,
        rationale=rationale,
        judge=judge.name,
        prompt_hash=judge.prompt_hash,
    )
