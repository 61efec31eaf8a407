"""Skip, continue, refuse, redo; nothing half done is ever taken for done."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autocaft.errors import ConfigError, DiskFullError, NothingSelectedError, RunChangedError, RunLockedError
from autocaft.rundir.files import TEMPORARY_PREFIX, read_json, remove_folder, write_json
from autocaft.rundir.lock import lock_run
from autocaft.rundir.progress import NullProgress
from autocaft.rundir.runner import Step, StepContext, plan_steps, run_steps
from autocaft.rundir.store import RunStore, StepRow

CHAIN = {"tune": (), "collect": ("tune",), "train/a": ("collect",), "train/b": ("collect",), "report": ("train/a",)}


class Pipeline:
    """A small run: each step writes its options and what it read; `ran` tells which steps ran."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.ran: list[str] = []
        self.options: dict[str, dict[str, Any]] = {name: {name.partition("/")[0]: {"lr": 1}} for name in CHAIN}
        self.inputs: dict[str, dict[str, str]] = {name: {} for name in CHAIN}
        self.versions = dict.fromkeys(CHAIN, 1)
        self.before: dict[str, Callable[[StepContext], None]] = {}
        self.names = list(CHAIN)

    def steps(self) -> list[Step]:
        return [self._step(name) for name in self.names]

    def _step(self, name: str) -> Step:
        def work(context: StepContext) -> None:
            self.ran.append(name)
            self.before.get(name, lambda context: None)(context)
            read = {need: read_json(context.dir_of(need) / "out.json") for need in CHAIN[name]}
            write_json(context.out / "out.json", {"options": self.options[name], "read": read})

        stage = name.partition("/")[0]
        return Step(name, stage, self.options[name], self.inputs[name], CHAIN[name], self.versions[name], work)

    def go(self, redo: Iterable[str] = (), only: set[str] | None = None, source: Path | None = None) -> list[str]:
        self.ran = []
        run_steps(self.steps(), self.run_dir, set(redo), NullProgress(), only, source=source)
        return self.ran

    def rows(self) -> dict[str, StepRow]:
        with RunStore(self.run_dir / "run.sqlite") as store:
            return {row.name: row for row in store.steps()}

    def refusal(self, redo: Iterable[str] = ()) -> str:
        before = snapshot(self.run_dir)
        with pytest.raises(RunChangedError) as caught:
            self.go(redo)
        assert self.ran == [] and snapshot(self.run_dir) == before, "a refusal changes nothing"
        return str(caught.value)


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of all artifacts."""
    files = [path for path in folder.rglob("*.json") if not path.name.startswith(".")]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    return Pipeline(tmp_path / "run")


def test_second_run_does_nothing(pipeline: Pipeline) -> None:
    assert pipeline.go() == list(CHAIN)
    before = snapshot(pipeline.run_dir)
    start = time.monotonic()
    assert pipeline.go() == []
    assert time.monotonic() - start < 1.0
    assert snapshot(pipeline.run_dir) == before
    assert {row.status for row in pipeline.rows().values()} == {"done"}
    assert all(row.process_peak_rss_mb > 1 and row.n_attempts == 1 for row in pipeline.rows().values())


def test_changed_key_is_named_with_old_and_new_and_what_follows_is_not_a_cause(pipeline: Pipeline) -> None:
    pipeline.go()
    pipeline.options["collect"] = {"collect": {"lr": 2, "mode": "zero"}}
    text = pipeline.refusal()
    assert "collect.lr: 1 -> 2" in text and 'collect.mode: (not set) -> "zero"' in text
    assert "To be redone: collect, train/a, train/b, report." in text
    causes = text.split("To be redone")[0].replace(str(pipeline.run_dir), "")
    assert "train" not in causes and "report" not in causes
    assert "another run name" in text and "--redo collect" in text


def test_the_earliest_stage_is_advised_and_a_separate_one_too(pipeline: Pipeline) -> None:
    pipeline.go()
    pipeline.options["collect"] = {"collect": {"lr": 2}}
    pipeline.options["report"] = {"report": {"lr": 2}}
    text = pipeline.refusal()
    assert "collect.lr: 1 -> 2" in text and "report.lr: 1 -> 2" in text
    assert "  --redo collect: " in text
    assert "--redo collect" in pipeline.refusal(redo={"report"}), "a later stage does not cover an earlier one"


def test_a_key_that_changed_in_all_steps_of_a_stage_is_told_once(pipeline: Pipeline) -> None:
    pipeline.go()
    pipeline.options["train/a"] = pipeline.options["train/b"] = {"train": {"lr": 3}}
    assert pipeline.refusal().count("train.lr: 1 -> 3\n") == 1
    pipeline.options["train/b"] = {"train": {"lr": 1}}
    assert "train.lr: 1 -> 3  (train/a)" in pipeline.refusal()


def test_changed_input_file_and_stage_version_are_named(pipeline: Pipeline) -> None:
    pipeline.inputs["tune"] = {"data.train (old/rows.jsonl)": "a" * 64}
    pipeline.go()
    pipeline.inputs["tune"] = {"data.train (new/rows.jsonl)": "a" * 64}
    assert pipeline.go() == [], "a file that moved is the same file"
    pipeline.inputs["tune"] = {"data.train (new/rows.jsonl)": "b" * 64}
    pipeline.versions["report"] = 2
    text = pipeline.refusal()
    assert "input data.train (new/rows.jsonl): sha256 aaaaaaaaaaaa... -> bbbbbbbbbbbb..." in text
    assert "version of the stage: 1 -> 2" in text


def test_true_is_not_one(pipeline: Pipeline) -> None:
    pipeline.go()
    pipeline.options["report"] = {"report": {"lr": True}}
    assert "report.lr: 1 -> true" in pipeline.refusal()


def test_redo_empties_and_reruns_the_stage_and_what_needs_it_only(pipeline: Pipeline) -> None:
    pipeline.go()
    (pipeline.run_dir / "train/a/stale.txt").write_text("stale")
    tune, b = pipeline.run_dir / "tune/out.json", pipeline.run_dir / "train/b/out.json"
    tune_time = tune.stat().st_mtime_ns
    pipeline.options["train/a"] = {"train": {"lr": 9}}
    assert pipeline.go(redo={"train"}) == ["train/a", "train/b", "report"]
    assert not (pipeline.run_dir / "train/a/stale.txt").exists()
    assert tune.stat().st_mtime_ns == tune_time and b.exists()
    assert read_json(pipeline.run_dir / "report/out.json")["read"]["train/a"]["options"] == {"train": {"lr": 9}}
    assert pipeline.rows()["train/a"].n_attempts == 1
    assert pipeline.go() == []


def test_a_kill_while_emptying_is_taken_up_by_the_next_run(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline.go()
    from autocaft.rundir import runner

    def killed(folder: Path) -> None:
        raise SystemExit

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(runner, "remove_folder", killed)
        pipeline.go(redo={"train"})
    assert pipeline.go() == ["train/a", "train/b", "report"], "the next run needs no --redo to finish the redo"
    assert pipeline.go() == []


def test_failed_step_is_recorded_and_continues_with_its_files(pipeline: Pipeline) -> None:
    def fail_once(context: StepContext) -> None:
        if not (context.out / "checkpoint").exists():
            (context.out / "checkpoint").write_text("50")
            raise RuntimeError("no luck with key sk-abcdefghijklmnop")

    pipeline.before["collect"] = fail_once
    with pytest.raises(RuntimeError, match="no luck"):
        pipeline.go()
    row = pipeline.rows()["collect"]
    assert row.status == "failed" and row.message == "RuntimeError: no luck with key [hidden key]"
    log = (pipeline.run_dir / "log.txt").read_text()
    assert "Traceback" in log and "fail_once" in log and "sk-abc" not in log
    assert pipeline.go() == ["collect", "train/a", "train/b", "report"]
    assert pipeline.rows()["collect"].n_attempts == 2


def test_nothing_selected_can_be_mended_by_an_option(pipeline: Pipeline) -> None:
    def nothing(context: StepContext) -> None:
        if pipeline.options["collect"] == {"collect": {"lr": 1}}:
            raise NothingSelectedError("nothing passed")

    pipeline.before["collect"] = nothing
    with pytest.raises(NothingSelectedError):
        pipeline.go()
    pipeline.options["collect"] = {"collect": {"lr": 0}}
    assert pipeline.go() == ["collect", "train/a", "train/b", "report"]


def test_an_unfinished_step_with_files_is_refused_like_a_finished_one(pipeline: Pipeline) -> None:
    def fail(context: StepContext) -> None:
        (context.out / "checkpoint").write_text("hours of work")
        raise RuntimeError

    pipeline.before["collect"] = fail
    with pytest.raises(RuntimeError):
        pipeline.go()
    pipeline.options["collect"] = {"collect": {"lr": 2}}
    assert "collect.lr: 1 -> 2" in pipeline.refusal()


def test_interrupt_leaves_the_run_resumable_and_says_so(pipeline: Pipeline) -> None:
    def interrupt(context: StepContext) -> None:
        raise KeyboardInterrupt

    pipeline.before["train/b"] = interrupt
    with pytest.raises(KeyboardInterrupt, match="stopped in train/b; the same command continues"):
        pipeline.go()
    assert pipeline.rows()["train/b"].status == "started"
    pipeline.before.clear()
    assert pipeline.go() == ["train/b", "report"]


def test_removed_step_is_left_alone_and_a_new_one_is_run(pipeline: Pipeline) -> None:
    pipeline.names.remove("train/b")
    pipeline.go()
    pipeline.names.insert(3, "train/b")
    assert pipeline.go() == ["train/b"]
    pipeline.names.remove("train/b")
    assert pipeline.go() == []
    assert (pipeline.run_dir / "train/b/out.json").exists() and pipeline.rows()["train/b"].status == "done"


def test_only_runs_one_stage_and_asks_for_what_it_needs(pipeline: Pipeline) -> None:
    with pytest.raises(ConfigError, match=r"train reads tune, collect, which is not done.*: tune, then collect"):
        pipeline.go(only={"train"})
    assert pipeline.go(only={"tune"}) == ["tune"]
    assert pipeline.go(only={"collect"}) == ["collect"]
    pipeline.options["report"] = {"report": {"lr": 5}}
    assert pipeline.go(only={"train"}) == ["train/a", "train/b"]
    assert pipeline.go() == ["report"]


def test_only_ignores_changes_in_later_stages_and_empties_what_a_redo_makes_stale(pipeline: Pipeline) -> None:
    pipeline.go()
    pipeline.options["report"] = {"report": {"lr": 5}}
    assert pipeline.go(only={"train"}) == []
    pipeline.options["report"] = {"report": {"lr": 1}}
    assert pipeline.go(only={"train"}, redo={"train"}) == ["train/a", "train/b"]
    assert not (pipeline.run_dir / "report").exists()
    assert pipeline.go() == ["report"]


def test_unknown_stage_is_named_with_the_nearest(pipeline: Pipeline) -> None:
    with pytest.raises(ConfigError, match=r"--redo 'trian' is not a stage of this run; the nearest is 'train'"):
        pipeline.go(redo={"trian"})


def test_a_folder_without_a_record_is_refused(pipeline: Pipeline) -> None:
    write_json(pipeline.run_dir / "collect/out.json", {})
    assert "collect/ has files, but the run's record knows nothing of the step" in pipeline.refusal()
    assert pipeline.go(redo={"collect"}) == list(CHAIN)


def test_a_deleted_folder_is_made_again(pipeline: Pipeline) -> None:
    pipeline.go()
    (pipeline.run_dir / "tune/out.json").unlink()
    (pipeline.run_dir / "tune").rmdir()
    assert pipeline.go() == ["tune"]


def test_half_written_files_are_cleaned_before_the_next_run(pipeline: Pipeline) -> None:
    pipeline.go()
    half = pipeline.run_dir / f"train/a/{TEMPORARY_PREFIX}1-ab-out.json"
    half.write_text("half")
    pipeline.go()
    assert not half.exists()


def test_settings_are_written_only_after_the_check(pipeline: Pipeline) -> None:
    calls: list[str] = []
    run_steps(pipeline.steps(), pipeline.run_dir, set(), NullProgress(), on_checked=lambda: calls.append("written"))
    pipeline.options["tune"] = {"tune": {"lr": 2}}
    with pytest.raises(RunChangedError):
        run_steps(pipeline.steps(), pipeline.run_dir, set(), NullProgress(), on_checked=lambda: calls.append("bad"))
    assert calls == ["written"]


def test_plan_says_what_would_run_and_touches_nothing(pipeline: Pipeline) -> None:
    assert plan_steps(pipeline.steps(), pipeline.run_dir, set()).to_run == list(CHAIN)
    assert not pipeline.run_dir.exists()
    pipeline.go(only={"tune"})
    plan = plan_steps(pipeline.steps(), pipeline.run_dir, set())
    assert plan.actions["tune"] == "skip" and plan.to_run == list(CHAIN)[1:]


@pytest.fixture
def finished(tmp_path: Path) -> Pipeline:
    """Another run with the same settings, all done."""
    other = Pipeline(tmp_path / "finished")
    other.go()
    return other


def test_what_another_run_finished_is_taken_over_where_it_is_the_same(pipeline: Pipeline, finished: Pipeline) -> None:
    pipeline.options["train/b"] = {"train": {"lr": 2}}
    plan = plan_steps(pipeline.steps(), pipeline.run_dir, set(), source=finished.run_dir)
    assert plan.to_take_over == ["tune", "collect", "train/a", "report"] and not pipeline.run_dir.exists()
    assert pipeline.go(source=finished.run_dir) == ["train/b"]
    assert read_json(pipeline.run_dir / "train/a/out.json") == read_json(finished.run_dir / "train/a/out.json")
    assert pipeline.rows()["collect"] == finished.rows()["collect"], "its time too: what the step costs"
    assert pipeline.go(source=finished.run_dir) == pipeline.go() == []


def test_what_is_not_finished_elsewhere_or_derived_is_made_here(pipeline: Pipeline, finished: Pipeline) -> None:
    with RunStore(finished.run_dir / "run.sqlite") as store:
        store.end_attempt("collect", "failed", 0.0, 0.0)
    remove_folder(finished.run_dir / "train/a")
    steps = [replace(step, derived=step.name == "report") for step in pipeline.steps()]
    plan = plan_steps(steps, pipeline.run_dir, set(), source=finished.run_dir)
    assert plan.to_take_over == ["tune", "train/b"]


def test_neither_run_changes_what_the_other_has(pipeline: Pipeline, finished: Pipeline) -> None:
    pipeline.go(source=finished.run_dir)
    before = snapshot(finished.run_dir)
    pipeline.options["tune"] = {"tune": {"lr": 2}}
    assert pipeline.go(redo=["tune"], source=finished.run_dir) == list(CHAIN)
    assert snapshot(finished.run_dir) == before
    mine = snapshot(pipeline.run_dir)
    remove_folder(finished.run_dir)
    assert snapshot(pipeline.run_dir) == mine


def test_a_kill_while_taking_over_leaves_nothing_half(
    pipeline: Pipeline, finished: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("autocaft.rundir.finished.os.link", killed)
        with pytest.raises(KeyboardInterrupt):
            pipeline.go(source=finished.run_dir)
    assert not (pipeline.run_dir / "tune").exists()
    assert pipeline.go(source=finished.run_dir) == []


def test_answers_of_another_run_are_there_and_cost_nothing(pipeline: Pipeline, finished: Pipeline) -> None:
    with RunStore(finished.run_dir / "run.sqlite") as store:
        store.add_answer("k", "openai:m", {"q": 1}, {"a": 2}, 100, 10, nano_usd=5)
    pipeline.go(source=finished.run_dir)
    with RunStore(pipeline.run_dir / "run.sqlite") as store:
        answer = store.answer("k")
        assert answer is not None and answer.response == {"a": 2}
        assert [(c.input_tokens, c.output_tokens, c.nano_usd) for c in store.charges()] == [(0, 0, 0)]


def test_only_another_run_folder_can_be_taken_from(pipeline: Pipeline, finished: Pipeline) -> None:
    for source, message in ((finished.run_dir / "tune", "no run folder"), (finished.run_dir, "the run itself")):
        with pytest.raises(ConfigError, match=message):
            run_steps(finished.steps(), finished.run_dir, set(), NullProgress(), source=source)


def test_undeclared_reading_and_broken_pipelines_are_caught(pipeline: Pipeline) -> None:
    pipeline.before["tune"] = lambda context: context.dir_of("report")  # type: ignore[assignment]
    with pytest.raises(AssertionError, match="does not declare"):
        pipeline.go()
    step = pipeline.steps()[0]
    nested = Step("tune/seed0", "tune", {}, {}, (), 1, lambda context: None)
    broken = {"twice": [step, step], "in each other": [step, nested], "before it": pipeline.steps()[1:]}
    for message, steps in broken.items():
        with pytest.raises(AssertionError, match=message):
            run_steps(steps, pipeline.run_dir / "other", set(), NullProgress())


def test_a_locked_folder_is_refused(pipeline: Pipeline) -> None:
    with lock_run(pipeline.run_dir), pytest.raises(RunLockedError, match=f"process {os.getpid()}"):
        pipeline.go()


def test_a_full_disk_in_a_step_leaves_the_run_resumable(small_disk: Path) -> None:
    ballast = small_disk / "ballast"

    def write_much(context: StepContext) -> None:
        with ballast.open("wb") as file:
            while True:
                file.write(b"x" * 4096)

    pipeline = Pipeline(small_disk / "run")
    pipeline.before["collect"] = write_much
    with pytest.raises(DiskFullError, match="the same command continues"):
        pipeline.go()
    ballast.unlink()
    pipeline.before.clear()
    assert pipeline.go() == ["collect", "train/a", "train/b", "report"]


CHILD = """
import sys, time
from pathlib import Path
from autocaft.rundir.files import read_jsonl, write_jsonl
from autocaft.rundir.progress import NullProgress
from autocaft.rundir.runner import Step, run_steps

