"""A finished run folder with planted truth, made without a model: what `compare` and `review` read.

Latents 0-4 of each layer are the concept; the judge takes 0-3 and wrongly 7, and has no score for 8. PCs have two
poles. Two decoys (random directions) go among the cards.
"""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from autocaft.config import find_config, load_config, to_toml
from autocaft.data.corpus import Document, write_documents
from autocaft.judge.cards import build_cards
from autocaft.model.directions import DirectionSet
from autocaft.records import Decision, Direction, Evidence, Example, Verdict
from autocaft.rundir.files import write_json, write_jsonl, write_records, write_text

AT = "2026-01-02T03:04:05Z"
LAYERS = (8, 14)
D_MODEL = 48
CONCEPT = range(5)
SELECTED = (0, 1, 2, 3, 7)
UNSCORED = 8
TEXTS = (
    "The| doctor| said| that| he| would| call| the| patient| back| after| lunch|.",
    "When| the| nurse| came| in|,| she| smiled| at| the| children| and| opened| the| window|.",
    " I| asked| her| about| the| report|,| and| him| about| the| train|.\n|Later",
    " a| small| bakery| on| the| corner| that| his| mother| ran| for| twenty| years",
    "The| recipe| needs| two| cups| of| flour|,| a| pinch| of| salt| and| warm| water|.",
)
KINDS = ("generic", "seeded", "train")


def make_run(folder: Path, *, n_latents: int = 20, n_pcs: int = 3, n_decoys: int = 2, seed: int = 0) -> Path:
    """Write the run folder and give it back."""
    rng = random.Random(seed)
    directions = [d for layer in LAYERS for d in _directions_of(layer, n_latents, n_pcs)]
    decoys = [Direction(f"L8.decoy{i}", 8, "random", i, 0.0, "drawn", 1.0) for i in range(n_decoys)]
    examples = [e for direction in directions for e in examples_of(rng, direction)]
    config = load_config(find_config("quickstart"))
    sizes = {"n_describe": config.judge.n_describe, "n_verify": config.judge.n_verify}
    cards = build_cards(directions, examples, **sizes)
    verdicts = [verdict_on(direction) for direction in directions]
    decisions = [_auto_decision(verdict) for verdict in verdicts]
    write_text(folder / "config.toml", to_toml(config))
    write_documents(folder / "collect" / "documents.jsonl.gz", _documents())
    DirectionSet(tuple(directions), _vectors(len(directions), seed)).save(folder / "decompose")
    spread = torch.diag(torch.linspace(0.2, 3.0, D_MODEL))
    save_file({f"L{layer}": spread.clone() for layer in LAYERS}, folder / "decompose" / "covariances.safetensors")
    write_records(folder / "mine" / "examples.jsonl", examples)
    write_records(folder / "mine" / "evidence.jsonl", [evidence_on(direction) for direction in directions])
    write_json(folder / "mine" / "summary.json", {"loss_rows": [f"val-{i}" for i in range(24)]})
    write_jsonl(folder / "judge" / "cards.jsonl", [card.to_row() for card in cards])
    write_records(folder / "judge" / "verdicts.jsonl", verdicts)
    write_json(folder / "judge" / "summary.json", {"judge": "offline:planted", "undesired": "the gender of a person",
                                                    "wanted": "grammatical case"})  # fmt: skip
    write_records(folder / "select" / "decisions.jsonl", decisions)
    write_records(folder / "decoys" / "directions.jsonl", decoys)
    write_records(folder / "decoys" / "examples.jsonl", [e for decoy in decoys for e in examples_of(rng, decoy)])
    write_records(folder / "decoys" / "evidence.jsonl", [evidence_on(decoy) for decoy in decoys])
    return folder


def add_person(folder: Path, name: str, chosen: set[str]) -> None:
    """Append a person's decisions on every candidate to the run's log."""
    path = folder / "select" / "decisions.jsonl"
    directions = [
        json.loads(line)["id"] for line in (folder / "decompose" / "directions.jsonl").read_text().splitlines()
    ]
    rows = [Decision(i, i in chosen, f"human:{name}", f"{name} thinks so", AT).to_row() for i in directions]
    path.write_text(path.read_text() + "".join(json.dumps(row) + "\n" for row in rows))


def concept_ids() -> set[str]:
    """The directions that are the concept."""
    return {f"L{layer}.latent{i}" for layer in LAYERS for i in CONCEPT}


def selected_ids() -> set[str]:
    """What the judge selected."""
    return {f"L{layer}.latent{i}" for layer in LAYERS for i in SELECTED}


