"""The look behind in the report: there if it was asked for, and readable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from autocaft.report.behind import build_behind
from autocaft.report.build import build_report
from autocaft.report.html import render_html

Make = Callable[..., dict[str, Any]]


def reading(
    arm: str, hooks: str, place: str, accuracy: float, *, seed: int = 0, position: str = "last"
) -> dict[str, Any]:
    return {
        "arm": arm, "seed": seed, "hooks": hooks, "layer": 8, "place": place, "position": position,
        "accuracy": accuracy, "ci_low": accuracy - 0.06, "ci_high": accuracy + 0.04, "permuted": 0.5,
        "permuted_low": 0.44, "permuted_high": 0.56, "n": 240, "n_templates": 60,
    }  # fmt: skip


def probes(seed: int = 0, shift: float = 0.0) -> list[dict[str, Any]]:
    return [
        reading("caft-sae-auto", "off", "next", 0.85 + shift, seed=seed),
        reading("caft-sae-auto", "on", "block", 0.75 + shift, seed=seed),
        reading("caft-sae-auto", "on", "next", 0.55 + shift, seed=seed),
        reading("tuned", "off", "next", 0.9 + shift, seed=seed),
        reading("tuned", "off", "next", 0.99, seed=seed, position="mean"),
    ]


LATENTS = [
    {"id": "L8.latent8", "change": 1.25, "change_tuned": -0.5, "rank_tuned": 2, "description": "<b>he</b>, his",
     "relevance": 91.0, "is_ablated": True},
    {"id": "L8.latent9", "change": -0.75, "change_tuned": 0.0, "rank_tuned": 40, "description": None,
     "relevance": None, "is_ablated": False},
]  # fmt: skip
MOVED = {
    "arm": "caft-sae-auto",
    "seed": 0,
    "layers": [
        {"layer": 8, "mean_square": 10.0, "mean_square_tuned": 12.0, "n_ablated": 4, "inside": 0.055,
         "inside_tuned": 0.31, "inside_random": 0.0069, "latents": LATENTS, "pcs": []},
        {"layer": 14, "mean_square": 1.0, "mean_square_tuned": 1.0, "n_ablated": 0, "inside": None,
         "inside_tuned": None, "inside_random": None, "latents": [], "pcs": []},
    ],
}  # fmt: skip
CAUSES = {
    "validation_only": "yes", "uses_broken_cue": False, "splits": ["id"], "n_rows": 64, "n_templates": 16,
    "threshold_by_layer": {"8": 0.1}, 
    "strongest": [{"id": "L8.latent8", "layer": 8, "source": "sae", "effect": 3.25, "description": "<i>she</i>",
                   "relevance": None}],
    "sources": [
        {"source": "sae", "n": 34, "n_unscored": 2, "n_causes": 9, "chance": 0.28, "ap": 0.61, "ap_low": 0.4,
         "ap_high": 0.8, "spearman": 0.33, "spearman_low": 0.05, "spearman_high": 0.6},
        {"source": "pca", "n": 6, "n_unscored": 0, "n_causes": 0, "chance": 0.0, "ap": None, "ap_low": None,
         "ap_high": None, "spearman": None, "spearman_low": None, "spearman_high": None},
    ],
}  # fmt: skip


def page(make_inputs: Make, **behind: Any) -> str:
    return render_html(build_report(**make_inputs(behind=behind)))


def test_a_run_without_the_look_says_nothing_of_it(make_inputs: Make) -> None:
    assert "Behind the hook" not in page(make_inputs) and "against causes" not in page(make_inputs)


def test_either_look_stands_alone(make_inputs: Make) -> None:
    assert "against causes" not in page(make_inputs, probes=probes(), moved=[])
    assert "Behind the hook" not in page(make_inputs, causes=CAUSES)


def test_the_page_shows_what_was_measured(make_inputs: Make) -> None:
    text = page(make_inputs, probes=probes(), moved=[MOVED], causes=CAUSES)
    assert "85%<small>[79, 89]</small>" in text and "55%<small>[49, 59]</small>" in text
    assert "0.61<small>[0.40, 0.80]</small>" in text and "Validation only" in text
    assert "99%<small>[93, 103]</small>" not in text, "the mean over tokens is in report.json alone"
    assert "+3.25" in text and "0.10 after layer 8" in text and "&lt;i&gt;she" in text
    assert "&lt;b&gt;he&lt;/b&gt;, his" in text and "<b>he</b>" not in text


def test_what_moved_is_told_in_a_sentence() -> None:
    (arm,) = build_behind({"probes": [], "moved": [MOVED]})["moved"]
    assert "6% after layer 8 (tuned 31%, a random subspace of 4 dimensions 1%)" in arm["sentence"]
    assert "layer 14" not in arm["sentence"]
    assert "Of the 2 latents that moved most, 1 are among as many of tuned's, and 1 was ablated" in arm["sentence"]


@pytest.mark.parametrize(("accuracy", "says"), [(0.91, "the ablation leaks"), (0.55, "no more than by chance")])
def test_a_leak_is_called_one_where_the_interval_is_above_permuted_labels(accuracy: float, says: str) -> None:
    rows = [reading("caft-sae-auto", "off", "next", 0.9), reading("caft-sae-auto", "on", "next", accuracy)]
    sentence = build_behind({"probes": rows, "moved": []})["sentence"]
    assert says in sentence and "caft-sae-auto" in sentence and "layer 8" in sentence


def test_several_seeds_show_their_mean_and_their_range() -> None:
    lines = build_behind({"probes": probes(0) + probes(1, -0.1), "moved": []})["probes"]
    tuned = next(line for line in lines if (line["arm"], line["position"]) == ("tuned", "last"))
    off, block, behind = tuned["cells"]
    assert (round(off["value"], 6), round(off["ci_low"], 6), off["ci_high"]) == (0.85, 0.8, 0.9)
    assert block is None and behind is None
    assert [line["arm"] for line in lines] == ["tuned", "tuned", "caft-sae-auto"]
