"""The search in the report: every trial with its figures, what was chosen and why, and what that does not show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from autocaft.report.build import build_report
from autocaft.report.html import render_html
from autocaft.report.markdown import render_markdown

Make = Callable[..., dict[str, Any]]


def figure(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01}


def search_of(chosen: str | None) -> dict[str, Any]:
    """Three trials: one is chosen, one breaks a guard, one had nothing to ablate."""
    figures = {"left": figure(0.25), "loss": figure(0.3), "loss_rise": figure(0.1), "kl": figure(0.02),
               "kl_rise": figure(-0.011)}  # fmt: skip
    broken = ["its loss is 0.4 above plain training's, more than max_loss_rise = 0.25"]
    place = {"layers": [8], "share": 1.0, "strength": 1.0}
    return {
        "source": "sae", "chosen": chosen, "why": "L8@100%x1 leaves the least <i>", "dials": place, "guards": {},
        "n_candidates": 40, "n_unscored": 2, "plain": {"loss": figure(0.2), "kl": figure(0.03)},
        "trials": [
            {"name": "L8@100%x1", **place, "n_directions": 4, **figures, "passes": True, "broken": []},
            {"name": "L14@100%x1", **place, "n_directions": 3, **figures, "passes": False, "broken": broken},
            {"name": "L14@50%x1", **place, "n_directions": 0, "passes": False, "unscored": "none was selected"},
        ],
    }  # fmt: skip


def built(make_inputs: Make, **changes: Any) -> dict[str, Any]:
    return build_report(**make_inputs(**changes))


def test_every_form_shows_the_trials_the_choice_and_the_reasons(make_inputs: Make) -> None:
    report = built(make_inputs, searches=[search_of("L8@100%x1")])
    for text in (render_html(report).replace("<small>", " "), render_markdown(report)):
        for shown in ("L8@100%x1", "0.250 [0.240, 0.260]", "-0.011 [-0.021, -0.001]", "more than max_loss_rise",
                      "none was selected", "1.000", "no evidence for it"):  # fmt: skip
            assert shown in text.replace("\\", "") or shown.replace("_", "\\_") in text, shown
        assert "<i>" not in text
    assert render_html(report).count("chosen</span>") == 1
    assert any("2 of 40 sae candidates have no relevance" in limit for limit in report["limits"])


def test_a_search_that_found_nothing_says_so_first(make_inputs: Make) -> None:
    report = built(make_inputs, searches=[search_of(None)])
    assert "found nothing" in report["limits"][0]


def test_a_run_without_a_search_says_nothing_of_it(make_inputs: Make) -> None:
    report = built(make_inputs)
    assert "searches" not in report and 'id="search"' not in render_html(report)
    assert not any("search" in text for text in (*report["method"], *report["limits"]))


def test_the_method_says_what_the_search_saw(make_inputs: Make) -> None:
    config = make_inputs()["config"]
    config = {**config, "arms": [*config["arms"], "caft-sae-searched"]}
    (sentence,) = (text for text in built(make_inputs, config=config)["method"] if "searched arm" in text)
    for said in ("50% of the epochs, seed 0", "training rows that no trial learned from", "at most 0.25 nats",
                 "no split in which the cue is broken"):  # fmt: skip
        assert said in sentence
    val = {**config, "data": {**config["data"], "splits": {"val": "val.jsonl"}}}
    assert any("120 rows of the split val" in text for text in built(make_inputs, config=val)["method"])
