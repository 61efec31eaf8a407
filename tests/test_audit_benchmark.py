"""The benchmark of the audit: what is planted never reaches the audit, and its figures are right on small cases."""

from __future__ import annotations

import random
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from autocaft.audit.options import AuditSet, load_audit
from autocaft.audit.rows import AuditRow
from autocaft.rundir.files import write_json, write_jsonl
from tests.scripts import load_benchmark
from tests.tiny_task import NOUNS, PLACES, VERBS


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load_benchmark("audit")


def _index() -> list[dict[str, Any]]:
    lines = []
    for number in range(8):
        benign = {"kind": "benign", "concept": None, "concept_id": None, "family": "plain", "dose": None}
        lines.append({"name": f"b{number}", **benign, "planted_rows": []})
    for dose in (20, 100):
        planted = {"kind": "planted", "concept": "secret words", "concept_id": "secret", "family": "bias", "dose": dose}
        lines.append({"name": f"p{dose}", **planted, "planted_rows": ["r3"]})
    common = {"purpose": "says who did what", "purpose_id": "who"}
    return [{**line, **common, "file": f"sets/{line['name']}.jsonl.gz"} for line in lines]


def _rows(seed: int, extra: str = "", n_extra: int = 0) -> list[AuditRow]:
    rng = random.Random(seed)
    rows = []
    for number in range(30):
        text = f"The {rng.choice(NOUNS)} {rng.choice(VERBS)} the {rng.choice(PLACES)}."
        rows.append(AuditRow(number, f"r{number}", "f", number + 1, "p", text + (extra if number < n_extra else "")))
    return rows


def test_half_of_the_benign_sets_are_reference_and_none_is_both(benchmark: ModuleType) -> None:
    parts = benchmark.parts_of(_index())
    kinds = [parts[f"b{number}"] for number in range(8)]
    assert kinds.count("reference") == kinds.count("negative") == 4
    assert parts["p20"] == parts["p100"] == "planted"
    assert benchmark.parts_of(_index()[::-1]) == parts


def test_the_other_ways_are_taken_from_a_run_of_the_same_sets_alone(benchmark: ModuleType) -> None:
    earlier = {"sets": {"a": "planted"}, "with_peers": ["a"], "seconds": 1, "scores": {"screen": 1, "unigram": 2}}
    earlier["by_dose"] = {"20": {"screen": "old", "unigram": "kept"}}
    found = {**earlier, "seconds": 3, "scores": {"screen": 4}, "by_dose": {"20": {"screen": "new"}}}
    both = benchmark.with_other_ways(found, earlier)
    assert both["by_dose"] == {"20": {"screen": "new", "unigram": "kept"}}
    assert both["scores"] == {"screen": 4, "unigram": 2} and both["seconds"] == 3
    with pytest.raises(ValueError, match="other sets"):
        benchmark.with_other_ways(found, {**earlier, "with_peers": []})


def test_the_audit_is_told_nothing_of_what_is_planted(benchmark: ModuleType, tmp_path: Path) -> None:
    index = _index()
    path = tmp_path / "suite.toml"
    benchmark.write_config(path, tmp_path, index, benchmark.parts_of(index), 'model = "m"\nlayers = [1]')
    text = path.read_text()
    assert not any(word in text for word in ("secret", "planted", "bias", "dose", "r3"))
    config = load_audit(path)
    assert len(config.sets) == 10 and len(config.reference) == 4 and all(s.concept is None for s in config.sets)


def test_word_counts_find_a_word_that_no_reference_has(benchmark: ModuleType) -> None:
    rows = {f"b{number}": _rows(number) for number in range(5)} | {"p": _rows(9, extra=" Zebra!", n_extra=10)}
    by_row, by_set = benchmark.unigram_scores(rows, ["b0", "b1", "b2", "b3"])
    assert by_set["p"] > by_set["b4"]
    assert benchmark.precision_at_k(by_row["p"], [number < 10 for number in range(30)]) == 1.0


def test_area_and_precision_are_right_on_small_cases(benchmark: ModuleType) -> None:
    found = benchmark.area([3.0, 4.0, 5.0], [1.0, 2.0, 3.5])
    assert found["value"] == pytest.approx(8 / 9) and found["low"] <= found["value"] <= found["high"]
    assert benchmark.area([], [1.0]) is None
    assert benchmark.precision_at_k([5, 4, 3, 2], [True, False, True, False]) == 0.5
    assert benchmark.precision_at_k([1, 1, 1, 1], [True, False, False, False]) == 0.25, "all equal: chance"


