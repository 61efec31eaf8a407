"""A planted corpus for the offline judge: directions whose windows peak on words of one subject, and many that do not.

The sentences are frames of our own filled with words of a subject; labels are known because we planted them. The
distractors are what real directions are like: other subjects (some next to a concept), function words, punctuation,
and mixtures.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from autocaft.records import Direction, Example

WORDS = {
    "weather": "rain snow storm sunny cold wind fog freezing thunder cloudy heat forecast drizzle frost humid",
    "money": "price dollars paid cheap bank coins debt salary invoice refund cash expensive loan tax wallet",
    "illness": "fever cough stomach nurse pain blood throat headache wound infection lungs flu bone rash sick",
    "cooking": "soup bread oven onion butter recipe fried garlic dinner salt baked cheese stew rice spoon",
    "time": "Monday yesterday hour weekly April noon morning month later minutes decade tonight clock soon",
    "sports": "goal match team referee coach scored tennis league stadium runner racket champion penalty",
    "music": "guitar song melody violin concert choir drums singer chord tune piano rhythm orchestra",
    "travel": "train airport ticket luggage hotel passport flight tourist bus harbour journey platform",
    "school": "teacher exam pupil homework lesson classroom grade essay university chalk textbook",
    "animals": "dog horse cat sheep bird fox rabbit cow goat owl donkey hen kitten beaver",
    "computers": "software keyboard file server password browser code laptop screen printer download",
    "law": "judge court lawyer trial witness verdict guilty sentence crime appeal jury",
    "buildings": "roof window wall stairs kitchen door garage bridge tower cellar brick hall",
    "colour": "red blue green yellow purple white black orange pink grey brown",
    "shopping": "shop customer shelf basket market store bag aisle queue till brand",
    "farming": "field harvest tractor barn soil seeds plough crops orchard fence",
    "negation": "not never nothing none nobody without neither cannot",
    "function words": "the of and to that which with as by but",
    "speech": "said asked told answered whispered explained replied shouted claimed",
    "numbers": "three seven twelve forty hundred 9 15 2041 first half",
    "punctuation": ", . ; ( ! ? : -",
}
SUBJECTS = {name: words.split() for name, words in WORDS.items()}
FRAMES = (
    "Then we all went back and saw {w} near the small place by the road",
    "A friend of mine spoke about {w} for a long while before he left",
    "It is hard to say how {w} came into this story at all",
    "They had been thinking of {w} when the letter came to the house",
    "In the next part you will read more on {w} and its many sides",
    "My neighbour always has something about {w} in her old green book",
    "People here like to talk, and {w} is what they mention most of all",
    "Nobody could tell me why {w} was so important to the group that day",
    "On the way home I was told that {w} may be part of the plan",
    "She wrote a short note with {w} in it and put it on the desk",
)
BACKGROUND = [word for name in SUBJECTS for word in SUBJECTS[name]]
"""Random windows hold a word of any subject: the concept is in the corpus, as in a real run."""
N_EACH = 20
"""Windows of a pole: half shown, half held out."""


def window(word: str, frame: int, projection: float) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """One sentence as tokens, and a projection that peaks on the word put into it."""
    before, after = FRAMES[frame % len(FRAMES)].split(" {w} ")
    tokens = [*before.split(), word, *after.split()]
    place = len(before.split())
    spaced = tuple(token if i == 0 else f" {token}" for i, token in enumerate(tokens))
    return spaced, tuple(projection if i == place else 0.02 * projection for i in range(len(tokens)))


def pole_examples(direction_id: str, pole: str, words: list[str], seed: int) -> Iterator[Example]:
    """Windows of a pole; every second one is held out."""
    sign = -1.0 if pole == "bottom" else 1.0
    for number in range(N_EACH):
        tokens, projections = window(words[number % len(words)], number + seed, sign * (9.0 - 0.1 * number))
        split = "describe" if number % 2 == 0 else "verify"
        doc_id = f"{direction_id}-{pole}-{number}"
        yield Example(direction_id, pole, split, doc_id, tokens, projections)  # type: ignore[arg-type]


def random_examples(direction_id: str, rng: random.Random, n: int = 18, pole: str = "random") -> Iterator[Example]:
    """Windows drawn without looking at the direction: a word of any subject in any frame."""
    for number in range(n):
        tokens, projections = window(rng.choice(BACKGROUND), rng.randrange(100), 0.1 if pole == "random" else 9.0)
        split = "describe" if number % 3 == 0 else "verify"
        doc_id = f"{direction_id}-{pole}-random-{number}"
        yield Example(direction_id, pole, split, doc_id, tokens, projections)  # type: ignore[arg-type]


def planted_run(purity: float, seed: int = 0) -> tuple[list[Direction], list[Example], dict[str, str]]:
    """Directions, their examples, and the planted subject of each.

    Five directions for each of the first four subjects, two for each other one, and ten mixtures of five subjects.

    Args:
        purity: share of a direction's windows that peak on its own subject; the others peak on a word of any.
    """
    rng = random.Random(seed)
    directions: list[Direction] = []
    examples: list[Example] = []
    subject_by_id: dict[str, str] = {}

    def add(subject: str, words: list[str]) -> None:
        number = len(directions)
        direction_id = f"L{14 if number % 2 else 20}.latent{number}"
        directions.append(Direction(direction_id, 14 if number % 2 else 20, "sae", number, 1.0, "planted"))
        examples.extend(pole_examples(direction_id, "top", words, number))
        examples.extend(random_examples(direction_id, rng))
        subject_by_id[direction_id] = subject

    n_pure = round(purity * N_EACH)
    for position, (subject, words) in enumerate(SUBJECTS.items()):
        for _ in range(5 if position < 4 else 2):
            few = rng.sample(words, 5)
            peaks = [few[i % 5] for i in range(n_pure)] + rng.choices(BACKGROUND, k=N_EACH - n_pure)
            add(subject, rng.sample(peaks, N_EACH))
    for _ in range(10):
        add("mixture", [rng.choice(SUBJECTS[name]) for name in rng.sample(list(SUBJECTS), 5)])
    return directions, examples, subject_by_id
