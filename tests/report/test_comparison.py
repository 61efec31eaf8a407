"""A person's decisions stand in the report once they are compared, and are called old when somebody decides anew."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from autocaft.cli.app import app
from autocaft.compare.compare import compare_run
from autocaft.compare.hybrid import SimulatedReviewer
from autocaft.outcome import load_comparison
from autocaft.report.build import build_report, write_report
from autocaft.report.html import MAX_CARDS, render_html
from autocaft.report.markdown import render_markdown
from autocaft.rundir.files import write_json
from tests.planted_run import add_outcome, add_person, concept_ids, make_run

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def run_dir(make_inputs: Make, tmp_path: Path) -> Path:
    """A run with a person's decisions and a report, compared on the command line."""
    folder = make_run(tmp_path / "planted")
    add_person(folder, "ada", concept_ids() | {"L8.latent9"})
    write_report(build_report(**make_inputs()), folder)
    assert "Comparison" in (folder / "report.html").read_text()
    result = CliRunner().invoke(app, ["compare", str(folder), "--out"])
    assert result.exit_code == 0, result.output
    return folder


def test_compare_puts_its_figures_into_the_report(run_dir: Path) -> None:
    report = json.loads((run_dir / "report.json").read_text())
    (pair,) = report["comparison"]["auto_against_human"]
    assert (pair["human"], pair["agreement"][0]["n_shared"]) == ("human:ada", 8)
    html, text = (run_dir / "report.html").read_text(), render_markdown(report)
    assert html == render_html(report)
    assert "both ablate 8, the person alone 3, the judge alone 2, neither 33" in html
    assert "Precision, recall and F1" in html and "decided something since" not in html
    for words in (
        "<th>alpha</th>", "0° to ", "The ceiling: how far two people agree", "nobody read the cards blind",
        "<b>Simulated.</b>", "reader SIMULATED", "minutes of reading", "ada thinks so",
        "judge&#39;s reasons on L8.latent4", "<q>he would call</q>", "Who decided",
    ):  # fmt: skip
        assert words in html, words
    assert "| `auto:threshold` against `human:ada` | 46 | 8 | 0.80 [0.50, 1.00] | 0.73 [" in text


def test_a_disagreement_links_to_its_card_where_that_is_on_the_page_and_nowhere_else(run_dir: Path) -> None:
    report = json.loads((run_dir / "report.json").read_text())
    (first, *others) = (row["direction_id"] for row in report["comparison"]["auto_against_human"][0]["disagreements"])
    cards = [report["cards"][0] | {"id": first}, *report["cards"] * 40]
    far = [report["cards"][0] | {"id": direction_id} for direction_id in others]
    html = render_html(report | {"cards": [*cards, *far]})
    differing = html.partition('<ul class="differ">')[2].partition("</ul>")[0]
    assert len(cards) > MAX_CARDS and f'<a class="id" href="#{first}">{first}</a>' in differing
    assert len(others) == 4 and differing.count("<a ") == 1
    assert all(f'<span class="id">{direction_id}</span>' in differing for direction_id in others)


def test_each_person_has_figures_of_their_own(make_inputs: Make, tmp_path: Path) -> None:
    """The choice that arms were trained with is the second person's, and so is the gain of what they read."""
    folder = make_run(tmp_path / "planted")
    for name in ("bob", "person"):
        add_person(folder, name, concept_ids())
    add_outcome(folder, {"tuned": 0.1, "caft-sae-auto": 0.7, "caft-sae-human": 0.9})
    html = render_html(build_report(**make_inputs(comparison=compare_run(folder, SimulatedReviewer()))))
    bob, person = (html.partition(f"The judge against human:{name}<")[2].partition("The judge against")[0]
                   for name in ("bob", "person"))  # fmt: skip
    for name, part in (("bob", bob), ("person", person)):
        assert f"judge against human:{name}, had the threshold been another one" in part
        assert f"The choice against human:{name} by minutes of a simulated reader" in part
        assert part.count('class="curve"') == 2 * (3 + 2), (
            "wide and narrow: three measures by threshold, two by minutes"
        )
    assert "<b>Measured.</b>" in person and "<b>Measured.</b>" not in bob
    assert html.count("<b>Simulated.</b>") == 1, "the reader is the same for all"
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))


