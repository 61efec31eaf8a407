"""The benchmark of the hybrid: its simulated reviewer is as wrong as it says, and nothing of it is called human."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from autocaft.errors import DataError
from autocaft.records import Decision, Direction
from autocaft.rundir.files import read_json, read_records, write_json, write_records
from autocaft.select.choices import read_person_choice
from tests.planted_run import AT, add_outcome, concept_ids, make_run
from tests.scripts import load_benchmark


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load_benchmark("hybrid")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A planted run with an oracle that knows the concept."""
    folder = make_run(tmp_path / "planted", n_latents=200)
    path = folder / "select" / "decisions.jsonl"
    log, ids = read_records(path, Decision), [d.id for d in _directions(folder)]
    write_records(path, [*log, *(Decision(i, i in concept_ids(), "oracle:words", "", AT) for i in ids)])
    return folder


def _directions(run_dir: Path) -> list[Direction]:
    return read_records(run_dir / "decompose" / "directions.jsonl", Direction)


def test_the_simulated_reviewer_is_the_oracle_with_the_stated_errors(benchmark: ModuleType, run_dir: Path) -> None:
    def answers(*reviewer: float) -> dict[str, bool]:
        found: dict[str, bool] = benchmark.simulated_answers(run_dir, "sae", benchmark.Reviewer(*reviewer))
        return found

    right, truth = answers(0.0, 0.0, 0), concept_ids()
    assert {i for i, ablate in right.items() if ablate} == truth and len(right) == 400
    taking = answers(0.0, 0.1, 0)
    assert all(taking[i] for i in truth) and 0.06 * 400 < sum(taking[i] for i in right.keys() - truth) < 0.14 * 400
    assert not any(answers(1.0, 0.0, 0).values())
    assert taking == answers(0.0, 0.1, 0) != answers(0.0, 0.1, 1)
    (run_dir / "select" / "decisions.jsonl").write_text("")
    with pytest.raises(DataError, match="no oracle"):
        answers(0.1, 0.1, 0)


def test_its_file_says_of_every_candidate_that_no_person_decided(
    benchmark: ModuleType, run_dir: Path, tmp_path: Path
) -> None:
    reviewer = benchmark.Reviewer(0.2, 0.02, 0)
    answers = benchmark.simulated_answers(run_dir, "sae", reviewer)
    path = tmp_path / "answers.json"
    write_json(path, benchmark.as_selection(answers, _directions(run_dir), reviewer.name))
    decisions = read_person_choice(path, _directions(run_dir), "ada", AT)
    assert {d.direction_id: d.ablate for d in decisions} == answers
    assert {d.by for d in decisions} == {"simulated:oracle, misses 20 %, takes 2 %, draw 0"}


def test_the_result_is_labelled_simulated_and_counts_what_was_read(benchmark: ModuleType, run_dir: Path) -> None:
    arms = {"tuned": 0.1, "caft-sae-auto": 0.5, "caft-sae-hybrid": 0.7, "caft-sae-human": 0.9}
    add_outcome(run_dir, arms)
    by, ids = "simulated:oracle, 10 % wrong, draw 0", [d.id for d in _directions(run_dir) if d.source == "sae"]
    write_records(run_dir / "choose" / "decisions.jsonl", [Decision(i, i in concept_ids(), by, "", AT) for i in ids])
    helped = [Decision(i, False, by if i.endswith("latent8") else "auto:threshold", "", AT) for i in ids]
    write_records(run_dir / "choose" / "hybrid.jsonl", helped)
    for arm in arms.keys() - {"tuned"}:
        write_json(run_dir / "train" / arm / "seed0" / "set.json", {"ids": ["L8.latent0"]})
    found = benchmark.result_of(run_dir, "sae", benchmark.Reviewer(0.2, 0.02, 0), 30)
    assert found["simulated"] and found["reviewer"] == {
        "by": by,
        "misses": 0.2,
        "takes": 0.02,
        "draw": 0,
        "seconds": 30,
    }
    assert [(a["arm"], a["n_read"], a["minutes"]) for a in found["arms"]] == [
        ("caft-sae-auto", 0, 0), ("caft-sae-hybrid", 2, 1), ("caft-sae-human", 400, 200),
    ]  # fmt: skip
    assert [a["gain"]["value"] for a in found["arms"]] == [pytest.approx(gain) for gain in (0.4, 0.6, 0.8)]
    assert found["arms"][1]["share"]["value"] == pytest.approx(0.75)
    assert found["by_seed"]["2"].keys() == {"gain_auto", "gain_hybrid", "gain_human"}
    table = load_benchmark("tables").hybrid_table(found).splitlines()
    assert table[3].startswith("| caft-sae-hybrid | 2 | 1 | 1 | +60 ") and "| 75% [" in table[3]


@pytest.mark.slow
def test_the_command_trains_the_three_arms_of_a_finished_run(benchmark: ModuleType, tmp_path: Path) -> None:
    from autocaft.cli.actions import run_all
    from autocaft.execute.choose import Executor
    from tests.tiny_task import NOUNS, write_task

    config = write_task(tmp_path / "task")
    words = tmp_path / "words.txt"
    words.write_text("\n".join([*NOUNS, "the", ".", "yes", "no"]))
    settings = [f"select.oracle_words={words}", "select.oracle_share=0.1", 'arms=["base", "tuned", "caft-sae-auto"]']
    settings += ['decompose.sources=["sae"]', "judge.abstain=[0, 100]"]  # in doubt of whatever it scores
    run_all(str(config), overrides=settings, redo=set(), name="tiny", runs=tmp_path / "runs", final=False,
            executor=Executor(jobs=1), source=None)  # fmt: skip
    before = (tmp_path / "runs/tiny/report.json").read_bytes()
    out = tmp_path / "hybrid.json"
    benchmark.main([str(tmp_path / "runs/tiny"), "--takes", "0.2", "--out", str(out)])
    found = read_json(out)
    assert found["simulated"] and found["arms"][0]["n_read"] == 0
    assert found["arms"][2]["n_read"] >= found["arms"][1]["n_read"] > 0
    made = next((tmp_path / "runs").glob("tiny-hybrid-sae-20-20-0"))
    assert "SIMULATED" in " ".join(read_json(made / "report.json")["limits"])
    assert (tmp_path / "runs/tiny/report.json").read_bytes() == before
