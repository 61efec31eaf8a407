"""One process a run folder; a dead one does not block."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from autocaft.errors import RunLockedError
from autocaft.rundir.lock import lock_run

CHILD = """
import sys, time
from pathlib import Path
from autocaft.rundir.lock import lock_run
with lock_run(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_another_process_is_named_and_its_death_frees_the_folder(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(run_dir)], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None and child.stdout.readline() == b"held\n"
        with pytest.raises(RunLockedError, match=rf"process {child.pid} on \S+ works on {run_dir}"), lock_run(run_dir):
            pass
    finally:
        child.kill()
        child.communicate()
    with lock_run(run_dir):
        pass


def test_the_lock_is_free_after_an_error_and_not_shared_within_a_process(tmp_path: Path) -> None:
    with pytest.raises(ValueError), lock_run(tmp_path):
        with pytest.raises(RunLockedError), lock_run(tmp_path):
            pass
        raise ValueError
    with lock_run(tmp_path):
        pass
