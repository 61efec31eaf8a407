"""Control sets that an automatic selection has to beat: the same amount of ablation, another choice of directions.

In: candidates, the chosen ones, a seed. Out: direction ids, and for the matched control how well it matches. The
decision a reader would question: "as much" means count per layer and also variance removed, because a set of quiet
directions is a weak control. Directions are not orthogonal, so the variance of a set is that of its span,
trace(pinv(V Vt) V C Vt) with the activations' covariance C; without C the sum of the directions' own variances stands
in, and the match says which of the two it is.

Key: D d_model, N candidates of a layer, K chosen of them, R random draws.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autocaft.errors import ConfigError
from autocaft.records import Direction

Array = NDArray[np.float64]
Index = NDArray[np.int64]

N_NEAREST = 6
"""A guided draw replaces each chosen direction by one of this many free candidates nearest in variance."""


@dataclass(frozen=True, slots=True)
class LayerMatch:
    """How the control set of one layer compares with the chosen set."""

    layer: int
    n_chosen: int
    n_drawn: int
    """Less than `n_chosen` only where fewer candidates were left over."""
    removed_chosen: float
    removed_control: float
    share_chosen: float | None
    """Of the layer's whole variance; None without a covariance."""
    share_control: float | None
    measured_by: str
    """`span` (covariance of the mining activations) or `sum` (of single variances, as if orthogonal)."""


class VarianceMeter:
    """Variance that ablating a set of one layer's directions removes."""

    def __init__(self, directions: Sequence[Direction], vectors_ND: Any = None, covariance_DD: Any = None) -> None:
        self.ids = [direction.id for direction in directions]
        self.row_by_id = {direction_id: row for row, direction_id in enumerate(self.ids)}
        self.single_N = np.array([direction.variance for direction in directions], dtype=np.float64)
        self.total: float | None = None
        self._gram_NN: Array | None = None
        self._spread_NN: Array | None = None
        if vectors_ND is not None and covariance_DD is not None:
            v_ND, c_DD = as_array(vectors_ND), as_array(covariance_DD)
            assert v_ND.shape == (len(self.ids), c_DD.shape[0]), (v_ND.shape, c_DD.shape, len(self.ids))
            self._gram_NN, self._spread_NN = v_ND @ v_ND.T, v_ND @ c_DD @ v_ND.T
            self.single_N = np.diag(self._spread_NN).copy()
            self.total = float(np.trace(c_DD))

    @property
    def measured_by(self) -> str:
        return "sum" if self._gram_NN is None else "span"

    def removed(self, rows_RK: Index) -> Array:
        """Variance removed by each of R sets, given as rows of the candidates."""
        if rows_RK.shape[1] == 0:
            return np.zeros(len(rows_RK))
        if self._gram_NN is None or self._spread_NN is None:
            return np.asarray(self.single_N[rows_RK].sum(axis=1))
        pairs = rows_RK[:, :, None], rows_RK[:, None, :]
        inverse_RKK = np.linalg.pinv(self._gram_NN[pairs], rcond=1e-8, hermitian=True)
        return np.asarray(np.einsum("rij,rji->r", inverse_RKK, self._spread_NN[pairs]))


def as_array(tensor: Any) -> Array:
    """A tensor of any dtype and device, or an array, as float64."""
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu().double().numpy()
    return np.asarray(tensor, dtype=np.float64)


def draw_matched(
    candidates: Sequence[Direction],
    chosen: Sequence[Direction],
    *,
    seed: tuple[int, int],
    n_draws: int,
    vectors_ND: Any = None,
    covariance_by_layer: Mapping[int, Any] | None = None,
) -> tuple[list[str], list[LayerMatch]]:
    """`random-candidate`: unchosen candidates, matched per layer in count and, as well as possible, in variance.

    Half of the draws are uniform, half replace each chosen direction by one near it in variance; the draw nearest to
    the chosen set in variance removed is kept.

    Args:
        seed: (select.random_seed, training seed); the same pair gives the same set.
        vectors_ND: unit vectors in the order of `candidates`.
        covariance_by_layer: DxD covariance of the base model's activations.
    """
    row_by_id = {direction.id: row for row, direction in enumerate(candidates)}
    all_vectors = None if vectors_ND is None else as_array(vectors_ND)
    ids: list[str] = []
    matches: list[LayerMatch] = []
    chosen_by_layer = _by_layer(chosen)
    for layer, layer_candidates in sorted(_by_layer(candidates).items()):
        if layer not in chosen_by_layer:
            continue
        vectors = None if all_vectors is None else all_vectors[[row_by_id[d.id] for d in layer_candidates]]
        covariance = None if covariance_by_layer is None else covariance_by_layer.get(layer)
        meter = VarianceMeter(layer_candidates, vectors, covariance)
        rng = np.random.default_rng([*seed, layer, 1])
        rows, match = _draw_layer(layer, meter, [d.id for d in chosen_by_layer[layer]], rng, n_draws)
        ids += [meter.ids[row] for row in sorted(rows)]
        matches.append(match)
    return ids, matches