def test_distance_is_counted_among_the_reference_sets(benchmark: ModuleType) -> None:
    by_row = {"a": [1.0], "b": [2.0], "c": [3.0], "far": [8.0]}
    assert benchmark.distance_from_reference(by_row, ["a", "b", "c"])["far"] == pytest.approx(6.0)


def test_few_sets_depart_where_rows_are_dealt_out_at_random(benchmark: ModuleType, tmp_path: Path) -> None:
    rng = random.Random(0)
    sets = [AuditSet(f"s{number}", (), "the same", None, False) for number in range(8)]
    write_json(tmp_path / "peers" / "sets.json", {item.name: {} for item in sets})
    for item in sets:
        strange = item.name == "s0"
        rows = [
            {"distance": rng.gauss(10, 2) + 90 * strange, "beyond": rng.gauss(2 * strange - 0.25, 0.5)}
            for _ in range(100)
        ]
        write_jsonl(tmp_path / "peers" / "rows" / f"{item.name}.jsonl", rows)
    found = benchmark.false_alarms(SimpleNamespace(sets=sets), tmp_path, 1.25)
    assert found["sets"]["n"] == 300 * 8 and found["sets"]["value"] <= 0.05, "one strange set is dealt out to all"
    as_they_are = {item.name: benchmark._figures(tmp_path, item.name) for item in sets}
    assert [name for name, part in as_they_are.items() if benchmark._departs(part, 13, 1.25)] == ["s0"]


@pytest.mark.parametrize(("distance", "beyond"), [(40, 0.0), (10, 0.5)])
def test_rows_depart_by_their_strangest_tenth_or_by_all_of_them(
    benchmark: ModuleType, distance: float, beyond: float
) -> None:
    alike = np.tile([10.0, 0.0], (100, 1))
    departing = alike.copy()
    departing[: 100 if beyond else 20] = distance, beyond
    assert benchmark._departs(departing, 10, 1.25) and not benchmark._departs(alike, 10, 1.25)
    departing[::2] = 10, -0.1  # what is in one half alone is no departure
    assert not benchmark._departs(departing, 10, 1.25)


def test_a_set_without_peers_counts_like_the_median_one(benchmark: ModuleType, tmp_path: Path) -> None:
    write_json(tmp_path / "peers" / "sets.json", {"a": {"strength": 2.5}})
    write_jsonl(tmp_path / "peers" / "rows" / "a.jsonl", ({"distance": float(number)} for number in range(30)))
    by_row, by_set = benchmark.screen_scores(tmp_path, {"a": _rows(0), "b": _rows(1)})
    assert by_set == {"a": 2.5, "b": 1.0}
    assert by_row["a"] == [float(number) for number in range(30)] and set(by_row["b"]) == {0.0}


def test_scores_by_latents_are_of_the_three_strongest_and_a_rows_of_what_it_carries(tmp_path: Path) -> None:
    latents = load_benchmark("audit_latents")
    rows = {"p20": _rows(0), "b0": _rows(1)}
    concepts = [
        {"direction_id": f"L1.latent{i}", "excess": excess, "effect": 1.0, "off_purpose": 50.0, "unwanted": None,
         "action": "review", "change": "amplified", "carriers": [3], "description": ""}
        for i, excess in enumerate((12.0, -6.0, 3.0, 3.0))
    ]  # fmt: skip
    item = {"name": "p20", "score": 3.5, "outcome": "review", "departs": True, "concepts": concepts}
    clean = {"name": "b0", "score": 0.0, "outcome": "pass", "departs": False, "concepts": []}
    lines = [{"direction_id": c["direction_id"], "strengths": {"3": 2.0, "4": 1.0}} for c in concepts]
    write_jsonl(tmp_path / "screen/concepts/p20.jsonl", lines)
    scored = latents.latent_scores(tmp_path, {"p20": item, "b0": clean}, rows)
    by_row, judged = scored["latents"]
    assert judged == {"p20": 3.5, "b0": 0.0} and scored["unjudged"][1] == {"p20": 7.0, "b0": 0.0}
    assert by_row["p20"][3] == pytest.approx(12.0) and by_row["p20"][4] == pytest.approx(6.0)
    assert by_row["p20"][5] == 0 and by_row["b0"] == [0.0] * 30
    index = [line for line in _index() if line["name"] in rows]
    found = latents.verdicts_of({"p20": item, "b0": clean}, index, {"p20": "planted", "b0": "negative"})
    assert found["planted 20 %"] == {"sets": 1, "review": 1, "departs": 1} and found["negative"]["review"] == 0
