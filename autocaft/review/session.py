"""One reviewer's way through the cards: what is shown next, what was answered, what may be seen.

In: a deck and the reviewer's log. Out: the showing to show, and acts appended to the log. The decision a reader would
question: the judge's words are not shown by themselves after an answer but on request, because a person who sees them
each time learns what the judge likes; what is asked for is logged, and `compare` leaves out what was said after. The
words on a direction that comes again are held back until its second answer, or the end.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

from autocaft.review.acts import (
    Act,
    ActKind,
    ActLog,
    Answer,
    Choice,
    acts_on_cards,
    first_answers,
    now,
    stand,
)
from autocaft.review.deck import Deck, ShownCard

ONE_REPEAT_IN = 20
MIN_REPEATS, MIN_GAP = 5, 15
N_FOR_SPEED = 20
MAX_SECONDS = 3600.0

Outcome = Literal["saved", "already saved", "saved anew", "answered otherwise"]


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


class Draft(NamedTuple):
    """What there is of an answer before it is given."""

    note: str = ""
    seconds: float | None = 0.0
    """How long the card was in view; None where that cannot be told from other reading."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far, and how long still."""

    n_done: int
    n_all: int
    seconds_left: float | None
    """None where none of the last answers was timed."""


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
    """The state of one review; every change is on the disk before the method returns.

    What stands and what is to be shown is kept act by act, so that a save among thousands of cards takes no longer.
    """

    def __init__(self, deck: Deck, log: ActLog, name: str) -> None:
        self.deck = deck
        self.name = name
        self.order = plan_order(list(deck.cards), name)
        self.acts: list[Act] = []
        """What was done about the cards as they are now."""
        self.standing: dict[tuple[str, int], Answer] = {}
        """The answers that stand, to what is to be shown: other candidates have other repeats."""
        self._log = log
        self._hashes = {card.hash for card in deck.cards.values()}
        self._places = {(showing.direction_id, showing.repeat): i for i, showing in enumerate(self.order)}
        self._fresh = {i for i, showing in enumerate(self.order) if showing.repeat == 0}
        self._left_for_later: dict[int, None] = {}  # in the order in which they were left
        self._taken_back: int | None = None
        self._drafts: dict[int, Draft] = {}
        self._ticket_of: dict[int, str] = {}
        self._undone: dict[str, Answer | None] = {}
        self._seen: set[str] = set()
        self._take_up(log.acts)

    @property
    def by(self) -> str:
        """As in a decision."""
        return f"human:{self.name}"

    @property
    def current(self) -> int | None:
        """Number of the showing to show; None when all is answered."""
        if self._taken_back is not None and self.said_of(self._taken_back) is None:
            return self._taken_back
        if self._fresh:
            return min(self._fresh)
        return next((i for i in self._left_for_later if self._is_ready(i)), None)

    @property
    def last(self) -> Answer | None:
        """The answer given last that still stands."""
        return next(reversed(self.standing.values()), None)

    @property
    def draft(self) -> Draft:
        """What was typed and how long it was read already, of the card to show."""
        return Draft() if self.current is None else self._drafts.get(self.current, Draft())

    @property
    def first(self) -> dict[str, Answer]:
        """The answer that counts, by direction."""
        return first_answers(self.standing)

    @property
    def progress(self) -> Progress:
        """Done and left; the speed is the median of the last answers."""
        lately = islice(reversed(self.standing.values()), N_FOR_SPEED)
        seconds = [answer.seconds for answer in lately if answer.seconds is not None]
        n_done, n_all = len(self.standing), len(self.order)
        return Progress(n_done, n_all, statistics.median(seconds) * (n_all - n_done) if seconds else None)

    def said_of(self, showing: int) -> Answer | None:
        """The answer that stands to one showing."""
        shown = self.order[showing]
        return self.standing.get((shown.direction_id, shown.repeat))

    def card(self, showing: int) -> ShownCard:
        """The card at this place of the order."""
        return self.deck.cards[self.order[showing].direction_id]

    def answer(self, showing: int, choice: Choice, note: str, seconds: float | None, ticket: str = "") -> Outcome:
        """Save an answer. The same answer sent twice (a connection that broke) is saved once.

        Args:
            ticket: of the page as it was drawn. Who gets no reply sees the same page and may think again, so another
                answer from there counts; from any other page it would overwrite what is not seen there.
        """
        there = self.said_of(showing)
        if there is not None:
            if (there.choice, there.note) == (choice, _one_line(note)):
                return "already saved"
            if not ticket or self._ticket_of.get(showing) != ticket:
                return "answered otherwise"
        timed = None if seconds is None else min(max(seconds, 0.0), MAX_SECONDS)
        self._append(self._act(self.order[showing], choice, note, timed))
        self._taken_back = None
        self._ticket_of[showing] = ticket
        self._drafts.pop(showing, None)
        return "saved" if there is None else "saved anew"

    def keep_draft(self, showing: int, draft: Draft) -> None:
        """Keep, for as long as this process lives, what is to be there when the card is shown again."""
        self._drafts[showing] = draft

    def leave_for_later(self, showing: int) -> None:
        """Show this one again after the others; nothing is saved, since nothing was said."""
        self._left_for_later.pop(showing, None)
        self._left_for_later[showing] = None
        self._fresh.discard(showing)
        self._taken_back = None

    def undo(self, ticket: str = "") -> Answer | None:
        """Take the last answer back and show its direction again; None if there is none.

        Args:
            ticket: of the page as it was drawn. From one page one answer is taken back, however often it asks.
        """
        if ticket not in self._undone:
            taken = self._take_back()
            if not ticket:
                return taken
            self._undone[ticket] = taken
        return self._undone[ticket]

    def _take_back(self) -> Answer | None:
        if not self.standing:
            return None
        key, taken = next(reversed(self.standing.items()))
        self._append(self._act(Showing(*key), "withdraw", taken.note, None))
        self._taken_back = self._places[key]
        self.keep_draft(self._taken_back, Draft(taken.note, taken.seconds))
        return taken

    def may_see_judge(self, direction_id: str) -> bool:
        """Whether every showing of a direction is answered."""
        return all(self.said_of(place) is not None for place in self._places_of(direction_id))

    def see_judge(self, direction_ids: Sequence[str]) -> None:
        """Log that the judge's words on these directions are shown now; to be called before they are."""
        news = [i for i in direction_ids if i not in self._seen]
        for direction_id in news:
            assert self.may_see_judge(direction_id), f"{direction_id} is not answered yet"
        if news:
            self._append(*(self._act(Showing(i, 0), "see judge", "", None) for i in news))

    def take_in(self, said: Sequence[Said]) -> list[Act]:
        """Answers from a file. Gives those that were new."""
        first = self.first
        news = [
            self._act(Showing(entry.direction_id, 0), entry.choice, entry.note, None, entry.copied_from)
            for entry in said
            if entry.direction_id not in first
            or (first[entry.direction_id].choice, first[entry.direction_id].note) != (entry.choice, entry.note)
        ]
        if news:
            self._append(*news)
        return news

    def _append(self, *acts: Act) -> None:
        self._log.append(*acts)
        self._take_up(acts)

    def _take_up(self, acts: Iterable[Act]) -> None:
        """Bring the state up to date with acts that are on the disk."""
        for act in acts_on_cards(acts, self._hashes):
            self.acts.append(act)
            if act.act == "see judge":
                self._seen.add(act.direction_id)
            elif (act.direction_id, act.showing) in self._places:
                stand(self.standing, act)
            for place in self._places_of(act.direction_id):
                is_fresh = self._is_ready(place) and place not in self._left_for_later
                (self._fresh.add if is_fresh else self._fresh.discard)(place)

    def _places_of(self, direction_id: str) -> list[int]:
        keys = ((direction_id, 0), (direction_id, 1))
        return [self._places[key] for key in keys if key in self._places]

    def _is_ready(self, place: int) -> bool:
        """Not answered yet, and no second time before the first is answered."""
        shown = self.order[place]
        is_in_turn = shown.repeat == 0 or (shown.direction_id, 0) in self.standing
        return is_in_turn and self.said_of(place) is None

    def _act(self, shown: Showing, act: ActKind, note: str, seconds: float | None, copied_from: str = "") -> Act:
        card = self.deck.cards[shown.direction_id].hash
        rounded = None if seconds is None else round(seconds, 1)
        said = _one_line(note)
        return Act(shown.direction_id, act, self.by, said, rounded, now(), shown.repeat, card, copied_from)


def _one_line(note: str) -> str:
    """A tab or a line break would open a cell of its own in a spreadsheet."""
    return " ".join(note.split())
