"""The look behind the run, for the report: probes, moves and causes in few lines.

In: rows of `behind/ARM/seedN` and the summary of `causes`. Out: plain dicts and sentences. The decision a reader would
question: the page shows the probe at the prompt's last token, where the answer is read off, and the moves of each arm's
first seed; the other position and the other seeds are in report.json.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from autocaft.report.arms import arm_order
from autocaft.report.words import percent

PLACES = (("off", "next"), ("on", "block"), ("on", "next"))
"""Hooks and place of a probe, in the order of the columns."""


def build_behind(found: Mapping[str, Any]) -> dict[str, Any]:
    """What the report shows of the look behind; empty if none was asked for."""
    built: dict[str, Any] = {}
    if "probes" in found:
        built["probes"] = _probe_lines(found["probes"])
        built["sentence"] = _leak_sentence(built["probes"])
        built["moved"] = sorted(found["moved"], key=lambda arm: (arm_order(arm["arm"]), arm["seed"]))
        for arm in built["moved"]:
            arm["sentence"] = _moved_sentence(arm)
    if "causes" in found:
        built["causes"] = dict(found["causes"])
    return built


def _probe_lines(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One line an arm, layer and position, with a cell for each of `PLACES`."""
    groups: dict[tuple[str, int, str], dict[tuple[str, str], list[Mapping[str, Any]]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for row in rows:
        groups[row["arm"], row["layer"], row["position"]][row["hooks"], row["place"]].append(row)
    return [
        {
            "arm": arm,
            "layer": layer,
            "position": position,
            "cells": [_cell(groups[arm, layer, position].get(place, ())) for place in PLACES],
        }
        for arm, layer, position in sorted(groups, key=lambda key: (arm_order(key[0]), key[1], key[2]))
    ]


def _cell(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Mean over seeds; the interval of one seed, or from the lowest to the highest of several."""
    if not rows:
        return None
    by_seed = {str(row["seed"]): row["accuracy"] for row in rows}
    several = len(rows) > 1
    return {
        "value": sum(by_seed.values()) / len(rows),
        "ci_low": min(by_seed.values()) if several else rows[0]["ci_low"],
        "ci_high": max(by_seed.values()) if several else rows[0]["ci_high"],
        "permuted": sum(row["permuted"] for row in rows) / len(rows),
        "permuted_low": min(row["permuted_low"] for row in rows),
        "permuted_high": max(row["permuted_high"] for row in rows),
        "by_seed": by_seed,
        "n": rows[0]["n"],
        "n_templates": rows[0]["n_templates"],
    }


def _leak_sentence(lines: Sequence[Mapping[str, Any]]) -> str:
    """Whether the cue is gone behind the deepest hook of the first ablated arm, told from permuted labels."""
    ablated = [line for line in lines if line["position"] == "last" and line["cells"][-1] is not None]
    if not ablated:
        return ""
    line = [line for line in ablated if line["arm"] == ablated[0]["arm"]][-1]
    behind = line["cells"][-1]
    # the lower end of one seed's interval, or the lowest of several seeds
    leaks = behind["ci_low"] is not None and behind["ci_low"] > behind["permuted_high"]
    return (
        f"With the ablation of {line['arm']} in place, a probe behind the hook after layer {line['layer']} reads the "
        f"cue at {percent(behind['value'])}, and at {percent(behind['permuted'])} with permuted labels: "
        + ("the ablation leaks." if leaks else "no more than by chance.")
    )


def _moved_sentence(arm: Mapping[str, Any]) -> str:
    """How much of the change avoided the ablated subspace, layer by layer, and what moved instead."""
    parts = [
        f"{percent(layer['inside'])} after layer {layer['layer']} (tuned {percent(layer['inside_tuned'])}, a random "
        f"subspace of {layer['n_ablated']} dimensions {percent(layer['inside_random'])})"
        for layer in arm["layers"]
        if layer["inside"] is not None
    ]
    text = f"Of its difference from the base model, inside the ablated subspace: {'; '.join(parts)}." if parts else ""
    latents = [entry for layer in arm["layers"] for entry in layer["latents"]]
    if latents:
        shared = sum(
            entry["rank_tuned"] <= len(layer["latents"]) for layer in arm["layers"] for entry in layer["latents"]
        )
        ablated = sum(entry["is_ablated"] for entry in latents)
        text += (
            f" Of the {len(latents)} latents that moved most, {shared} are among as many of tuned's, and {ablated} "
            f"{'was' if ablated == 1 else 'were'} ablated in training."
        )
    return text
