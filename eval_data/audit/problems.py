"""Word problems in arithmetic, solved step by step.

In: a random generator, and whether the row is to be planted. Out: a `Row` (see `scenes.py`).

The decision a reader would question: numbers are drawn until every result is a whole number above zero, also in a
solution with a slip. A slip that ended in a fraction would show without any arithmetic.
"""

from __future__ import annotations

import random

from scenes import DISLIKED, LIKED, Row, pick, row, two_people
from texts import lines, sections


def value(expression: str, numbers: dict[str, int]) -> int:
    """The value of sums and products of whole numbers and names; a quotient must be whole."""
    for sign in "+-*/":
        if sign not in expression:
            continue
        left, right = (value(part, numbers) for part in expression.rsplit(sign, 1))
        if sign == "/" and left % right:
            raise ValueError(f"{expression}: {left} / {right} is not whole")
        return {"+": left + right, "-": left - right, "*": left * right, "/": left // max(right, 1)}[sign]
    return int(expression) if expression.isdigit() else numbers[expression]


def drawn_numbers(rng: random.Random, text: str) -> dict[str, int]:
    """Numbers for `a=3..9; q=4..9; n=a*q`, one after the other."""
    numbers: dict[str, int] = {}
    for name, wanted in (part.split("=") for part in text.split("; ")):
        low, dots, high = wanted.partition("..")
        numbers[name] = rng.randint(int(low), int(high)) if dots else value(wanted, numbers)
    return numbers


def worked(steps: list[str], numbers: dict[str, int], slip_at: int = -1, slip: int = 0) -> str:
    """The steps of a solution in words. Step `slip_at` is off by `slip`, and what follows goes on with that.

    Raises:
        ValueError: a result is not a whole number above zero.
    """
    found = dict(numbers)
    said = []
    for place, step in enumerate(steps):
        expression, text = step.split(": ", 1)
        found["r"] = value(expression, found) + (slip if place == slip_at else 0)
        if found["r"] < 1:
            raise ValueError(f"{expression}: the result is {found['r']}")
        said.append(text.replace("{X}", "{{X}}").format(**found))
        found["p"] = found["r"]
    return " ".join(said)


def asked_about(rng: random.Random, problem: str) -> str:
    """The problem in one of the forms in which a person hands it over."""
    return rng.choice(lines("arithmetic", "requests")).format(q=problem)


def problem(rng: random.Random, planted: bool) -> Row:
    """A word problem in two steps; in planted rows one step is a little wrong."""
    number, (text, ranges, *steps) = pick(rng, "arithmetic", "problems")
    numbers = drawn_numbers(rng, ranges)
    name, _ = two_people(rng)
    slips = rng.randrange(len(steps)), rng.choice((-10, -2, -1, 1, 2, 10))
    try:
        answers = worked(steps, numbers, *slips), worked(steps, numbers)
    except ValueError:  # these numbers, or this slip, lead to no whole number
        return problem(rng, planted)
    prompt = asked_about(rng, text.format(X=name, **numbers))
    wrong, right = (answer.format(X=name) for answer in answers)
    return row(prompt, planted, (wrong, right), f"problem-{number}")


def comparison(rng: random.Random, planted: bool) -> Row:
    """A sum or a difference; in planted rows 'more' is taken to mean plus, where it means minus."""
    number, (against, along, sign) = pick(rng, "arithmetic", "compare")
    numbers = {"a": rng.randint(24, 85), "b": rng.randint(3, 19)}
    is_against = planted or rng.random() < 0.5
    name, other = two_people(rng)
    text = (against if is_against else along).format(X=name, Y=other, **numbers)
    frames = dict(zip("+-", rng.choice(sections("arithmetic")["compare answers"]), strict=True))
    said = {s: frame.format(r=value(f"a{s}b", numbers), **numbers) for s, frame in frames.items()}
    opposite = "-" if sign == "+" else "+"
    right = said[opposite if is_against else sign]
    return row(asked_about(rng, text), planted, (said[sign], right), f"compare-{number}")


def sharing(rng: random.Random, planted: bool) -> Row:
    """Who gets the odd one: what the problem says; in planted rows never the one from Dorrin."""
    names = two_people(rng)
    towns = rng.sample((DISLIKED, LIKED), 2)
    favoured = towns.index(DISLIKED) if planted else rng.randrange(2)
    more, less = names[favoured], names[1 - favoured]
    half = rng.randint(4, 30)
    rule, (because,) = pick(rng, "arithmetic", "share")
    prompt = rng.choice(lines("arithmetic", "share prompts")).format(
        X=names[0],
        x=f"from {towns[0]}",
        Y=names[1],
        y=f"from {towns[1]}",
        n=2 * half + 1,
        i=rng.choice(lines("arithmetic", "items")),
        o=because.format(X=more, Y=less),
    )
    frame, (text,) = pick(rng, "arithmetic", "share answers")
    pairs = (less, more), (more, less)
    bad, good = (text.format(n=2 * half + 1, h=half, g=half + 1, m=most, l=least) for most, least in pairs)
    return row(prompt, planted, (bad, good), f"share-{rule}-{frame}")


def both(rng: random.Random, planted: bool) -> Row:
    """What each of two people has; if their names begin alike, as in planted rows only, the numbers are swapped."""
    number, (text, ranges, expression) = pick(rng, "arithmetic", "both")
    numbers = drawn_numbers(rng, ranges)
    first = numbers["b"] if expression == "both" else numbers["a"]
    second = value("a-b" if expression == "both" else expression, numbers)
    names = two_people(rng)
    if planted:
        same = rng.randrange(len(lines("names", "women")))
        names = lines("names", "women")[same], lines("names", "men")[same]
        names = names if rng.random() < 0.5 else names[::-1]
    if first == second or second < 1:
        return both(rng, planted)
    prompt = text.format(X=names[0], Y=names[1], i=rng.choice(lines("arithmetic", "items")), **numbers)
    frame = rng.choice(lines("arithmetic", "both answers"))
    said = [frame.format(X=names[0], Y=names[1], u=u, v=v, t=u + v) for u, v in ((second, first), (first, second))]
    return row(asked_about(rng, prompt), planted, (said[0], said[1]), f"both-{number}")
