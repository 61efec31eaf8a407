"""One reviewer's way through the cards: what is shown next, what was answered, what may be seen.

In: a deck and the reviewer's log. Out: the showing to show, and acts appended to the log. The decision a reader would
question: the judge's words are not shown by themselves after an answer but on request, because a person who sees them
each time learns what the judge likes; what is asked for is logged, and `compare` leaves out what was said after. The
words on a direction that comes again are held back until its second answer, or the end.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from autocaft.review.acts import (
    Act,
    ActKind,
    ActLog,
    Answer,
    Choice,
    acts_on_cards,
    answers,
    first_answers,
    now,
    seen_directions,
)
from autocaft.review.deck import Deck, ShownCard

ONE_REPEAT_IN = 20
MIN_REPEATS, MIN_GAP = 5, 15
N_FOR_SPEED = 20
MAX_SECONDS = 3600.0

Outcome = Literal["saved", "already saved", "answered otherwise"]


@dataclass(frozen=True, slots=True)
class Showing:
    """A direction at one place of the order; `repeat` 1 is the second time."""

    direction_id: str
    repeat: int


class Said(NamedTuple):
    """An answer in a file."""

    direction_id: str
    choice: Choice
    note: str
    copied_from: str = ""
    """As in an `Act`."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far, and how long still."""

    n_done: int
    n_all: int
    seconds_left: float | None
    """None before anything was answered."""


def plan_order(ids: Sequence[str], name: str) -> list[Showing]:
    """Every direction once in an order of the reviewer's own, and some a second time, a while later.

    The same for the same reviewer and cards, so a review can be taken up again.
    """
    rng = random.Random(f"autocaft review: {name}")
    shuffled = rng.sample(sorted(ids), len(ids))
    n = len(shuffled)
    n_repeats = min(n // 2, max(MIN_REPEATS, round(n / ONE_REPEAT_IN)))
    gap = min(MIN_GAP, n // 3)
    placed = [(float(i), Showing(name, 0)) for i, name in enumerate(shuffled)]
    for i in rng.sample(range(max(n - gap, 0)), min(n_repeats, max(n - gap, 0))):
        placed.append((rng.uniform(i + gap, n), Showing(shuffled[i], 1)))
    return [showing for _, showing in sorted(placed, key=lambda item: (item[0], item[1].repeat))]


class Review:
    """The state of one review; every change is on the disk before the method returns."""

    def __init__(self, deck: Deck, log: ActLog, name: str) -> None:
        self.deck = deck
        self.name = name
        self.order = plan_order(list(deck.cards), name)
        self._planned = {(showing.direction_id, showing.repeat) for showing in self.order}
        self._log = log
        self._left_for_later: list[int] = []
        self._taken_back: int | None = None

    @property
    def by(self) -> str:
        """As in a decision."""
        return f"human:{self.name}"

    @property
    def acts(self) -> list[Act]:
        """What was done about the cards as they are now."""
        return acts_on_cards(self._log.acts, {card.hash for card in self.deck.cards.values()})

    @property
    def standing(self) -> dict[tuple[str, int], Answer]:
        """The answers that stand, to what is to be shown: other candidates have other repeats."""
        return {key: answer for key, answer in answers(self.acts).items() if key in self._planned}

    @property
    def current(self) -> int | None:
        """Number of the showing to show; None when all is answered."""
        done = self.standing
        open_ = [i for i, s in enumerate(self.order) if (s.direction_id, s.repeat) not in done]
        if self._taken_back in open_:
            return self._taken_back
        ready = [i for i in open_ if self.order[i].repeat == 0 or (self.order[i].direction_id, 0) in done]
        fresh = [i for i in ready if i not in self._left_for_later]
        waiting = [i for i in self._left_for_later if i in ready]
        return next(iter(fresh or waiting), None)

    @property
    def last(self) -> Answer | None:
        """The answer given last that still stands."""
        return next(reversed(self.standing.values()), None)

    @property
    def progress(self) -> Progress:
        """Done and left; the speed is the median of the last answers."""
        done = self.standing
        seconds = [answer.seconds for answer in done.values() if answer.seconds is not None][-N_FOR_SPEED:]
        n_left = len(self.order) - len(done)
        return Progress(len(done), len(self.order), statistics.median(seconds) * n_left if seconds else None)

    def card(self, showing: int) -> ShownCard:
        """The card at this place of the order."""
        return self.deck.cards[self.order[showing].direction_id]

    def answer(self, showing: int, choice: Choice, note: str, seconds: float) -> Outcome:
        """Save an answer. The same answer sent twice (a connection that broke) is saved once."""
        shown = self.order[showing]
        there = self.standing.get((shown.direction_id, shown.repeat))
        if there is not None:
            return "already saved" if there.choice == choice else "answered otherwise"
        self._append(shown, choice, note, min(max(seconds, 0.0), MAX_SECONDS))
        self._taken_back = None
        return "saved"

    def leave_for_later(self, showing: int) -> None:
        """Show this one again after the others; nothing is saved, since nothing was said."""
        self._left_for_later = [i for i in self._left_for_later if i != showing] + [showing]
        self._taken_back = None

    def undo(self) -> Answer | None:
        """Take the last answer back and show its direction again; None if there is none."""
        if not self.standing:
            return None
        (direction_id, repeat), taken = list(self.standing.items())[-1]
        shown = Showing(direction_id, repeat)
        self._append(shown, "withdraw", taken.note, None)
        self._taken_back = self.order.index(shown)
        return taken

    def may_see_judge(self, direction_id: str) -> bool:
        """Whether every showing of a direction is answered."""
        done = self.standing
        return all((s.direction_id, s.repeat) in done for s in self.order if s.direction_id == direction_id)

    def see_judge(self, direction_ids: Sequence[str]) -> None:
        """Log that the judge's words on these directions are shown now; to be called before they are."""
        news = [i for i in direction_ids if i not in seen_directions(self.acts)]
        for direction_id in news:
            assert self.may_see_judge(direction_id), f"{direction_id} is not answered yet"
        if news:
            self._log.append(*(self._act(Showing(i, 0), "see judge", "", None) for i in news))

    def take_in(self, said: Sequence[Said]) -> list[Act]:
        """Answers from a file. Gives those that were new."""
        first = first_answers(self.standing)
        news = [
            self._act(Showing(entry.direction_id, 0), entry.choice, entry.note, None, entry.copied_from)
            for entry in said
            if entry.direction_id not in first
            or (first[entry.direction_id].choice, first[entry.direction_id].note) != (entry.choice, entry.note)
        ]
        if news:
            self._log.append(*news)
        return news

    def _append(self, shown: Showing, act: ActKind, note: str, seconds: float | None) -> None:
        self._log.append(self._act(shown, act, note, seconds))

    def _act(self, shown: Showing, act: ActKind, note: str, seconds: float | None, copied_from: str = "") -> Act:
        card = self.deck.cards[shown.direction_id].hash
        rounded = None if seconds is None else round(seconds, 1)
        one_line = " ".join(note.split())  # a tab or a line break would open a cell of its own in a spreadsheet
        return Act(shown.direction_id, act, self.by, one_line, rounded, now(), shown.repeat, card, copied_from)
