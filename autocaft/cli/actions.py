"""What each command does, one function each: build the run, hand it to the runner, print what came out."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from autocaft.config import RunConfig, find_config, load_config, recipe_names, to_toml
from autocaft.errors import ConfigError
from autocaft.rundir.files import read_json, write_text

CONFIG = "config.toml"


def run_all(
    name_or_path: str, *, overrides: Sequence[str], redo: set[str], name: str | None, runs: Path, final: bool
) -> None:
    """`autocaft run`."""
    path = find_config(name_or_path)
    _execute(load_config(path, overrides), runs / (name or path.stem), redo=redo, final=final, only=None)


def run_stage(stage: str, run_dir: Path, *, overrides: Sequence[str], redo: bool) -> None:
    """`autocaft STAGE RUN_DIR`: the stage alone, with the settings the folder was made with."""
    path = run_dir / CONFIG
    if not path.is_file():
        raise ConfigError(f"{run_dir} is no run folder: it has no {CONFIG}. Make one with `autocaft run`")
    _execute(load_config(path, overrides), run_dir, redo={stage} if redo else set(), final=False, only={stage})


def _execute(config: RunConfig, run_dir: Path, *, redo: set[str], final: bool, only: set[str] | None) -> None:
    from autocaft.pipeline import build_steps
    from autocaft.preflight import check_inputs, set_threads
    from autocaft.rundir.progress import Log, make_progress
    from autocaft.rundir.runner import LOG_NAME, run_steps
    from autocaft.stages import Run

    _quiet_libraries()
    run = Run(config)
    check_inputs(run, final=final)
    steps = build_steps(run, final=final)
    progress = make_progress(Log(run_dir / LOG_NAME))

    def begin() -> None:
        write_text(run_dir / CONFIG, to_toml(config))
        set_threads(config.threads)

    ran = run_steps(steps, run_dir, redo, progress, only, on_checked=begin)
    if final:
        from autocaft.report.looks import note_look

        note_look(Path("results/looks.jsonl"), run_dir, [name for name in ran if name.startswith("evaluate-final/")])
    _print_outcome(run_dir, ran)


def _print_outcome(run_dir: Path, ran: Sequence[str]) -> None:
    from autocaft.report.build import summary_table

    report = run_dir / "report.json"
    if not ran:
        _print(f"{run_dir}: everything is done, nothing was run again")
    if report.is_file():
        _print(summary_table(read_json(report)))
        _print(f"{run_dir / 'report.html'}")


def show_plan(
    name_or_path: str, *, overrides: Sequence[str], redo: set[str], name: str | None, runs: Path, final: bool
) -> None:
    """`autocaft plan`."""
    from autocaft.estimate import estimate
    from autocaft.pipeline import build_steps
    from autocaft.preflight import check_inputs
    from autocaft.rundir.runner import plan_steps
    from autocaft.stages import Run

    path = find_config(name_or_path)
    run = Run(load_config(path, overrides))
    check_inputs(run, final=final)
    run_dir = runs / (name or path.stem)
    plan = plan_steps(build_steps(run, final=final), run_dir, redo)
    width = max(len(step) for step in plan.actions)
    _print(f"{path} -> {run_dir}")
    for step, action in plan.actions.items():
        _print(f"  {step:<{width}}  {'done' if action == 'skip' else action}")
    _print("\n".join(estimate(run, run_dir)))


def write_config(path: Path, recipe: str) -> None:
    """`autocaft init`."""
    if path.exists():
        raise ConfigError(f"{path} exists; name another file")
    config = load_config(find_config(recipe))
    head = f"# autocaft: every key of the recipe {recipe!r}, with what it does. Run it: autocaft run {path}\n\n"
    write_text(path, head + to_toml(config, documented=True))
    _print(f"{path} written; edit it, then: autocaft run {path}")


def list_recipes() -> None:
    """`autocaft recipes`: each with the first comment line of its file."""
    for name in recipe_names():
        first = find_config(name).read_text(encoding="utf-8").splitlines()[0]
        _print(f"{name:<14} {first.lstrip('# ')}")


def _quiet_libraries() -> None:
    """Bars and warnings of the libraries would run through ours; what matters of them is raised or logged."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("WANDB_MODE", "disabled")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import warnings

    warnings.filterwarnings("ignore", category=FutureWarning)


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
