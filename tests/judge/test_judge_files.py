"""The judge that is somebody else: cards out, replies in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from planted import files_reply

from autocaft.errors import JudgeError
from autocaft.judge.options import JudgeOptions
from autocaft.judge.stage import judge_directions, make_judge
from autocaft.llm.client import MemoryStore
from autocaft.records import Direction, Example, Verdict
from autocaft.rundir.files import read_records
from autocaft.rundir.progress import NullProgress

Planted = tuple[list[Direction], list[Example]]


def run(data: Planted, folder: Path, out: Path) -> tuple[list[Verdict], dict[str, Any]]:
    options = JudgeOptions(judge=f"files:{folder}", undesired="gender of a person", wanted="case")
    judge = make_judge(options, store=MemoryStore())
    summary = judge_directions(
        directions=data[0], examples=data[1], options=options, judge=judge, out=out, progress=NullProgress()
    )
    return read_records(out / "verdicts.jsonl", Verdict), summary


def cards_of(data: Planted, folder: Path, out: Path) -> dict[str, dict[str, Any]]:
    """Let the judge write its cards."""
    with pytest.raises(JudgeError, match=r"2 of 2 replies are missing.*replies.*\n.*same command continues"):
        run(data, folder, out)
    return {path.name: json.loads(path.read_text()) for path in sorted((folder / "cards").iterdir())}


def put(folder: Path, name: str, reply: Any) -> None:
    (folder / "replies" / name).write_text(reply if isinstance(reply, str) else json.dumps(reply))


def test_cards_go_out_and_replies_come_back(two_directions: Planted, tmp_path: Path) -> None:
    folder = tmp_path / "cards"
    for name, card in cards_of(two_directions, folder, tmp_path / "out").items():
        assert "answer_key" not in card
        put(folder, name, files_reply(card))
    (latent, pc), summary = run(two_directions, folder, tmp_path / "out")
    assert (latent.relevance, latent.detection, latent.pole) == (95.0, 1.0, "top")
    assert (pc.relevance, pc.detection, pc.pole) == (95.0, 1.0, "bottom")
    assert latent.judge == f"files:{folder}" and summary["n_calls"] == 0
    assert "gender of a person" in (folder / "README.txt").read_text()
    assert sorted(path.name for path in folder.glob("*.json")) == [
        "reply.schema.one_pole.json",
        "reply.schema.one_pole_with_choices.json",
        "reply.schema.two_pole.json",
        "reply.schema.two_pole_with_choices.json",
    ]


def test_missing_and_broken_replies_are_named_and_the_good_ones_kept(two_directions: Planted, tmp_path: Path) -> None:
    folder = tmp_path / "cards"
    cards = cards_of(two_directions, folder, tmp_path / "out")
    good = files_reply(cards["L14.latent1.json"])
    put(folder, "L14.latent1.json", good)
    with pytest.raises(JudgeError, match="1 of 2 replies is missing"):
        run(two_directions, folder, tmp_path / "out")
    put(folder, "L14.pc0.json", "{not json")
    with pytest.raises(JudgeError, match=r"L14\.pc0\.json: not valid JSON"):
        run(two_directions, folder, tmp_path / "out")
    assert json.loads((folder / "replies" / "L14.latent1.json").read_text()) == good


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda reply: reply["rate"]["top"].update(relevance=101), "rate.top.relevance: 101 is greater"),
        (lambda reply: reply.update(card="0123456789abcdef"), "is not this card"),
        (lambda reply: reply["verify"]["answers"].pop(), "verify.answers: no answer for i"),
        (lambda reply: reply.pop("describe"), "'describe' is a required property"),
        (lambda reply: reply["verify"]["answers"][0].update(id="x"), "there is no item 'x'"),
    ],
)
def test_what_does_not_fit_is_said(change: Any, message: str, two_directions: Planted, tmp_path: Path) -> None:
    folder = tmp_path / "cards"
    for name, card in cards_of(two_directions, folder, tmp_path / "out").items():
        reply = files_reply(card)
        if name == "L14.pc0.json":
            change(reply)
        put(folder, name, reply)
    with pytest.raises(JudgeError, match="1 reply does not fit") as caught:
        run(two_directions, folder, tmp_path / "out")
    assert "L14.pc0.json" in str(caught.value) and message in str(caught.value)


def test_who_cannot_answer_leaves_the_direction_unscored(two_directions: Planted, tmp_path: Path) -> None:
    folder = tmp_path / "cards"
    for name, card in cards_of(two_directions, folder, tmp_path / "out").items():
        put(folder, name, {"card": card["card"], "unscored_reason": "refusal"})
    verdicts, summary = run(two_directions, folder, tmp_path / "out")
    assert {verdict.unscored_reason for verdict in verdicts} == {"refusal"} and summary["unscored"] == {"refusal": 2}


def test_invented_quotes_do_not_count_here_either(two_directions: Planted, tmp_path: Path) -> None:
    folder = tmp_path / "cards"
    for name, card in cards_of(two_directions, folder, tmp_path / "out").items():
        reply = files_reply(card)
        for pole in ("top", "bottom"):
            if pole in reply["rate"]:
                reply["rate"][pole]["quotes"] = ["invented"]
        put(folder, name, reply)
    verdicts, summary = run(two_directions, folder, tmp_path / "out")
    assert {verdict.unscored_reason for verdict in verdicts} == {"no_quote"} and summary["n_quotes_dropped"] == 3
