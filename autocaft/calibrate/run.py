"""`autocaft calibrate`: judge planted directions as a run would, and say how far the judge can be trusted.

In: a model, a judge, a split, a folder. Out, in the folder: `calibration.json` (figures of each split so far),
`SPLIT-KEY/` (activations and windows), `SPLIT/` (cards, verdicts) and `answers.sqlite` (every paid answer). A killed
calibration goes on: nothing that is there is made or bought again. The decision a reader would question: the threshold
comes from `tuning` alone, so `held_out` refuses to run before it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autocaft.calibrate import directions
from autocaft.calibrate.planted import SPLITS, Planted, Split, load_concepts
from autocaft.calibrate.questions import Question, make_questions
from autocaft.calibrate.score import Rated, figures, tuned
from autocaft.errors import ConfigError, JudgeError
from autocaft.estimate import count_asked, tokens_by
from autocaft.judge.base import Card, Judge, JudgeUsage, may_pass
from autocaft.judge.cards import build_cards
from autocaft.judge.files import FilesJudge
from autocaft.judge.options import JudgeOptions
from autocaft.judge.stage import make_judge, neighbour_encoder, price_of, with_abstention
from autocaft.llm.prices import NANO
from autocaft.model.load import load_model, load_tokenizer
from autocaft.model.locate import locate
from autocaft.records import Direction, Example, Verdict
from autocaft.rundir.files import digest, disk_errors, read_json, read_records, write_json, write_jsonl
from autocaft.rundir.progress import NullProgress, Progress
from autocaft.rundir.store import RunStore

RESULT = "calibration.json"


@dataclass(frozen=True, slots=True)
class Material:
    """What is judged in one split."""

    directions: tuple[Direction, ...]
    kind_by_id: dict[str, str]
    cards: tuple[Card, ...]
    questions: tuple[Question, ...]


def calibrate(
    *,
    model: str,
    options: JudgeOptions,
    split: Split,
    out: Path,
    store: RunStore,
    progress: Progress,
    run_dir: Path | None = None,
    concepts: Sequence[Planted] | None = None,
    materials: Path | None = None,
) -> dict[str, Any]:
    """Judge one split; returns its figures, also in `calibration.json`.

    Args:
        options: the judge; its own two concepts are not used.
        run_dir: a run folder whose PCs and latents are judged beside.
        concepts: other concepts than the split's own.
        materials: where directions and windows are kept, `out` by default; several judges can share them.

    Raises:
        ConfigError: `held_out` before `tuning`, or a files judge in a panel.
        JudgeError: the judge cannot go on; of a files judge, which replies are missing.
    """
    if options.has_files_in_panel:
        raise ConfigError("calibrate: a files judge is calibrated alone, not in a panel")
    weights = locate(model)
    language_model, tokenizer = load_model(weights), load_tokenizer(weights)
    judge = make_judge(options, store=store, local_model=lambda: (language_model, tokenizer))
    who = {
        "judge": judge.name,
        "prompt_hash": judge.prompt_hash,
        "settings": options.reading,
        "model": weights.identity,
    }
    chosen = None if split == "tuning" else _tuned(out / RESULT, who)
    loaded = language_model, tokenizer, weights.identity
    material = _material(loaded, split, concepts, options, run_dir, materials or out, progress)
    write_jsonl(out / split / "cards.jsonl", [card.to_row() for card in material.cards])
    rated, seconds = _judge_all(judge, material, options, out / split / "verdicts.jsonl", progress)
    found = figures(rated, chosen or tuned(rated), seconds)
    _keep(out / RESULT, split, who, found)
    return found


def plan(
    *, model: str, options: JudgeOptions, split: Split, out: Path, progress: Progress, run_dir: Path | None = None
) -> list[str]:
    """Calls, tokens and dollars of a split, before the first is bought. Its windows are made on the way, and kept."""
    weights = locate(model)
    tokenizer = load_tokenizer(weights)
    loaded = load_model(weights), tokenizer, weights.identity
    material = _material(loaded, split, None, options, run_dir, out, progress)
    card_by_id = {card.direction_id: card for card in material.cards}
    asked = [(card_by_id[i], question.concept, 1) for question in material.questions for i in question.truth]
    lines = [f"{split}: {len(material.questions)} concepts, {len(asked)} verdicts on {len(card_by_id)} directions"]
    if not options.chat_judges:
        return [*lines, f"judge {options.judge}: no paid call"]
    for reader, calls in count_asked(asked, options, tokens_by(tokenizer.encode)).items():
        lines += calls.lines(reader, price_of(reader, options), batch=options.batch)
    return lines + ([f"  cap: ${options.max_usd:,.2f} (judge.max_usd)"] if options.max_usd is not None else [])


def _material(
    loaded: tuple[Any, Any, str],
    split: Split,
    concepts: Sequence[Planted] | None,
    options: JudgeOptions,
    run_dir: Path | None,
    folder: Path,
    progress: Progress,
) -> Material:
    """Cards and questions of a split; windows that are in `folder` are not made again.

    Args:
        loaded: language model, tokenizer, identity of the weights.
    """
    language_model, tokenizer, identity = loaded
    concepts = concepts or load_concepts(split)
    key = digest([identity, [asdict(concept) for concept in concepts], directions.SETTINGS])
    planted, examples = directions.planted_examples(
        language_model,
        tokenizer,
        concepts,
        second_half=split == "held_out",
        folder=folder / f"{split}-{key[:8]}",
        progress=progress,
    )
    real = [] if run_dir is None else read_records(run_dir / "decompose" / "directions.jsonl", Direction)
    if run_dir is not None:
        examples = examples + read_records(run_dir / "mine" / "examples.jsonl", Example)
    found = (*(item.direction for item in planted), *real)
    cards = build_cards(
        found,
        examples,
        n_describe=options.n_describe,
        n_verify=options.n_verify,
        encode=neighbour_encoder(options),
    )
    kinds = {item.direction.id: str(item.kind) for item in planted} | {direction.id: "real" for direction in real}
    questions = make_questions(concepts, planted, [direction.id for direction in real])
    return Material(found, kinds, tuple(cards), tuple(questions))


def _judge_all(
    judge: Judge, material: Material, options: JudgeOptions, path: Path, progress: Progress
) -> tuple[list[Rated], float]:
    """Every question, those of an earlier call from `path`; and the seconds that judging took in all."""
    kept = _read_kept(path)
    rated: list[Rated] = []
    seconds = 0.0
    waiting: list[str] = []
    asked_by = _asked_by(judge, options)
    with progress.task("calibrate", len(material.questions), "concepts") as advance:
        for question in material.questions:
            own = [card for card in material.cards if judge.reads_together or card.direction_id in question.truth]
            key = digest([asked_by, asdict(question.concept), [card.hash for card in own]])
            if key not in kept or any(may_pass(row["verdict"]["unscored_reason"]) for row in kept[key]["verdicts"]):
                try:
                    kept[key] = _ask(_asked_apart(judge, question), question, own, key)
                except JudgeError as error:
                    if not isinstance(judge, FilesJudge):
                        raise
                    waiting.append(str(error))  # the cards of the other concepts are to be written out too
                    continue
                with disk_errors(path), path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(kept[key]) + "\n")
                    file.flush()
                    os.fsync(file.fileno())
            rated += _rated(question, material, kept[key]["verdicts"], options)
            seconds += kept[key]["seconds"] * len(question.truth) / len(own)
            advance(1)
    if waiting:
        raise JudgeError(f"calibrate: {len(waiting)} of {len(material.questions)} concepts wait. {waiting[0]}")
    return rated, seconds


def _asked_by(judge: Judge, options: JudgeOptions) -> dict[str, Any]:
    """All that can change an answer besides card and concept: another server under the same name is another judge."""
    return {"judge": judge.name, "prompt_hash": judge.prompt_hash} | options.reading


def _asked_apart(judge: Judge, question: Question) -> Judge:
    """A files judge has a folder for each concept, because its cards name the concept; others ask as they are."""
    if not isinstance(judge, FilesJudge):
        return judge
    return FilesJudge(judge.folder / question.name.replace(" ", "_"), name=judge.name)


def _ask(judge: Judge, question: Question, cards: Sequence[Card], key: str) -> dict[str, Any]:
    """One question put to the judge, as a row to keep."""
    start = time.monotonic()
    verdicts = list(judge.judge(cards, question.concept, NullProgress()))
    rows = [
        {"verdict": v.to_row(), "usage": asdict(judge.usage.by_direction.get(v.direction_id, JudgeUsage()))}
        for v in verdicts
        if v.direction_id in question.truth
    ]
    return {"key": key, "question": question.name, "seconds": time.monotonic() - start, "verdicts": rows}


def _rated(
    question: Question, material: Material, rows: Sequence[dict[str, Any]], options: JudgeOptions
) -> list[Rated]:
    row_by_id = {row["verdict"]["direction_id"]: row for row in rows}
    rated = []
    for direction in material.directions:
        if direction.id not in question.truth:
            continue
        row = row_by_id[direction.id]
        verdict = with_abstention(Verdict.from_row(row["verdict"]), options.abstain)
        usage = JudgeUsage(**row["usage"])
        rated.append(
            Rated(
                question.name,
                question.family,
                material.kind_by_id[direction.id],
                question.truth[direction.id],
                direction,
                verdict,
                usage.n_calls,
                usage.input_tokens,
                usage.output_tokens,
                None if usage.n_unpriced else usage.nano_usd / NANO,
            )
        )
    return rated


def _read_kept(path: Path) -> dict[str, dict[str, Any]]:
    """Rows by key; a line that a kill cut off is taken away."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    whole = [line for line in lines if line.endswith("\n")]
    if len(whole) < len(lines):
        path.write_text("".join(whole), encoding="utf-8")
    return {row["key"]: row for row in map(json.loads, whole)}


