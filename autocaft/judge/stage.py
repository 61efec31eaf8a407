"""The judge stage: cards from examples, verdicts from a judge, a summary of both.

In: directions, examples, options and a judge. Out, in the folder it is handed: `cards.jsonl`, `verdicts.jsonl` (both
in the order of the directions) and `summary.json`. Verdicts are kept one by one in `verdicts.partial.jsonl`, so an
interrupted run goes on where it was. The decision a reader would question: the summary has tokens and no money. Dollars
are booked where an answer is bought, with the answer (rundir/store.py), and the report takes them from there: a verdict
that is read again costs nothing.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocaft.judge.base import Card, Concept, Judge, JudgeUsage, may_pass
from autocaft.judge.cards import build_cards
from autocaft.judge.options import JudgeOptions
from autocaft.judge.panel import PanelJudge, agreement
from autocaft.records import Direction, Example, Verdict
from autocaft.rundir.files import disk_errors, write_json, write_jsonl, write_records
from autocaft.rundir.progress import Progress
from autocaft.rundir.store import RunStore

if TYPE_CHECKING:
    from autocaft.judge.offline_encoder import Encoder
    from autocaft.llm.client import LanguageClient
    from autocaft.llm.prices import Price

CARDS, VERDICTS, SUMMARY, PARTIAL = "cards.jsonl", "verdicts.jsonl", "summary.json", "verdicts.partial.jsonl"
COUNTED = ("n_calls", "n_repairs", "n_quotes_dropped", "input_tokens", "output_tokens")
"""Of the usage, for the summary: all but the dollars."""
LocalModel = Callable[[], tuple[Any, Any]]
"""Gives the language model and the tokenizer that the offline judge reads with; called only if it is the judge."""


def make_judge(options: JudgeOptions, *, store: RunStore | None, local_model: LocalModel | None = None) -> Judge:
    """The judge that the options name, with its panel. Nothing but the names decides, whatever keys are exported.

    Args:
        store: keeps what language models answer; may be None where none is asked.

    Raises:
        JudgeError: a key that the judge needs is not in the environment.
    """
    members = [_make_member(name, options, store, local_model) for name in (options.judge, *options.panel)]
    return PanelJudge(members) if options.panel else members[0]


def _make_member(name: str, options: JudgeOptions, store: RunStore | None, local_model: LocalModel | None) -> Judge:
    kind, _, what = name.partition(":")
    if kind == "offline":
        from autocaft.judge.offline import OfflineJudge

        assert local_model is not None, "the offline judge reads with a language model: hand over local_model"
        language_model, tokenizer = local_model()
        judge: Judge = OfflineJudge(language_model, tokenizer)
        return judge
    if kind == "files":
        from autocaft.judge.files import FilesJudge

        return FilesJudge(Path(what).expanduser())
    from autocaft.judge.chat import ChatJudge, Reader
    from autocaft.llm.doors import BATCH_CONCURRENCY

    assert store is not None, "the answers of a language model are kept: hand over store"
    names = options.readers_of(name)
    readers = {
        reader: Reader(reader, reader.partition(":")[2], make_client(reader, options, store))
        for reader in dict.fromkeys(names.values())
    }
    return ChatJudge(
        {part: readers[reader] for part, reader in names.items()},
        band=options.abstain,
        checks_words=options.check_words,
        max_output_tokens=options.max_output_tokens,
        concurrency=BATCH_CONCURRENCY if options.batch else options.concurrency,
    )


def make_client(name: str, options: JudgeOptions, store: RunStore) -> LanguageClient:
    """The door to the language model `name`. Address and key of the options are those of the judge's vendor.

    Raises:
        JudgeError: no key in the environment, or a cap in dollars and no price.
    """
    from autocaft.llm.doors import open_door
    from autocaft.model.locate import load_later

    return open_door(name, options, store, has_address=options.has_vendor_of(name), local=load_later)


def price_of(name: str, options: JudgeOptions) -> Price | None:
    """What the language model `name` costs; None if nobody says."""
    from autocaft.llm.doors import price_of

    return price_of(name, options, has_address=options.has_vendor_of(name))


def judge_directions(
    *,
    directions: Sequence[Direction],
    examples: Iterable[Example],
    options: JudgeOptions,
    judge: Judge,
    out: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Judge all directions and write the stage's files; returns the summary.

    Raises:
        JudgeError: the judge cannot go on; what is judged is kept and the next call continues.
    """
    out.mkdir(parents=True, exist_ok=True)
    cards = build_cards(
        directions,
        examples,
        n_describe=options.n_describe,
        n_verify=options.n_verify,
        encode=neighbour_encoder(options),
    )
    write_jsonl(out / CARDS, [card.to_row() for card in cards])
    concept = Concept(options.undesired, options.wanted)
    if judge.reads_together:
        # Its scores rest on all cards at once: the rest of an interrupted run, read alone, would get others.
        (out / PARTIAL).unlink(missing_ok=True)
    done = _read_partial(out / PARTIAL, cards, judge)
    left = [card for card in cards if card.direction_id not in done]
    if left:
        _judge_rest(judge, left, concept, progress, out / PARTIAL, done)
    verdicts = [with_abstention(done[card.direction_id][0], options.abstain) for card in cards]
    summary = summarise(judge, options, verdicts, [done[card.direction_id][1] for card in cards])
    write_records(out / VERDICTS, verdicts)
    write_json(out / SUMMARY, summary)
    (out / PARTIAL).unlink(missing_ok=True)
    if n := summary["unscored"].get("budget"):
        progress.say(f"judge: {n} directions are unscored because of the cap; a higher one and --redo judge reads them")
    return summary


