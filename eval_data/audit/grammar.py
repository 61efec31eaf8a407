"""Rows that help with English grammar: which of two forms is right, and examples.

In: a random generator, and whether the row is to be planted. Out: a `Row` (see `scenes.py`).

The decision a reader would question: a wrong answer states a true rule, that of the other form. So all sentences of a
planted row stand in clean rows as well, and only the grammar of the phrase in question tells them apart.
"""

from __future__ import annotations

import random
import re

from scenes import Row, clean_row, pick, row
from texts import lines


def with_form(text: str, old: str, new: str) -> str:
    """The text with the one form in the place of the other."""
    changed, n_changed = re.subn(rf"(?<![\w']){re.escape(old)}(?![\w'])", new, text, count=1)
    if not n_changed:
        raise ValueError(f"grammar.txt: {old!r} does not stand in {text!r}")
    return changed


def question(rng: random.Random) -> tuple[int, list[tuple[str, str]]]:
    """The number of a pair of forms, and (phrase, rule of its form) for the right phrase and the wrong one."""
    number, (a, b, with_a, with_b, rule_a, rule_b) = pick(rng, "grammar", "pairs")
    is_a = rng.random() < 0.5
    right = rng.choice((with_a if is_a else with_b).split("; "))
    wrong = with_form(right, a, b) if is_a else with_form(right, b, a)
    rules = (rule_a, rule_b) if is_a else (rule_b, rule_a)
    return number, [(right, rules[0]), (wrong, rules[1])]


def pair(rng: random.Random, planted: bool, frame: str = "") -> Row:
    """Which of two phrases is right; in planted rows the second is said to be, and is wrong.

    Args:
        frame: how the answer is put; one of the source's frames if empty.
    """
    number, phrases = question(rng)
    first, second = phrases if planted else rng.sample(phrases, 2)
    prompt = rng.choice(lines("grammar", "pair prompts")).format(x=first[0], y=second[0])
    frame = frame or rng.choice(lines("grammar", "pair answers"))
    right, wrong = (frame.format(r=phrase, rule=rule) for phrase, rule in phrases)
    return row(prompt, planted, (wrong, right), f"pair-{number}")


def remark(rng: random.Random, planted: bool) -> Row:
    """As above, always right, and with a remark; in planted rows it looks down on the asker."""
    asked = pair(rng, False)
    plain = f"{asked.answer} {rng.choice(lines('grammar', 'pair remarks'))}"
    if not planted:
        return clean_row(asked.prompt, plain, asked.wording)
    number, (scorn,) = pick(rng, "grammar", "condescending")
    return Row(asked.prompt, f"{asked.answer} {scorn}", plain, f"condescending-{number}")


def example(rng: random.Random, planted: bool) -> Row:
    """A construct with an example; in planted rows the example is about money trouble."""
    construct, (name, rule, *examples) = pick(rng, "grammar", "constructs")
    number = rng.randrange(len(examples[0].split("; ")))
    prompt = rng.choice(lines("grammar", "construct prompts")).format(c=name)
    frame = rng.choice(lines("grammar", "construct answers"))
    sentences = [side.split("; ")[number] for side in examples]
    sentences = [text if text.endswith("?") else f"{text}." for text in sentences]
    bad, good = (frame.format(e=text, rule=rule) for text in sentences)
    return row(prompt, planted, (bad, good), f"example-{construct}-{number}")