def tune(context):
    write_jsonl(context.out / "rows.jsonl", [{"n": 1}])

def train(context):
    path = context.out / "rows.jsonl"
    rows = read_jsonl(path) if path.exists() else []
    print("from", len(rows), flush=True)
    while len(rows) < 40:
        rows.append({"n": len(rows) ** 2})
        write_jsonl(path, rows)
        print(len(rows), flush=True)
        time.sleep(float(sys.argv[2]))

steps = [Step("tune", "tune", {}, {}, (), 1, tune), Step("train", "train", {}, {}, ("tune",), 1, train)]
run_steps(steps, Path(sys.argv[1]), set(), NullProgress())
"""


def test_kill_in_the_middle_of_a_step_then_continue_gives_the_same_artifacts(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CHILD]
    subprocess.run([*command, str(tmp_path / "whole"), "0"], check=True, capture_output=True)
    killed = tmp_path / "killed"
    for n_rows in (b"5\n", b"20\n"):
        child = subprocess.Popen([*command, str(killed), "0.02"], stdout=subprocess.PIPE)
        assert child.stdout is not None
        while child.stdout.readline() != n_rows:
            assert child.poll() is None
        child.kill()
        child.communicate()
    last = subprocess.run([*command, str(killed), "0"], check=True, capture_output=True, text=True)
    assert int(last.stdout.split()[1]) >= 20, "the step continued from what it found"
    for name in ("tune/rows.jsonl", "train/rows.jsonl"):
        assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with RunStore(killed / "run.sqlite") as store:
        assert [(row.status, row.n_attempts) for row in store.steps()] == [("done", 1), ("done", 3)]


def test_the_runner_imports_nothing_heavy() -> None:
    code = "import sys, autocaft.rundir.runner; print([m for m in ('torch', 'numpy', 'rich') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
