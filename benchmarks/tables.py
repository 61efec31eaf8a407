"""Write or check the tables of README.md, NEGATIVE.md, docs/audit.md and two READMEs of eval_data/, from results/.

In: results/*.json. Out: the text between `<!-- table:NAME -->` and `<!-- /table:NAME -->` in these files. Every table
of the README comes from here, so a figure in it cannot drift from its measurement.

    python benchmarks/tables.py --write
    python benchmarks/tables.py --check     exit 1, naming each table that differs
    python benchmarks/tables.py --take runs/quickstart     a run's figures into results/quickstart.json
    python benchmarks/tables.py --take runs/calibration    a judge's calibration into results/calibration/
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import cells

from autocaft.report.arms import arm_order, hooks_in_use, split_order
from autocaft.report.calibration import figures_of
from autocaft.report.contrasts import p_text
from autocaft.report.free_form import figure_text
from autocaft.report.words import interval_text, percent, points_text
from autocaft.select.options import SelectOptions

DOCUMENTS = (
    "README.md",
    "NEGATIVE.md",
    "docs/audit.md",
    "eval_data/audit/README.md",
    "eval_data/double_choice/README.md",
)
ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"(<!-- table:(?P<name>[\w-]+) -->\n)(?P<body>.*?)(<!-- /table:(?P=name) -->)", re.DOTALL)
OPENING = re.compile(r"<!-- table:([\w-]+) -->")


def arms_table(result: Mapping[str, Any]) -> str:
    """Arms of one run as they are used: accuracy with interval by split, the worst seed, the gap to the control, where
    there are rivals the judge's lead on them, and perplexity as a multiple of base's."""
    lines = _lines_in_use(result)
    splits = [split for split in split_order(lines) if split != "val"]
    several = any(len(line["seeds"]) > 1 for line in lines)
    leads = _leads(result.get("contrasts", ()))
    head = ["arm", *splits, *(["ood, worst seed", "ood minus control"] if several else [])]
    head += [*(["auto minus this, ood (p, Holm)"] if leads else []), "perplexity / base"]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    for line in lines:
        scores = [line["scores"].get(split) for split in splits]
        cells = [f"{percent(score['value'])} {interval_text(score)}".strip() if score else "-" for score in scores]
        if several:
            worst, gap = line["worst_seed"], line["against_control"]
            cells += ["-" if worst is None else percent(line["scores"]["ood"]["by_seed"][str(worst)])]
            cells += ["-" if gap is None else points_text(gap)]
        cells += [leads.get(line["arm"], "-")] if leads else []
        ratio = line["perplexity_ratio"]
        rows.append([line["arm"], *cells, "-" if ratio is None else f"{ratio:.2f}"])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _lines_in_use(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [line for line in result["arms"] if line["hooks"] == hooks_in_use(line["arm"])]


def _leads(contrasts: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """By rival, how far the judge's latents are ahead where the cue is inverted; p is corrected for all rivals."""
    return {
        row["against"]: f"{points_text({'value': -row['value'], 'low': -row['high'], 'high': -row['low']})} "
        f"({p_text(row['p_holm'])})"
        for row in contrasts
        if (row["kind"], row["arm"]) == ("against_rival", "caft-sae-auto")
    }


