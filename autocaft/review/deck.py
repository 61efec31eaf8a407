"""The cards of a run as a person is shown them, and what the judge said, apart.

In: `judge/`, `mine/`, `decoys/` and `collect/` of a run folder. Out: a `Deck`. The decision a reader would question: a
card here has no id, score or source on its face, and the judge's words lie in another mapping, so that a template
cannot show them by oversight; and the histogram is of the mined windows, which over-represent the ends, as its caption
says.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autocaft.config import load_config
from autocaft.data.corpus import read_documents
from autocaft.errors import DataError
from autocaft.judge.cards import build_cards
from autocaft.records import Decision, Direction, Evidence, Example, Verdict
from autocaft.report.html import shade
from autocaft.report.words import evidence_lines
from autocaft.rundir.files import iter_jsonl, read_json, read_jsonl, read_records
from autocaft.select.verdicts import is_in_doubt

Pieces = list[tuple[str, str, str]]
"""(text, css class, projection) of each token."""

N_BINS = 28
KIND_WORDS = {
    "generic": "generic text",
    "seeded": "text that continues training rows",
    "train": "training rows",
    "completion": "completions",
}


@dataclass(frozen=True, slots=True)
class ShownWindow:
    """One window of text."""

    pieces: Pieces
    peak: str
    """The strongest projection, as text with its sign."""

    @property
    def strongest(self) -> str:
        """The token that has it; empty in a window in which the direction is silent."""
        return next((text for text, kind, _ in self.pieces if "peak" in kind), "")


@dataclass(frozen=True, slots=True)
class Bin:
    """One bar of the histogram."""

    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class ShownCard:
    """One direction, blind."""

    direction_id: str
    """For the log; not shown before the answer."""
    hash: str
    layer: int
    poles: Mapping[str, Sequence[ShownWindow]]
    """`top`, and `bottom` if the direction has one."""
    contrast: Sequence[ShownWindow]
    """Middling and random windows."""
    bins: Sequence[Bin]
    kinds: Mapping[str, Sequence[tuple[str, int]]]
    """Pole -> kind of document in words -> windows."""
    evidence: Sequence[tuple[str, str]]
    """(label, text): where it fires, what it writes, what is lost without it. Not its rank, which is a score."""


@dataclass(frozen=True)
class Deck:
    """All cards of a run, with what the judge and the rule made of them."""

    run_name: str
    undesired: str
    wanted: str
    cards: Mapping[str, ShownCard]
    verdicts: Mapping[str, Verdict]
    decisions: Mapping[str, Decision]
    decoys: frozenset[str] = frozenset()
    """Which of the cards are random directions; a template asks only after the answer."""
    part: str = ""
    """What the cards are if they are not all of the run's."""


def load_deck(run_dir: Path) -> Deck:
    """Read a run's cards.

    Raises:
        DataError: the run has no cards yet, or a file cannot be read.
    """
    judged = run_dir / "judge"
    if not (judged / "cards.jsonl").is_file():
        raise DataError(f"{run_dir} has no judge/cards.jsonl, so there is nothing to read. Run `autocaft judge` on it.")
    summary = read_json(judged / "summary.json")
    decided = run_dir / "select" / "decisions.jsonl"
    decisions = read_records(decided, Decision) if decided.is_file() else []
    return Deck(
        run_name=run_dir.resolve().name,
        undesired=str(summary.get("undesired", "")),
        wanted=str(summary.get("wanted", "")),
        cards=_load_cards(run_dir),
        verdicts={v.direction_id: v for v in read_records(judged / "verdicts.jsonl", Verdict)},
        decisions={d.direction_id: d for d in decisions if d.by.startswith("auto:")},
        decoys=frozenset(decoy.id for decoy in decoys_of(run_dir)),
    )


def doubtful_part(deck: Deck) -> Deck:
    """The cards that the judge is not sure of (no score, or it abstains), with all random directions among them.

    To be in it says that the judge has doubts or the direction is a control, and not which; and nothing of what the
    judge would do.

    Raises:
        DataError: the judge is sure of all.
    """
    asked = deck.cards.keys() - deck.decoys
    doubted = {direction_id for direction_id in asked if is_in_doubt(deck.verdicts.get(direction_id))}
    if not doubted:
        raise DataError(
            f"{deck.run_name}: the judge is sure of all {len(asked)} candidates, so there is nothing to read. Without "
            "--doubtful all of them are shown."
        )
    part = (
        f"A part of the run: the {len(doubted)} of {len(asked)} directions that the judge is not sure of"
        + (", with random ones among them" if deck.decoys else "")
        + ". What it said of them is not shown before your answer."
    )
    cards = {name: card for name, card in deck.cards.items() if name in doubted or name in deck.decoys}
    return replace(deck, cards=cards, part=part)


def decoys_of(run_dir: Path) -> list[Direction]:
    """The random directions among a run's cards; none in a run that was made without them."""
    path = run_dir / "decoys" / "directions.jsonl"
    return read_records(path, Direction) if path.is_file() else []


def card_hashes(run_dir: Path) -> set[str]:
    """Hashes of the cards as they are now, decoys' too; none before the run was judged."""
    path = run_dir / "judge" / "cards.jsonl"
    return {str(row["hash"]) for row in [*read_jsonl(path), *_decoy_rows(run_dir)]} if path.is_file() else set()


