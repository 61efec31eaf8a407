"""A report shows how its very judge did on planted concepts, or says that nobody knows."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from autocaft.judge.offline import method_hash
from autocaft.judge.options import JudgeOptions
from autocaft.outcome import calibrate_commands
from autocaft.report.build import build_report
from autocaft.report.calibration import calibration_card, calibration_of, figures_of
from autocaft.report.html import render_html
from autocaft.resources import calibrations_dir
from autocaft.rundir.files import read_json

HALF = {
    "threshold": 95.0, "n_questions": 20, "n_rated": 380, "f1": 0.8, "f1_low": 0.6, "f1_high": 0.9,
    "average_precision": 0.97, "random_selected": 0.025, "random_selected_low": 0.0, "random_selected_high": 0.05,
    "brier_skill": 0.7, "ece": 0.081, "by_threshold": {"60": {"f1": 0.5, "f1_low": 0.4, "f1_high": 0.6}},
}  # fmt: skip
SETTINGS = {"n_verify": 20}
MINE = {"judge": "offline:m", "prompt_hash": "h", "settings": SETTINGS, "model": "a model", "held_out": HALF}


@pytest.mark.parametrize(
    "other",
    [
        MINE | {"judge": "offline:n"},
        MINE | {"prompt_hash": "g"},
        MINE | {"settings": {"n_verify": 30}},
        {k: v for k, v in MINE.items() if k != "settings"},
        {k: v for k, v in MINE.items() if k != "held_out"},
    ],
)
def test_another_judge_prompt_or_setting_and_a_half_calibration_do_not_count(other: dict[str, Any]) -> None:
    assert calibration_of("offline:m", "h", SETTINGS, [other]) is None
    assert calibration_of("offline:m", "h", SETTINGS, [other, MINE]) is MINE


def test_the_settings_that_count_are_those_that_can_change_a_verdict() -> None:
    def reading(**values: Any) -> dict[str, Any]:
        return JudgeOptions(**({"undesired": "u", "wanted": "w"} | values)).reading

    offline, paid = reading(), reading(judge="openai:m")
    assert json.loads(json.dumps(paid)) == paid
    assert reading(undesired="another", concurrency=2, max_usd=1.0, max_output_tokens=900) == offline
    assert reading(judge="openai:m", max_output_tokens=900) != paid
    assert reading(judge="openai:m", hard_negatives=True) == paid != reading(judge="openai:m", hard_negatives=False)
    assert reading(n_verify=30) != offline != reading(abstain=(30, 70))


def test_figures_stand_with_their_intervals() -> None:
    assert figures_of(HALF) == [
        ("F1 of the selection", "0.80 [0.60, 0.90]"), ("average precision", "0.97"),
        ("random directions selected", "2.5% [0.0%, 5.0%]"), ("Brier skill", "0.70"),
        ("calibration error (ECE)", "0.08"),
    ]  # fmt: skip


def test_figures_are_those_at_the_threshold_of_the_run(make_inputs: Callable[..., dict[str, Any]]) -> None:
    card = calibration_card(MINE, threshold=60.0, commands=["x"])
    assert "on which no threshold and no prompt was fitted" in card["note"]
    assert "at a relevance of 60" in card["note"] and card["figures"][0][1] == "0.50 [0.40, 0.60]"
    other = calibration_card(MINE, threshold=61.0, commands=[])
    assert "are those at 95" in other["note"] and other["figures"][0][1] == "0.80 [0.60, 0.90]"
    page = render_html(build_report(**make_inputs(calibration=card)))
    assert "<td>F1 of the selection</td><td>0.50 [0.40, 0.60]</td>" in page and "not calibrated" not in page


def test_a_judge_that_was_not_calibrated_is_told_apart_with_the_command(
    make_inputs: Callable[..., dict[str, Any]],
) -> None:
    options = JudgeOptions(
        judge="openai:m", rater="anthropic:r", base_url="http://127.0.0.1:1/v1", n_verify=30, abstain=(30, 70),
        undesired="u", wanted="w",
    )  # fmt: skip
    commands = calibrate_commands(options, "wheel:x")
    rest = "--set base_url=http://127.0.0.1:1/v1 --set rater=anthropic:r --set 'abstain=[30.0, 70.0]'"
    rest += " --set 'n_verify=30'"
    assert commands[1] == f"autocaft calibrate --judge openai:m --model wheel:x --split held_out {rest}"
    page = render_html(
        build_report(**make_inputs(calibration=calibration_card(None, threshold=60.0, commands=commands)))
    )
    assert "This judge was not calibrated" in page and "autocaft calibrate --judge openai:m" in page


def test_the_calibration_that_ships_is_of_the_offline_judge_as_it_is() -> None:
    """A change of its method changes the hash: calibrate again, then `benchmarks/tables.py --take`."""
    shipped = read_json(calibrations_dir() / "offline.json")
    assert shipped["prompt_hash"] == method_hash() and shipped["judge"].startswith("offline:")
    assert set(shipped) >= {"tuning", "held_out"}
    assert shipped["settings"] == JudgeOptions(undesired="u", wanted="w").reading
