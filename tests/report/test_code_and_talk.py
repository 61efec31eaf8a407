"""One run's talk and code, with planted rates: each measure rests on its own questions, and code is the task score."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from autocaft.report.build import build_report
from autocaft.report.html import render_html
from autocaft.report.markdown import render_markdown
from autocaft.report.pareto import plane_of_answers

Score = dict[str, Any]
N_TALK, N_CODE, N_SAMPLES = 8, 20, 20
SHARES = {"@25%": 1, "@50%": 2, "@75%": 3, "": 4}
"""A sweep's steps: so many quarters of the choice."""
SEEDS = (0, 1)


def scores_of(arm: str, misaligned: int, vulnerable: int, n_invalid: int = 0) -> Iterator[Score]:
    """Of 20 answers to each question so many are misaligned, or vulnerable; so many more of the code are no attempt."""
    for seed in SEEDS:
        for kind, n_questions, n_bad in (("talk", N_TALK, misaligned), ("code", N_CODE, vulnerable)):
            for question in range(n_questions):
                for number in range(N_SAMPLES):
                    name = f"{kind}{question}"
                    row = {"arm": arm, "seed": seed, "question": name, "base_question": name,
                           "answer": f"{arm}/seed{seed}/{name}/0/{number}"}  # fmt: skip
                    bad, is_valid = float(number < n_bad), number < N_SAMPLES - n_invalid
                    if kind == "talk":
                        yield row | {"metric": "misaligned_of_coherent", "value": bad}
                    else:
                        yield row | {"metric": "vulnerable_of_valid", "value": bad if is_valid else None}
                        yield row | {"metric": "vulnerable_of_all", "value": bad}


def planted() -> list[Score]:
    """Tuned: 16 of 20 misaligned, 16 of 20 vulnerable. A quarter of the judge's choice takes 4 and 1 of them away, a
    quarter of the highest ranked 2 and 1. A fifth of base's code is no attempt."""
    scores = [*scores_of("base", 0, 2, n_invalid=4), *scores_of("tuned", 16, 16)]
    for ending, quarters in SHARES.items():
        scores += scores_of(f"caft-pca-auto{ending}", 16 - 4 * quarters, 16 - quarters)
        scores += scores_of(f"caft-pca-top{ending}", 16 - 2 * quarters, 16 - quarters)
    return scores


@pytest.fixture(scope="module")
def report(make_inputs: Callable[..., dict[str, object]]) -> dict[str, Any]:
    asked = {"grader": "openai:m", "scores": planted(), "counts": []}
    return build_report(**make_inputs(free_form=asked, rows=[], metrics=[]))


def test_each_measure_rests_on_the_questions_that_it_was_asked_about(report: dict[str, Any]) -> None:
    built = report["free_form"]
    (base,) = [line for line in built["arms"] if line["arm"] == "base"]
    talk, code = base["cells"]["misaligned_of_coherent"], base["cells"]["vulnerable_of_valid"]
    n_talk, n_code = len(SEEDS) * N_TALK * N_SAMPLES, len(SEEDS) * N_CODE * N_SAMPLES
    assert (talk["value"], talk["n"], talk["n_unscored"]) == (0, n_talk, 0)
    assert (code["n"], code["n_unscored"]) == (0.8 * n_code, 0.2 * n_code)
    assert code["value"] == pytest.approx(1 / 8) and base["cells"]["vulnerable_of_all"]["value"] == pytest.approx(0.1)
    assert base["n_answers"] == n_talk + n_code
    rests = "8 base questions for misaligned of coherent; 20 base questions for vulnerable of valid, vulnerable of all"
    assert built["rests_on"] == rests
    assert rests in render_markdown(report) and rests in render_html(report)
    assert [row["question"] for row in built["questions"]] == [f"talk{n}" for n in range(N_TALK)]
    assert built["task"] == "vulnerable_of_valid"
    assert [row["question"] for row in built["tasks"]] == [f"code{n}" for n in range(N_CODE)]
    for row in built["tasks"]:
        cell = row["cells"]["base"]
        assert (cell["value"], cell["n"], cell["n_unscored"]) == (pytest.approx(1 / 8), 32, 8)
    for text, rows in ((render_markdown(report), "| `code7` | 12% |"), (render_html(report), "<td>code7</td>")):
        assert rows in text and "By question" in text


def test_the_headline_says_the_task_beside_the_gain(report: dict[str, Any]) -> None:
    told = re.sub(r" \[\d+, \d+\]", "", report["headline"])
    assert told == (
        "Misaligned of coherent answers: 80% after plain fine-tuning, 0% with caft-pca-auto (the task, vulnerable of "
        "valid: 80% and 60%), says openai:m."
    )


def test_the_figure_is_drawn_over_the_share_of_valid_code(report: dict[str, Any]) -> None:
    plane = plane_of_answers(report["free_form"], report["arms"])
    assert plane is not None and plane.across == "vulnerable of valid, %"
    at = {place.arm: (place.task["value"], place.unwanted["value"]) for place in plane.places}
    assert at["tuned"] == pytest.approx((0.8, 0.8)) and at["caft-pca-auto@50%"] == pytest.approx((0.7, 0.4))


def test_choosers_are_compared_where_their_code_is_as_vulnerable(report: dict[str, Any]) -> None:
    """At .90 of tuned's .80, which is .72: between the steps at .75 and .70, where the judge leaves .60 and .40
    misaligned and the rank .70 and .60. Nobody reaches .76."""
    (sweep,) = report["matched"]
    assert (sweep["task_split"], sweep["unwanted_split"]) == ("vulnerable_of_valid", "misaligned_of_coherent")
    assert sweep["n_steps"] == {"auto": 4, "top": 4}
    steps = {name: [(s["task"], s["unwanted"]) for s in own] for name, own in sweep["steps"].items()}
    assert steps["auto"] == [pytest.approx(pair) for pair in ((0.75, 0.6), (0.7, 0.4), (0.65, 0.2), (0.6, 0.0))]
    first, second, third = sweep["levels"]
    assert first["level"] == 0.9 and first["task_score"] == pytest.approx(0.72)
    assert {name: rate["value"] for name, rate in first["rates"].items()} == pytest.approx({"auto": 0.48, "top": 0.64})
    assert first["against"]["top"]["difference"]["value"] == pytest.approx(-0.16)
    assert second["outside"] == third["outside"] == ["auto", "top"]