def _decoy_rows(run_dir: Path) -> list[dict[str, Any]]:
    """The decoys' cards, made as the judge's are."""
    decoys = decoys_of(run_dir)
    if not decoys:
        return []
    options = load_config(run_dir / "config.toml").judge
    examples = read_records(run_dir / "decoys" / "examples.jsonl", Example)
    cards = build_cards(decoys, examples, n_describe=options.n_describe, n_verify=options.n_verify)
    return [card.to_row() for card in cards]


def _load_cards(run_dir: Path) -> dict[str, ShownCard]:
    kind_by_document = {d.id: d.kind for d in read_documents(run_dir / "collect" / "documents.jsonl.gz")}
    projections: dict[str, list[float]] = defaultdict(list)
    kinds: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    mined = [run_dir / folder / "examples.jsonl" for folder in ("mine", "decoys")]
    for example in (example for path in mined if path.is_file() for example in read_records(path, Example)):
        projections[example.direction_id] += example.projections
        if example.pole in ("top", "bottom"):
            kind = kind_by_document.get(example.doc_id, "generic")
            kinds[example.direction_id][example.pole][KIND_WORDS.get(kind, kind)] += 1
    evidence = _evidence(run_dir)
    path = run_dir / "judge" / "cards.jsonl"
    cards = {}
    for number, row in [*iter_jsonl(path), *((0, row) for row in _decoy_rows(run_dir))]:
        try:
            name = str(row["direction_id"])
            kinds_by_pole = {pole: counts.most_common() for pole, counts in kinds[name].items()}
            cards[name] = _shown(row, histogram(projections[name]), kinds_by_pole, evidence.get(name, []))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}:{number} is no card: {error!r}. Run `autocaft judge --redo` on the run."
            ) from error
    return cards


def _evidence(run_dir: Path) -> dict[str, list[tuple[str, str]]]:
    """Lines by direction; nothing for a run that was mined before there was evidence."""
    paths = [run_dir / folder / "evidence.jsonl" for folder in ("mine", "decoys")]
    if not paths[0].is_file():
        return {}
    n_loss_rows = len(read_json(run_dir / "mine" / "summary.json")["loss_rows"])
    found = [item for path in paths if path.is_file() for item in read_records(path, Evidence)]
    return {item.direction_id: evidence_lines(item, n_loss_rows) for item in found}


def _shown(
    row: Mapping[str, Any], bins: Sequence[Bin], kinds: Mapping[str, Any], evidence: Sequence[tuple[str, str]]
) -> ShownCard:
    groups = [window for pole in ("top", "bottom", "middle", "random") for window in row[pole]]
    scale = max((abs(value) for window in groups for value in window["projections"]), default=0.0)
    return ShownCard(
        direction_id=str(row["direction_id"]),
        hash=str(row["hash"]),
        layer=int(row["layer"]),
        poles={pole: [_window(w, scale, pole) for w in row[pole]] for pole in ("top", "bottom") if row[pole]},
        contrast=[_window(window, scale, pole) for pole in ("middle", "random") for window in row[pole]],
        bins=bins,
        kinds=kinds,
        evidence=evidence,
    )


def _window(window: Mapping[str, Any], scale: float, pole: str) -> ShownWindow:
    """Shaded as in the report; the peak is the strongest towards the window's pole, or of either sign if it has none.

    A window in which the direction is silent has no peak.
    """
    projections = [float(value) for value in window["projections"]]
    strength = {"top": lambda v: v, "bottom": lambda v: -v}.get(pole, abs)
    place = max(range(len(projections)), key=lambda i: strength(projections[i]), default=None)
    peak = place if place is not None and projections[place] else None
    pieces = shade({"tokens": window["tokens"], "projections": projections, "peak": peak}, scale)
    return ShownWindow(pieces, "0" if peak is None else signed(projections[peak]))


def signed(value: float) -> str:
    """Three digits with a sign, the minus a real one."""
    return f"{value:+#.3g}".rstrip(".").replace("-", "\u2212")


def histogram(values: Iterable[float]) -> list[Bin]:
    """Equal bins from the lowest to the highest value, one edge at zero, so that no bar mixes the signs."""
    numbers = list(values)
    low, high = min(numbers, default=0.0), max(numbers, default=0.0)
    low, high = min(low, 0.0), max(high, 0.0)
    if high == low:
        return []
    n_below = round(N_BINS * -low / (high - low))
    n_below = min(max(n_below, 1 if low < 0 else 0), N_BINS - 1 if high > 0 else N_BINS)
    edges = [low * (n_below - i) / n_below for i in range(n_below)] if n_below else []
    n_above = N_BINS - n_below
    edges += [high * i / n_above for i in range(n_above + 1)] if n_above else [0.0]
    counts = [0] * N_BINS
    for value in numbers:
        width = -low / n_below if value < 0 else high / max(n_above, 1)
        place = n_below + int(value // width) if width else n_below
        counts[min(max(place, 0), N_BINS - 1)] += 1
    return [Bin(edges[i], edges[i + 1], count) for i, count in enumerate(counts)]
