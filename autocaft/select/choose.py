"""The choose stage: what a person decided, and what comes of the judge with that person's help.

In: candidates, the judge's verdicts and decisions, a person's file. Out: `decisions.jsonl`, what the file says, and
`hybrid.jsonl`, one decision a candidate with whoever made it: the person where the judge abstained or gave no score
and the person said something, the judge's rule everywhere else.

The decision a reader would question: this is a stage of its own, which no arm of the judge's needs. A person's file
that is added to a finished run, or changed, trains the arms that use it and no other.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path

from autocaft.arms import ArmSource, Selector
from autocaft.errors import NothingSelectedError
from autocaft.records import Decision, Direction, Verdict
from autocaft.resources import data_path
from autocaft.rundir.files import write_records
from autocaft.select.choices import read_person_choice
from autocaft.select.options import SelectOptions
from autocaft.select.select import candidates_of, ids_for
from autocaft.select.verdicts import in_doubt

HYBRID = "hybrid.jsonl"


def choose(
    directions: Sequence[Direction],
    judged: Sequence[Verdict],
    decided: Sequence[Decision],
    options: SelectOptions,
    *,
    needed: Collection[tuple[ArmSource, Selector]],
    out: Path,
    at: str | None = None,
) -> None:
    """Write `decisions.jsonl` and `hybrid.jsonl` into `out`.

    Args:
        decided: the log of the select stage.
        needed: source and selector of the arms that will be trained and need the person, controls among them.
        at: time of the decisions, UTC; default now.

    Raises:
        NothingSelectedError: the set behind an arm is empty. Nothing is written.
        DataError: the file cannot be used.
    """
    assert options.file is not None, "the stage is declared where there is a file"
    moment = at or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    said = read_person_choice(data_path(options.file), directions, options.person, moment)
    helped = with_help(decided, said, in_doubt(directions, judged))
    for source, selector in sorted(needed):
        candidates = candidates_of(directions, source)
        if not ids_for(selector, candidates, helped if selector == "hybrid" else [*decided, *said]):
            whose = "neither the judge nor select.file takes any" if selector == "hybrid" else "select.file names none"
            raise NothingSelectedError(
                f"caft-{source}-{selector}: {whose} of the {len(candidates)} {source} candidates"
            )
    write_records(out / "decisions.jsonl", said)
    write_records(out / HYBRID, helped)


def with_help(decided: Sequence[Decision], said: Sequence[Decision], doubted: Collection[str]) -> list[Decision]:
    """One decision a candidate: the person's on what the judge was not sure of, else the rule's.

    A doubted direction on which the person said nothing stays as the rule has it.
    """
    rule = {decision.direction_id: decision for decision in decided if decision.by.startswith("auto:")}
    person = {decision.direction_id: decision for decision in said}
    return [person.get(i, own) if i in doubted else own for i, own in rule.items()]
