"""Detection: does a description tell held-out windows of its pole from others?

In: yes/no answers and the answer key. Out: balanced accuracy with a 95 % interval, .5 being chance whatever the mix of
items. The interval is square-and-add (MOVER, Zou and Donner 2008) over the Wilson intervals of the two rates: closed
form, and never of zero width at 20 items, where a bootstrap of a perfect reply would be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from autocaft.stats import Interval, wilson

CHANCE = 0.5
"""Balanced accuracy of a description that says nothing."""


def detection(said_yes: Mapping[str, bool], truth: Mapping[str, bool | None]) -> Interval | None:
    """Balanced accuracy over the items whose truth is known; None without an item on each side."""
    positives = [said_yes[item] for item, is_pole in truth.items() if is_pole is True]
    negatives = [not said_yes[item] for item, is_pole in truth.items() if is_pole is False]
    if not positives or not negatives:
        return None
    hit, reject = wilson(sum(positives), len(positives)), wilson(sum(negatives), len(negatives))
    value = (hit.value + reject.value) / 2
    below = math.hypot(hit.value - (hit.low or 0.0), reject.value - (reject.low or 0.0)) / 2
    above = math.hypot(_high(hit) - hit.value, _high(reject) - reject.value) / 2
    n_items = len(positives) + len(negatives)
    return Interval(value, max(0.0, value - below), min(1.0, value + above), "wilson", n_items)


def _high(interval: Interval) -> float:
    return 1.0 if interval.high is None else interval.high
