"""README tables come from results/ and a stale one is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from autocaft.report.build import build_report
from autocaft.report.contrasts import p_text
from autocaft.report.free_form import build_free_form
from tests.report.conftest import RATES
from tests.scripts import load_benchmark


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    return load_benchmark("tables")


@pytest.fixture
def root(tmp_path: Path, make_inputs: Callable[..., dict[str, Any]]) -> Path:
    (tmp_path / "results").mkdir()
    report = build_report(**make_inputs())
    (tmp_path / "results/quickstart.json").write_text(json.dumps({"arms": report["arms"]}))
    (tmp_path / "README.md").write_text("before\n<!-- table:quickstart -->\n<!-- /table:quickstart -->\nafter\n")
    (tmp_path / "NEGATIVE.md").write_text("no table yet\n")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/audit.md").write_text("nor there\n")
    for name in ("audit", "double_choice"):
        (tmp_path / "eval_data" / name).mkdir(parents=True)
        (tmp_path / "eval_data" / name / "README.md").write_text("nor here\n")
    return tmp_path


def test_write_then_check_agrees_and_a_stale_table_is_named(
    tables: ModuleType, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tables.main(["--check", "--root", str(root)]) == 1
    assert tables.main(["--write", "--root", str(root)]) == 0
    assert tables.main(["--check", "--root", str(root)]) == 0
    text = (root / "README.md").read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "| caft-sae-auto | " in text
    (root / "README.md").write_text(text.replace("85%", "95%"))
    capsys.readouterr()
    assert tables.main(["--check", "--root", str(root)]) == 1
    assert "'quickstart'" in capsys.readouterr().err


def test_several_seeds_show_the_worst_and_the_gap_to_the_control(
    tables: ModuleType, make_inputs: Callable[..., dict[str, Any]]
) -> None:
    report = build_report(**make_inputs(seeds=(0, 1, 2)))
    head, _, *body = (line.strip("| ").split(" | ") for line in tables.arms_table(report).splitlines())
    auto = dict(zip(head, next(line for line in body if line[0] == "caft-sae-auto"), strict=True))
    line = next(a for a in report["arms"] if (a["arm"], a["hooks"]) == ("caft-sae-auto", "off"))
    worst = min(line["scores"]["ood"]["by_seed"].values())
    assert auto["ood, worst seed"] == f"{100 * worst:.0f}%"
    assert auto["ood minus control"].startswith(f"+{100 * line['against_control']['value']:.0f} [+")


def test_rivals_have_the_judge_s_lead_on_them_beside_them(
    tables: ModuleType, make_inputs: Callable[..., dict[str, Any]]
) -> None:
    rates = RATES | {("tuned-kl", "off"): (0.9, 0.5, 0.8), ("tuned-stop-25", "off"): (0.8, 0.4, 0.7)}
    report = build_report(**make_inputs(rates=rates))
    head, _, *body = (line.strip("| ").split(" | ") for line in tables.arms_table(report).splitlines())
    told = {line[0]: dict(zip(head, line, strict=True))["auto minus this, ood (p, Holm)"] for line in body}
    assert {arm for arm, cell in told.items() if cell != "-"} == {"tuned-kl", "tuned-stop-25"}
    (lead,) = (row for row in report["contrasts"] if row["kind"] == "against_rival" and row["against"] == "tuned-kl")
    assert lead["value"] < 0, "fewer wrong answers"
    assert told["tuned-kl"].startswith(f"+{-100 * lead['value']:.0f} [+{-100 * lead['high']:.0f}, +")
    assert told["tuned-kl"].endswith(f"({p_text(lead['p_holm'])})")
    without = tables.arms_table({key: value for key, value in report.items() if key != "contrasts"})
    assert "auto minus" not in without


@pytest.mark.parametrize(
    ("readme", "said"),
    [
        ("<!-- table:quickstart -->\nno end", "never closes"),
        ("<!-- table:nosuch -->\n<!-- /table:nosuch -->", "known are"),
    ],
)
def test_bad_markers_are_named(
    tables: ModuleType, root: Path, capsys: pytest.CaptureFixture[str], readme: str, said: str
) -> None:
    (root / "README.md").write_text(readme)
    assert tables.main(["--check", "--root", str(root)]) == 1
    assert said in capsys.readouterr().err


def test_a_missing_measurement_is_named(tables: ModuleType, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "results/quickstart.json").unlink()
    assert tables.main(["--check", "--root", str(root)]) == 1
    assert "quickstart.json" in capsys.readouterr().err


def test_variants_show_what_is_selected_and_every_seed(
    tables: ModuleType, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def line(variant: str, options: list[str], n_shared: int | None, ood: float) -> dict[str, Any]:
        scores = {
            split: {
                "value": value,
                "ci_low": value - 0.02,
                "ci_high": value + 0.02,
                "by_seed": {"0": value, "1": value},
            }
            for split, value in (("id", 0.98), ("ood", ood))
        }
        return {"variant": variant, "set": options, "arm": "caft-sae-auto", "n_selected": 30, "n_shared": n_shared,
                "scores": scores}  # fmt: skip

    lines = [
        line("recipe", [], 30, 0.97),
        line("mean", ["train.mode=mean"], 30, 0.50),
        line("no-continuations", ["collect.n_continuations=0"], None, 0.04),
        line("wording1", ["judge.undesired=\"men, 'women'\""], 25, 0.96),
    ]
    (root / "results/variants.json").write_text(json.dumps({"lines": lines}))
    (root / "NEGATIVE.md").write_text("<!-- table:settings -->\n<!-- /table:settings -->\n")
    (root / "README.md").write_text("<!-- table:wordings -->\n<!-- /table:wordings -->\n")
    assert tables.main(["--check", "--root", str(root)]) == 1
    errors = capsys.readouterr().err
    assert "NEGATIVE.md" in errors and "README.md" in errors
    assert tables.main(["--write", "--root", str(root)]) == tables.main(["--check", "--root", str(root)]) == 0
    wordings, settings = (root / "README.md").read_text(), (root / "NEGATIVE.md").read_text()
    assert "| men, 'women' | caft-sae-auto | 30 (25) | 98% [96, 100] | 96% [94, 98] | 96% 96% |" in wordings
    assert "| as in the recipe | caft-sae-auto | 30 (30) |" in wordings and "continuations" not in wordings
    assert "| `train.mode=mean` | caft-sae-auto | 30 (30) | 98% [96, 100] | 50% [48, 52] |" in settings
    assert "| `collect.n_continuations=0` | caft-sae-auto | 30 | 98% [96, 100] | 4% [2, 6] |" in settings


def test_a_calibration_is_taken_under_its_judges_name(tables: ModuleType, root: Path) -> None:
    half = {"threshold": 95.0, "f1": 0.5, "average_precision": 0.9, "random_selected": 0.0, "brier_skill": 0.1,
            "ece": 0.2, "by_threshold": {"50": {"f1": 0.25, "random_selected": 0.5}}}  # fmt: skip
    made = root / "calibration"
    made.mkdir()
    for judge, name in (("offline:encoder+model", "offline"), ("openai:a/b", "openai-a-b")):
        (made / "calibration.json").write_text(json.dumps({"judge": judge, "tuning": half, "held_out": half}))
        assert tables.main(["--take", str(made), "--root", str(root)]) == 0
        assert (root / "results" / "calibration" / f"{name}.json").is_file()
    (root / "README.md").write_text("<!-- table:calibration -->\n<!-- /table:calibration -->\n")
    assert tables.main(["--write", "--root", str(root)]) == 0
    assert "| F1 of the selection | 0.50 | 0.25 | 0.50 | 0.25 |" in (root / "README.md").read_text()


def test_free_form_rates_stand_beside_perplexity(
    tables: ModuleType, root: Path, make_inputs: Callable[..., dict[str, Any]]
) -> None:
    def score(arm: str, number: int, metric: str, value: float | None) -> dict[str, Any]:
        question = f"q{number % 5}"
        return {"arm": arm, "seed": 0, "question": question, "base_question": question, "answer": f"{arm}{number}",
                "metric": metric, "value": value}  # fmt: skip

    scores = [
        score(arm, n, metric, value)
        for arm, rate in (("tuned", 10), ("base", 0))
        for n in range(20)
        for metric, value in (("rude_of_coherent", None), ("rude_of_all", float(n < rate)), ("coherent", 1.0))
    ]
    asked = build_free_form({"grader": "rule:r.toml", "scores": scores, "counts": []})
    arms = build_report(**make_inputs())["arms"]
    (root / "results/persona.json").write_text(json.dumps({"arms": arms, "free_form": asked}))
    (root / "README.md").write_text("<!-- table:persona -->\n<!-- /table:persona -->\n")
    assert tables.main(["--write", "--root", str(root)]) == 0
    ratio = {line["arm"]: line["perplexity_ratio"] for line in arms if line["hooks"] == "off"}
    text = (root / "README.md").read_text()
    assert "| arm | rude | coherent | perplexity / base |" in text
    assert "| tuned | 50% [" in text and f"| {ratio['tuned']:.2f} |" in text
    assert text.index("| base") < text.index("| tuned")
