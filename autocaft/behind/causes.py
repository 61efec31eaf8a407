"""Was the judge right about causes? Validation only: it knows the cue, and nothing that selects may read it.

In: the tuned model, rows with their cue, every candidate, the verdicts. Out, in `out`:
    L14.jsonl       a layer's candidates and random directions, each with its effect; kept as soon as they are measured
    summary.json    by source: how well relevance ranks the candidates that have an effect

A direction's effect is what ablating it alone, in the run's own mode, takes from the cue's logit difference: the logit
of the option that the cue points to minus that of the best other one, mean over rows. Positive: the answers follow the
cue less without it. A candidate is a cause if its effect is above the 95th percentile of its layer's random directions.

The decision a reader would question: random directions are not drawn uniformly from the sphere. Those are quieter than
any candidate, and nearly everything would beat them; they are drawn so that they carry, on average, as much of the
activations' variance as the layer's candidates do.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from autocaft.behind.options import CausesOptions
from autocaft.data.cues import CuedRow
from autocaft.data.encode import Batch, batches, encode_prompt
from autocaft.discover.pair import device_of
from autocaft.model.blocks import last_logits
from autocaft.model.directions import DirectionSet, Subspace
from autocaft.model.hooks import Recorder
from autocaft.model.load import autocast_bf16
from autocaft.model.resume import resumed
from autocaft.records import Verdict
from autocaft.rundir.files import read_jsonl, write_json, write_jsonl
from autocaft.rundir.progress import Advance, Progress
from autocaft.stats import average_precision

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

QUANTILE = 0.95
"""Of the random directions' effects: above it, a candidate counts as a cause."""
N_STRONGEST = 10
"""Candidates of largest effect that are named beside what the judge said of them."""

AblateOne = Callable[[Any, Subspace], AbstractContextManager[object]]
"""Opens the ablation of one subspace in a model, in the run's mode."""


@dataclass(frozen=True)
class Effect:
    """What one direction alone does to the cue's logit difference."""

    id: str
    layer: int
    source: str
    """`sae`, `pca` or `random`."""
    effect: float
    """Logits lost by the cue's option when the direction is ablated, mean over rows."""


