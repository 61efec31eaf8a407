"""Who is asked about what, and the right answers.

In: planted directions and concepts. Out: for each concept a question, with the directions that are asked about it. The
decision a reader would question: not every direction meets every concept. A paid judge would rate each of them twenty
times over; a question takes the directions that can be confused with its concept, some that cannot, and controls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autocaft.calibrate.directions import PlantedDirection
from autocaft.calibrate.planted import Planted
from autocaft.judge.base import Concept

N_OTHER_FAMILIES, N_EACH_CONTROL, N_REAL = 4, 3, 4


@dataclass(frozen=True, slots=True)
class Question:
    """One concept put to a judge."""

    name: str
    family: str
    concept: Concept
    truth: dict[str, bool | None]
    """direction id -> is the concept in it; None where nobody knows (mixtures, directions of a real run)."""


def make_questions(
    concepts: Sequence[Planted], planted: Sequence[PlantedDirection], real_ids: Sequence[str] = ()
) -> list[Question]:
    """One question a concept, in their order. The wanted concept is one of another family."""
    return [_question(number, concepts, planted, real_ids) for number in range(len(concepts))]


def _question(
    number: int, concepts: Sequence[Planted], planted: Sequence[PlantedDirection], real_ids: Sequence[str]
) -> Question:
    asked = concepts[number]
    family_by_name = {concept.name: concept.family for concept in concepts}
    strangers = [concept.name for concept in concepts if concept.family != asked.family]
    siblings = [c.name for c in concepts if c.family == asked.family and c.name != asked.name]

    def ids(kind: str, *names: str) -> list[str]:
        return [item.direction.id for item in planted if item.kind == kind and set(names) <= set(item.concepts)]

    own = ids("concept", asked.name) + ids("contrast", asked.name)
    # another layer of each, turn by turn
    distractors = [_turn(ids("concept", name), number + place, 1)[0] for place, name in enumerate(siblings)]
    distant = [
        _turn(ids("concept", name), number + place, 1)[0]
        for place, name in enumerate(_turn(strangers, number * N_OTHER_FAMILIES, N_OTHER_FAMILIES))
    ]
    controls = [i for kind in ("random", "shuffled") for i in _turn(ids(kind), number * N_EACH_CONTROL, N_EACH_CONTROL)]
    unknown = ids("mixture", asked.name) + _turn(real_ids, number * N_REAL, N_REAL)
    truth: dict[str, bool | None] = dict.fromkeys(own, True)
    truth |= dict.fromkeys([*distractors, *distant, *controls], False) | dict.fromkeys(unknown, None)
    wanted = next(c for c in [*concepts[number:], *concepts] if family_by_name[c.name] != asked.family)
    return Question(asked.name, asked.family, Concept(asked.text, wanted.text), truth)


def _turn(values: Sequence[str], start: int, n: int) -> list[str]:
    """n of the values from `start` on, round and round; all of them if there are fewer."""
    return [values[(start + i) % len(values)] for i in range(min(n, len(values)))]
