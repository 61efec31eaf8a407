"""What the cells of double multiple choice (pair, form, arm, seed) say together: pooled accuracy, gain, tables.

In: the cells of results/double_choice.json, each with its templates' accuracies. Out: intervals and Markdown.

The decision a reader would question: the share of the oracle's gain is that of the sums over all pairs, not a mean of
the pairs' shares, in which a pair without a gain would count most.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from autocaft.report.arms import arm_order
from autocaft.report.words import interval_text, percent
from autocaft.stats import Interval, seed_cluster_bootstrap, seed_cluster_ratio

Cell = dict[str, Any]

AUTO, ORACLE = "caft-pca-auto", "caft-pca-oracle"
AUTHORS = {
    "tuned": (0.191, 0.191),
    "caft-pca-auto": (0.201, 0.618),
    "caft-pca-random": (0.355, 0.286),
    "caft-pca-top": (0.347, 0.391),
}
"""Mean ood accuracy over eight pairs of the paper's (gemma-2-2b, letters) by components and by latents; auto by
gpt-4.1. A person's choice: .365 and .639."""


def pooled(cells: Sequence[Cell], arm: str, split: str) -> Interval:
    """An arm's accuracy over the pairs and seeds of these cells."""
    values, seeds, clusters = zip(*_templates(cells, arm, split), strict=True)
    return seed_cluster_bootstrap(values, seeds, clusters)


def share_of_gain(cells: Sequence[Cell]) -> Interval | None:
    """The judge's gain over tuned on `ood`, as a share of the oracle's, summed over all pairs and seeds."""
    before, auto, oracle = (list(_templates(cells, arm, "ood")) for arm in ("tuned", AUTO, ORACLE))
    assert [one[1:] for one in before] == [one[1:] for one in auto] == [one[1:] for one in oracle], "not the same cells"
    gains = [[after[0] - tuned[0] for after, tuned in zip(arm, before, strict=True)] for arm in (auto, oracle)]
    return seed_cluster_ratio(gains[0], gains[1], [one[1] for one in before], [one[2] for one in before])


def complete(cells: Sequence[Cell]) -> list[Cell]:
    """The cells of those pairs, forms and seeds that have all that the share needs."""
    arms_by_place = defaultdict[tuple[str, str, int], set[str]](set)
    for cell in cells:
        arms_by_place[_place(cell)].add(cell["arm"])
    return [cell for cell in cells if {"tuned", AUTO, ORACLE} <= arms_by_place[_place(cell)]]


def arms_table(result: Mapping[str, Any]) -> str:
    """Each arm on each pair that has all arms, and over all of them beside the paper's; below, the judge's share."""
    cells = complete(result["cells"])
    if not cells:
        return "Not run yet.\n"
    pairs = sorted({cell["pair"] for cell in cells})
    head = ["arm", *(f"ood, {pair}" for pair in pairs), "id, all", "ood, all", "ood, worst cell"]
    head += ["paper's PCs", "paper's latents"]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    for arm in sorted({cell["arm"] for cell in cells} - {"base"}, key=arm_order):
        own = [cell for cell in cells if cell["arm"] == arm]
        by_pair = [_percents([cell for cell in own if cell["pair"] == pair], arm, "ood") for pair in pairs]
        worst = min(cell["scores"]["ood"]["value"] for cell in own)
        paper = [percent(value) for value in AUTHORS.get(arm, ())] or ["-", "-"]
        rows.append([arm, *by_pair, _percents(own, arm, "id"), _percents(own, arm, "ood"), percent(worst), *paper])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows) + f"\n{share_line(cells)}\n"


def share_line(cells: Sequence[Cell]) -> str:
    """The judge's share of the oracle's gain over these cells, in words."""
    share = share_of_gain(cells)
    if share is None:
        return "The oracle has no gain on `ood`, so the judge has no share of one."
    interval = "no interval" if share.low is None else f"[{share.low:.2f}, {share.high:.2f}]"
    return f"The judge's share of the oracle's gain on `ood`: {share.value:.2f} {interval}."


def pilot_table(result: Mapping[str, Any]) -> str:
    """Base and tuned on each pair and form, seed 0."""
    cells = {(*_place(cell)[:2], cell["arm"]): cell["scores"] for cell in result["cells"] if cell["seed"] == 0}
    rows = [["form", "pair", "base id", "base ood", "tuned id", "tuned ood"], ["---", "---", *["---:"] * 4]]
    for form, pair in sorted({(form, pair) for pair, form, arm in cells if arm == "tuned"}):
        figures = [cells[pair, form, arm][split] for arm in ("base", "tuned") for split in ("id", "ood")]
        rows.append(
            [f"`{form}`", pair, *(_score(figure["value"], figure["low"], figure["high"]) for figure in figures)]
        )
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _place(cell: Cell) -> tuple[str, str, int]:
    return cell["pair"], cell["form"], cell["seed"]


def _templates(cells: Sequence[Cell], arm: str, split: str) -> Iterator[tuple[float, int, str]]:
    """Each template's accuracy, with its seed and its name among all pairs."""
    for cell in cells:
        if cell["arm"] == arm:
            for number, value in enumerate(cell["scores"][split]["by_template"]):
                yield value, cell["seed"], f"{cell['pair']}-{cell['form']}-{number}"


def _percents(cells: Sequence[Cell], arm: str, split: str) -> str:
    if not cells:
        return "-"
    found = pooled(cells, arm, split)
    return _score(found.value, found.low, found.high)


def _score(value: float, low: float | None, high: float | None) -> str:
    return f"{percent(value)} {interval_text({'ci_low': low, 'ci_high': high})}".strip()
