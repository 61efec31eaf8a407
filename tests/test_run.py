"""A whole run from the command line: all the way, twice, killed, changed, and with bad input."""

from __future__ import annotations

import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from autocaft.records import Decision, Direction
from autocaft.review.acts import ActLog, log_path
from autocaft.review.deck import load_deck
from autocaft.review.session import Review
from autocaft.rundir.files import read_jsonl, read_records
from tests.command_line import ENVIRONMENT, CommandLine
from tests.tiny_task import write_task

AUTOCAFT = [sys.executable, "-c", "from autocaft.cli import main; main()"]
TIMED = ("timing", "command", "name")

autocaft = CommandLine()


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    """End the process behind `autocaft` after the last test."""
    yield
    autocaft.close()


def report_of(run_dir: Path) -> dict[str, Any]:
    """report.json without what differs between two runs of the same settings."""
    report = json.loads((run_dir / "report.json").read_text())
    return {key: value for key, value in report.items() if key not in TIMED}


@pytest.fixture(scope="session")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature task's config."""
    return write_task(tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="session")
def finished(task: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `runs/tiny` done; not to be changed by tests."""
    folder = tmp_path_factory.mktemp("finished")
    subprocess.run([*AUTOCAFT, "run", str(task)], cwd=folder, check=True, env={**os.environ, **ENVIRONMENT})
    return folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may change."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_a_run_goes_all_the_way(finished: Path) -> None:
    report = report_of(finished / "runs/tiny")
    accuracies = {(m["arm"], m["hooks"], m["split"]): m for m in report["metrics"] if m["metric"] == "accuracy"}
    ablated = {"caft-sae-auto", "caft-sae-random", "caft-pca-top"}
    assert {arm for arm, hooks, _ in accuracies if hooks == "off"} == {"base", "tuned"} | ablated
    assert {arm for arm, hooks, _ in accuracies if hooks == "on"} == ablated
    assert all(m["n"] == 24 and m["ci_low"] <= m["value"] <= m["ci_high"] for m in accuracies.values())
    assert report["judge"]["name"].startswith("offline")
    assert report["directions"]["selected"] > 0
    assert (finished / "runs/tiny/report.html").stat().st_size > 10_000


def test_a_review_of_a_real_run_has_decoys_that_nobody_judged(finished: Path) -> None:
    run_dir = finished / "runs/tiny"
    deck = load_deck(run_dir)
    decoys, candidates = (
        read_records(run_dir / folder / "directions.jsonl", Direction) for folder in ("decoys", "decompose")
    )
    assert {(d.layer, d.source) for d in decoys} == {(layer, kind) for layer in (0, 1) for kind in ("sae", "random")}
    latents = {(d.layer, d.index) for d in candidates if d.source == "sae"}
    assert not latents & {(d.layer, d.index) for d in decoys if d.source == "sae"}, "a decoy is no candidate"
    assert deck.decoys == {d.id for d in decoys} and set(deck.cards) == deck.decoys | {d.id for d in candidates}
    assert not deck.decoys & {*deck.verdicts, *deck.decisions}
    poles = {d.source: set(deck.cards[d.id].poles) for d in decoys}
    assert poles == {"sae": {"top"}, "random": {"top", "bottom"}}, "as latents and components have them"
    labels = [{label for label, _ in deck.cards[i].evidence} for i in (decoys[0].id, candidates[-1].id)]
    assert labels[0] == labels[1] != set()
    assert {d["id"] for d in report_of(run_dir)["cards"]} == {d.id for d in candidates}


@pytest.mark.slow
def test_a_run_in_two_processes_trains_what_one_does(task: Path, finished: Path, tmp_path: Path) -> None:
    """Sharded, which is the harder way; how both ways train is tested in train/test_processes.py."""
    sets = ("tune.processes=2", 'tune.sharding="fsdp"', 'arms=["base", "tuned", "caft-pca-top"]')
    command = [*AUTOCAFT, "run", str(task), *(part for text in sets for part in ("--set", text))]
    subprocess.run(command, cwd=tmp_path, check=True, env={**os.environ, **ENVIRONMENT})
    two, one = tmp_path / "runs/tiny", finished / "runs/tiny"
    trained, alone = (load_file(run / "tune/seed0/model/adapter_model.safetensors") for run in (two, one))
    assert trained.keys() == alone.keys()
    for name, weight in trained.items():
        torch.testing.assert_close(weight, alone[name], rtol=1e-3, atol=1e-5, msg=name)
    assert (two / "train/caft-pca-top/seed0/model/adapter_model.safetensors").is_file()
    arms = {metric["arm"] for metric in report_of(two)["metrics"]}
    assert arms == {"base", "tuned", "caft-pca-top"}


def test_a_person_s_way_from_cards_to_a_trained_arm_is_what_the_export_prints(copied: Path) -> None:
    run_dir = copied / "runs/tiny"
    with ActLog(log_path(run_dir, "ada")) as log:
        review = Review(load_deck(run_dir), log, "ada")
        while (showing := review.current) is not None:
            name = review.order[showing].direction_id
            review.answer(showing, "ablate" if "latent" in name and len(review.standing) % 3 else "keep", "", 2.0)
    printed = autocaft("review", run_dir, "--name", "ada", "--export", "choice", cwd=copied).stdout
    command = shlex.split(printed.splitlines()[-1])
    assert command[:2] == ["autocaft", "run"] and "--redo" not in command
    assert command[-1] == 'arms=["base", "tuned", "caft-sae-auto", "caft-sae-random", "caft-pca-top", "caft-sae-human"]'
    command[-1] = command[-1].replace("]", ', "caft-sae-hybrid"]')
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*.safetensors")}
    autocaft(*command[1:], cwd=copied)
    assert {path: path.stat().st_mtime_ns for path in before} == before, "the arms that the person has no say in stay"
    arms = {metric["arm"] for metric in report_of(run_dir)["metrics"]}
    assert arms >= {"caft-sae-auto", "caft-sae-human", "caft-sae-hybrid"}
    chosen = json.loads((run_dir / "train/caft-sae-human/seed0/set.json").read_text())["ids"]
    said = {name for (name, n), a in review.standing.items() if n == 0 and a.choice == "ablate"}
    assert set(chosen) == said != set()
    compared = json.loads(autocaft("compare", run_dir, "--json", "--out", cwd=copied).stdout)
    (pair,) = compared["auto_against_human"]
    assert pair["human"] == "human:ada" and pair["hybrid"]["gain"]["hybrid"]["arm"] == "caft-sae-hybrid"
    assert [(row["human"], row["choice_by"]) for row in compared["outcome"]] == [("caft-sae-human", "human:ada")]
    in_doubt = {d.direction_id for d in read_records(run_dir / "choose/hybrid.jsonl", Decision) if d.by == "human:ada"}
    unsure = {
        v["direction_id"] for v in read_jsonl(run_dir / "judge/verdicts.jsonl") if v["abstains"] or v["unscored_reason"]
    }
    assert in_doubt == unsure & {name for name, n in review.standing if n == 0} != set()
    ids = set(json.loads((run_dir / "train/caft-sae-hybrid/seed0/set.json").read_text())["ids"])
    assert ids & in_doubt == said & in_doubt, "where the judge was not sure, what the person said"
    assert json.loads((run_dir / "report.json").read_text())["comparison"] is not None


def test_a_run_folder_without_decoys_gets_them_and_nothing_is_redone(copied: Path) -> None:
    run_dir = copied / "runs/tiny"
    shutil.rmtree(run_dir / "decoys")
    before = {path: path.stat().st_mtime_ns for path in (run_dir / "judge").iterdir()}
    autocaft("decoys", run_dir, cwd=copied)
    assert (run_dir / "decoys/directions.jsonl").is_file()
    assert {path: path.stat().st_mtime_ns for path in (run_dir / "judge").iterdir()} == before


def test_a_key_in_the_environment_buys_nothing(finished: Path) -> None:
    assert report_of(finished / "runs/tiny")["cost"].get("n_calls", 0) == 0
    assert "sk-not-to-be-used" not in (finished / "runs/tiny/log.txt").read_text()


def test_the_second_run_does_nothing(task: Path, copied: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in (copied / "runs/tiny").rglob("*.json*")}
    result = autocaft("run", task, cwd=copied)
    assert "nothing was run again" in result.stdout
    assert {p: p.stat().st_mtime_ns for p in (copied / "runs/tiny").rglob("*.json*")} == before


def test_a_searched_arm_joins_a_finished_run_and_has_what_the_search_chose(task: Path, copied: Path) -> None:
    run_dir = copied / "runs/tiny"
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*.safetensors")}
    settings = ['arms=["base", "tuned", "caft-sae-auto", "caft-sae-random", "caft-pca-top", "caft-sae-searched"]',
                "select.search.layer_sets=[[0], [1]]", "select.search.shares=[0.5]", "select.search.strengths=[0.5]",
                "select.search.max_loss_rise=9", "select.search.max_kl_rise=9"]  # fmt: skip
    options = [part for setting in settings for part in ("--set", setting)]
    plan = autocaft("plan", task, *options, cwd=copied).stdout
    assert "2 trials of 2 epochs for the search, with 1 plain beside them" in plan
    autocaft("run", task, *options, "--jobs", "2", cwd=copied)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    report = report_of(run_dir)
    (found,) = report["searches"]
    assert found["chosen"] in ("L0@50%x0.5", "L1@50%x0.5")
    folder = run_dir / "train/caft-sae-searched/seed0"
    assert json.loads((folder / "dials.json").read_text()) == found["dials"]
    ids, whole = (
        set(json.loads((run_dir / f"train/caft-sae-{name}/seed0/set.json").read_text())["ids"])
        for name in ("searched", "auto")
    )
    assert ids < whole and {name[:2] for name in ids} == {f"L{found['dials']['layers'][0]}"}
    assert {m["hooks"] for m in report["metrics"] if m["arm"] == "caft-sae-searched"} == {"off", "on"}
    assert not list((run_dir / "trial").rglob("*.safetensors")), "nothing reads a trial's weights"
    assert found["chosen"] in (run_dir / "report.html").read_text()
    assert "nothing was run again" in autocaft("run", task, *options, cwd=copied).stdout


def test_a_changed_key_is_named_and_refused_until_redo(task: Path, copied: Path) -> None:
    before = (copied / "runs/tiny/report.json").read_bytes()
    result = autocaft("run", task, "--set", "select.per_layer_cap=1", cwd=copied, check=False)
    assert result.returncode == 10
    assert "select.per_layer_cap: 3 -> 1" in result.stderr and "--redo select" in result.stderr
    assert (copied / "runs/tiny/report.json").read_bytes() == before
    autocaft("run", task, "--set", "select.per_layer_cap=1", "--redo", "select", cwd=copied)
    assert report_of(copied / "runs/tiny")["directions"]["selected"] <= 4


def test_an_arm_added_later_trains_that_arm_alone(task: Path, copied: Path) -> None:
    untouched = copied / "runs/tiny/train/caft-sae-auto/seed0/model/adapter_model.safetensors"
    before = untouched.stat().st_mtime_ns
    arms = ("base", "tuned", "caft-sae-auto", "caft-sae-auto@50%", "caft-sae-random-live")
    autocaft("run", task, "--set", f"arms={json.dumps(arms)}", cwd=copied)
    assert {metric["arm"] for metric in report_of(copied / "runs/tiny")["metrics"]} == set(arms)
    ids, part = (json.loads((copied / f"runs/tiny/train/{arm}/seed0/set.json").read_text())["ids"] for arm in arms[2:4])
    assert set(part) < set(ids) and {i.split(".")[0] for i in part} == {i.split(".")[0] for i in ids}
    assert untouched.stat().st_mtime_ns == before


def test_a_stage_runs_alone_on_a_run_folder(copied: Path) -> None:
    (copied / "runs/tiny/report.html").unlink()
    autocaft("report", copied / "runs/tiny", "--redo", cwd=copied)
    assert (copied / "runs/tiny/report.html").is_file()


def test_final_splits_are_read_only_when_asked_and_every_look_is_noted(task: Path, copied: Path) -> None:
    assert not any(metric["split"] == "final_id" for metric in report_of(copied / "runs/tiny")["metrics"])
    autocaft("run", task, "--final", cwd=copied)
    assert any(metric["split"] == "final_id" for metric in report_of(copied / "runs/tiny")["metrics"])
    looks = [json.loads(line) for line in (copied / "results/looks.jsonl").read_text().splitlines()]
    assert {look["run"] for look in looks} == {"tiny"}
    measured = {f"evaluate-final/{arm.name}/seed0" for arm in (copied / "runs/tiny/evaluate").iterdir()}
    assert {look["evaluation"] for look in looks} == measured and len(looks) == len(measured)
    autocaft("run", task, "--final", cwd=copied)
    assert len((copied / "results/looks.jsonl").read_text().splitlines()) == len(looks)


@pytest.mark.slow
def test_the_looks_behind_come_after_a_finished_run_and_change_nothing_before_it(task: Path, copied: Path) -> None:
    run_dir = copied / "runs/tiny"
    files = [p for p in run_dir.rglob("*") if p.is_file() and "report" not in p.name and p.parent != run_dir]
    before = {p: p.stat().st_mtime_ns for p in files}
    looks = ["behind.enabled=true", "behind.n_permutations=2", "causes.enabled=true", "causes.n_templates=4"]
    looks = [argument for override in looks for argument in ("--set", override)]
    autocaft("run", task, *looks, cwd=copied)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    found = report_of(run_dir)["behind"]
    probed = {(line["arm"], line["layer"], line["position"]) for line in found["probes"]}
    arms = ("base", "tuned", "caft-sae-auto", "caft-sae-random", "caft-pca-top")
    assert probed == {(arm, layer, position) for arm in arms for layer in (0, 1) for position in ("last", "mean")}
    assert [arm["arm"] for arm in found["moved"]] == ["caft-sae-auto", "caft-sae-random", "caft-pca-top"]
    shares = [layer["inside"] for arm in found["moved"] for layer in arm["layers"] if layer["n_ablated"]]
    assert len(shares) >= 3 and all(0 <= share <= 1 for share in shares)
    assert {line["source"] for line in found["causes"]["sources"]} == {"sae", "pca"}
    page = (run_dir / "report.html").read_text()
    assert "Behind the hook" in page and "The judge against causes" in page
    assert "nothing was run again" in autocaft("run", task, *looks, cwd=copied).stdout


@pytest.mark.slow
def test_two_steps_at_a_time_give_the_same_report(task: Path, finished: Path, tmp_path: Path) -> None:
    autocaft("run", task, "--jobs", "2", cwd=tmp_path)
    assert report_of(tmp_path / "runs/tiny") == report_of(finished / "runs/tiny")


@pytest.mark.slow
def test_a_killed_run_ends_in_the_same_report(task: Path, finished: Path, tmp_path: Path) -> None:
    rng = random.Random(time.time_ns())
    for _ in range(4):
        process = subprocess.Popen([*AUTOCAFT, "run", str(task)], cwd=tmp_path, env={**os.environ, **ENVIRONMENT})
        time.sleep(rng.uniform(3, 12))
        process.send_signal(signal.SIGKILL)
        process.wait()
    autocaft("run", task, cwd=tmp_path)
    assert report_of(tmp_path / "runs/tiny") == report_of(finished / "runs/tiny")


def _edit_rows(name: str, edit: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text("".join(line + "\n" for line in edit(path.read_text().splitlines())))

    return change


def _without_answer(lines: list[str]) -> list[str]:
    row = json.loads(lines[2])
    del row["answer"]
    return [*lines[:2], json.dumps(row), *lines[3:]]


def _same_first_token(lines: list[str]) -> list[str]:
    row = json.loads(lines[1]) | {"choices": [" yes", " yes yes"], "answer": " yes"}
    return [lines[0], json.dumps(row), *lines[2:]]


def _leaked(folder: Path) -> None:
    first = (folder / "train.jsonl").read_text().splitlines()[0]
    _edit_rows("ood.jsonl", lambda lines: [*lines, first])(folder)


BAD_INPUT = {
    "an unknown key names the nearest": (None, ["--set", "tune.learning_rat=1"], 3, "learning_rat"),
    "a value that cannot work": (None, ["--set", "tune.lr=-1"], 3, "tune.lr"),
    "a layer out of range": (None, ["--set", "layers=[0, 9]"], 3, "9 is out of range"),
    "an arm that is none": (None, ["--set", 'arms=["caft-sae-best"]'], 3, "caft-sae-best"),
    "a missing file": (None, ["--set", "data.train=nowhere.jsonl"], 4, "nowhere.jsonl"),
    "an empty file": (_edit_rows("train.jsonl", lambda lines: []), [], 4, "empty"),
    "a row without its field": (_edit_rows("train.jsonl", _without_answer), [], 4, "train.jsonl:3"),
    "a line that is not JSON": (_edit_rows("id.jsonl", lambda lines: [lines[0], "{"]), [], 4, "id.jsonl:2"),
    "choices that share a first token": (_edit_rows("id.jsonl", _same_first_token), [], 4, "id.jsonl:2"),
    "an evaluation row that is in training": (_leaked, [], 4, "ood.jsonl:25"),
    "a model that is not there": (None, ["--set", "model=./no-such-model"], 5, "no-such-model"),
    "a wheel that is not installed": (None, ["--set", "model=wheel:no-such-wheel"], 5, "pip install"),
    "no direction over the threshold": (None, ["--set", "select.threshold=100", "--redo", "select"], 6, "threshold"),
    "a loss that is no number": (None, ["--set", "tune.lr=1e30", "--redo", "tune"], 7, "tune.lr"),
    "no key for a paid judge": (None, ["--set", "judge.judge=anthropic:some-model", "--redo", "judge"], 11, "KEY"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_says_what_where_and_what_to_do(case: str, task: Path, copied: Path, tmp_path: Path) -> None:
    spoil, arguments, code, named = BAD_INPUT[case]
    folder = tmp_path / "task"
    shutil.copytree(task.parent, folder)
    config = folder / "tiny.toml"
    text = config.read_text().replace(str(task.parent), str(folder))
    config.write_text(text.replace(f"{folder}/model", f"{task.parent}/model"))
    if spoil is not None:
        spoil(folder)
    before = sorted(path for path in (copied / "runs").rglob("adapter_model.safetensors"))
    result = autocaft("run", config, *arguments, cwd=copied, check=False)
    assert result.returncode == code, result.stderr
    assert named in result.stderr
    assert "Traceback" not in result.stderr
    if "--redo" not in arguments:
        assert sorted(path for path in (copied / "runs").rglob("adapter_model.safetensors")) == before
    # The run folder is still good for the command it was made with.
    redo = [argument for argument in arguments if argument in ("--redo", "select", "tune", "judge")]
    autocaft("plan", task, *redo, cwd=copied)


def test_a_second_process_is_refused(task: Path, copied: Path) -> None:
    from autocaft.rundir.lock import lock_run

    with lock_run(copied / "runs/tiny"):
        result = autocaft("run", task, "--redo", "report", cwd=copied, check=False)
    assert result.returncode == 9 and str(os.getpid()) in result.stderr


def test_help_lists_every_exit_code(tmp_path: Path) -> None:
    from autocaft.errors import all_error_types

    text = autocaft("--help", cwd=tmp_path).stdout
    for error in all_error_types():
        assert f"  {error.exit_code}" in text


def test_init_writes_what_run_reads(tmp_path: Path) -> None:
    from autocaft.config import find_config, load_config

    autocaft("init", "mine.toml", cwd=tmp_path)
    assert load_config(tmp_path / "mine.toml") == load_config(find_config("quickstart"))
    assert autocaft("init", "mine.toml", cwd=tmp_path, check=False).returncode == 3
