"""The audits of the same sets for several models, side by side.

In: audit.json of each model. Out: models.json and models.html in the folder that holds theirs. The decision a reader
would question: each model's audit stands by itself, with its own answers, dictionary and reference. What is compared is
what was decided, not latents of different dictionaries, and a set's own verdict here is the worst of its verdicts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autocaft.audit.outcome import ORDER
from autocaft.audit.page import render
from autocaft.rundir.files import write_json, write_text

FORMAT = 1
KEPT = ("outcome", "why", "score", "p_reference", "strength", "n_faults")
"""Of each set's verdict for one model."""


def write_models(name: str, found: Mapping[str, Mapping[str, Any]], folder: Path) -> dict[str, Any]:
    """Write and give the audits side by side.

    Args:
        found: audit.json by the model's name; the sets are the same in all.
    """
    table = side_by_side(name, found)
    write_json(folder / "models.json", table)
    write_text(folder / "models.html", render("models.html.jinja", table=table))
    return table


def side_by_side(name: str, found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Every set with its verdict for each model, the worst first; and how often the models say the same."""
    by_set: dict[str, dict[str, Any]] = {}
    for model, audit in found.items():
        for item in audit["sets"]:
            line = by_set.setdefault(item["name"], {key: item[key] for key in ("name", "purpose", "is_reference")})
            line.setdefault("by_model", {})[model] = {key: item[key] for key in KEPT}
    for line in by_set.values():
        outcomes = [cell["outcome"] for cell in line["by_model"].values()]
        line["outcome"], line["n_faults"] = min(outcomes, key=ORDER.index), _most(line, "n_faults")
        line["is_agreed"] = len(set(outcomes)) == 1
    sets = sorted(by_set.values(), key=lambda line: (ORDER.index(line["outcome"]), line["is_agreed"], line["name"]))
    models = [{"name": model, "spec": audit["model"]["spec"]} for model, audit in found.items()]
    n_agreed = sum(line["is_agreed"] for line in sets)
    return {"format": FORMAT, "name": name, "models": models, "n_agreed": n_agreed, "sets": sets}


def _most(line: Mapping[str, Any], key: str) -> int:
    return max(cell[key] for cell in line["by_model"].values())


def models_text(table: Mapping[str, Any], folder: Path) -> str:
    """A line a set, for the terminal."""
    models: Sequence[str] = [model["name"] for model in table["models"]]
    width = max(len(line["name"]) for line in table["sets"])
    lines = [f"{'':<{width}}  {'  '.join(models)}"]
    for line in table["sets"]:
        cells = "  ".join(f"{line['by_model'][model]['outcome']:<{len(model)}}" for model in models)
        lines.append(f"{line['name']:<{width}}  {cells}".rstrip())
    return "\n".join([*lines, str(folder / "models.html")])
