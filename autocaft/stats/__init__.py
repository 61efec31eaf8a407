"""Intervals, tests and rankings for figures that come from few independent units. Libraries are imported on first use.

The units are clusters (templates, base questions) and seeds, never rows: rows of one template rise and fall together,
so an interval over rows would be too narrow.
"""

from __future__ import annotations

from autocaft.stats.agreement import Cells, PairAgreement, krippendorff_alpha, pair_agreement
from autocaft.stats.intervals import (
    Interval,
    cluster_bootstrap,
    paired_cluster_bootstrap,
    paired_seed_cluster_bootstrap,
    seed_cluster_bootstrap,
    wilson,
)
from autocaft.stats.permutation import SignTest, holm, sign_flip_test
from autocaft.stats.ranking import average_precision, roc_auc
from autocaft.stats.ratio import seed_cluster_ratio

__all__ = [
    "Cells",
    "Interval",
    "PairAgreement",
    "SignTest",
    "average_precision",
    "cluster_bootstrap",
    "holm",
    "krippendorff_alpha",
    "pair_agreement",
    "paired_cluster_bootstrap",
    "paired_seed_cluster_bootstrap",
    "roc_auc",
    "seed_cluster_bootstrap",
    "seed_cluster_ratio",
    "sign_flip_test",
    "wilson",
]
