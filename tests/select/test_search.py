"""The search's choice: planted trials, guards, and what the trials are made of."""

from __future__ import annotations

from typing import Any

import pytest

from autocaft.arms import Dials
from autocaft.data.rows import TaskRow
from autocaft.errors import ConfigError, DataError
from autocaft.select.options import SearchOptions
from autocaft.select.search import choose_dials, dials_to_try, hold_out, nested

RECIPE = Dials((14, 20), 1.0, 0.9)
TEXTS = [f"t{i // 2}" for i in range(20)]
OPTIONS = SearchOptions(max_loss_rise=0.2, max_kl_rise=0.05)


def measured(left: float, loss: float = 0.1, kl: float = 0.01, **changes: Any) -> dict[str, Any]:
    """A trial that moved `left` times as far as plain training, whose layer 20 is a hundred times as long as 14."""
    near = [left * (1 + i % 3) for i in range(20)]
    moved = {"14": near, "20": [100 * value for value in near]}
    costs = {"losses": [loss + 0.01 * (i % 2) for i in range(8)], "rows": [f"r{i // 2}" for i in range(8)],
             "kl": [10 * kl, 30 * kl], "n_tokens": [10, 30]}  # fmt: skip
    return {"moved": moved, "texts": TEXTS, "ids": ["a", "b"], **costs, **changes}


def trials(*found: dict[str, Any]) -> list[tuple[Dials, dict[str, Any]]]:
    layer_sets = ((14, 20), (14,), (20,))
    return [(Dials(layers, 1.0, 1.0), trial) for layers, trial in zip(layer_sets, found, strict=False)]


def test_the_trial_that_leaves_least_is_chosen() -> None:
    found = choose_dials(trials(measured(0.6), measured(0.2), measured(0.4)), measured(1.0), OPTIONS, RECIPE)
    assert found["chosen"] == "L14@100%x1" and found["dials"] == {"layers": (14,), "share": 1.0, "strength": 1.0}
    assert [line["left"]["value"] for line in found["trials"]] == pytest.approx([0.6, 0.2, 0.4])
    assert "0.200" in found["why"] and "3 trials within the guards, of 3 in all" in found["why"]


@pytest.mark.parametrize("broken", [{"loss": 0.31}, {"kl": 0.07}])
def test_a_broken_guard_excludes_however_little_is_left(broken: dict[str, float]) -> None:
    loud, quiet = measured(0.0, **broken), measured(0.7, loss=0.29, kl=0.05)
    found = choose_dials(trials(loud, quiet), measured(1.0), OPTIONS, RECIPE)
    assert found["chosen"] == "L14@100%x1"
    assert [line["passes"] for line in found["trials"]] == [False, True]
    (why,) = found["trials"][0]["broken"]
    assert ("loss" in why) == ("loss" in broken) and "above plain training's" in why
    loosened = OPTIONS.model_copy(update={"max_loss_rise": 9.0, "max_kl_rise": 9.0})
    assert choose_dials(trials(loud, quiet), measured(1.0), loosened, RECIPE)["chosen"] == "L14-L20@100%x1"


def test_where_no_trial_passes_the_recipe_stays_and_it_is_said_loudly() -> None:
    found = choose_dials(trials(measured(0.1, loss=2.0), {"unscored": "nothing"}), measured(1.0), OPTIONS, RECIPE)
    assert found["chosen"] is None
    assert found["dials"] == {"layers": (14, 20), "share": 1.0, "strength": 0.9}
    assert found["why"].startswith("NO TRIAL OF 2") and "1 had nothing to ablate" in found["why"]


def test_what_could_not_be_tried_is_unscored_and_never_chosen() -> None:
    found = choose_dials(trials({"unscored": "none selected"}, measured(0.9)), measured(1.0), OPTIONS, RECIPE)
    assert found["chosen"] == "L14@100%x1"
    assert found["trials"][0]["unscored"] == "none selected" and "left" not in found["trials"][0]


def test_each_layer_counts_alike_and_one_that_nothing_moves_is_left_out() -> None:
    half = measured(1.0)
    half["moved"]["14"] = [0.0] * 20
    plain = measured(1.0)
    (line,) = choose_dials(trials(half), plain, OPTIONS, RECIPE)["trials"]
    assert line["left"]["value"] == pytest.approx(0.5), "the longer layer is no louder"
    plain["moved"]["20"] = [0.0] * 20
    found = choose_dials(trials(half), plain, OPTIONS, RECIPE)
    assert found["layers"] == [14] and found["trials"][0]["left"]["value"] == 0.0
    plain["moved"]["14"] = [0.0] * 20
    with pytest.raises(ConfigError, match="moved nothing"):
        choose_dials(trials(half), plain, OPTIONS, RECIPE)


def test_every_figure_has_an_interval_over_texts_templates_or_documents() -> None:
    uneven = measured(0.5)
    uneven["moved"]["14"][:4] = [9.0] * 4
    uneven["losses"][:2], uneven["kl"] = [0.3, 0.2], [0.4, 0.1]
    (line,) = choose_dials(trials(uneven), measured(1.0), SearchOptions(), RECIPE)["trials"]
    for figure in ("left", "loss", "loss_rise", "kl", "kl_rise"):
        assert line[figure]["low"] < line[figure]["value"] < line[figure]["high"], figure
    assert line["kl"]["value"] == pytest.approx(0.5 / 40), "tokens weigh alike"


def test_all_nested_layer_sets_are_tried_with_every_share_and_strength() -> None:
    assert nested([20, 14]) == [(14, 20), (14,), (20,)]
    assert nested([1, 2, 3]) == [(1, 2, 3), (1, 2), (1,), (2, 3), (3,)]
    assert nested([5]) == [(5,)]
    names = [dials.name for dials in dials_to_try(SearchOptions(strengths=(1.0, 0.5)), [14, 20])]
    assert len(names) == len(set(names)) == 3 * 2 * 2
    assert names[:3] == ["L14-L20@100%x1", "L14-L20@100%x0.5", "L14-L20@50%x1"]
    listed = SearchOptions(layer_sets=((20,),), shares=(0.125,))
    assert [dials.name for dials in dials_to_try(listed, [14, 20])] == ["L20@12.5%x1"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"shares": ()}, "at least one"),
        ({"shares": (0.5, 0.5)}, "none twice"),
        ({"strengths": (1.5,)}, "at most 1"),
        ({"layer_sets": ((14,), ())}, "at least one layer"),
    ],
)
def test_dials_that_cannot_be_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        SearchOptions(**settings)


def row(number: int, template: str) -> TaskRow:
    return TaskRow(str(number), f"row {number}", " he", None, template, "")


def test_whole_templates_are_held_out_and_a_fifth_at_most() -> None:
    rows = [row(i, f"t{i // 3}") for i in range(60)]
    learned, held = hold_out(rows, 10)
    assert len(held) == 9 and sorted([*learned, *held], key=lambda r: int(r.id)) == rows
    assert not {r.template for r in learned} & {r.template for r in held}
    assert len(hold_out(rows, 1000)[1]) == 12
    assert hold_out(rows, 10) == hold_out(rows, 10)
    with pytest.raises(DataError, match="split `val`"):
        hold_out([row(i, "one") for i in range(60)], 10)