def _tuned(path: Path, who: dict[str, Any]) -> dict[str, Any]:
    """What the tuning split chose for this judge and model."""
    before = read_json(path) if path.is_file() else {}
    if "tuning" not in before or not _is_of(before, who):
        raise ConfigError(
            f"{path.parent}: the threshold comes from the tuning split, which {who['judge']} has not judged here yet "
            "with these settings. Run it first: --split tuning"
        )
    return {key: before["tuning"][key] for key in ("threshold", "probability")}


def _keep(path: Path, split: Split, who: dict[str, Any], found: dict[str, Any]) -> None:
    """Put the split's figures into the file; figures of another judge or model are not left beside them."""
    before = read_json(path) if path.is_file() else {}
    by_split = {name: before[name] for name in SPLITS if name in before and _is_of(before, who)} | {split: found}
    write_json(path, who | {name: by_split[name] for name in SPLITS if name in by_split})


def _is_of(result: dict[str, Any], who: dict[str, Any]) -> bool:
    return all(result.get(key) == value for key, value in who.items())


def text_of(found: dict[str, Any]) -> str:
    """The figures as text, with the reliability plot."""

    def line(label: str, name: str, say: Callable[[float], str] = "{:.2f}".format) -> str:
        low, high = found.get(f"{name}_low"), found.get(f"{name}_high")
        interval = f"  [{say(low)}, {say(high)}]" if low is not None and high is not None else ""
        return f"  {label:<34} {say(found[name])}{interval}"

    lines = [
        f"threshold {found['threshold']:g} (from tuning); {found['n_questions']} concepts, {found['n_rated']} "
        f"verdicts, {found['n_unscored']} unscored, {found['n_abstain']} abstain",
        line("macro-F1 of the selection", "f1"),
        *(f"    {family:<32} {row['f1']:.2f}" + _span(row) for family, row in found["f1_by_family"].items()),
        line("average precision", "average_precision"),
        line("random directions selected", "random_selected", "{:.1%}".format),
        "  selected, by what they are          "
        + ", ".join(f"{kind} {share:.0%}" for kind, share in found["selected_by_kind"].items())
        + " (mixtures and real ones may be right)",
        line("Brier skill", "brier_skill"),
        line("calibration error (ECE)", "ece"),
        line("  Brier skill, mapped on tuning", "mapped_brier_skill"),
        line("  ECE, mapped on tuning", "mapped_ece"),
        line("discrimination (chance .25)", "discrimination"),
        "  a direction costs "
        + f"{found['calls_per_direction']:.1f} calls, {found['input_tokens_per_direction']:,.0f} "
        f"input and {found['output_tokens_per_direction']:,.0f} output tokens, {_dollars(found)}, "
        f"{found['seconds_per_direction']:.2f} s",
        "  said -> true (n)",
        *(_bar(row) for row in found["reliability"]),
    ]
    return "\n".join(lines)


def _dollars(found: dict[str, Any]) -> str:
    usd = found["usd_per_direction"]
    return "dollars unknown (no price is known: --set prices=FILE)" if usd is None else f"${usd:.4f}"


def _span(row: dict[str, Any]) -> str:
    return "" if row["f1_low"] is None else f"  [{row['f1_low']:.2f}, {row['f1_high']:.2f}]"


def _bar(row: dict[str, float]) -> str:
    """One bin: `o` where the judge said, `x` where the truth was, `*` both."""
    width = 40
    said, true = round(row["said"] * width), round(row["true"] * width)
    marks = {said: "o", true: "x"} if said != true else {said: "*"}
    plot = "".join(marks.get(place, ".") for place in range(width + 1))
    return f"  {row['said']:.2f} -> {row['true']:.2f} {plot} ({row['n']:.0f})"
