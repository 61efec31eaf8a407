"""`autocaft audit`: the steps of an audit, of each of its models if it names several, and what the exit code tells.

In: an audit's file. Out: run folders, a summary on the terminal.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocaft.cli.actions import print_text
from autocaft.errors import ConfigError
from autocaft.execute.choose import Executor
from autocaft.execute.quiet import quiet_libraries
from autocaft.rundir.files import read_json, write_json, write_text

if TYPE_CHECKING:
    from autocaft.audit.options import AuditConfig


def audit_sets(
    path: Path,
    *,
    init: bool,
    name: str | None,
    runs: Path,
    redo: set[str],
    executor: Executor,
    fail_on: str | None,
    sheet: Path | None = None,
    n_sheet: int = 60,
    agree: Path | None = None,
) -> None:
    """`autocaft audit`.

    Raises:
        ConfigError, DataError: what is asked cannot be done; before anything is run.
        VerdictError, UnreadRowsError: it is done, and this is to be told by the exit code.
    """
    quiet_libraries()
    from autocaft.audit.human import check_sheet
    from autocaft.audit.models import models_text, write_models
    from autocaft.audit.options import each_model, load_audit
    from autocaft.audit.outcome import check_fail_on, raise_outcome, summary_text
    from autocaft.audit.template import write_audit

    if init:
        print_text(f"{path} and {write_audit(path)} written; edit them, then: autocaft audit {path}")
        return
    check_fail_on(fail_on)
    name = name or path.stem
    folder, configs = runs / name, each_model(load_audit(path))
    if (sheet is not None or agree is not None) and "" not in configs:
        raise ConfigError("--sheet and --agree are about one audit; give a file that names one model")
    if sheet is not None:
        check_sheet(sheet)
    found = {
        model: _audit_for_one_model(path, config, name, folder / model, redo, executor)
        for model, config in configs.items()
    }
    if "" in found:
        whole, text = found[""], summary_text(found[""], folder)
    else:
        whole = write_models(name, found, folder)
        text = models_text(whole, folder)
    print_text(text)
    _ask_a_person(folder, sheet, n_sheet, agree)
    raise_outcome(whole, fail_on)


def _ask_a_person(folder: Path, sheet: Path | None, n_sheet: int, agree: Path | None) -> None:
    """Write a blind sheet of rows, and read one that was filled in.

    Raises:
        DataError: the sheet cannot be read.
    """
    from autocaft.audit.human import agreement, agreement_text, write_sheet

    if sheet is not None:
        n_rows = write_sheet(folder, sheet, n_sheet)
        print_text(f"{sheet}: {n_rows} rows; fill in off_purpose (yes or no), and read it with --agree {sheet}")
    if agree is not None:
        said = agreement(folder, agree)
        write_json(folder / "human.json", said)
        print_text(agreement_text(said))


def _audit_for_one_model(
    path: Path, config: AuditConfig, name: str, run_dir: Path, redo: set[str], executor: Executor
) -> dict[str, Any]:
    """All steps of one audit; gives its audit.json."""
    from autocaft.audit.run import Audit, pin_audit
    from autocaft.audit.steps import build_steps, run_step
    from autocaft.preflight import check_model, set_threads, step_bytes
    from autocaft.run import write_lock
    from autocaft.rundir.progress import Log, make_progress
    from autocaft.rundir.runner import LOG_NAME, run_steps

    config, pinned = pin_audit(config, run_dir)
    audit = Audit(config)
    check_model(audit.weights, config.layers, config.judge)
    steps = build_steps(audit, name)
    progress = make_progress(Log(run_dir / LOG_NAME))

    def begin() -> None:
        write_text(run_dir / "audit.toml", path.read_text(encoding="utf-8"))
        write_lock(pinned, run_dir)
        set_threads(config.threads)

    with executor.workers(
        partial(run_step, config, name),
        steps,
        run_dir,
        threads=config.threads,
        model_bytes=step_bytes(audit.weights, config.dtype),
        key_names=[config.judge.api_key_env] if config.judge.api_key_env else [],
        say=progress.say,
    ) as workers:
        run_steps(steps, run_dir, redo, progress, on_checked=begin, workers=workers)
    found: dict[str, Any] = read_json(run_dir / "audit.json")
    return found
