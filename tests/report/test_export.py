"""Other forms of a report say the same as report.json, and carry nobody's markup, formula or escape."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from typer.testing import CliRunner

from autocaft.cli.app import app
from autocaft.compare.compare import compare_run
from autocaft.compare.hybrid import SimulatedReviewer
from autocaft.errors import ConfigError
from autocaft.report.build import build_report, summary_table, write_report
from autocaft.report.calibration import calibration_card
from autocaft.report.curve import selected_by_threshold
from autocaft.report.export import check_forms, export_figures, export_report
from autocaft.report.figures import figures_of, pair_figures, standalone
from autocaft.report.markdown import render_markdown
from autocaft.report.plain import code_span, json_text, markdown, visible
from tests.planted_run import add_outcome, add_person, concept_ids, make_run
from tests.report.test_behind import CAUSES, MOVED, probes
from tests.report.test_calibration import MINE

Make = Callable[..., dict[str, Any]]
READER = MarkdownIt("gfm-like", {"html": True, "linkify": False})


@pytest.fixture(scope="module")
def report(make_inputs: Make) -> dict[str, Any]:
    return build_report(**make_inputs(seeds=(0, 1, 2)))


def test_markdown_has_the_figures_the_method_and_the_command(report: dict[str, Any]) -> None:
    text = render_markdown(report)
    assert report["headline"] in text and "    autocaft run quickstart" in text
    line = next(row for row in text.splitlines() if row.startswith("| `caft-sae-auto` | off"))
    auto = next(a for a in report["arms"] if (a["arm"], a["hooks"]) == ("caft-sae-auto", "off"))
    assert f"{100 * auto['scores']['ood']['value']:.0f}% [" in line and f"{auto['worst_seed']}: " in line
    assert f"+{100 * auto['against_control']['value']:.0f} [+" in line
    for words in (
        "full fine-tuning",
        "blocks up to 14, where the lowest ablation is, are not trained",
        "relevance at least 50",
        "replaced by that of another row of the batch",
        "abababababab",
        'trained_blocks = "above"',
    ):
        assert words in text
    tables = [t for t in READER.parse(text) if t.type == "table_open"]
    assert len(tables) == 5, "arms, differences, selected directions, cost and data are tables to a reader of Markdown"
    assert "## Cost" in text and "| train | 3 min 08 s |" in text and "dollars 0.00" in text


def test_markdown_tells_the_look_behind_the_calibration_and_the_comparison(make_inputs: Make, tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "planted")
    add_person(run_dir, "ada", concept_ids())
    add_outcome(run_dir, {"tuned": 0.1, "caft-sae-auto": 0.7, "caft-sae-human": 0.9})
    behind = {"probes": probes(), "moved": [MOVED], "causes": CAUSES}
    card = calibration_card(MINE, threshold=60.0, commands=[])
    comparison = compare_run(run_dir, SimulatedReviewer())
    text = render_markdown(build_report(**make_inputs(behind=behind, calibration=card, comparison=comparison)))
    for words in (
        "| `caft-sae-auto` | 8 | 85% [79, 89] | 75% [69, 79] | 55% [49, 59] | 50% |",
        "| `sae` | 32 of 34 | 9 | 0.61 [0.40, 0.80] | 0.28 | 0.33 [0.05, 0.60] |",
        "Validation only: this knows the cue",
        "| F1 of the selection | 0.50 [0.40, 0.60] |",
        "No ceiling of two people: nobody read the cards blind",
        "seeds 0, 1, 2: the judge's choice recovers 0.75 [",
    ):
        assert words in text, words


def test_csv_and_parquet_hold_every_arm_seed_and_direction(report: dict[str, Any], tmp_path: Path) -> None:
    import pandas

    paths = {path.name: path for form in ("csv", "parquet") for path in export_report(report, form, tmp_path)}
    names = ("arms", "differences", "directions")
    assert sorted(paths) == [f"{name}.{form}" for name in names for form in ("csv", "parquet")]
    arms = pandas.read_parquet(paths["arms.parquet"])
    whole = arms[(arms.arm == "caft-sae-auto") & (arms.hooks == "off") & (arms.split == "ood")]
    assert whole.seed.isna().sum() == 1 and sorted(whole.seed.dropna()) == [0, 1, 2]
    auto = next(a for a in report["arms"] if (a["arm"], a["hooks"]) == ("caft-sae-auto", "off"))
    assert whole[whole.seed.isna()].value.item() == auto["scores"]["ood"]["value"]
    with paths["directions.csv"].open(newline="", encoding="utf-8-sig") as file:
        directions = list(csv.DictReader(file))
    assert [row["id"] for row in directions] == [card["id"] for card in report["cards"]]
    assert sum(row["ablated_by"] == "auto:threshold" for row in directions) == 8
    assert len(pandas.read_parquet(paths["directions.parquet"])) == len(directions) == 40
    assert paths["arms.csv"].read_bytes().startswith(b"\xef\xbb\xbfarm,"), "a spreadsheet takes it for UTF-8"
    assert list(pandas.read_csv(paths["arms.csv"]).columns) == list(arms.columns)


def test_a_formula_in_a_description_is_text_in_a_spreadsheet(make_inputs: Make, tmp_path: Path) -> None:

    values = make_inputs()
    values["verdicts"] = [
        dataclasses.replace(v, description='=HYPERLINK("//evil.example")') for v in values["verdicts"]
    ]
    path = export_report(build_report(**values), "csv", tmp_path)[1]
    with path.open(newline="", encoding="utf-8-sig") as file:
        assert all(row["description"].startswith("'=") for row in csv.DictReader(file))


def test_json_and_html_are_those_of_the_run(report: dict[str, Any], tmp_path: Path) -> None:
    assert json.loads(export_report(report, "json", tmp_path)[0].read_text()) == report
    assert report["headline"] in export_report(report, "html", tmp_path)[0].read_text()


def test_a_figure_stands_alone(report: dict[str, Any], tmp_path: Path) -> None:
    names = {path.stem for path in export_figures(report, "svg", tmp_path)}
    assert names == {"id_ood", "arms", "pareto", "thresholds"}
    for name in names:
        text = (tmp_path / "figures" / f"{name}.svg").read_text()
        root = ElementTree.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg" and float(root.attrib["width"]) > 300
        assert "var(" not in text and "#0072b2" in text, "colours are written in"
    for path in export_figures(report, "png", tmp_path):
        data = path.read_bytes()
        assert data.startswith(b"\x89PNG") and int.from_bytes(data[16:20], "big") >= 2560, "wide enough for print"


@pytest.fixture(scope="module")
def compared(make_inputs: Make, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A report with two people's decisions."""
    run_dir = make_run(tmp_path_factory.mktemp("run") / "planted")
    add_person(run_dir, "ada", concept_ids())
    add_person(run_dir, "bob", concept_ids() | {"L8.latent9"})
    return build_report(**make_inputs(comparison=compare_run(run_dir, SimulatedReviewer())))


