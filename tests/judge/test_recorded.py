"""Replies that a person wrote to real cards, played back through `files:`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from autocaft.judge.options import JudgeOptions
from autocaft.judge.stage import judge_directions, make_judge
from autocaft.llm.client import MemoryStore
from autocaft.records import Direction, Example, Verdict
from autocaft.rundir.files import read_records
from autocaft.rundir.progress import NullProgress
from autocaft.select.options import SelectOptions
from autocaft.select.verdicts import decide

RECORDED = Path(__file__).parent / "recorded"
DIRECTIONS = read_records(RECORDED / "directions.jsonl", Direction)


@pytest.fixture
def verdicts(tmp_path: Path) -> dict[str, Verdict]:
    """The recorded replies, judged as a run would."""
    shutil.copytree(RECORDED / "replies", tmp_path / "files" / "replies")
    options = JudgeOptions(
        judge=f"files:{tmp_path / 'files'}", undesired="the gender of a person", wanted="grammatical case",
        hard_negatives=False,
    )  # fmt: skip
    judge_directions(
        directions=DIRECTIONS,
        examples=read_records(RECORDED / "examples.jsonl.gz", Example),
        options=options,
        judge=make_judge(options, store=MemoryStore()),
        out=tmp_path / "out",
        progress=NullProgress(),
    )
    return {verdict.direction_id: verdict for verdict in read_records(tmp_path / "out" / "verdicts.jsonl", Verdict)}


def test_a_careful_readers_descriptions_verify_on_real_windows(verdicts: dict[str, Verdict]) -> None:
    assert all(verdict.unscored_reason is None for verdict in verdicts.values())
    assert all((verdict.detection or 0.0) >= 0.9 for verdict in verdicts.values()), verdicts
    assert all(verdict.discrimination == 1.0 and verdict.quotes for verdict in verdicts.values())


def test_what_is_selected_is_what_the_reader_called_gender(verdicts: dict[str, Verdict]) -> None:
    decisions = decide(DIRECTIONS, list(verdicts.values()), SelectOptions(), "")
    assert {d.direction_id for d in decisions if d.ablate} == {"L20.latent1354", "L14.latent1214"}
