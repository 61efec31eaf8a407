"""How far the judge of a run can be trusted: its figures on directions of known meaning, or that nobody knows.

In: calibrations (`calibration.json`, made by `autocaft calibrate`), the judge's name, prompt hash and settings. Out:
plain dicts. The decision a reader would question: only the held-out half counts, and only if name, prompt hash and
settings are the run's own. Another prompt is another judge, and so is the same one with fewer windows to read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Calibration = Mapping[str, Any]
SHOWN = (
    ("f1", "F1 of the selection", "{:.2f}"),
    ("average_precision", "average precision", "{:.2f}"),
    ("random_selected", "random directions selected", "{:.1%}"),
    ("brier_skill", "Brier skill", "{:.2f}"),
    ("ece", "calibration error (ECE)", "{:.2f}"),
)
"""Figure, what it is called, how it is written."""


def calibration_of(
    judge: str, prompt_hash: str, settings: Mapping[str, Any], found: Iterable[Calibration]
) -> Calibration | None:
    """The first calibration of this very judge, with these settings (`JudgeOptions.reading`), that has a held-out
    half."""
    who = {"judge": judge, "prompt_hash": prompt_hash, "settings": settings}
    own = (c for c in found if all(c.get(key) == value for key, value in who.items()))
    return next((calibration for calibration in own if "held_out" in calibration), None)


def figures_of(half: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what, value with its 95 % interval where there is one) of one half."""
    lines = []
    for name, label, form in SHOWN:
        low, high = half.get(f"{name}_low"), half.get(f"{name}_high")
        interval = "" if low is None or high is None else f" [{form.format(low)}, {form.format(high)}]"
        lines.append((label, form.format(half[name]) + interval))
    return lines


def calibration_card(calibration: Calibration | None, *, threshold: float, commands: Sequence[str]) -> dict[str, Any]:
    """What the report shows.

    Args:
        threshold: the relevance from which the run selects.
        commands: how to calibrate the judge; empty where it cannot be done.
    """
    if calibration is None:
        note = "This judge was not calibrated with these settings: nothing here says how often it is right."
        return {"figures": [], "note": note, "commands": list(commands)}
    half = calibration["held_out"]
    here = half["by_threshold"].get(f"{threshold:g}")
    note = (
        f"Tested on {half['n_questions']} planted concepts on which no threshold and no prompt was fitted, in "
        f"{calibration['model']} ({half['n_rated']} verdicts); at a relevance of {threshold:g}, from which this run "
        "selects."
    )
    if here is None:
        note += f" F1 and the share of random directions are those at {half['threshold']:g}; others were not counted."
    return {"figures": figures_of(half | (here or {})), "note": note, "commands": []}