def test_the_sizes_of_the_arms_stand_in_the_report(make_inputs: Make, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "planted")
    add_person(folder, "person", concept_ids())
    sizes = {"caft-sae-auto": 10, "caft-sae-hybrid": 12, "caft-sae-human": 14}
    add_outcome(folder, {"tuned": 0.1, "caft-sae-auto": 0.5, "caft-sae-hybrid": 0.7, "caft-sae-human": 0.9})
    for arm, n in sizes.items():
        write_json(folder / "train" / arm / "seed0" / "set.json", {"ids": list(map(str, range(n)))})
    report = build_report(**make_inputs(comparison=compare_run(folder, SimulatedReviewer())))
    html, text = render_html(report), render_markdown(report)
    assert "caft-sae-auto of 10 directions against caft-sae-human of 14 directions <small>" in html
    assert "caft-sae-hybrid of 12 directions against caft-sae-human of 14 directions <small>" in html
    assert "`caft-sae-auto` of 10 directions against `caft-sae-human` of 14 directions, gain over tuned" in text
    assert "with the person's help (`caft-sae-hybrid` of 12 directions)" in text


def test_the_hybrid_s_gain_stands_in_the_report_with_its_minutes(make_inputs: Make, tmp_path: Path) -> None:
    folder = make_run(tmp_path / "planted")
    add_person(folder, "person", concept_ids())
    arms = {"tuned": 0.1, "caft-sae-auto": 0.5, "caft-sae-hybrid": 0.7, "caft-sae-human": 0.9}
    add_outcome(folder, arms)
    report = build_report(**make_inputs(comparison=compare_run(folder, SimulatedReviewer(seconds=30))))
    html, text = render_html(report), render_markdown(report)
    for words in (
        "<b>Measured.</b>", "Minutes: 30 s each stated, not measured.", "caft-sae-hybrid against caft-sae-human",
        '<th scope="row">2 that the judge is not sure of (hybrid)</th><td data-label="minutes">1.0</td>'
        '<td data-label="gain">60% <small>[',
    ):  # fmt: skip
        assert words in html, words
    assert "with the person's help (`caft-sae-hybrid`)" in text
    assert "| 2 that the judge is not sure of (hybrid) | 1.0 | 0.60 [" in text
    assert "nothing was trained" not in html + text


def test_a_comparison_is_old_once_somebody_has_decided_since(run_dir: Path, make_inputs: Make) -> None:
    found = load_comparison(run_dir)
    assert found is not None and not found["is_stale"]
    add_person(run_dir, "bob", set())
    found = load_comparison(run_dir)
    assert found is not None and found["is_stale"]
    html = render_html(build_report(**make_inputs(comparison=found)))
    assert "Somebody has decided something since" in html


def test_a_run_without_a_report_is_told_that_the_figures_are_in_a_file_alone(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "planted")
    add_person(folder, "ada", concept_ids())
    result = CliRunner().invoke(app, ["compare", str(folder), "--out", "--json"])
    assert "no report of this version" in result.stderr and json.loads(result.stdout)["run"] == "planted"
    assert (folder / "compare.json").is_file() and not (folder / "report.json").exists()


def test_a_comparison_of_an_older_shape_is_left_out_until_it_is_made_anew(run_dir: Path) -> None:
    path = run_dir / "compare.json"
    found = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in found.items() if key != "format"}))
    assert load_comparison(run_dir) is None


def test_a_run_without_a_person_says_how_to_get_one(make_inputs: Make, tmp_path: Path) -> None:
    assert load_comparison(tmp_path) is None
    assert "autocaft review RUN --name YOU" in render_html(build_report(**make_inputs()))
