"""The probe reads a planted cue before its ablation and not behind it."""

from __future__ import annotations

import numpy as np
import pytest

from autocaft.behind.options import BehindOptions
from autocaft.behind.probe import Reading, fit_probe, probe_arm
from autocaft.data.cues import CuedRow
from autocaft.data.rows import TaskRow
from autocaft.errors import DataError
from autocaft.model.directions import Subspace
from autocaft.model.hooks import ablate
from autocaft.rundir.progress import NullProgress
from tests.planted_cue import Planted

OPTIONS = BehindOptions(n_folds=4, n_permutations=5)


def readings(planted: Planted, *, ablated: bool) -> dict[tuple[str, int, str, str], Reading]:
    subspace = Subspace(0, planted.cue_D[:, None])
    found = probe_arm(
        planted.model,
        planted.tokenizer,
        planted.rows,
        [0, 1],
        OPTIONS,
        ablated=ablate(planted.model, [subspace], mode="zero") if ablated else None,
        label="arm",
        progress=NullProgress(),
    )
    return {(r.hooks, r.layer, r.place, r.position): r for r in found}


def test_the_cue_is_read_before_the_hook_and_not_behind_it(planted: Planted) -> None:
    found = readings(planted, ablated=True)
    assert len(found) == 2 * 2 * 3
    for position in ("last", "mean"):
        assert found["off", 0, "next", position].accuracy == 1.0
        # a random block has stirred it into everything else
        assert found["off", 1, "next", position].accuracy > 0.9
        assert found["on", 0, "block", position].accuracy == 1.0
        # doctor and nurse are the same row behind the hook, so one of each pair is wrong whatever the probe says
        assert found["on", 0, "next", position].accuracy == 0.5
        # and no block above can make again what is gone
        assert found["on", 1, "block", position].accuracy == found["on", 1, "next", position].accuracy == 0.5


def test_an_arm_without_an_ablation_is_read_with_hooks_off_alone(planted: Planted) -> None:
    found = readings(planted, ablated=False)
    assert {(hooks, place) for hooks, _, place, _ in found} == {("off", "next")}
    assert all(reading.ci_low is not None and reading.ci_low > 0.7 for reading in found.values())


def rows_of(n_templates: int, n_rows: int = 4) -> list[CuedRow]:
    plain = [TaskRow(f"{t}-{i}", "x", "a", None, f"t{t}", "") for t in range(n_templates) for i in range(n_rows)]
    return [CuedRow(row, "male" if i % 2 else "female", "a") for i, row in enumerate(plain)]


def test_permuted_labels_are_read_at_chance() -> None:
    rows = rows_of(40)
    sign_N = np.array([1.0 if cued.cue == "male" else -1.0 for cued in rows])
    features_ND = np.random.default_rng(0).normal(size=(len(rows), 16)) + 4 * sign_N[:, None] * np.eye(16)[0]
    figures = fit_probe(features_ND, rows, BehindOptions(n_permutations=40))
    assert figures["accuracy"] > 0.99
    assert figures["permuted"] == pytest.approx(0.5, abs=0.05)
    assert figures["permuted_low"] < 0.5 < figures["permuted_high"] < 0.8


def test_a_template_that_gives_its_label_away_helps_no_probe() -> None:
    """Features tell the template and nothing else: with rows as units they would be read at once."""
    rows = [CuedRow(cued.row, "male" if int(cued.row.template[1:]) % 2 else "female", "a") for cued in rows_of(20)]
    features_ND = np.eye(20)[[int(cued.row.template[1:]) for cued in rows]]
    assert fit_probe(features_ND, rows, OPTIONS)["accuracy"] <= 0.5


def test_too_few_templates_or_values_are_an_error() -> None:
    with pytest.raises(DataError, match="have 2 and 3"):
        fit_probe(np.zeros((12, 2)), rows_of(3), OPTIONS)
    one = [CuedRow(cued.row, "male", "a") for cued in rows_of(8)]
    with pytest.raises(DataError, match="have 1 and 8"):
        fit_probe(np.zeros((32, 2)), one, OPTIONS)