def _draw_layer(
    layer: int, meter: VarianceMeter, chosen_ids: Sequence[str], rng: np.random.Generator, n_draws: int
) -> tuple[list[int], LayerMatch]:
    """The best draw of one layer as rows of its candidates, and how well it matches."""
    chosen = np.array([meter.row_by_id[direction_id] for direction_id in chosen_ids], dtype=np.int64)
    free = np.setdiff1d(np.arange(len(meter.ids)), chosen)
    size = min(len(chosen), len(free))
    target = float(meter.removed(chosen[None, :])[0])
    uniform = [rng.permutation(free)[:size] for _ in range(n_draws - n_draws // 2)]
    guided = [_guided_draw(meter.single_N, chosen, free, size, rng) for _ in range(n_draws // 2)]
    draws_RK = np.array(uniform + guided, dtype=np.int64).reshape(n_draws, size)
    removed_R = meter.removed(draws_RK)
    best = int(np.argmin(np.abs(removed_R - target)))
    control = float(removed_R[best])
    total = meter.total
    match = LayerMatch(
        layer=layer,
        n_chosen=len(chosen),
        n_drawn=size,
        removed_chosen=target,
        removed_control=control,
        share_chosen=None if total is None else target / total,
        share_control=None if total is None else control / total,
        measured_by=meter.measured_by,
    )
    return [int(row) for row in draws_RK[best]], match


def _guided_draw(single_N: Array, chosen: Index, free: Index, size: int, rng: np.random.Generator) -> Index:
    """One free candidate for each chosen direction, at random among those nearest to it in variance."""
    left = list(free)
    picked: list[int] = []
    for row in rng.permutation(chosen)[:size]:
        gaps = np.abs(single_N[left] - single_N[row])
        nearest = np.argsort(gaps, kind="stable")[:N_NEAREST]
        picked.append(int(left.pop(int(rng.choice(nearest)))))
    return np.array(picked, dtype=np.int64)


def draw_live(
    chosen: Sequence[Direction], live_by_layer: Mapping[int, Sequence[int]] | None, seed: tuple[int, int]
) -> list[str]:
    """`random-live`: as many live latents a layer of the whole dictionary, chosen or not, drawn anew for each seed.

    The ids need not be candidates: whoever trains looks their vectors up in the dictionary.

    Raises:
        ConfigError: the live latents of a layer are not known, or are too few.
    """
    ids: list[str] = []
    for layer, group in sorted(_by_layer(chosen).items()):
        live = sorted((live_by_layer or {}).get(layer, ()))
        if len(live) < len(group):
            raise ConfigError(
                f"a random-live arm needs {len(group)} live latents of layer {layer}, and {len(live)} are known. "
                f"It exists for SAE latents only; leave the arm out or run `--redo decompose`."
            )
        picks = np.random.default_rng([*seed, layer, 2]).choice(len(live), size=len(group), replace=False)
        ids += [f"L{layer}.latent{live[pick]}" for pick in sorted(picks)]
    return ids


def take_top(candidates: Sequence[Direction], chosen: Sequence[Direction]) -> list[str]:
    """`top`: as many a layer by rank alone, read by nobody; may share directions with the chosen set."""
    ids: list[str] = []
    ranked_by_layer = _by_layer(candidates)
    for layer, group in sorted(_by_layer(chosen).items()):
        ranked = sorted(ranked_by_layer[layer], key=lambda direction: (-direction.strength, direction.index))
        ids += [direction.id for direction in ranked[: len(group)]]
    return ids


def _by_layer(directions: Sequence[Direction]) -> dict[int, list[Direction]]:
    groups: dict[int, list[Direction]] = defaultdict(list)
    for direction in directions:
        groups[direction.layer].append(direction)
    return groups
