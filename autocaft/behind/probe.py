"""Is the cue still linearly readable where it was ablated?

In: a model, rows with their cue, layers, and the ablation it was trained in. Out: one `Reading` for each layer, place
and position: accuracy of a logistic regression, cross-validated with templates as groups, its 95 % interval over
templates, and the same with labels permuted by template.

Places: `block`, what a block gives before its own hook (with hooks on: what the blocks between two ablated layers made
again), and `next`, what the next block reads. With hooks off they are one and the same, and only `next` is read.
Positions: `last`, the prompt's last token, where the answer is read off; `mean`, the mean over the row's tokens without
the first one, which is exempt from ablation. Both are rounded to bf16, in which the next block multiplies: a probe
would scale up what an ablation leaves in the last digits of fp32, and read the cue there.

The decision a reader would question: a probe that reads the cue does not show that the model uses it, and where the cue
hangs on a word of the row (a doctor is male) the mean over tokens reads the word. What it does show is its absence.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from autocaft.behind.options import BehindOptions
from autocaft.data.cues import CuedRow
from autocaft.data.encode import batches, encode_prompt
from autocaft.discover.pair import device_of
from autocaft.discover.paired import read_positions
from autocaft.errors import DataError
from autocaft.model.hooks import Recorder
from autocaft.model.load import autocast_bf16
from autocaft.records import Hooks
from autocaft.rundir.progress import Advance, Progress
from autocaft.stats import cluster_bootstrap

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

Place = Literal["block", "next"]
Position = Literal["last", "mean"]


@dataclass(frozen=True)
class Reading:
    """How well one probe reads the cue."""

    hooks: Hooks
    layer: int
    place: Place
    position: Position
    accuracy: float
    ci_low: float | None
    ci_high: float | None
    permuted: float
    """Mean accuracy with permuted labels."""
    permuted_low: float
    """2.5 and 97.5 % of the accuracies with permuted labels."""
    permuted_high: float
    n: int
    n_templates: int

    def to_row(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self)


def probe_arm(
    model: Any,
    tokenizer: Any,
    rows: Sequence[CuedRow],
    layers: Sequence[int],
    options: BehindOptions,
    *,
    ablated: AbstractContextManager[object] | None,
    label: str,
    progress: Progress,
) -> list[Reading]:
    """Probe one arm, hooks off and, if it was trained in an ablation, on.

    Args:
        ablated: opens the ablation the arm was trained in; None for arms that had none.
    """
    n_passes = 1 if ablated is None else 3
    n_steps = n_passes * (len(rows) + 2 * len(layers))
    features: dict[tuple[Hooks, Place], dict[tuple[int, Position], Array]] = {}
    found: list[Reading] = []
    with progress.task(f"probe {label}", n_steps, "rows and fits") as advance:

        def read(place: Place) -> dict[tuple[int, Position], Array]:
            return read_features(model, tokenizer, rows, layers, place=place, options=options, advance=advance)

        features["off", "next"] = read("next")
        if ablated is not None:
            with ablated:
                features["on", "block"], features["on", "next"] = read("block"), read("next")
        for (hooks, place), by_layer in features.items():
            for (layer, position), features_ND in by_layer.items():
                found.append(Reading(hooks, layer, place, position, **fit_probe(features_ND, rows, options)))
                advance(1)
    return found


@torch.no_grad()
def read_features(
    model: Any,
    tokenizer: Any,
    rows: Sequence[CuedRow],
    layers: Sequence[int],
    *,
    place: Place,
    options: BehindOptions,
    advance: Advance,
) -> dict[tuple[int, Position], Array]:
    """The residual stream (N, D) of every row's prompt, by layer and position."""
    encoded = [encode_prompt(tokenizer, cued.row.prompt, chat=False) for cued in rows]
    found: dict[tuple[int, Position], list[Any]] = {}
    recorder = Recorder(model, layers, before_hooks=place == "block")
    feed = batches(
        encoded,
        tokens_per_batch=options.tokens_per_batch,
        pad_id=tokenizer.pad_token_id or 0,
        device=device_of(model),
    )
    for numbers, batch in feed:
        with autocast_bf16(device_of(model)):
            acts_by_layer = recorder.run(**batch.inputs)
        read_BT1 = read_positions(batch, "all").unsqueeze(-1).float()
        for layer, acts_BTD in acts_by_layer.items():
            mean_BD = (acts_BTD.float() * read_BT1).sum(1) / read_BT1.sum(1).clamp_min(1)
            for position, values_BD in (("last", acts_BTD[:, -1]), ("mean", mean_BD)):
                own = found.setdefault((layer, position), [None] * len(rows))  # type: ignore[arg-type]
                for number, value_D in zip(numbers, values_BD.bfloat16().double().cpu().numpy(), strict=True):
                    own[number] = value_D
        advance(len(numbers))
    return {key: np.stack(values) for key, values in found.items()}


def fit_probe(features_ND: Array, rows: Sequence[CuedRow], options: BehindOptions) -> dict[str, Any]:
    """Accuracy of a probe with its interval, and of probes on permuted labels; the fields of a `Reading`.

    Raises:
        DataError: too few templates, or one value of the cue only.
    """
    templates = [cued.row.template for cued in rows]
    values, labels_N = np.unique([cued.cue for cued in rows], return_inverse=True)
    n_templates = len(set(templates))
    if len(values) < 2 or n_templates < options.n_folds:
        raise DataError(
            f"behind: the probe needs two values of the cue and {options.n_folds} templates (behind.n_folds), and the "
            f"rows have {len(values)} and {n_templates}"
        )
    correct_N = cross_validated(features_ND, labels_N, templates, options.n_folds)
    interval = cluster_bootstrap(correct_N.tolist(), templates)
    rng = np.random.default_rng(options.seed)
    permuted = [
        float(cross_validated(features_ND, labels, templates, options.n_folds).mean())
        for labels in (permute_by_template(labels_N, templates, rng) for _ in range(options.n_permutations))
    ]
    low, high = np.quantile(permuted, [0.025, 0.975])
    return {
        "accuracy": interval.value,
        "ci_low": interval.low,
        "ci_high": interval.high,
        "permuted": float(np.mean(permuted)),
        "permuted_low": float(low),
        "permuted_high": float(high),
        "n": len(rows),
        "n_templates": n_templates,
    }


def cross_validated(features_ND: Array, labels_N: Any, templates: Sequence[str], n_folds: int) -> Array:
    """1 for each row whose label a probe that never saw its template gets right, else 0."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    correct_N = np.zeros(len(labels_N))
    for train, test in GroupKFold(n_folds).split(features_ND, labels_N, templates):
        if len(set(labels_N[train])) == 1:  # permuted labels of few templates
            correct_N[test] = labels_N[test] == labels_N[train][0]
            continue
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
        probe.fit(features_ND[train], labels_N[train])
        correct_N[test] = probe.predict(features_ND[test]) == labels_N[test]
    return correct_N


def permute_by_template(labels_N: Any, templates: Sequence[str], rng: np.random.Generator) -> Any:
    """Labels renamed at random in each template by itself: rows of one template keep their pattern, and templates
    agree on nothing."""
    n_values = int(labels_N.max()) + 1
    names = {template: rng.permutation(n_values) for template in dict.fromkeys(templates)}
    return np.array([names[template][label] for template, label in zip(templates, labels_N, strict=True)])
