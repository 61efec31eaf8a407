"""Balanced accuracy of held-out answers."""

from __future__ import annotations

import random

from autocaft.judge.detection import detection

TRUTH: dict[str, bool | None] = {f"i{n:02d}": n < 8 for n in range(20)}


def test_a_perfect_reply_has_an_interval_with_a_width() -> None:
    found = detection({item: bool(value) for item, value in TRUTH.items()}, TRUTH)
    assert found is not None and found.value == found.high == 1.0
    assert found.low is not None and 0.7 < found.low < 0.9


def test_all_yes_and_all_no_are_chance_whatever_the_mix() -> None:
    for answer in (True, False):
        found = detection(dict.fromkeys(TRUTH, answer), TRUTH)
        assert found is not None and found.value == 0.5


def test_right_answers_to_the_wrong_items_are_chance_and_rarely_above_it() -> None:
    """2,000 shuffles: the mean is .50, and the rule of selection (interval above .5) lets at most 1 in 20 pass."""
    rng, found = random.Random(0), []
    for _ in range(2000):
        answers = rng.sample([bool(value) for value in TRUTH.values()], len(TRUTH))
        interval = detection(dict(zip(TRUTH, answers, strict=True)), TRUTH)
        assert interval is not None and interval.low is not None
        found.append(interval)
    assert abs(sum(interval.value for interval in found) / len(found) - 0.5) <= 0.03
    assert sum((interval.low or 0.0) > 0.5 for interval in found) <= 0.05 * len(found)


def test_an_item_of_unknown_truth_does_not_count() -> None:
    truth: dict[str, bool | None] = {**TRUTH, "i99": None}
    there, back = (detection({**dict.fromkeys(TRUTH, True), "i99": value}, truth) for value in (True, False))
    assert there == back and there is not None and there.n_clusters == 20


def test_one_sided_items_give_no_figure() -> None:
    assert detection({"a": True}, {"a": True}) is None