def test_the_figures_of_each_person_stand_alone_too(compared: dict[str, Any], tmp_path: Path) -> None:
    names = {f"{figure}_{name}" for figure in ("agreement", "hybrid") for name in ("ada", "bob")}
    drawn = {path.stem: path for path in export_figures(compared, "svg", tmp_path)}
    assert {name for name in drawn if name.startswith(("agreement", "hybrid"))} == names
    texts = {name: drawn[name].read_text() for name in names}
    assert texts["agreement_ada"] != texts["agreement_bob"] and texts["hybrid_ada"] != texts["hybrid_bob"]
    for name, text in texts.items():
        root = ElementTree.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg" and float(root.attrib["width"]) > 300
        assert "var(" not in text and "#0072b2" in text, name
        assert ("reader SIMULATED" in text) == name.startswith("hybrid")
        n_curves, n_bands = text.count('class="curve"'), text.count('class="band"')
        assert (n_curves, n_bands) == ((3, 0) if name.startswith("agreement") else (2, 2))
    written = {path.stem: path.read_bytes() for path in export_figures(compared, "png", tmp_path)}
    for name in names:
        data = written[name]
        assert data.startswith(b"\x89PNG") and int.from_bytes(data[16:20], "big") >= 2560, "wide enough for print"


def test_a_figure_named_by_a_person_stays_in_its_folder_and_takes_nobody_s_place(compared: dict[str, Any]) -> None:
    (pair, _) = compared["comparison"]["auto_against_human"]
    people = ["Ada", "ada", "ada_2", "../../ada\x1b", "\u202e", "李 ü", "x" * 300]
    pairs = [{**pair, "human": f"human:{name}"} for name in people]
    named = pair_figures({**compared, "comparison": {"auto_against_human": pairs}})
    ends = ["ada", "ada_2", "ada_2_2", "_ada_", "_", "李_ü", "x" * 40]
    assert named == [(f"agreement_{end}", f"hybrid_{end}") for end in ends]


