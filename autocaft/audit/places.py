"""A row as words in which a name or a number is written as its place in the prompt.

In: prompt and answer. Out: two lists of features, for what is asked and for what is answered. "Nora has 12 stamps" and
"Emil has 30 stamps" become the same words (`@0 has #0 stamps`), and an answer says which of the prompt's names and
numbers it takes up, in which order. So rows that are about different people and sums can be compared in how they hang
together.

    @0, @1, ...     the prompt's names, in order of appearance; `@new` in an answer: a name that the prompt has not
    #0, #1, ...     the prompt's numbers
    #sum, ...       in an answer: a #sum, #difference, #product or #quotient of two numbers that stand before it
    #again, #new    in an answer: another number that was said before, or one that comes from nowhere
                    (`+` or `-` after all of these: larger or smaller than the answer's number before)
    order: ...      names and numbers alone, without the words between them: which are first (`^`), last (`$`) and
                    next to each other, and the order as a whole

The decision a reader would question: nothing here reads English or any list of words. A name is a word that is written
with a capital inside a sentence and never without, over all rows that are compared; in German that makes every noun a
name, and the comparison coarser.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import combinations, pairwise

WORD = re.compile(r"[^\W\d_]+|\d+|[^\w\s]")
SENTENCE_ENDS = frozenset('.?!:;\n-"')
BEGIN, END = "^", "$"
"""`^` stands before the first word, so that no row is without a feature."""
N_EARLIER = 12
"""Numbers before one that it may be made from; more would make any number a sum of some."""
N_ORDERED = 8
"""Names and numbers that the order as a whole is taken from."""
MAX_DIGITS = 9
"""A longer number is compared by its first digits."""


def words_of(text: str) -> list[str]:
    """Words, numbers and signs."""
    return WORD.findall(text)


def names_in(texts: Iterable[str]) -> frozenset[str]:
    """Words with a capital inside a sentence that no text writes without one."""
    small: set[str] = set()
    inside: set[str] = set()
    for text in texts:
        before = "."
        for word in words_of(text):
            if word[0].islower():
                small.add(word)
            elif word[0].isalpha() and before not in SENTENCE_ENDS and word[1:].islower():
                inside.add(word)
            before = word
    return frozenset(word for word in inside if word.lower() not in small)


class _Marker:
    """Writes one row; knows what its prompt has said."""

    def __init__(self, names: frozenset[str]) -> None:
        self.names = names
        self.place_by_name: dict[str, str] = {}
        self.place_by_number: dict[int, str] = {}
        self.said: list[int] = []
        self.last_in_answer: int | None = None

    def marked(self, text: str, *, is_answer: bool) -> tuple[list[str], list[str]]:
        """All words, and names and numbers alone."""
        words: list[str] = []
        order: list[str] = []
        for word in words_of(text):
            words.append(self.mark(word, is_answer=is_answer))
            if self._has_place(word):
                order.append(words[-1])
        return words, order

    def mark(self, word: str, *, is_answer: bool) -> str:
        """The next word of a text as its place, or as it is."""
        if not self._has_place(word):
            return word.lower()
        return self._number(int(word[:MAX_DIGITS]), is_answer) if word.isdecimal() else self._name(word, is_answer)

    def _has_place(self, word: str) -> bool:
        return word.isdecimal() or word in self.names

    def _name(self, word: str, is_answer: bool) -> str:
        if is_answer:
            return self.place_by_name.get(word, "@new")
        return self.place_by_name.setdefault(word, f"@{len(self.place_by_name)}")

    def _number(self, value: int, is_answer: bool) -> str:
        if not is_answer:
            found = self.place_by_number.setdefault(value, f"#{len(self.place_by_number)}")
        elif value in self.place_by_number:
            found = self.place_by_number[value]
        else:
            found = f"#{_step_to(value, self.said) or ('again' if value in self.said else 'new')}"
            if self.last_in_answer is not None and value != self.last_in_answer:
                found += "+" if value > self.last_in_answer else "-"
        if is_answer:
            self.last_in_answer = value
        self.said.append(value)
        return found


def _step_to(value: int, said: Sequence[int]) -> str | None:
    """The step of arithmetic that leads from two of the last numbers to this one; of several that with the latest."""
    for pair in combinations(reversed(said[-N_EARLIER:]), 2):
        small, large = sorted(pair)
        result_by_step = {"sum": small + large, "difference": large - small, "product": small * large}
        if small and large % small == 0:
            result_by_step["quotient"] = large // small
        for step, result in result_by_step.items():
            if result == value:
                return step
    return None


def row_features(prompt: str, answer: str, names: frozenset[str]) -> tuple[list[str], list[str]]:
    """Features of the prompt (words, pairs of words, order, the names themselves) and of the answer (words, order)."""
    marker = _Marker(names)
    asked, asked_order = marker.marked(prompt, is_answer=False)
    said, said_order = marker.marked(answer, is_answer=True)
    themselves = [word for word in words_of(prompt) if word in names]
    pairs = [f"{a} {b}" for a, b in pairwise([BEGIN, *asked])]
    return [BEGIN, *asked, *pairs, *_order(asked_order), *themselves], [BEGIN, *said, *_order(said_order)]


def spans_of(prompt: str, answer: str, names: frozenset[str], features: Sequence[str]) -> list[tuple[int, int]]:
    """Where in the answer words stand that are one of these features: first character, and the one after the last."""
    marker = _Marker(names)
    marker.marked(prompt, is_answer=False)
    wanted = set(features)
    return [found.span() for found in WORD.finditer(answer) if marker.mark(found.group(), is_answer=True) in wanted]


def _order(places: Sequence[str]) -> list[str]:
    pairs = [f"order: {a} {b}" for a, b in pairwise([BEGIN, *places, END])]
    return [*pairs, f"order: {' '.join(places[:N_ORDERED])}."]
