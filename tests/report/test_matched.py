"""Sweeps with planted curves: what is read off at a matched task score, and when nothing may be."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

import numpy as np
import pytest

from autocaft.arms import parse_arm
from autocaft.compare.table import run_table
from autocaft.errors import ConfigError
from autocaft.report.arms import RowScore
from autocaft.report.build import build_report
from autocaft.report.html import render_html
from autocaft.report.markdown import render_markdown
from autocaft.report.matched import build_matched, compare_at_matched_score, interpolated

SHARES = (25, 50, 75, 100)
Curve = Callable[[int], tuple[float, float]]
"""Share of the choice -> (task score, unwanted rate)."""


def _arm(selector: str, share: int) -> str:
    return f"caft-sae-{selector}" + ("" if share == 100 else f"@{share}%")


def _rows(
    curves: dict[str, Curve], *, seeds: tuple[int, ...] = (0, 1, 2), shares: tuple[int, ...] = SHARES
) -> list[RowScore]:
    """Tuned (task 1, unwanted .9) and each sweep, 40 clusters of 5 rows a split; every rate is met nearly exactly."""
    rates = {"tuned": (1.0, 0.9)} | {_arm(s, share): curve(share) for s, curve in curves.items() for share in shares}
    rows = []
    for arm, (task, unwanted) in rates.items():
        for seed in seeds:
            for split, right in (("neutral", task), ("ood", 1 - unwanted)):
                order = random.Random(f"{seed}{split}").sample(range(200), 200)
                rows += [
                    RowScore(
                        arm, split, "off", seed, f"{split}-{i}", f"{split}-t{i // 5}", float(order[i] < 200 * right)
                    )
                    for i in range(200)
                ]
    return rows


def _linear(task_lost: float, gained: float) -> Curve:
    """Each quarter of the choice costs as much of the task and gains as much."""
    return lambda share: (1 - task_lost * share / 100, 0.9 - gained * share / 100)


def test_the_rates_are_those_of_the_planted_curves_at_the_same_task_score() -> None:
    rows = _rows({"auto": _linear(0.2, 0.6), "human": _linear(0.2, 0.8)})
    (found,) = compare_at_matched_score(rows, {"caft-sae-auto": 24})
    assert found["why"] is None and found["n_steps"] == {"auto": 4, "human": 4} and found["seeds"] == [0, 1, 2]
    at = {level["level"]: level for level in found["levels"]}
    assert at[0.9]["task_score"] == pytest.approx(0.9)
    assert at[0.9]["rates"]["auto"]["value"] == pytest.approx(0.6) and at[0.9]["rates"]["human"][
        "value"
    ] == pytest.approx(0.5)
    against = at[0.9]["against"]["human"]
    assert against["difference"]["value"] == pytest.approx(0.1)
    assert against["difference"]["low"] < 0.1 < against["difference"]["high"]
    assert against["share_of_gain"]["value"] == pytest.approx(0.3 / 0.4)
    assert at[0.95]["rates"]["auto"]["value"] == pytest.approx(0.75)
    assert at[1.0]["outside"] == ["auto", "human"] and at[1.0]["against"]["human"]["difference"] is None
    assert found["steps"]["auto"][-1] == {
        "arm": "caft-sae-auto",
        "task": pytest.approx(0.8),
        "unwanted": pytest.approx(0.3),
        "n_directions": 24,
    }


def test_a_choice_that_only_costs_more_is_no_better_at_the_same_score() -> None:
    """At their whole size the two differ by 0.3; on the way there they are one curve."""
    rows = _rows({"auto": _linear(0.1, 0.3), "human": _linear(0.2, 0.6)})
    (found,) = compare_at_matched_score(rows, {})
    whole = {name: steps[-1]["unwanted"] for name, steps in found["steps"].items()}
    assert whole["auto"] - whole["human"] == pytest.approx(0.3)
    at = found["levels"][1]
    assert at["level"] == 0.95 and at["against"]["human"]["difference"]["value"] == pytest.approx(0, abs=1e-9)


def test_the_share_of_the_gain_is_printed_beside_the_difference() -> None:
    (found,) = compare_at_matched_score(_rows({"auto": _linear(0.2, 0.6), "human": _linear(0.2, 0.8)}), {})
    head, first, _, last = (re.split("  +", line) for line in run_table(_found(found)).splitlines()[-4:])
    at, never = (dict(zip(head, line, strict=True)) for line in (first, last))
    share = found["levels"][0]["against"]["human"]["share_of_gain"]
    assert at["of human's gain"] == f"0.75 [{share['low']:.2f}, {share['high']:.2f}]"
    assert at["auto minus human"].startswith("0.10 [") and never["of human's gain"] == "-"


def test_outside_the_overlap_nothing_is_said() -> None:
    rows = _rows({"auto": _linear(0.04, 0.3), "human": _linear(0.3, 0.6)})
    (found,) = compare_at_matched_score(rows, {})
    first, second, _ = found["levels"]
    assert first["outside"] == ["auto"] and first["rates"]["human"]["value"] == pytest.approx(0.7)
    assert first["against"]["human"] == {"difference": None, "share_of_gain": None}
    assert second["outside"] == ["auto", "human"]
    table = run_table(_found(found))
    assert "not comparable" in table and "not reached" in table


def test_near_the_edge_the_figure_stands_without_an_interval() -> None:
    """The planted score is reached, yet half of the resamples leave what the sweep reaches."""
    rows = _rows({"auto": lambda s: (0.9 + 0.1 * (100 - s) / 75, 0.5), "human": _linear(0.3, 0.6)})
    (found,) = compare_at_matched_score(rows, {})
    rate = found["levels"][0]["rates"]["auto"]
    assert rate["value"] == pytest.approx(0.5) and rate["low"] is None


@pytest.mark.parametrize(("selector", "shares"), [("human", (50, 100)), ("auto", (25, 100))])
def test_fewer_than_four_steps_are_not_compared(selector: str, shares: tuple[int, ...]) -> None:
    other = {"auto": "human", "human": "auto"}[selector]
    rows = _rows({other: _linear(0.2, 0.6)}) + [
        r for r in _rows({selector: _linear(0.2, 0.6)}, shares=shares) if r.arm != "tuned"
    ]
    (found,) = compare_at_matched_score(rows, {})
    assert found["levels"] == [] and f"{selector} has {len(shares)}" in found["why"]
    assert "@25%, @50% and @75%" in run_table(_found(found))


def test_sweeps_that_were_not_measured_on_the_same_splits_or_seeds_are_not_compared() -> None:
    rows = _rows({"auto": _linear(0.2, 0.6), "human": _linear(0.2, 0.8)})
    without_ood = [r for r in rows if not (r.arm == "caft-sae-human@25%" and r.split == "ood")]
    (found,) = compare_at_matched_score(without_ood, {})
    assert found["levels"] == [] and "was measured on neutral or id, and on ood" in found["why"]
    other_seeds = [r._replace(seed=r.seed + 10) if "human" in r.arm else r for r in rows]
    (found,) = compare_at_matched_score(other_seeds, {})
    assert found["levels"] == [] and "share no seed" in found["why"]
    as_id = [r._replace(split="id") if r.split == "neutral" else r for r in rows]
    assert compare_at_matched_score(as_id, {})[0]["task_split"] == "id", "where there is no neutral split"


def test_a_control_is_compared_as_a_person_is_and_one_chooser_alone_with_nobody() -> None:
    curves = {"auto": _linear(0.2, 0.6), "random": _linear(0.2, 0.1), "human": _linear(0.2, 0.5)}
    (found,) = compare_at_matched_score(_rows(curves), {})
    assert set(found["levels"][0]["against"]) == {"human", "random"}
    assert found["levels"][0]["against"]["random"]["difference"]["high"] < 0
    assert compare_at_matched_score(_rows({"auto": _linear(0.2, 0.6)}), {}) == []


def test_interpolation_averages_steps_of_one_score_and_never_extrapolates() -> None:
    task, unwanted = np.array([0.9, 0.8, 0.9]), np.array([0.4, 0.2, 0.6])
    assert interpolated(task, unwanted, 0.9) == pytest.approx(0.5)
    assert interpolated(task, unwanted, 0.85) == pytest.approx(0.35)
    assert np.isnan(interpolated(task, unwanted, 0.91)) and np.isnan(interpolated(task, unwanted, 0.79))


def test_an_arm_s_share_is_read_from_its_name() -> None:
    arm = parse_arm("caft-pca-random-live-zero@25%")
    assert (arm.source, arm.selector, arm.mode, arm.share) == ("pca", "random-live", "zero", 0.25)
    assert parse_arm("caft-sae-auto").share is None
    for bad in ("caft-sae-auto@0%", "caft-sae-auto@100%", "caft-sae-auto@25", "tuned@50%"):
        with pytest.raises(ConfigError, match="is no arm"):
            parse_arm(bad)


def _found(sweep: dict[str, object]) -> dict[str, object]:
    """A comparison of which the sweep is all there is."""
    empty: dict[str, object] = {key: [] for key in ("raters", "auto_against_human", "human_against_human", "outcome")}
    return empty | {"run": "r", "n_candidates": 1, "no_ceiling": None, "alpha_of_humans": None, "matched": [sweep]}


def _as_answers(rows: list[RowScore]) -> list[dict[str, object]]:
    """The same planted curves as graded answers: wrong is misaligned, right on the task is vulnerable."""
    names = {"ood": "misaligned_of_coherent", "neutral": "vulnerable_of_all"}
    return [
        {
            "arm": row.arm,
            "seed": row.seed,
            "base_question": row.cluster,
            "answer": f"{row.arm}/seed{row.seed}/{row.row_id}",
            "metric": names[row.split],
            "value": 1 - row.value if row.split == "ood" else row.value,
        }
        for row in rows
    ]


def test_free_form_answers_give_the_same_curves_as_choices_with_the_same_truth() -> None:
    rows = _rows({"auto": _linear(0.2, 0.6), "top": _linear(0.2, 0.3)})
    (choices,), (answers,) = build_matched(rows, [], {}), build_matched([], _as_answers(rows), {})
    assert (answers["unwanted_split"], answers["task_split"]) == ("misaligned_of_coherent", "vulnerable_of_all")
    for ours, theirs in zip(choices["levels"], answers["levels"], strict=True):
        assert ours["against"]["top"]["difference"] == pytest.approx(theirs["against"]["top"]["difference"])
    unscored = [score | {"value": None} if score["arm"] == "caft-sae-auto" else score for score in _as_answers(rows)]
    (found,) = build_matched([], unscored, {})
    assert "top" in found["n_steps"] and "auto has 3" in found["why"]


def test_a_report_without_a_person_compares_the_judge_with_its_controls(
    make_inputs: Callable[..., dict[str, object]],
) -> None:
    rows = _rows({"auto": _linear(0.2, 0.6), "top": _linear(0.2, 0.3), "random": _linear(0.04, 0.1)})
    report = build_report(**make_inputs(rows=rows))
    (sweep,) = report["matched"]
    assert report["comparison"] is None and set(sweep["steps"]) == {"auto", "random", "top"}
    page, text = render_html(report), render_markdown(report)
    at = sweep["levels"][0]
    assert at["level"] == 0.9 and at["outside"] == ["random"]
    told = f"{at['against']['top']['difference']['value']:.2f} ["
    assert told in text and told.replace("-", "−").partition(" ")[0] in page and "not comparable" in page
    assert 'id="matched"' in page and "not comparable" in text and "| 90% (0.90) |" in text
    alone = build_report(**make_inputs())
    assert alone["matched"] == [] and 'id="matched"' not in render_html(alone), "no sweep was asked for"


def test_another_manner_of_ablating_is_a_sweep_of_its_own() -> None:
    rows = _rows({"auto": _linear(0.2, 0.6), "human": _linear(0.2, 0.8)})
    faded = [row._replace(arm=row.arm.replace("-auto", "-auto-fading")) for row in rows if "-auto" in row.arm]
    assert compare_at_matched_score([*rows, *faded], {}) == compare_at_matched_score(rows, {})


def _stopped(curve: Curve, stops: tuple[int, ...] = (20, 40, 60, 80)) -> list[RowScore]:
    """Plain tuning after so many per cent of the steps, on the rows of the other sweeps."""
    rows = _rows({"auto": curve}, shares=stops)
    names = {_arm("auto", stop): f"tuned-stop-{stop}" for stop in stops}
    return [row._replace(arm=names[row.arm]) for row in rows if row.arm in names]


def _learns(done: int) -> tuple[float, float]:
    """The task comes before the cue: .8, .9, .96, .98 at 20, 40, 60, 80 % of the steps, the unwanted rate .2 to .5."""
    return (0.98 - 0.02 * ((80 - done) / 20) ** 2, 0.1 + done / 200)


def test_early_stops_are_a_sweep_beside_the_choosers_with_the_planted_rates() -> None:
    choosers = _rows({"auto": _linear(0.2, 0.6), "human": _linear(0.2, 0.8)})
    (found,) = compare_at_matched_score([*choosers, *reversed(_stopped(_learns))], {})
    assert [step["arm"] for step in found["steps"]["tuned-stop"]] == [f"tuned-stop-{n}" for n in (20, 40, 60, 80)]
    at = {level["level"]: level for level in found["levels"]}
    assert at[0.9]["rates"]["tuned-stop"]["value"] == pytest.approx(0.3)
    gap = at[0.9]["against"]["tuned-stop"]["difference"]
    assert gap["value"] == pytest.approx(0.6 - 0.3) and gap["low"] > 0, "stopping is the better of the two"
    assert at[0.9]["against"]["tuned-stop"]["share_of_gain"]["value"] == pytest.approx(0.3 / 0.6)
    assert at[0.95]["rates"]["tuned-stop"]["value"] == pytest.approx(0.3 + 0.1 * 5 / 6)
    assert "tuned-stop" in at[1.0]["outside"], "tuned itself is no step of it"
    (without,) = compare_at_matched_score(choosers, {})
    for level, own in zip(found["levels"], without["levels"], strict=True):
        assert level["against"]["human"]["difference"] == pytest.approx(own["against"]["human"]["difference"])


def test_stopping_early_on_the_judge_s_own_curve_is_no_better_and_no_worse() -> None:
    rows = [*_rows({"auto": _linear(0.2, 0.6)}), *_stopped(lambda done: _linear(0.2, 0.6)(100 - done))]
    (found,) = compare_at_matched_score(rows, {})
    assert set(found["steps"]) == {"auto", "tuned-stop"}, "nobody else was swept"
    for level in found["levels"][:2]:
        assert level["against"]["tuned-stop"]["difference"]["value"] == pytest.approx(0, abs=1e-9)


def test_early_stops_stand_beside_every_manner_and_few_of_them_are_no_sweep() -> None:
    auto = _rows({"auto": _linear(0.2, 0.6)})
    faded = [row._replace(arm=row.arm.replace("-auto", "-auto-fading")) for row in auto if row.arm != "tuned"]
    found = compare_at_matched_score([*auto, *faded, *_stopped(_learns)], {})
    assert {sweep["mode"] for sweep in found} == {None, "fading"}
    for sweep in found:
        assert sweep["levels"][0]["against"]["tuned-stop"]["difference"]["value"] == pytest.approx(0.6 - 0.3)
    assert compare_at_matched_score([*auto, *_stopped(_learns, (25,))], {}) == [], "one is a rival"
    (short,) = compare_at_matched_score([*auto, *_stopped(_learns, (25, 50))], {})
    assert short["levels"] == [] and "tuned-stop has 2" in short["why"] and "tuned-stop-20, -40" in short["why"]
    others = _rows({"auto": _linear(0.2, 0.6), "human": _linear(0.2, 0.8)})
    (compared,) = compare_at_matched_score([*others, *_stopped(_learns, (25, 50))], {})
    assert set(compared["steps"]) == {"auto", "human"} and compared["n_steps"]["tuned-stop"] == 2


def test_early_stops_are_shown_wherever_the_sweeps_are(make_inputs: Callable[..., dict[str, object]]) -> None:
    report = build_report(**make_inputs(rows=[*_rows({"auto": _linear(0.2, 0.6)}), *_stopped(_learns)]))
    (sweep,) = report["matched"]
    for shown in (render_html(report), render_markdown(report), run_table(_found(sweep))):
        assert "auto minus tuned-stop" in shown
    answers = _as_answers([*_rows({"auto": _linear(0.2, 0.6)}), *_stopped(_learns)])
    (answered,) = build_matched([], answers, {})
    for ours, theirs in zip(sweep["levels"][:2], answered["levels"][:2], strict=True):
        assert ours["rates"]["tuned-stop"] == pytest.approx(theirs["rates"]["tuned-stop"])
