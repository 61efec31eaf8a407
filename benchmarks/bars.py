"""The bars of a benchmark in one table: printed beside its figures, and its exit status when one is missed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Bars = Mapping[str, tuple[Literal["at most", "at least", "above"], float]]
"""Name of a figure -> what it must be."""

COLLECT: Bars = {
    "speed, of the naive way": ("at least", 1.5),
    "memory, naive way over ours": ("at least", 20.0),
    "memory, most tokens over fewest": ("at most", 1.1),
}
"""Of collect.py."""
GENERATE: Bars = {"of batch 1": ("at least", 1.5), "of the best size": ("at least", 0.95)}
"""Of generate.py."""


def missed(figures: Mapping[str, Any], bars: Bars) -> list[str]:
    """One line for each figure that misses its bar; a bar without its figure is none of this run's."""
    return [
        f"{name}: {said(name, figures[name], bars)}"
        for name in bars
        if name in figures and not _is_met(figures[name], *bars[name])
    ]


def said(name: str, value: Any, bars: Bars) -> str:
    """A figure as text, with its bar if it has one."""
    shown = f"{value:.3f}" if isinstance(value, float) else f"{value}"
    return f"{shown}   ({bars[name][0]} {bars[name][1]:.4g})" if name in bars else shown


def _is_met(value: float, relation: str, bound: float) -> bool:
    return {"at most": value <= bound, "at least": value >= bound, "above": value > bound}[relation]
