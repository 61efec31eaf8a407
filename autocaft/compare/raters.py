"""Who said what about the directions of a run.

In: the decisions of the stages select and choose, and the review page's files. Out: one `Rater` a judge's rule and a
person. The decision a reader would question: a person's file (`select.file`) that only lists what to ablate is taken as
keeping the rest, among candidates of the kinds it names; one that also says what to keep, and a review, count what is
said and nothing else. Whoever is both in the decisions and on the review page counts with the review, of which the file
is presumably an export. Only what a person read on a card, before the judge's or another person's words on it, is
`read_blind`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from autocaft.errors import DataError
from autocaft.outcome import decision_logs
from autocaft.records import Decision, Direction
from autocaft.review.acts import (
    Act,
    acts_on_cards,
    answers,
    first_answers,
    log_path,
    own_acts,
    read_acts,
    repeats_of,
    reviewers,
)
from autocaft.review.deck import card_hashes
from autocaft.rundir.files import read_records


@dataclass(frozen=True)
class Rater:
    """One judge's rule or one person."""

    by: str
    """`auto:<rule>` or `human:<name>`."""
    ablates: Mapping[str, bool]
    """Direction id -> ablate; without what the rater said nothing on."""
    reason_by_id: Mapping[str, str]
    from_list: bool = False
    """The rater only listed what to ablate: the rest is taken as kept."""
    read_blind: frozenset[str] = frozenset()
    """Directions of which the person read the card; nobody knows that of a list."""
    unsure: frozenset[str] = frozenset()
    n_copied: int = 0
    """Answers that a file brought in and another person had given; they are not in `ablates`."""
    n_not_blind: int = 0
    """Answers given or changed after the judge's or another person's were seen; `ablates` has what was said before, if
    anything."""
    seconds: Sequence[float] = ()
    """Time of each answer that has one, of random directions and of what was shown again, too."""
    seconds_by_id: Mapping[str, float] = field(default_factory=dict)
    """Time of the answer to each direction, as far as it was recorded."""
    repeats: Sequence[tuple[str, str]] = ()
    """First and second answer on each direction that was shown twice."""

    @property
    def is_human(self) -> bool:
        """Whether a person decided."""
        return self.by.startswith("human:")

    @property
    def read(self) -> set[str]:
        """What the rater has answered; of a list, what it may have been chosen from."""
        return {*self.ablates, *self.unsure}

    @property
    def chosen(self) -> set[str]:
        """What the rater ablates."""
        return {direction_id for direction_id, ablate in self.ablates.items() if ablate}


def load_raters(run_dir: Path, directions: Sequence[Direction]) -> list[Rater]:
    """All judges' rules and persons of a run; rules first, each in order of name.

    Raises:
        DataError: the run has no decisions, or a file cannot be read.
    """
    path = run_dir / "select" / "decisions.jsonl"
    if not path.is_file():
        raise DataError(
            f"{run_dir}: no select/decisions.jsonl, so nothing is decided yet. Run `autocaft select {run_dir}`."
        )
    log_by_rater: dict[str, list[Decision]] = defaultdict(list)
    for decision in (d for log in decision_logs(run_dir) if log.is_file() for d in read_records(log, Decision)):
        if decision.by.split(":")[0] in ("auto", "human"):
            log_by_rater[decision.by].append(decision)
    raters = {by: _from_decisions(by, log, directions) for by, log in log_by_rater.items()}
    hashes = card_hashes(run_dir)
    for name in reviewers(run_dir):
        by = f"human:{name}"
        acts = own_acts(acts_on_cards(read_acts(log_path(run_dir, name)), hashes), by)
        if acts:
            raters[by] = _from_acts(by, acts)
    return [raters[by] for by in sorted(raters)]


def _from_decisions(by: str, log: Iterable[Decision], directions: Sequence[Direction]) -> Rater:
    """The last decision on each direction; a list of what to ablate is completed with what it leaves out."""
    latest = {decision.direction_id: decision for decision in log}
    ablates = {direction_id: decision.ablate for direction_id, decision in latest.items()}
    from_list = by.startswith("human:") and all(ablates.values())
    if from_list:
        kinds = {direction.source for direction in directions if direction.id in ablates}
        ablates = {d.id: d.id in ablates for d in directions if d.source in kinds}
    reasons = {direction_id: decision.reason for direction_id, decision in latest.items()}
    return Rater(by, ablates, reasons, from_list)


def _from_acts(by: str, acts: Sequence[Act]) -> Rater:
    """What a reviewer answered before seeing the judge's words or another person's."""
    blind, standing = answers(acts, blind=True), first_answers(answers(acts))
    first = first_answers(blind)
    decided = [answer for answer in first.values() if answer.choice != "unsure"]
    own = {direction_id: answer for direction_id, answer in standing.items() if not answer.copied_from}
    return Rater(
        by,
        {answer.direction_id: answer.choice == "ablate" for answer in decided},
        {answer.direction_id: answer.note for answer in decided},
        read_blind=frozenset(first),
        unsure=frozenset(i for i, answer in first.items() if answer.choice == "unsure"),
        n_copied=len(standing) - len(own),
        n_not_blind=sum(first.get(i) != answer for i, answer in own.items()),
        seconds=[answer.seconds for answer in blind.values() if answer.seconds is not None],
        seconds_by_id={i: answer.seconds for i, answer in own.items() if answer.seconds is not None},
        repeats=[(one.choice, two.choice) for one, two in repeats_of(blind)],
    )
