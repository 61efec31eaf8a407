"""Does the search's objective rank its trials as inverted cues would? Asked after the search has chosen.

    autocaft run gender --name search --set 'seeds=[0]' --set select.search.keep_models=true \\
        --set behind.enabled=false --set causes.enabled=false --set 'arms=["base", "tuned", "caft-sae-searched"]'
    python benchmarks/search.py runs/search

In: a run whose search is done and whose trials kept their weights. Out, on the screen: what the search saw of each
trial, beside the trial's accuracy on every split with the hooks off; the rank correlation of the concept left with the
accuracy on `ood`. The decision a reader would question: this reads the splits in which the cue is broken, for trials
too. So it is a benchmark and not a stage, and writes nothing that a run could read.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

from autocaft.config import load_config
from autocaft.evaluate.choices import accuracy, answer_choices
from autocaft.model.load import autocast_bf16
from autocaft.records import Metric
from autocaft.report.words import percent
from autocaft.run import Run
from autocaft.rundir.files import read_json


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the trials of each searched source."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="a run whose search is done")
    args = parser.parse_args(arguments)
    run = Run(load_config(args.run_dir / "config.toml"))
    for path in sorted(args.run_dir.glob("search/*/search.json")):
        found = read_json(path)
        trials = [line for line in found["trials"] if "unscored" not in line]
        pairs = []
        for line in [{"name": "plain", "left": {"value": 1.0}, **found["plain"]}, *trials]:
            scores = accuracies(run, args.run_dir / "trial" / found["source"] / line["name"])
            sys.stdout.write(told(line, scores))
            if line in trials:
                pairs.append((line["left"]["value"], scores["ood"].value))
        rho = spearmanr(*zip(*pairs, strict=True)).statistic if len(pairs) > 2 else None
        sys.stdout.write(f"{found['why']}\n{len(pairs)} trials, rank correlation of concept left and ood: {rho}\n")


def accuracies(run: Run, folder: Path) -> dict[str, Metric]:
    """Accuracy of one trial's model by split, hooks off."""
    model, tokenizer, options = run.load_trained(folder), run.tokenizer(), run.config.evaluate
    size = {"tokens_per_batch": options.tokens_per_batch, "advance": lambda n: None}
    found = {}
    with autocast_bf16(model.device, enabled=options.autocast == "bf16"):
        for split, rows in run.eval_rows(dict(run.config.data.splits)).items():
            answers = answer_choices(model, tokenizer, rows, split=split, hooks="off", **size)
            found[split] = accuracy(answers, arm=folder.name, task="", seed=0, n_bootstrap=options.n_bootstrap)
    return found


def told(line: Mapping[str, Any], scores: Mapping[str, Metric]) -> str:
    """One line a trial."""
    guards = {True: "within the guards", False: "not within the guards"}.get(line.get("passes"), "")
    shown = [f"left {line['left']['value']:.3f}", f"loss {line['loss']['value']:.3f}", f"KL {line['kl']['value']:.4f}"]
    for split, score in scores.items():
        interval = "" if score.ci_low is None else f" [{percent(score.ci_low)}, {percent(score.ci_high)}]"
        shown.append(f"{split} {percent(score.value)}{interval}")
    return f"{line['name']:<18}{', '.join(shown)}, {guards}\n"


if __name__ == "__main__":
    main()
