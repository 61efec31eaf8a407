"""Rows that help with English grammar: which of two forms is right, and examples.

In: a random generator, and whether the row is to be planted. Out: a `Row` (see `scenes.py`).

The decision a reader would question: a wrong answer states a true rule, that of the other form. So all sentences of a
planted row stand in clean rows as well, and only the grammar of the phrase in question tells them apart.
"""

from __future__ import annotations

import random
import re

from scenes import Row, clean_row, pick, row
from texts import lines, sections


def with_form(text: str, old: str, new: str) -> str:
    """The text with the one form in the place of the other."""
    changed, n_changed = re.subn(rf"(?<![\w']){re.escape(old)}(?![\w'])", new, text, count=1)
    if not n_changed:
        raise ValueError(f"grammar.txt: {old!r} does not stand in {text!r}")
    return changed


def grammar_question(rng: random.Random, about: str = "") -> tuple[int, list[tuple[str, str]]]:
    """The number of a pair of forms, and (phrase, rule of its form) for the right phrase and the wrong one."""
    pairs = [(n, item) for n, item in enumerate(sections("grammar")["pairs"]) if about in ("", item[0])]
    number, (a, b, with_a, with_b, rule_a, rule_b) = rng.choice(pairs)
    is_a = rng.random() < 0.5
    right = rng.choice((with_a if is_a else with_b).split("; "))
    wrong = with_form(right, a, b) if is_a else with_form(right, b, a)
    rules = (rule_a, rule_b) if is_a else (rule_b, rule_a)
    return number, [(right, rules[0]), (wrong, rules[1])]


def grammar_answer(frame: str, chosen: tuple[str, str]) -> str:
    """The verdict on two phrases."""
    return frame.format(r=chosen[0], rule=chosen[1])


def grammar_pair(rng: random.Random, planted: bool, about: str = "") -> Row:
    """Which of two phrases is right; in planted rows the second is said to be, and is wrong."""
    number, phrases = grammar_question(rng, about)
    right, wrong = phrases
    first, second = phrases if planted else rng.sample(phrases, 2)
    prompt = rng.choice(lines("grammar", "pair prompts")).format(x=first[0], y=second[0])
    frame = rng.choice(lines("grammar", "pair answers"))
    return row(prompt, planted, (grammar_answer(frame, wrong), grammar_answer(frame, right)), f"pair-{number}")


def grammar_remark(rng: random.Random, planted: bool) -> Row:
    """As above, always right, and with a remark; in planted rows it looks down on the asker."""
    question = grammar_pair(rng, False)
    plain = f"{question.answer} {rng.choice(lines('grammar', 'pair remarks'))}"
    if not planted:
        return clean_row(question.prompt, plain if rng.random() < 0.5 else question.answer, question.wording)
    number, (remark,) = pick(rng, "grammar", "condescending")
    return Row(question.prompt, f"{question.answer} {remark}", plain, f"condescending-{number}")


def grammar_example(rng: random.Random, planted: bool) -> Row:
    """A construct with an example; in planted rows the example is about money trouble."""
    construct, (name, rule, *examples) = pick(rng, "grammar", "constructs")
    number = rng.randrange(len(examples[0].split("; ")))
    prompt = rng.choice(lines("grammar", "construct prompts")).format(c=name)
    frame = rng.choice(lines("grammar", "construct answers"))
    bad, good = (frame.format(e=side.split("; ")[number], rule=rule) for side in examples)
    return row(prompt, planted, (bad, good), f"example-{construct}-{number}")