def causes(
    *,
    model: Any,
    tokenizer: Any,
    rows: Sequence[CuedRow],
    found: DirectionSet,
    covariance_by_layer: Mapping[int, Tensor],
    mean_by_layer: Mapping[int, Tensor],
    ablate_one: AblateOne,
    verdicts: Sequence[Verdict],
    options: CausesOptions,
    bf16: bool,
    out: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Run the step; layers that a killed run measured are used again. Returns what is in `summary.json`."""
    rows = rows_of_templates(rows, options.n_templates, options.seed)
    effects: list[Effect] = []
    for layer in sorted({direction.layer for direction in found.directions}):
        path = out / f"L{layer}.jsonl"
        if not path.is_file():
            sources, vectors_ND = _directions_at(layer, found, covariance_by_layer[layer], options.seed)
            with progress.task(f"causes at layer {layer}", len(vectors_ND), "directions") as advance:
                effect_N = measure_effects(
                    model,
                    tokenizer,
                    rows,
                    [Subspace(layer, vector_D[:, None], mean_by_layer[layer]) for vector_D in vectors_ND],
                    ablate_one,
                    tokens_per_batch=options.tokens_per_batch,
                    bf16=bf16,
                    advance=advance,
                )
            measured = [Effect(i, layer, s, e) for (i, s), e in zip(sources, effect_N.tolist(), strict=True)]
            write_jsonl(path, ({"validation_only": True, **asdict(effect)} for effect in measured))
        effects += [Effect(r["id"], r["layer"], r["source"], r["effect"]) for r in read_jsonl(path)]
    summary = {
        "validation_only": "measured with the cue's labels: to judge the judge, never to select",
        "uses_broken_cue": any(cued.option != cued.row.answer for cued in rows),
        "splits": list(options.splits),
        "n_rows": len(rows),
        "n_templates": len({cued.row.template for cued in rows}),
        **judge_against_causes(effects, verdicts, n_bootstrap=options.n_bootstrap, seed=options.seed),
    }
    write_json(out / "summary.json", summary)
    return summary


def rows_of_templates(rows: Sequence[CuedRow], n_templates: int, seed: int) -> list[CuedRow]:
    """All rows of a random few templates: whatever is balanced within a template stays balanced."""
    templates = sorted({cued.row.template for cued in rows})
    chosen = set(random.Random(seed).sample(templates, min(n_templates, len(templates))))
    return [cued for cued in rows if cued.row.template in chosen]


def _directions_at(
    layer: int, found: DirectionSet, covariance_DD: Tensor, seed: int
) -> tuple[list[tuple[str, str]], Tensor]:
    """(id, source) and unit vectors (N, D): the layer's candidates, then as many random directions."""
    own = [direction for direction in found.directions if direction.layer == layer]
    vectors_ND = found.vectors_of([direction.id for direction in own])
    variance = float(np.median([direction.variance for direction in own]))
    random_ND = matched_random(covariance_DD, variance, len(own), seed=seed + 1000 * layer)
    names = [(direction.id, str(direction.source)) for direction in own]
    names += [(f"L{layer}.random{i}", "random") for i in range(len(own))]
    return names, torch.cat([vectors_ND, random_ND])


def matched_random(covariance_DD: Tensor, variance: float, n: int, *, seed: int) -> Tensor:
    """`n` random unit vectors (N, D) along which the activations vary by `variance` on average.

    Gaussian draws of covariance C**p, scaled to unit length: p = 0 is uniform on the sphere, and larger p leans towards
    directions of much variance. p is the one between 0 and 4 whose expected variance, tr(C**(1+p)) / tr(C**p), fits.
    """
    eigen_D, vectors_DD = torch.linalg.eigh(covariance_DD.double())
    wanted = variance / float(eigen_D[-1])
    eigen_D = (eigen_D / eigen_D[-1]).clamp_min(1e-9)
    low, high = 0.0, 4.0
    for _ in range(40):
        power = (low + high) / 2
        expected = float((eigen_D ** (1 + power)).sum() / (eigen_D**power).sum())
        low, high = (power, high) if expected < wanted else (low, power)
    draws_ND = torch.randn(n, len(eigen_D), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    random_ND = (draws_ND * eigen_D ** (low / 2)) @ vectors_DD.T
    return (random_ND / random_ND.norm(dim=1, keepdim=True)).float()


@torch.no_grad()
def measure_effects(
    model: Any,
    tokenizer: Any,
    rows: Sequence[CuedRow],
    subspaces: Sequence[Subspace],
    ablate_one: AblateOne,
    *,
    tokens_per_batch: int,
    bf16: bool,
    advance: Advance,
) -> Tensor:
    """Effect (N,) of ablating each of these subspaces of one layer alone; only what lies above the layer is computed
    anew for each."""
    (layer,) = {subspace.layer for subspace in subspaces}
    encoded = [encode_prompt(tokenizer, cued.row.prompt, chat=False) for cued in rows]
    device = device_of(model)
    feed = list(batches(encoded, tokens_per_batch=tokens_per_batch, pad_id=tokenizer.pad_token_id or 0, device=device))
    effect_N = torch.zeros(len(subspaces), dtype=torch.float64)
    recorder = Recorder(model, [layer])
    with autocast_bf16(device, enabled=bf16):
        for number, (chosen, batch) in enumerate(feed):
            ids = [_option_ids(tokenizer, rows[i]) for i in chosen]
            acts_BTD = recorder.run(**batch.inputs)[layer]
            with resumed(model, layer, acts_BTD):
                intact = _cue_logits(model, batch, ids)
                for i, subspace in enumerate(subspaces):
                    with ablate_one(model, subspace):
                        effect_N[i] += intact - _cue_logits(model, batch, ids)
                    advance(1 if number == len(feed) - 1 else 0)
    return effect_N / len(rows)


def _option_ids(tokenizer: Any, cued: CuedRow) -> tuple[int, list[int]]:
    """First token of the option that the cue points to, and of the others."""
    first_by_option = {o: tokenizer.encode(o, add_special_tokens=False)[0] for o in cued.row.choices or ()}
    return first_by_option.pop(cued.option), list(first_by_option.values())


def _cue_logits(model: Any, batch: Batch, ids: Sequence[tuple[int, list[int]]]) -> float:
    """Logit of the cue's option minus that of the best other one, summed over the batch's rows."""
    logits_BV = model(**batch.inputs, **last_logits(model, 1), use_cache=False).logits[:, -1].double().cpu()
    return float(sum(row_V[own] - row_V[others].max() for row_V, (own, others) in zip(logits_BV, ids, strict=True)))


def judge_against_causes(
    effects: Sequence[Effect], verdicts: Sequence[Verdict], *, n_bootstrap: int, seed: int
) -> dict[str, Any]:
    """Thresholds by layer, and by source how relevance ranks causes. Unscored candidates are left out and counted."""
    random_by_layer: dict[int, list[float]] = defaultdict(list)
    for effect in effects:
        if effect.source == "random":
            random_by_layer[effect.layer].append(effect.effect)
    threshold_by_layer = {layer: float(np.quantile(own, QUANTILE)) for layer, own in random_by_layer.items()}
    verdict_by_id = {verdict.direction_id: verdict for verdict in verdicts}
    relevance_by_id = {direction_id: verdict.relevance for direction_id, verdict in verdict_by_id.items()}
    sources = []
    for source in ("sae", "pca"):
        own = [effect for effect in effects if effect.source == source]
        scored = [effect for effect in own if relevance_by_id.get(effect.id) is not None]
        if own:
            relevance_N = np.array([relevance_by_id[effect.id] for effect in scored], dtype=np.float64)
            is_cause_N = np.array([effect.effect > threshold_by_layer[effect.layer] for effect in scored], dtype=bool)
            effect_N = np.array([effect.effect for effect in scored], dtype=np.float64)
            counts = {"n": len(own), "n_unscored": len(own) - len(scored), "n_causes": int(is_cause_N.sum())}
            figures = rank_figures(relevance_N, effect_N, is_cause_N, n_bootstrap=n_bootstrap, seed=seed)
            sources.append({"source": source, **counts, **figures})
    strongest = sorted((effect for effect in effects if effect.source != "random"), key=lambda e: -e.effect)
    return {
        "threshold_by_layer": threshold_by_layer,
        "sources": sources,
        "strongest": [_beside_verdict(effect, verdict_by_id.get(effect.id)) for effect in strongest[:N_STRONGEST]],
    }


def _beside_verdict(effect: Effect, verdict: Verdict | None) -> dict[str, Any]:
    return {
        **asdict(effect),
        "description": verdict.description if verdict else None,
        "relevance": verdict.relevance if verdict else None,
    }


def rank_figures(
    relevance_N: Array, effect_N: Array, is_cause_N: NDArray[np.bool_], *, n_bootstrap: int, seed: int
) -> dict[str, float | None]:
    """Average precision of relevance against `is_cause`, beside its chance level, and Spearman's rank correlation of
    relevance and effect; with 95 % intervals over directions. None where a figure does not exist.

    The bootstrap draws causes and the others apart, so that every resample has as many of each.
    """
    from scipy.stats import rankdata

    def precision(rows: Any) -> float:
        return average_precision(relevance_N[rows].tolist(), is_cause_N[rows].tolist())

    def spearman(rows: Any) -> float:
        return _correlation(rankdata(relevance_N[rows]), rankdata(effect_N[rows]))

    causes_N, others_N = np.flatnonzero(is_cause_N), np.flatnonzero(~is_cause_N)
    rng = np.random.default_rng(seed)
    draws = [
        np.concatenate([rng.choice(group, len(group)) for group in (causes_N, others_N) if len(group)])
        for _ in range(n_bootstrap if len(is_cause_N) else 0)
    ]
    every = np.arange(len(is_cause_N))
    found: dict[str, float | None] = {"chance": float(is_cause_N.mean()) if len(every) else None}
    for name, figure, exists in (("ap", precision, len(causes_N) > 0), ("spearman", spearman, len(every) > 2)):
        value = figure(every) if exists else math.nan
        resampled = [figure(draw) for draw in draws] if not math.isnan(value) else []
        known = [draw for draw in resampled if not math.isnan(draw)]
        low, high = np.quantile(known, [0.025, 0.975]) if known else (math.nan, math.nan)
        figures = {name: value, f"{name}_low": float(low), f"{name}_high": float(high)}
        found |= {key: None if math.isnan(number) else number for key, number in figures.items()}
    return found


def _correlation(x_N: Array, y_N: Array) -> float:
    """Pearson's correlation, NaN where one of the two does not vary (a constant judge ranks nothing)."""
    if np.ptp(x_N) == 0 or np.ptp(y_N) == 0:
        return math.nan
    return float(np.corrcoef(x_N, y_N)[0, 1])