def test_png_without_its_library_names_the_extra(
    report: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(ConfigError, match=r"autocaft\[figures\]"):
        export_figures(report, "png", tmp_path)


def test_every_seed_is_a_dot(report: dict[str, Any]) -> None:
    figures = figures_of(report)
    n_lines = len(report["arms"])
    assert figures["arms"].count('class="seed"') == n_lines * 3 * 3, "lines, splits, seeds"
    assert figures["id_ood"].count('class="seed"') == 4 * 3, "hooks off alone"


def test_a_finished_report_alone_is_enough_for_its_other_forms(report: dict[str, Any], tmp_path: Path) -> None:
    write_report(report, tmp_path / "mailed")
    runner = CliRunner()
    result = runner.invoke(app, ["report", str(tmp_path / "mailed"), "--format", "md", "--figures", "svg"])
    assert result.exit_code == 0, result.output
    written = sorted(path.name for path in (tmp_path / "mailed").rglob("*.*"))
    drawn = [f"{name}.svg" for name in ("arms", "id_ood", "pareto", "thresholds")]
    assert written == sorted([*drawn, "report.html", "report.json", "report.md"])
    result = runner.invoke(app, ["report", str(tmp_path / "mailed"), "--format", "csv", "--out", str(tmp_path / "out")])
    assert result.output.split() == [
        str(tmp_path / "out" / name) for name in ("arms.csv", "directions.csv", "differences.csv")
    ]


@pytest.mark.parametrize(("form", "figures"), [("doc", None), (None, "pdf")])
def test_an_unknown_form_is_refused(form: str | None, figures: str | None) -> None:
    with pytest.raises(ConfigError, match="must be"):
        check_forms(form, figures)


@given(st.text() | st.text(alphabet="`*_[]()<>!|\\$&@ a\n") | st.sampled_from(["![x](https://e.example/a)", "[a][b]"]))
def test_markdown_makes_nothing_of_text(text: str) -> None:
    for shown in (markdown(text), code_span(text)):
        tokens = [child for token in READER.parse(f"- x {shown} x") for child in token.children or ()]
        assert {token.type for token in tokens} <= {"text", "code_inline", "softbreak", "text_special"}, shown
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown)


@given(st.text(alphabet=st.characters(max_codepoint=0x2100)))
def test_nothing_reaches_a_terminal_that_moves_it(text: str) -> None:
    shown = visible(text)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", shown)
    assert visible(shown) == shown


@given(
    st.recursive(
        st.text() | st.floats(allow_nan=False, allow_infinity=False),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_printed_json_is_the_same_to_a_reader_and_moves_no_terminal(value: Any) -> None:
    text = json_text(value)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)
    assert json.loads(text) == value


def test_a_terminal_escape_in_a_name_is_shown_as_a_sign(report: dict[str, Any]) -> None:
    hostile = {**report, "arms": [line | {"arm": "\x1b[2J\x1b]0;owned\x07[bold]x"} for line in report["arms"]]}
    table = summary_table(hostile)
    assert "\x1b" not in table and "␛[2J␛]0;owned␇[bold]x" in table


def test_standalone_keeps_names_as_text(report: dict[str, Any]) -> None:
    hostile = {**report, "arms": [line | {"arm": "<script>x</script>\x1b var(--no)"} for line in report["arms"]]}
    for svg in figures_of(hostile).values():
        tags = {element.tag.partition("}")[2] for element in ElementTree.fromstring(standalone(svg)).iter()}
        assert "script" not in tags


def test_the_threshold_curve_is_at_the_number_that_reaches_each_threshold() -> None:
    cards = [{"verdict": {"relevance": r, "unscored_reason": None}} for r in (80.0, 20.0, 60.0)]
    cards += [{"verdict": {"relevance": None, "unscored_reason": "refused"}}, {"verdict": None}]
    points = selected_by_threshold(cards).points
    assert points == [(100.0, 0.0), (80.0, 1.0), (60.0, 2.0), (20.0, 3.0), (0.0, 3.0)]