def free_form_table(result: Mapping[str, Any]) -> str:
    """Free-form answers of one run by arm: every rate or mean over the answers that count, and perplexity as a multiple
    of base's. Rates over coherent answers stay in results/."""
    asked = result["free_form"]
    metrics = [metric for metric in asked["metrics"] if not metric.endswith("_of_coherent")]
    ratios = {line["arm"]: line["perplexity_ratio"] for line in _lines_in_use(result)}
    head = ["arm", *(metric.removesuffix("_of_all").replace("_", " ") for metric in metrics), "perplexity / base"]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    for line in asked["arms"]:
        cells = [figure_text(metric, line["cells"][metric]) for metric in metrics]
        ratio = ratios.get(line["arm"])
        rows.append([line["arm"], *cells, "-" if ratio is None else f"{ratio:.2f}"])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def calibration_table(result: Mapping[str, Any]) -> str:
    """One judge on the planted concepts: both halves, selected at the tuned threshold and at a run's default."""
    default = f"{SelectOptions().threshold:g}"
    head = ["offline judge" if result["judge"].startswith("offline:") else result["judge"]]
    columns = []
    for half in ("tuning", "held_out"):
        figures, name = result[half], half.replace("_", "-")
        head += [f"{name}, from {figures['threshold']:g}", f"from {default}"]
        columns += [figures_of(figures), figures_of(figures | figures["by_threshold"][default])]
    rows = [head, ["---", *["---:"] * len(columns)]]
    rows += [[cells[0][0], *(value for _, value in cells)] for cells in zip(*columns, strict=True)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def wordings_table(result: Mapping[str, Any]) -> str:
    """The recipe's concept and other wordings of it: what each selects, and what comes out."""
    lines = [line for line in result["lines"] if line["variant"] == "recipe" or line["variant"].startswith("wording")]
    return _variants(lines, "concept", lambda line: _wording(line["set"]))


def settings_table(result: Mapping[str, Any]) -> str:
    """The recipe and one changed setting at a time."""
    lines = [line for line in result["lines"] if not line["variant"].startswith("wording")]
    return _variants(lines, "set", lambda line: ", ".join(f"`{option}`" for option in line["set"]) or "the recipe")


def visibility_table(result: Mapping[str, Any]) -> str:
    """The planted suite: how far words alone give each concept away, on wordings held out and seen."""
    rows = [["concept", "family", "held-out wordings", "seen wordings"], ["---", "---", "---:", "---:"]]
    for line in result["concepts"]:
        held_out = f"{line['area']:.2f} [{line['low']:.2f}, {line['high']:.2f}]"
        rows.append([f"`{line['concept']}`", line["family"], held_out, f"{line['area_seen']:.2f}"])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def audit_table(result: Mapping[str, Any]) -> str:
    """The screen on the planted suite beside three ways that read no peers: areas under ROC and precision by dose."""
    kinds = ["all", "invisible", "with peers", "chosen on", "held out"]
    rows = [["dose", "", *kinds, "planted rows among the top k"], ["---:", "---", *["---:"] * (len(kinds) + 1)]]
    for dose, ways in result["by_dose"].items():
        for way, line in ways.items():
            figures = [line[kind] for kind in kinds] + [line.get("precision")]
            rows.append([f"{dose} %", way, *(_figure(found) for found in figures)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def audit_short_table(result: Mapping[str, Any]) -> str:
    """The same on all sets alone, with the best of the other ways."""
    head = ["rows planted", "beside peers", "invisible concepts", "best other way", "planted rows among the top k"]
    rows = [head, ["---:", *["---:"] * (len(head) - 1)]]
    for dose, ways in result["by_dose"].items():
        screen = ways["screen"]
        best = max((line["all"] for way, line in ways.items() if way != "screen"), key=lambda found: found["value"])
        figures = [screen["all"], screen["invisible"], best, screen.get("precision")]
        rows.append([f"{dose} %", *(_figure(found) for found in figures)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def audit_latents_table(result: Mapping[str, Any]) -> str:
    """The look beside the model's own answers on the planted suite, by dose."""
    head = ["rows planted", "", "all", "invisible", "with peers", "planted rows among the top k"]
    rows = [head, ["---:", "---", *["---:"] * (len(head) - 2)]]
    for dose, ways in result["by_dose"].items():
        for way, line in ways.items():
            figures = [line["all"], line["invisible"], line["with peers"], line.get("precision")]
            label = {"screen": "beside peers", "latents": "by latents", "unjudged": "by latents, unjudged"}[way]
            rows.append([f"{dose} %", label, *(_figure(found) for found in figures)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _figure(found: Mapping[str, Any] | None) -> str:
    return f"{found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}]" if found else "-"


def _wording(options: Sequence[str]) -> str:
    return json.loads(options[0].partition("=")[2]) if options else "as in the recipe"


def _variants(lines: Sequence[Mapping[str, Any]], what: str, name: Callable[[Mapping[str, Any]], str]) -> str:
    head = [what, "arm", "selected (also by the recipe)", "id", "ood", "ood by seed"]
    rows = [head, ["---", "---", *["---:"] * (len(head) - 2)]]
    for line in sorted(lines, key=lambda line: arm_order(line["arm"])):
        shared = "" if line["n_shared"] is None else f" ({line['n_shared']})"
        scores = [line["scores"][split] for split in ("id", "ood")]
        seeds = " ".join(percent(value) for value in scores[1]["by_seed"].values())
        cells = [f"{percent(score['value'])} {interval_text(score)}".strip() for score in scores]
        rows.append([name(line), line["arm"], f"{line['n_selected']}{shared}", *cells, seeds])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def behind_table(result: Mapping[str, Any]) -> str:
    """How well a linear probe reads the cue at the prompt's last token, as the arms are used and with hooks on."""
    head = ["arm", "layer", "hooks off", "hooks on, before the hook", "hooks on, behind it", "permuted labels"]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    for line in result["behind"]["probes"]:
        if line["position"] == "last":
            cells = [f"{percent(cell['value'])} {interval_text(cell)}" if cell else "-" for cell in line["cells"]]
            permuted = next(cell["permuted"] for cell in reversed(line["cells"]) if cell)
            rows.append([line["arm"], str(line["layer"]), *cells, percent(permuted)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def hybrid_table(result: Mapping[str, Any]) -> str:
    """What a simulated reviewer's minutes gain, from nobody reading to everything being read."""
    rows = [["arm", "directions read", "minutes", "ablated", "gain on ood over tuned", "share of the whole reading's"]]
    rows += [["---", *["---:"] * 5]]
    for line in result["arms"]:
        share = line["share"]
        told = "-" if share is None else f"{percent(share['value'])} {_bounds(share)}".strip()
        counts = [str(line["n_read"]), f"{line['minutes']:.0f}", str(line["n_ablated"])]
        rows.append([line["arm"], *counts, points_text(line["gain"]), told])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _bounds(share: Mapping[str, Any]) -> str:
    return interval_text({"ci_low": share["low"], "ci_high": share["high"]})


TABLES: dict[str, tuple[str, Callable[[Mapping[str, Any]], str]]] = {
    "quickstart": ("quickstart.json", arms_table),
    "gender": ("gender.json", arms_table),
    "transfer": ("transfer.json", arms_table),
    "rivals": ("rivals.json", arms_table),
    "double-choice": ("double_choice.json", cells.arms_table),
    "pilot": ("double_choice.json", cells.pilot_table),
    "pilot-before": ("double_choice_before.json", cells.pilot_table),
    "hybrid": ("hybrid.json", hybrid_table),
    "persona": ("persona.json", free_form_table),
    "behind": ("behind.json", behind_table),
    "calibration": ("calibration/offline.json", calibration_table),
    "wordings": ("variants.json", wordings_table),
    "settings": ("variants.json", settings_table),
    "visibility": ("audit_visibility.json", visibility_table),
    "audit": ("audit.json", audit_table),
    "audit-short": ("audit.json", audit_short_table),
    "audit-latents": ("audit_latents.json", audit_latents_table),
}
"""Table name -> (file in results/, how it becomes Markdown)."""


def regenerate(text: str, results: Path, document: str = "README.md") -> tuple[str, list[str]]:
    """A document with fresh tables, and the names of those that differed.

    Raises:
        ValueError: a marker without its end, an unknown table, or a measurement that is not there.
    """
    differing: list[str] = []
    blocks = [match["name"] for match in BLOCK.finditer(text)]
    for name in OPENING.findall(text):
        if name not in blocks:
            raise ValueError(f"{document} opens table {name!r} and never closes it")
        if name not in TABLES:
            raise ValueError(f"{document} asks for table {name!r}; known are {sorted(TABLES)}")

    def fresh(match: re.Match[str]) -> str:
        file, render = TABLES[match["name"]]
        path = results / file
        if not path.is_file():
            raise ValueError(f"table {match['name']!r} needs {path}, which is not there")
        body = render(json.loads(path.read_text(encoding="utf-8")))
        if body != match["body"]:
            differing.append(match["name"])
        return match[1] + body + match[4]

    return BLOCK.sub(fresh, text), differing


KEPT = (
    "command",
    "headline",
    "arms",
    "metrics",
    "contrasts",
    "directions",
    "judge",
    "timing",
    "model",
    "data",
    "threads",
    "versions",
    "config",
)
"""What of a report is kept in results/: figures and what is needed to make them again, without the windows of text."""


def take(run_dir: Path, results: Path) -> Path:
    """Copy a run's figures into results/, under the run's name; a calibration's under its judge's."""
    if (run_dir / "calibration.json").is_file():
        return _take_calibration(run_dir / "calibration.json", results / "calibration")
    report = json.loads((run_dir / "report.json").read_text(encoding="utf-8"))
    kept = {key: report[key] for key in KEPT}
    if "free_form" in report:
        kept["free_form"] = report["free_form"]
    if "probes" in report["behind"]:
        kept["behind"] = {"probes": report["behind"]["probes"]}
    path = results / f"{run_dir.name}.json"
    path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def _take_calibration(source: Path, folder: Path) -> Path:
    """Copy it, under `offline` or `openai-MODEL`."""
    text = source.read_text(encoding="utf-8")
    kind, _, model = json.loads(text)["judge"].partition(":")
    path = folder / ("offline.json" if kind == "offline" else re.sub(r"[^\w.-]+", "-", f"{kind}-{model}") + ".json")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Write or check tables from results/.")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", action="store_true", help="exit 1 if a table differs from its measurement")
    action.add_argument("--write", action="store_true", help="put the measurements into these files")
    action.add_argument("--take", type=Path, metavar="RUN_DIR", help="copy a run's figures into results/")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder with these files and results/")
    options = parser.parse_args(arguments)
    if options.take:
        sys.stdout.write(f"wrote {take(options.take, options.root / 'results')}\n")
        return 0
    return max(_tables_of(options.root / document, options.root / "results", options.write) for document in DOCUMENTS)


def _tables_of(path: Path, results: Path, write: bool) -> int:
    """Write or check one document's tables; gives the exit status."""
    try:
        text, differing = regenerate(path.read_text(encoding="utf-8"), results, path.name)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if write and differing:
        path.write_text(text, encoding="utf-8")
        sys.stdout.write(f"{path.name}: wrote {', '.join(differing)}\n")
        return 0
    for name in differing:
        sys.stderr.write(f"table {name!r} of {path.name} differs from results/{TABLES[name][0]}: run --write\n")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
