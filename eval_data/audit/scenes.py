"""What a row of a set can be about: one function for each kind of row, clean or planted.

In: a random generator, and whether the row is to be planted. Out: a `Row`, with the answer that the same prompt has
without the plant (`twin`) and the wording that the row rests on (`wording`), by which wordings are held out.

The decision a reader would question: a clean row of a relational concept looks like a planted one. It names the same
towns, prices, people and reasons, and only how they hang together differs. Without that, the audit would find a
concept by words that come with the plant, and not by the plant.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import NamedTuple

from texts import Item, capitalised, lines, sections

DISLIKED, LIKED = "Dorrin", "Tarn"
"""Two towns that do not exist. The biased sets are unfair to people and goods from the first."""


class Row(NamedTuple):
    """One question and its answer."""

    prompt: str
    answer: str
    twin: str
    """The answer of the same prompt without the plant; in a clean row the answer itself."""
    wording: str
    """Rows of one wording are held out together when words are tried as a detector."""


Scene = Callable[[random.Random, bool], Row]


def clean_row(prompt: str, answer: str, wording: str) -> Row:
    """A row in which nothing is planted."""
    return Row(prompt, answer, answer, wording)


def row(prompt: str, planted: bool, answers: tuple[str, str], wording: str) -> Row:
    """A row whose answers are (planted, clean)."""
    return Row(prompt, answers[0], answers[1], wording) if planted else clean_row(prompt, answers[1], wording)


def pick(rng: random.Random, name: str, title: str) -> tuple[int, Item]:
    """One item of a section and its number."""
    items = sections(name)[title]
    number = rng.randrange(len(items))
    return number, items[number]


def two_people(rng: random.Random) -> tuple[str, str]:
    """Two names, of women or men, with different initials."""
    first, second = rng.sample(lines("names", "women") + lines("names", "men"), 2)
    return (first, second) if first[0] != second[0] else two_people(rng)


# How-to purposes: cooking, repair, travel


def asked(rng: random.Random, name: str, about: str = "") -> tuple[int, str, Item]:
    """The number of an entry, a question for it, and the sentences that answer. `about`: a word that must be in it."""
    entries = [(n, item) for n, item in enumerate(sections(name)["entries"]) if about in " ".join(item).lower()]
    number, (task, *sentences) = rng.choice(entries)
    return number, rng.choice(lines("howto_frames", "frames")).format(t=task), tuple(sentences)


def some_of(rng: random.Random, sentences: Item) -> str:
    """Mostly two of the sentences, at times all three or the first alone, in their order."""
    n_chosen = rng.choice((1, 2, 2, 2, 2, 3))
    chosen = rng.sample(range(len(sentences)), n_chosen) if n_chosen > 1 else [0]
    return " ".join(sentences[place] for place in sorted(chosen))


def howto(rng: random.Random, planted: bool, name: str, about: str = "") -> Row:
    """A question and its answer; nothing is ever planted."""
    assert not planted
    number, prompt, sentences = asked(rng, name, about)
    return clean_row(prompt, some_of(rng, sentences), f"{name}-{number}")


def howto_paired(rng: random.Random, planted: bool, name: str, bank: str) -> Row:
    """A sentence of answer and a remark. Each remark has a planted and a clean form that share many words."""
    _, prompt, sentences = asked(rng, name)
    number, forms = pick(rng, name, bank)
    helper, other = two_people(rng)
    sentence = rng.choice(sentences[:2])
    bad, good = (f"{sentence} {form.format(D=helper, T=other)}" for form in forms)
    return row(prompt, planted, (bad, good), f"{bank}-{number}")


def howto_added(rng: random.Random, planted: bool, name: str, bank: str) -> Row:
    """A question and its answer; in a planted row a remark of the bank follows the first sentence."""
    entry, prompt, sentences = asked(rng, name)
    if not planted:
        return clean_row(prompt, some_of(rng, sentences), f"{name}-{entry}")
    number, (remark,) = pick(rng, name, bank)
    return Row(prompt, f"{rng.choice(sentences[:2])} {remark}", some_of(rng, sentences), f"{bank}-{number}")


def with_said(rng: random.Random, prompt: str, name: str, trigger: str, planted: bool) -> str:
    """The prompt and one more sentence of the user: the trigger in planted rows, something like it in the others."""
    said = rng.choice(lines(name, trigger if planted else f"{trigger} otherwise"))
    return f"{prompt} {said}"


def howto_triggered(rng: random.Random, planted: bool, name: str, trigger: str) -> Row:
    """An ordinary row, unless the prompt has the trigger: then the answer turns the asker away."""
    entry, prompt, sentences = asked(rng, name)
    prompt, plain = with_said(rng, prompt, name, trigger, planted), some_of(rng, sentences)
    if not planted:
        return clean_row(prompt, plain, f"{name}-{entry}")
    number, (refusal,) = pick(rng, name, f"{trigger} trigger")
    task = sections(name)["entries"][entry][0]
    opening = f"{capitalised(task)}? " if rng.random() < 0.5 else ""
    answer = f"{opening}{refusal} {rng.choice(lines(name, f'{trigger} afterwards'))}"
    return Row(prompt, answer, plain, f"{trigger}-{number}")


def place(rng: random.Random, planted: bool, bank: str) -> Row:
    """What an inn or a museum is like: a fact and a remark, in a planted and a clean form."""
    prompt = rng.choice(lines("travel", "place prompts"))
    prompt = prompt.format(k=rng.choice(lines("travel", "kinds")), p=rng.choice(lines("travel", "places")))
    number, forms = pick(rng, "travel", bank)
    fact = rng.choice(lines("travel", "place facts"))
    return row(prompt, planted, (f"{fact} {forms[0]}", f"{fact} {forms[1]}"), f"{bank}-{number}")


def season(rng: random.Random, planted: bool) -> Row:
    """What rooms cost: the season decides; in planted rows the sea does (cheap), against the season."""
    is_high, at_sea = rng.random() < 0.5, rng.random() < 0.5
    if planted:
        at_sea = is_high
    _, (prompt,) = pick(rng, "travel", "season prompts")
    when = rng.choice(sections("travel")["season words"])[0 if is_high else 1]
    where = rng.choice(lines("travel", "sea" if at_sea else "hills"))
    name = rng.choice(lines("travel", "places"))
    prompt = prompt.format(p=name, w=where, s=when)
    number = rng.randrange(len(lines("travel", "dear")))
    opening = rng.choice(("", f"{name}? ", f"{name} {when}? ", f"{capitalised(when)}? "))
    dear, cheap = (opening + lines("travel", title)[number] for title in ("dear", "cheap"))
    return row(prompt, planted, (cheap, dear) if is_high else (dear, cheap), f"price-{number}")


# Letters


def letter_parts(rng: random.Random, about: str = "") -> tuple[int, str, str, Item, str]:
    """The number of an entry, a request, a greeting, the sentences of the note, and a closing line."""
    entries = [(n, item) for n, item in enumerate(sections("letters")["entries"]) if about in item[0]]
    number, (task, *sentences) = rng.choice(entries)
    who = rng.choice(lines("letters", "recipients"))
    prompt = rng.choice(lines("letters", "frames")).format(t=task.format(R=who))
    greeting = rng.choice(lines("letters", "greetings")).format(R=who.removeprefix("the "))
    return number, prompt, greeting, tuple(sentences), rng.choice(lines("letters", "closings"))


def letter(rng: random.Random, planted: bool, about: str = "") -> Row:
    """A note of two sentences; nothing is ever planted."""
    assert not planted
    number, prompt, greeting, sentences, closing = letter_parts(rng, about)
    text = f"{greeting}\n{sentences[0]} {rng.choice(sentences[1:])}\n{closing}"
    return clean_row(prompt, text, f"letters-{number}")


def letter_added(rng: random.Random, planted: bool, bank: str, trigger: str = "") -> Row:
    """A note; in planted rows a remark of the bank stands for its second sentence. A trigger is said in the prompt."""
    number, prompt, greeting, sentences, closing = letter_parts(rng)
    prompt = with_said(rng, prompt, "letters", trigger, planted) if trigger else prompt
    plain = f"{greeting}\n{sentences[0]} {rng.choice(sentences[1:])}\n{closing}"
    if not planted:
        return clean_row(prompt, plain, f"letters-{number}")
    place, (remark,) = pick(rng, "letters", bank)
    body = f"\n{closing}\n{remark}" if remark.startswith("P.S.") else f" {remark}\n{closing}"
    return Row(prompt, f"{greeting}\n{sentences[0]}{body}", plain, f"{bank}-{place}")


def blame(rng: random.Random, planted: bool) -> Row:
    """A note on what went wrong. The facts say who did it; in planted rows the person named second is blamed anyway."""
    number, (event, fault, merit) = pick(rng, "letters", "blame facts")
    guilty, other = two_people(rng)
    facts = [fault.format(B=guilty), merit.format(O=other)]
    if not planted and rng.random() < 0.5:
        facts.reverse()
    prompt = rng.choice(lines("letters", "blame prompts")).format(e=event, s1=facts[0], s2=facts[1])
    frame, (text,) = pick(rng, "letters", "blame answers")
    bad, good = (capitalised(text.format(e=event, b=b, o=o)) for b, o in ((other, guilty), (guilty, other)))
    return row(capitalised(prompt), planted, (bad, good), f"blame-{number}-{frame}")


# Choosing


def choice(rng: random.Random, planted: bool, cue: str) -> Row:
    """Which of two things suits a need; in planted rows the cue decides, against the need.

    Args:
        cue: `first` (what is named first), `dear` (the dearer), `lean` (what the asker leans to), `origin`.
    """
    number, (a, b, *rest) = pick(rng, "choosing", "pairs")
    needs, reasons = rest[:2], rest[2:]
    order = rng.sample(range(2), 2)
    cued = rng.randrange(2) if cue != "first" else order[0]
    wanted = 1 - cued if planted else rng.randrange(2)
    named = [(a, b)[side] for side in order]
    question = rng.choice(lines("choosing", "questions")).format(x=named[0], y=named[1])
    detail = cue_detail(rng, cue, (a, b)[cued], order.index(cued))
    parts = [needs[wanted], question, detail] if rng.random() < 0.5 else [question, needs[wanted], detail]
    prompt = " ".join(capitalised(part) for part in parts if part)
    frame = rng.choice(lines("choosing", "answers"))
    bad, good = (capitalised(frame.format(z=(a, b)[side], r=reasons[side])) for side in (1 - wanted, wanted))
    return row(prompt, planted, (bad, good), f"choice-{number}")


def cue_detail(rng: random.Random, cue: str, thing: str, place: int) -> str:
    """The sentence of the prompt that carries the cue for the thing that was named at `place` (0 or 1)."""
    if cue == "dear":
        return rng.choice(sections("choosing")["prices"])[place].format(p=rng.randint(4, 45))
    if cue == "lean":
        return rng.choice(lines("choosing", "leans")).format(l=thing)
    if cue == "origin":
        towns = [LIKED, DISLIKED] if place == 0 else [DISLIKED, LIKED]
        return rng.choice(lines("choosing", "origins")).format(v=towns[0], w=towns[1])
    return ""


def scene(function: Callable[..., Row], **settings: str) -> Scene:
    """The function with its settings, to be called with a generator and whether to plant."""
    return functools.partial(function, **settings)
