"""Kill a run at random points in every stage; does the same command end in the same report?

    python benchmarks/resume.py                          20 kills of `autocaft run quickstart`, beside a run left alone
    python benchmarks/resume.py my.toml --kills 5 --out resume.json

In: a recipe or config. Out: where each kill fell, and whether report.json of the killed run equals that of the
uninterrupted one, timings aside. The uninterrupted run is made first if `--reference` does not name one.

A kill is aimed at a stage: it waits until a step of that stage runs and then a random share of what the stage took in
the reference, so that short stages are hit as well as long ones.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

AUTOCAFT = [sys.executable, "-c", "from autocaft.cli import main; main()"]
DIFFERS = ("timing", "name", "command")
"""Keys of a report that may differ between two runs of the same settings."""
POLL_S = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", default="quickstart")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/resume"))
    parser.add_argument("--reference", type=Path, help="a finished, uninterrupted run folder of the same config")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    reference = args.reference or args.runs / "whole"
    if not (reference / "report.json").is_file():
        subprocess.run([*AUTOCAFT, "run", args.config, "--runs", args.runs, "--name", "whole"], check=True)
    shutil.rmtree(args.runs / "killed", ignore_errors=True)
    points = kill_often(args.config, args.runs, reference, args.kills, random.Random(args.seed))
    subprocess.run([*AUTOCAFT, "run", args.config, "--runs", args.runs, "--name", "killed"], check=True)
    differing = differences(read_report(reference), read_report(args.runs / "killed"))
    result = {"config": args.config, "n_kills": len(points), "kills": points, "differing_keys": differing}
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")
    for point in points:
        sys.stdout.write(f"killed in {point['step']:<32} after {point['after_s']:6.2f} s\n")
    sys.stdout.write(
        f"{len(points)} kills; report.json " + (f"differs in {differing}\n" if differing else "is equal\n")
    )
    sys.exit(1 if differing else 0)


def kill_often(config: str, runs: Path, reference: Path, n_kills: int, rng: random.Random) -> list[dict[str, Any]]:
    """Start the run and kill it, again and again, aiming at each stage in turn."""
    seconds_by_step = {name: seconds for name, _, seconds in read_steps(reference)}
    steps = list(seconds_by_step)
    aims = sorted((steps[i % len(steps)] for i in range(n_kills)), key=steps.index)
    points = []
    for aim in aims:
        command = [*AUTOCAFT, "run", config, "--runs", str(runs), "--name", "killed"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if wait_for_step(process, runs / "killed", aim):
            delay = rng.uniform(0, 0.9) * seconds_by_step[aim]
            time.sleep(delay)
            step = running_step(runs / "killed")
            process.send_signal(signal.SIGKILL)
            points.append({"aimed_at": aim, "step": step or "between steps", "after_s": round(delay, 2)})
        process.wait()
    return points


def wait_for_step(process: subprocess.Popen[bytes], run_dir: Path, aim: str) -> bool:
    """Wait until the step runs; False if it is over or the process ended."""
    while process.poll() is None:
        status = {name: state for name, state, _ in read_steps(run_dir)}.get(aim)
        if status == "started":
            return True
        if status == "done":
            process.send_signal(signal.SIGKILL)
            return False
        time.sleep(POLL_S)
    return False


def running_step(run_dir: Path) -> str | None:
    return next((name for name, state, _ in read_steps(run_dir) if state == "started"), None)


def read_steps(run_dir: Path) -> list[tuple[str, str, float]]:
    """Name, status and seconds of each step in the run's record, in the order they were started."""
    path = run_dir / "run.sqlite"
    if not path.is_file():
        return []
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5) as connection:
            return list(connection.execute("SELECT name, status, seconds FROM steps ORDER BY started_at"))
    except sqlite3.OperationalError:  # the table is being made
        return []


def read_report(run_dir: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((run_dir / "report.json").read_text())
    return {key: value for key, value in report.items() if key not in DIFFERS}


def differences(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))


if __name__ == "__main__":
    main()