def add_outcome(folder: Path, accuracy_by_arm: dict[str, float], *, seeds: tuple[int, ...] = (0, 1, 2)) -> None:
    """report.json with these arms and their rows: 20 templates of 5 on `ood`, all right on `neutral`."""
    write_json(folder / "report.json", {"arms": [{"arm": arm} for arm in accuracy_by_arm]})
    for arm, accuracy in accuracy_by_arm.items():
        for seed in seeds:
            rows = [_evaluated(arm, seed, "ood", i, i % 100 < 100 * accuracy) for i in range(100)]
            rows += [_evaluated(arm, seed, "neutral", i, True) for i in range(20)]
            write_jsonl(folder / "evaluate" / arm / f"seed{seed}" / "rows.jsonl", rows)


def examples_of(rng: random.Random, direction: Direction) -> list[Example]:
    """Windows of every pole and purpose."""
    poles = ("top", "random") if direction.source == "sae" else ("top", "bottom", "random")
    return [
        _window(rng, direction.id, pole, split, number)
        for pole in poles
        for split in ("describe", "verify")
        for number in range(6 if pole != "random" else 4)
    ]


def evidence_on(direction: Direction) -> Evidence:
    """What is known of a planted direction without a judge."""
    poles = ("top",) if direction.source == "sae" else ("top", "bottom")
    by_part = {"generic text": [0.0, 0.0], "training rows, answer": [0.0425, 0.51]}
    return Evidence(direction.id, dict.fromkeys(poles, by_part), (" she", "\u010a<b>"), (" he",), 0.0123, 0.001, 0.0234)


def verdict_on(direction: Direction, **changes: Any) -> Verdict:
    """The planted judge's words on one direction."""
    is_unscored = direction.source == "sae" and direction.index == UNSCORED
    is_high = direction.source == "sae" and direction.index in SELECTED
    verdict = Verdict(
        direction_id=direction.id,
        pole="top",
        description=f"judge's words on {direction.id}",
        confidence=70.0,
        pole_relation="single" if direction.source == "sae" else "opposite",
        detection=0.8,
        detection_low=0.6,
        detection_high=0.9,
        discrimination=None,
        relevance=None if is_unscored else (90.0 if is_high else 5.0) - 0.1 * direction.index,
        wanted_relevance=None if is_unscored else 2.0,
        quotes=("he would call",),
        unscored_reason="too few windows" if is_unscored else None,
        rationale=f"judge's reasons on {direction.id}",
        judge="offline:planted",
        prompt_hash="hash",
    )
    return dataclasses.replace(verdict, **changes)


def _directions_of(layer: int, n_latents: int, n_pcs: int) -> list[Direction]:
    latents = [
        Direction(f"L{layer}.latent{i}", layer, "sae", i, 1 / (1 + i), "attribution", 1.0) for i in range(n_latents)
    ]
    return latents + [Direction(f"L{layer}.pc{i}", layer, "pca", i, 1 / (1 + i), "variance", 2.0) for i in range(n_pcs)]


def _auto_decision(verdict: Verdict) -> Decision:
    selected = verdict.relevance is not None and verdict.relevance >= 50
    reason = "unscored: too few windows" if verdict.relevance is None else f"relevance {verdict.relevance:.1f}"
    return Decision(verdict.direction_id, selected, "auto:threshold", reason, AT)


def _documents() -> list[Document]:
    return [Document(f"doc{i}", KINDS[i % len(KINDS)], None, "text") for i in range(40)]  # type: ignore[arg-type]


def _vectors(n: int, seed: int) -> torch.Tensor:
    vectors = np.random.default_rng(seed).normal(size=(n, D_MODEL))
    return torch.tensor(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=torch.float32)


def _window(rng: random.Random, name: str, pole: str, split: str, number: int) -> Example:
    tokens = tuple(rng.choice(TEXTS).split("|"))
    peak = rng.randrange(len(tokens))
    strong = pole in ("top", "bottom")
    sizes = [rng.uniform(1.5, 4) if strong and i == peak else rng.uniform(0, 0.6) for i in range(len(tokens))]
    sign = -1.0 if pole == "bottom" else 1.0
    document = f"doc{rng.randrange(20) + (20 if split == 'verify' else 0)}"
    return Example(name, pole, split, document, tokens, tuple(round(sign * size, 4) for size in sizes))  # type: ignore[arg-type]


def _evaluated(arm: str, seed: int, split: str, number: int, correct: bool) -> dict[str, Any]:
    return {"arm": arm, "split": split, "hooks": "off", "seed": seed, "row_id": f"{split}-{number}",
            "template": f"t{number // 5}", "correct": correct}  # fmt: skip
