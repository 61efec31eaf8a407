"""Do two choices ablate the same space? Two selections can differ in every name and agree in span.

In: chosen ids, the run's vectors, the covariance of the base model's activations. Out: one row a source and layer.
The decision a reader would question: overlap is told three ways, since angles alone mislead when the sizes differ:
principal angles; `covered_human`, the share of the variance in the person's span that lies in the judge's span too
(and the other way round); and `chance`, what a random subspace of the judge's size would cover of any direction.

Key: D d_model, H and A columns of the two bases, C covariance of the activations.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


def subspace_overlap(decomposed: Path, human: Collection[str], auto: Collection[str]) -> list[dict[str, Any]]:
    """One row for each source and layer in which either chose something.

    Args:
        decomposed: the run's decompose folder.
    """
    from autocaft.discover.decompose import load_covariances
    from autocaft.model.directions import DirectionSet

    found = DirectionSet.load(decomposed)
    covariances = {layer: c_DD.double().numpy() for layer, c_DD in load_covariances(decomposed).items()}
    places = sorted({(d.source, d.layer) for d in found.directions if d.id in human or d.id in auto})
    rows = []
    for source, layer in places:
        here = [d.id for d in found.directions if (d.source, d.layer) == (source, layer)]
        human_DH, auto_DA = (_basis(found, [i for i in here if i in chosen]) for chosen in (human, auto))
        rows.append({"source": source, "layer": layer, **compare_spans(human_DH, auto_DA, covariances.get(layer))})
    return rows


def compare_spans(human_DH: Array | None, auto_DA: Array | None, covariance_DD: Array | None) -> dict[str, Any]:
    """The overlap of two orthonormal bases; None stands for an empty choice."""
    from scipy.linalg import subspace_angles

    row: dict[str, Any] = {
        "n_human": 0 if human_DH is None else human_DH.shape[1],
        "n_auto": 0 if auto_DA is None else auto_DA.shape[1],
        "angles_degrees": [],
        "covered_human": None,
        "covered_auto": None,
        "chance": None,
    }
    if human_DH is None or auto_DA is None:
        return row
    import numpy as np

    angles = np.degrees(subspace_angles(human_DH, auto_DA))
    return row | {
        "angles_degrees": [float(angle) for angle in sorted(angles)],
        "covered_human": _covered(human_DH, auto_DA, covariance_DD),
        "covered_auto": _covered(auto_DA, human_DH, covariance_DD),
        "chance": auto_DA.shape[1] / len(auto_DA),
    }


def _covered(inner_DK: Array, outer_DM: Array, covariance_DD: Array | None) -> float:
    """Share of the activations' variance inside one span that lies in the other too; plain overlap without C."""
    import numpy as np

    spread_KK = inner_DK.T @ inner_DK if covariance_DD is None else inner_DK.T @ covariance_DD @ inner_DK
    across_MK = outer_DM.T @ inner_DK
    return float(np.trace(across_MK @ spread_KK @ across_MK.T) / np.trace(spread_KK))


def _basis(found: Any, ids: list[str]) -> Array | None:
    from autocaft.model.directions import orthonormal_basis

    return orthonormal_basis(found.vectors_of(ids)).double().numpy() if ids else None