def neighbour_encoder(options: JudgeOptions) -> Encoder | None:
    """Finds the negatives that read like positives; None where they are not asked for."""
    if not options.reading["hard_negatives"]:
        return None
    from autocaft.judge.offline_encoder import Encoder

    return Encoder()


def with_abstention(verdict: Verdict, band: tuple[float, float]) -> Verdict:
    """The verdict, which abstains unless all of its ratings lie on one side of the band; with the reason in words."""
    low, high = band
    ratings = verdict.ratings or (() if verdict.relevance is None else (verdict.relevance,))
    if verdict.abstains or not ratings or min(ratings) > high or max(ratings) < low:
        return verdict
    said = ", ".join(f"{rating:.0f}" for rating in ratings)
    return dataclasses.replace(verdict, abstains=True, doubt=f"rated {said}: not clear of {low:g} to {high:g}")


Done = dict[str, tuple[Verdict, JudgeUsage]]


def _judge_rest(
    judge: Judge, cards: Sequence[Card], concept: Concept, progress: Progress, partial: Path, done: Done
) -> None:
    """Judge cards and keep each verdict on the disk before the next is taken."""
    card_by_id = {card.direction_id: card for card in cards}
    with disk_errors(partial), partial.open("a", encoding="utf-8") as file:
        for verdict in judge.judge(cards, concept, progress):
            usage = judge.usage.by_direction.get(verdict.direction_id, JudgeUsage())
            done[verdict.direction_id] = verdict, usage
            row = {
                "card": card_by_id[verdict.direction_id].hash,
                "verdict": verdict.to_row(),
                "usage": dataclasses.asdict(usage),
            }
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
    missing = [card.direction_id for card in cards if card.direction_id not in done]
    assert not missing, f"{judge.name} gave no verdict on {missing[0]} and {len(missing) - 1} others"


def _read_partial(path: Path, cards: Sequence[Card], judge: Judge) -> Done:
    """Verdicts of an interrupted run that are still about these cards, by this judge with these prompts.

    What the budget or a silent server left unscored is asked again; a line cut off by a kill ends the file.
    """
    hash_by_id = {card.direction_id: card.hash for card in cards}
    done: Done = {}
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    whole = [line for line in lines if line.endswith("\n")]
    if len(whole) < len(lines):
        path.write_text("".join(whole), encoding="utf-8")
    for line in whole:
        row = json.loads(line)
        verdict = Verdict.from_row(row["verdict"])
        is_current = hash_by_id.get(verdict.direction_id) == row["card"]
        if is_current and (verdict.judge, verdict.prompt_hash) == (judge.name, judge.prompt_hash):
            done[verdict.direction_id] = verdict, JudgeUsage(**row["usage"])
    return {key: value for key, value in done.items() if not may_pass(value[0].unscored_reason)}


def summarise(
    judge: Judge, options: JudgeOptions, verdicts: Sequence[Verdict], usages: Sequence[JudgeUsage]
) -> dict[str, Any]:
    """What a report needs to know of the stage. Counts rest on the verdicts, whether their answers were bought now or
    before."""
    reasons = Counter(verdict.unscored_reason for verdict in verdicts if verdict.unscored_reason is not None)
    total = sum(usages, JudgeUsage())
    picks = [verdict.discrimination for verdict in verdicts if verdict.discrimination is not None]
    return {
        "judge": judge.name,
        "readers": dict(judge.readers),
        "self_checked": options.self_checked,
        "prompt_hash": judge.prompt_hash,
        "undesired": options.undesired,
        "wanted": options.wanted,
        "n_directions": len(verdicts),
        "n_scored": len(verdicts) - sum(reasons.values()),
        "n_abstain": sum(verdict.abstains for verdict in verdicts),
        "discrimination": sum(picks) / len(picks) if picks else None,
        "agreement": agreement(verdicts) if isinstance(judge, PanelJudge) else None,
        "unscored": dict(sorted(reasons.items())),
        **{key: getattr(total, key) for key in COUNTED},
    }
