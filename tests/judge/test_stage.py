"""Which judge is made, and what options are refused."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from pydantic import ValidationError

from autocaft.errors import JudgeError
from autocaft.judge.base import Card, Concept, Judge, UsageBook, unscored
from autocaft.judge.options import JudgeOptions
from autocaft.judge.stage import judge_directions, make_judge, neighbour_encoder
from autocaft.llm.client import MemoryStore
from autocaft.records import Direction, Example, Verdict
from autocaft.rundir.options import fingerprint_options
from autocaft.rundir.progress import NullProgress, Progress

Planted = tuple[list[Direction], list[Example]]
CONCEPT = {"undesired": "gender", "wanted": "case"}


class Counting:
    """A local judge that stops after so many verdicts, as if the process had been killed."""

    name, prompt_hash = "offline", "v1"

    def __init__(self, *models: object, n: int = 99) -> None:
        self.usage = UsageBook()
        self.reads_together = False
        self.readers: Mapping[str, str] = dict.fromkeys(("describe", "verify", "rate"), self.name)
        self.n = n
        self.seen: list[str] = []

    def judge(self, cards: Sequence[Card], concept: Concept, progress: Progress) -> Iterator[Verdict]:
        for card in cards:
            if len(self.seen) == self.n:
                raise KeyboardInterrupt
            self.seen.append(card.direction_id)
            yield unscored(card, self, "empty")


def run(data: Planted, judge: Judge, out: Path) -> dict[str, object]:
    return judge_directions(
        directions=data[0],
        examples=data[1],
        options=JudgeOptions(**CONCEPT),
        judge=judge,
        out=out,
        progress=NullProgress(),
    )


def test_an_exported_key_does_not_change_the_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    offline = types.ModuleType("autocaft.judge.offline")
    offline.OfflineJudge = Counting  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "autocaft.judge.offline", offline)
    for variable in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(variable, "sk-live")
    options = JudgeOptions(**CONCEPT)
    assert options.judge == "offline"
    judge = make_judge(options, store=MemoryStore(), local_model=lambda: (object(), object()))
    assert isinstance(judge, Counting)


def test_a_paid_judge_does_not_load_the_local_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-live")

    def load() -> tuple[object, object]:
        raise AssertionError("loaded")

    judge = make_judge(JudgeOptions(judge="openai:m", **CONCEPT), store=MemoryStore(), local_model=load)
    assert judge.name == "openai:m"


def test_a_paid_judge_without_a_key_says_which_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    with pytest.raises(JudgeError, match="ANTHROPIC_API_KEY"):
        make_judge(JudgeOptions(judge="anthropic:m", **CONCEPT), store=MemoryStore())


def test_a_local_judge_goes_on_direction_by_direction(two_directions: Planted, tmp_path: Path) -> None:
    first = Counting(n=1)
    with pytest.raises(KeyboardInterrupt):
        run(two_directions, first, tmp_path)
    second = Counting()
    summary = run(two_directions, second, tmp_path)
    assert first.seen + second.seen == ["L14.latent1", "L14.pc0"]
    assert summary["n_directions"] == 2 and not (tmp_path / "verdicts.partial.jsonl").exists()


def test_verdicts_of_another_method_are_not_taken_over(two_directions: Planted, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(two_directions, Counting(n=1), tmp_path)
    newer = Counting()
    newer.prompt_hash = "v2"
    run(two_directions, newer, tmp_path)
    assert newer.seen == ["L14.latent1", "L14.pc0"]


def test_a_verdict_without_the_newer_fields_can_be_read() -> None:
    card = Card("d", "sae", 1, (), (), (), (), (), {})
    row = unscored(card, Counting(), "empty").to_row()
    for name in ("doubt", "other_description", "other_relevance"):
        del row[name]
    assert Verdict.from_row(row) == unscored(card, Counting(), "empty")
    with pytest.raises(ValueError, match="no field 'newest'"):
        Verdict.from_row(row | {"newest": 1})


@pytest.mark.parametrize("judge", ["gpt", "openai", "openai:", "files:", "other:model"])
def test_an_unknown_judge_is_refused_with_the_menu(judge: str) -> None:
    with pytest.raises(ValidationError, match="openai:MODEL, anthropic:MODEL, local:MODEL or files:DIR"):
        JudgeOptions(judge=judge, **CONCEPT)


def test_the_concept_is_required_in_words() -> None:
    with pytest.raises(ValidationError, match="in words"):
        JudgeOptions(undesired=" ", wanted="case")


def test_concurrency_and_patience_do_not_change_the_fingerprint() -> None:
    there, back = JudgeOptions(**CONCEPT), JudgeOptions(**CONCEPT, concurrency=1, timeout_s=1, patience_s=1)
    assert fingerprint_options(there) == fingerprint_options(back)


def test_hard_negatives_are_for_every_judge_but_the_offline_one_unless_they_are_asked_for() -> None:
    words = {"undesired": "u", "wanted": "w"}
    assert neighbour_encoder(JudgeOptions(**words)) is None
    assert neighbour_encoder(JudgeOptions(**words, hard_negatives=True)) is not None
    assert neighbour_encoder(JudgeOptions(**words, judge="openai:m")) is not None
    assert neighbour_encoder(JudgeOptions(**words, judge="openai:m", hard_negatives=False)) is None
