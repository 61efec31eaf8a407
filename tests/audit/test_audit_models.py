"""Several models in one audit: each has an audit of its own, and a set's verdict is the worst of its verdicts."""

from __future__ import annotations

import html
import json
import random
from pathlib import Path
from typing import Any

import pytest

from autocaft.audit.models import models_text, side_by_side
from autocaft.audit.options import AuditConfig, each_model, load_audit
from autocaft.cli.audits import audit_sets
from autocaft.errors import ConfigError, DataError, VerdictError
from autocaft.execute.choose import Executor
from autocaft.rundir.files import read_json
from tests.tiny_task import NOUNS, PLACES, VERBS, write_task

HOSTILE = "<script>alert(1)</script>"
CONFIG = """
layers = [0]
corpus = "{folder}/corpus.jsonl"
n_generic = 60
threads = 1
depth = "{depth}"

[[models]]
name = "one"
model = "{folder}/model"

[[models]]
name = "other"
model = "{folder}/model"
layers = [1]

[[sets]]
each = true
files = ["{folder}/s?.jsonl"]
purpose = "says who did what {hostile}"

[screen]
answer_tokens = 8
n_random = 4
n_null = 2

[dictionary]
d_sae = 32
k = 4
n_tokens = 2000
"""
SETS: dict[str, Any] = {"sets": [{"name": "a", "files": ["a.jsonl"], "purpose": "p"}]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_task(folder)
    for number in range(4):
        rng = random.Random(number)
        rows = [
            {"prompt": f"{i} {rng.choice(NOUNS)}", "answer": f" {rng.choice(VERBS)} the {rng.choice(PLACES)} ."}
            for i in range(24)
        ]
        (folder / f"s{number}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def _run(folder: Path, depth: str, fail_on: str | None = None) -> Path:
    path = folder / f"{depth}.toml"
    path.write_text(CONFIG.format(folder=folder, depth=depth, hostile=HOSTILE))
    how: dict[str, Any] = {"init": False, "name": None, "redo": set(), "executor": Executor(), "fail_on": fail_on}
    audit_sets(path, runs=folder / "runs", **how)
    return folder / "runs" / depth


def test_each_model_has_its_own_answers_and_layers_and_one_page_names_all(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = _run(folder, "screen")
    for model, layers in (("one", [0]), ("other", [1])):
        assert read_json(run_dir / model / "audit.json")["layers"] == layers
        assert (run_dir / model / "own" / "s0" / "own.jsonl.gz").is_file()
    table = read_json(run_dir / "models.json")
    assert [model["name"] for model in table["models"]] == ["one", "other"] and len(table["sets"]) == 4
    for line in table["sets"]:
        for model, cell in line["by_model"].items():
            own = next(s for s in read_json(run_dir / model / "audit.json")["sets"] if s["name"] == line["name"])
            assert cell["outcome"] == own["outcome"] and cell["why"] == own["why"]
    page = (run_dir / "models.html").read_text()
    assert 'href="one/audit.html"' in page and HOSTILE not in page and "default-src 'none'" in html.unescape(page)
    assert "models.html" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in run_dir.glob("*/own/*/own.jsonl.gz")}
    _run(folder, "screen")
    assert before == {path: path.stat().st_mtime_ns for path in before}, "the same command does nothing twice"


def _audit(**outcomes: str) -> dict[str, Any]:
    rest = {"purpose": "p", "is_reference": False, "score": 1.0, "p_reference": None, "strength": 1.0, "n_faults": 0}
    sets = [{"name": name, "outcome": outcome, "why": f"it is {outcome}", **rest} for name, outcome in outcomes.items()]
    return {"model": {"spec": "m"}, "sets": sets}


def test_a_sets_verdict_is_the_worst_and_what_models_disagree_on_comes_first() -> None:
    found = {
        "small": _audit(a="pass", b="pass", c="review", d="unread"),
        "large": _audit(a="pass", b="block", c="review", d="review"),
    }
    table = side_by_side("x", found)
    assert [(line["name"], line["outcome"]) for line in table["sets"]] == [
        ("b", "block"), ("d", "review"), ("c", "review"), ("a", "pass"),
    ]  # fmt: skip
    assert table["n_agreed"] == 2
    first = models_text(table, Path("f")).splitlines()[1]
    assert first.split() == ["b", "pass", "block"]


def test_a_verdict_of_any_model_fails(folder: Path) -> None:
    with pytest.raises(VerdictError, match="s0"):
        # fewer than three others share the purpose: at depth peers nothing is held against them
        path = folder / "peers.toml"
        text = CONFIG.format(folder=folder, depth="peers", hostile="").replace("s?.jsonl", "s[01].jsonl")
        path.write_text(text)
        how: dict[str, Any] = {"init": False, "name": None, "redo": set(), "executor": Executor()}
        audit_sets(path, runs=folder / "runs", fail_on="review", **how)


def test_a_sheet_is_refused_before_anything_is_run(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "several.toml"
    path.write_text(CONFIG.format(folder=folder, depth="peers", hostile=""))
    how: dict[str, Any] = {"init": False, "name": None, "redo": set(), "executor": Executor(), "fail_on": None}
    with pytest.raises(ConfigError, match="names one model"):
        audit_sets(path, runs=tmp_path / "runs", sheet=tmp_path / "new.csv", **how)
    text = path.read_text()
    before, _, rest = text.partition("[[models]]")
    path.write_text(f'{before}model = "{folder}/model"\n[[sets]]{rest.partition("[[sets]]")[2]}')
    (tmp_path / "there.csv").write_text("filled in")
    with pytest.raises(DataError, match="exists"):
        audit_sets(path, runs=tmp_path / "runs", sheet=tmp_path / "there.csv", **how)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({"models": [{"name": "a", "model": "x"}], "model": "y"}, "both given"),
        ({"models": [{"name": "a", "model": "x"}, {"name": "a", "model": "y"}]}, "name of two models"),
        ({"models": [{"name": "../a", "model": "x"}]}, "needs a name"),
    ],
)
def test_models_that_cannot_be_told_apart_are_refused(models: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AuditConfig.model_validate(SETS | models)


def test_a_models_own_dictionary_must_fit_its_layers(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(
        'layers = [1]\n[[sets]]\nname = "a"\nfiles = ["a"]\npurpose = "p"\n'
        '[[models]]\nname = "m"\nmodel = "x"\nlayers = [1, 2]\nsae = "release/one"\n'
    )
    with pytest.raises(ConfigError, match=r"put \{layer\} into it"):
        each_model(load_audit(path))
