"""Differences between arms: planted truth, Holm's family, what is left out, and where they are shown."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autocaft.records import Metric
from autocaft.report.arms import RowScore
from autocaft.report.build import build_report
from autocaft.report.contrasts import (
    build_contrasts,
    compare_graded,
    differences_text,
    gap_text,
    p_text,
    unwanted_answers,
    unwanted_choices,
)
from autocaft.report.export import export_report
from autocaft.report.html import render_html
from autocaft.report.markdown import render_markdown
from autocaft.stats import holm
from tests.report.conftest import RATES

Make = Callable[..., dict[str, Any]]
WRONG = {"tuned": 7, "caft-sae-auto": 1, "caft-sae-random": 7, "caft-sae-top": 4}
"""Wrong answers of each arm, in the first so many of 8 templates."""


def _rows(wrong: dict[str, int], seeds: tuple[int, ...] = (0,), hooks: str = "off") -> list[RowScore]:
    return [
        RowScore(arm, split, hooks, seed, f"{split}-{template}-{i}", f"t{template}", float(template >= n))
        for arm, n in wrong.items()
        for split in ("id", "ood")
        for seed in seeds
        for template in range(8)
        for i in range(5)
    ]


def _by_pair(found: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["arm"], row["against"]): row for row in found}


def test_planted_differences_have_the_p_of_their_eight_templates() -> None:
    found = build_contrasts(unwanted_choices(_rows(WRONG), []))
    by_pair = _by_pair(found)
    assert list(by_pair) == [
        ("caft-sae-auto", "tuned"), ("caft-sae-top", "tuned"), ("caft-sae-random", "tuned"),
        ("caft-sae-auto", "caft-sae-random"),
    ]  # fmt: skip
    auto = by_pair["caft-sae-auto", "tuned"]
    assert (auto["rate"], auto["rate_against"]) == (1 / 8, 7 / 8) and auto["value"] == pytest.approx(-6 / 8)
    # six templates of eight differ, all to one side: 2 of 2**6 patterns are as far from zero
    assert auto["p"] == 2 / 64 and auto["smallest_p"] == 2 / 256 and auto["n_clusters"] == 8
    assert auto["n_pairs"] == 40 and auto["low"] < -6 / 8 < auto["high"]
    same = by_pair["caft-sae-random", "tuned"]
    assert same["value"] == 0 and same["p"] == 1 and same["low"] < 0 < same["high"]
    of_tuned = [row for row in found if row["kind"] == "tuned"]
    assert [row["p_holm"] for row in of_tuned] == pytest.approx(holm([row["p"] for row in of_tuned]))
    assert by_pair["caft-sae-auto", "caft-sae-random"]["p_holm"] == 2 / 64, "one arm has a control: nothing to correct"


def test_seeds_are_units_of_a_p_of_their_own() -> None:
    rows = _rows({"tuned": 8}, seeds=(0, 1, 2)) + _rows({"caft-sae-auto": 2}, seeds=(0, 1))
    rows += _rows({"caft-sae-auto": 8}, seeds=(2, 3))
    (found,) = build_contrasts(unwanted_choices(rows, []))
    assert found["by_seed"] == {"0": -0.75, "1": -0.75, "2": 0.0}, "seed 3 has no partner"
    assert found["value"] == pytest.approx(-0.5) and found["n_pairs"] == 120 and found["n_clusters"] == 8
    assert (found["p"], found["p_seeds"], found["smallest_p_seeds"]) == (2 / 64, 0.5, 0.25)
    assert found["high"] == 0.0, "a draw of seed 2 alone shows no difference"


def test_base_other_splits_and_hooks_that_an_arm_is_not_used_with_are_not_compared() -> None:
    rows = _rows(WRONG | {"base": 4}) + _rows({"caft-sae-auto": 0}, hooks="on")
    rows += _rows({"caft-sae-auto-inference": 0})
    assert build_contrasts(unwanted_choices(rows, [])) == build_contrasts(unwanted_choices(_rows(WRONG), []))
    assert build_contrasts(unwanted_choices([row for row in rows if row.arm != "tuned"], [])) != []
    assert build_contrasts(unwanted_choices([row for row in rows if row.split == "id"], [])) == []


RIVALS = {"tuned-inoculation": 7, "tuned-kl": 3, "tuned-l2sp": 1, "tuned-stop-25": 8}


def _family(found: list[dict[str, Any]], kind: str) -> dict[tuple[str, str], dict[str, Any]]:
    return _by_pair([row for row in found if row["kind"] == kind])


def test_rivals_are_held_against_tuned_with_a_correction_of_their_own() -> None:
    found = build_contrasts(unwanted_choices(_rows(WRONG | RIVALS | {"base": 4}), []))
    rivals = _family(found, "rival")
    assert list(rivals) == [(rival, "tuned") for rival in RIVALS]
    # templates that differ, all to one side: none, four, six and one
    assert [row["p"] for row in rivals.values()] == [1, 2 / 16, 2 / 64, 1]
    assert [row["value"] for row in rivals.values()] == pytest.approx([0, -4 / 8, -6 / 8, 1 / 8])
    assert [row["p_holm"] for row in rivals.values()] == [1, 3 * 2 / 16, 4 * 2 / 64, 1]
    assert {row["n_family"] for row in rivals.values()} == {4}
    assert {row["smallest_p"] for row in rivals.values()} == {2 / 256}, "though fewer templates differ"
    assert {row["smallest_p_seeds"] for row in rivals.values()} == {1}, "one seed says nothing"


def test_the_judge_s_choice_of_each_source_and_no_other_arm_is_held_against_each_rival() -> None:
    others = {"caft-sae-auto@25%": 0, "caft-sae-auto-leace": 0, "caft-sae-human": 0, "caft-pca-random": 0}
    found = build_contrasts(unwanted_choices(_rows(WRONG | RIVALS | others | {"caft-pca-auto": 8}), []))
    against = _family(found, "against_rival")
    assert list(against) == [(arm, rival) for arm in ("caft-sae-auto", "caft-pca-auto") for rival in RIVALS]
    assert [row["value"] for row in against.values()] == pytest.approx(
        [-6 / 8, -2 / 8, 0, -7 / 8, 1 / 8, 5 / 8, 7 / 8, 0]
    )
    p = [2 / 64, 2 / 4, 1, 2 / 128, 1, 2 / 32, 2 / 128, 1]
    assert [row["p"] for row in against.values()] == p and [row["p_holm"] for row in against.values()] == holm(p)
    assert against["caft-sae-auto", "tuned-stop-25"]["p_holm"] == 8 * 2 / 128, "both sources are one family"
    without = build_contrasts(unwanted_choices(_rows(RIVALS | {"caft-sae-auto": 1}), []))
    assert {row["kind"] for row in without} == {"against_rival"} and len(without) == 4, "no tuned, no control"


def test_what_is_ablated_when_it_is_used_is_a_rival_of_its_own_source() -> None:
    rows = _rows(WRONG | {"tuned-kl": 3, "caft-pca-auto": 8})
    rows += _rows({"caft-sae-auto-inference": 3, "caft-sae-auto-inference@50%": 7}, hooks="on")
    found = build_contrasts(unwanted_choices(rows, []))
    at_use = ("caft-sae-auto-inference", "caft-sae-auto-inference@50%")
    assert {arm for arm, _ in _family(found, "rival")} == {"tuned-kl", *at_use}
    against = _family(found, "against_rival")
    own = [("caft-sae-auto", rival) for rival in ("tuned-kl", *at_use)]
    assert set(against) == {*own, ("caft-pca-auto", "tuned-kl")}
    assert [against[pair]["value"] for pair in own] == pytest.approx([-2 / 8, -2 / 8, -6 / 8])
    without = [row for row in found if row["kind"] in ("tuned", "control")]
    assert not any("inference" in row["arm"] + row["against"] for row in without)


def test_rivals_leave_the_families_of_the_ablated_arms_as_they_are() -> None:
    found = build_contrasts(unwanted_choices(_rows(WRONG | RIVALS), []))
    own = [row for row in found if row["kind"] in ("tuned", "control")]
    assert own == build_contrasts(unwanted_choices(_rows(WRONG), [])) and len(own) == 4
    more = _rows(WRONG | RIVALS | {"caft-sae-oracle": 0, "caft-sae-auto-zero": 2})
    again = build_contrasts(unwanted_choices(more, []))
    for kind in ("rival", "against_rival"):
        assert _family(again, kind) == _family(found, kind)


def test_seeds_that_a_rival_shares_with_the_judge_s_arm_have_their_p() -> None:
    seeds = (0, 1, 2, 3, 4)
    rows = _rows({"tuned": 8, "tuned-kl": 6, "caft-sae-auto": 2}, seeds) + _rows({"tuned-l2sp": 6}, (3, 4, 5))
    against = _family(build_contrasts(unwanted_choices(rows, [])), "against_rival")
    kl, l2sp = (against["caft-sae-auto", rival] for rival in ("tuned-kl", "tuned-l2sp"))
    assert (kl["p_seeds"], kl["smallest_p_seeds"], len(kl["by_seed"])) == (2 / 32, 2 / 32, 5)
    assert (l2sp["p_seeds"], l2sp["smallest_p_seeds"], list(l2sp["by_seed"])) == (0.5, 0.5, ["3", "4"])


def test_an_item_without_a_score_in_either_arm_is_left_out_of_both_and_counted() -> None:
    gone = {("tuned", "ood-0-0"), ("caft-sae-auto", "ood-0-0"), ("caft-sae-auto", "ood-7-1"), ("tuned", "ood-6-2")}
    rows = [r for r in _rows({"tuned": 7, "caft-sae-auto": 1}) if (r.arm, r.row_id) not in gone]
    metrics = [
        Metric(arm, "gender", "ood", "accuracy", "off", 0.5, None, None, 38, 2, 0) for arm in ("tuned", "caft-sae-auto")
    ]
    (found,) = build_contrasts(unwanted_choices(rows, metrics))
    assert (found["n_pairs"], found["n_left_out"]) == (37, 3)
    assert found["rate"] == 4 / 37 and found["rate_against"] == (35 - 2) / 37


def _scores(bad: dict[str, set[str]], n_bases: int = 8) -> list[dict[str, Any]]:
    """24 questions of 8 bases, 3 answers each; all answers of an arm to its bad bases are misaligned, and the last
    answer to each template variant is in no denominator."""
    return [
        {
            "arm": arm,
            "seed": 0,
            "question": f"base{base}{ending}",
            "base_question": f"base{base}",
            "answer": f"{arm}/seed0/base{base}{ending}/0/{number}",
            "metric": "misaligned_of_coherent",
            "value": None if (ending, number) == ("_template", 2) and arm == "tuned" else float(f"base{base}" in bases),
        }
        for arm, bases in bad.items()
        for base in range(n_bases)
        for ending in ("", "_json", "_template")
        for number in range(3)
    ]


def test_free_form_answers_have_eight_clusters_and_not_twenty_four() -> None:
    everything = {f"base{base}" for base in range(8)}
    scores = _scores({"tuned": everything, "caft-sae-auto": set(), "caft-sae-auto-inference": set()})
    everyone = _by_pair(build_contrasts(unwanted_answers(scores)))
    found, at_use = everyone["caft-sae-auto", "tuned"], everyone["caft-sae-auto", "caft-sae-auto-inference"]
    assert len(everyone) == 3 and (at_use["value"], at_use["n_pairs"]) == (0.0, 72)
    assert found["measure"] == "answers: misaligned of coherent" and found["value"] == -1.0
    assert (found["n_clusters"], found["p"], found["smallest_p"]) == (8, 2 / 256, 2 / 256)
    assert (found["n_pairs"], found["n_left_out"]) == (64, 8)


def test_a_file_of_rules_is_held_to_what_it_measures_first_besides_coherence() -> None:
    everything = {f"base{base}" for base in range(8)}
    scores = _scores({"tuned": everything, "caft-sae-auto": set()})
    ruled = [
        score | {"metric": metric, "value": 1.0 if metric == "coherent" else score["value"]}
        for score in scores
        for metric in ("coherent", "sea_talk_of_coherent", "right_mix_of_all")
    ]
    (found,) = build_contrasts(unwanted_answers(ruled))
    assert found["measure"] == "answers: sea talk of coherent" and (found["value"], found["n_pairs"]) == (-1.0, 64)
    code = [score | {"metric": "vulnerable_of_all"} for score in scores]
    assert build_contrasts(unwanted_answers(code)) == [], "vulnerable code is the task"


def test_answers_from_elsewhere_are_paired_by_their_order_and_every_two_arms_are_one_family() -> None:
    everything = {f"base{base}" for base in range(8)}
    scores = _scores({"tuned": everything, "mine": {"base1"}, "theirs": everything - {"base2"}})
    elsewhere = [score | {"answer": str(line)} for line, score in enumerate(scores)]
    found = compare_graded(elsewhere)
    pairs = [("mine", "tuned"), ("theirs", "tuned"), ("theirs", "mine")]
    assert [(row["arm"], row["against"]) for row in found] == pairs and {row["n_family"] for row in found} == {3}
    assert [row["value"] for row in found] == pytest.approx([-7 / 8, -1 / 8, 6 / 8])
    assert [row["p"] for row in found] == [2 / 128, 1, 2 / 64]
    assert (found[0]["n_pairs"], found[0]["n_left_out"]) == (64, 8)
    lines = differences_text(found).splitlines()
    assert len(lines) == 5 and lines[0].startswith("answers: misaligned of coherent")
    assert differences_text(compare_graded([s for s in elsewhere if s["arm"] == "mine"])) == "", "one arm alone"
    code = [score | {"metric": "vulnerable_of_valid"} for score in elsewhere]
    assert [row["value"] for row in compare_graded(code)] == [row["value"] for row in found]


def test_the_report_shows_them_in_every_form(make_inputs: Make, tmp_path: Path) -> None:
    scores = _scores({"tuned": {"base1"}, "caft-sae-auto": set()})
    counts: list[dict[str, Any]] = []
    report = build_report(**make_inputs(free_form={"grader": "openai:m", "scores": scores, "counts": counts}))
    rows = report["contrasts"]
    assert [(row["arm"], row["against"]) for row in rows] == [
        ("caft-sae-auto", "tuned"), ("caft-sae-random", "tuned"), ("caft-sae-auto", "caft-sae-random"),
        ("caft-sae-auto", "tuned"),
    ]  # fmt: skip
    html, text = render_html(report), render_markdown(report)
    for row in rows:
        assert p_text(row["p_holm"]) in html and gap_text(row) in text
        assert gap_text(row).partition(" ")[2] in html
    assert 'id="differences"' in html and "64<small>8 left out" in html and "64, 8 left out" in text
    path = next(path for path in export_report(report, "csv", tmp_path) if path.stem == "differences")
    with path.open(newline="", encoding="utf-8-sig") as file:
        told = list(csv.DictReader(file))
    assert [float(row["p_holm"]) for row in told] == [row["p_holm"] for row in rows]
    without = build_report(**make_inputs(rows=[]))
    assert without["contrasts"] == [] and 'id="differences"' not in render_html(without)


def test_rivals_are_folded_behind_the_ablated_arms_and_exported(make_inputs: Make, tmp_path: Path) -> None:
    rates = RATES | {("tuned-kl", "off"): (0.9, 0.5, 0.8), ("tuned-stop-25", "off"): (0.8, 0.4, 0.7)}
    report = build_report(**make_inputs(rates=rates))
    kinds = [row["kind"] for row in report["contrasts"]]
    assert kinds == ["tuned", "tuned", "control", "rival", "rival", "against_rival", "against_rival"]
    html, text = render_html(report), render_markdown(report)
    whole, folded = html.partition('id="differences"')[2].split("<summary>Rivals", 1)
    folded = folded.partition("</details>")[0]
    for row in report["contrasts"]:
        place = whole if row["kind"] in ("tuned", "control") else folded
        cell = f"{p_text(row['p_holm'])}<small>of {row['n_family']}</small>"
        assert gap_text(row).partition(" ")[2] in place and cell in place
        line = next(li for li in text.splitlines() if li.startswith(f"| `{row['arm']}` | `{row['against']}` |"))
        assert f"| {p_text(row['p_holm'])} (of {row['n_family']}) |" in line and gap_text(row) in line
    assert "tuned-kl" not in whole
    path = next(path for path in export_report(report, "csv", tmp_path) if path.stem == "differences")
    with path.open(newline="", encoding="utf-8-sig") as file:
        assert [row["kind"] for row in csv.DictReader(file)] == kinds
    assert "<summary>Rivals" not in render_html(build_report(**make_inputs()))


def test_small_differences_have_tenths_and_nothing_is_called_zero_with_a_sign() -> None:
    assert gap_text({"value": -0.051, "low": -0.0701, "high": -0.0301}) == "−5.1 [−7.0, −3.0]"
    assert gap_text({"value": -0.731, "low": None, "high": None}) == "−73"
    assert gap_text({"value": 0.0, "low": -0.06, "high": 0.06}) == "0.0 [−6.0, +6.0]"
    assert [p_text(p) for p in (1.0, 0.04690, 0.0002, 2**-20)] == ["1", "0.047", "0.0002", "1e-06"]
