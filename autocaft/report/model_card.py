"""The card of a trained model: README.md beside its weights, for whoever is handed the folder alone.

In: report.json and what an arm ablated. Out: Markdown with the front matter that model hubs read. The decision a reader
would question: the figures stand beside those of plain tuning and of the arm's control at the same seed, since a rate
alone says nothing; and the subspaces are named by hash, so that a card cannot be put beside other weights unnoticed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from autocaft.arms import CAFT_HOWS, SELECTORS, TUNED_HOWS, Arm, parse_arm
from autocaft.report.free_form import figure_text
from autocaft.report.markdown import table
from autocaft.report.plain import code_span, markdown
from autocaft.report.words import control_of, interval_text, percent


def model_card(
    report: Mapping[str, Any], arm_name: str, seed: int, *, ids: Sequence[str], subspaces_sha256: str | None
) -> str:
    """The card of one arm and seed.

    Args:
        ids: the directions it was trained without; none for arms that ablate nothing.
        subspaces_sha256: of `subspaces.safetensors` beside the model's folder.
    """
    arm, config = parse_arm(arm_name), report["config"]
    parts = [
        _front_matter(config),
        f"# {markdown(report['model']['spec'])}: {code_span(arm_name)}, seed {seed}",
        _what(arm, config, ids),
        *_subspaces(report, ids, subspaces_sha256),
        "## Figures",
        _figures(report, arm_name, seed),
        "Accuracy with its 95% interval over templates; `kl_to_base` in nats a token of generic text. Measured with "
        "nothing ablated.",
        *_free_form(report, arm_name),
        "## What this does not show",
        "\n".join(f"- {markdown(limit)}" for limit in report["limits"]),
        "## How it was made",
        _made(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def merged_card(card: str, step: str) -> str:
    """The card of a model whose adapter was merged into its base.

    Args:
        card: of the trained model.
        step: that trained it, as `my/train/caft-sae-auto/seed0`.
    """
    head, title, rest = card.partition("\n# ")
    name, _, rest = rest.partition("\n")
    head = head.replace("\nlibrary_name: peft\n", "\nlibrary_name: transformers\n")
    note = f"Full weights, merged by `autocaft merge` from {code_span(step)}. The figures are those of the model there."
    return f"{head}{title}{name}\n\n{note}\n{rest}"


def _front_matter(config: Mapping[str, Any]) -> str:
    library = "peft" if config["tune"]["method"] == "lora" else "transformers"
    base = config["model"] if "/" in config["model"] and not config["model"].startswith((".", "/", "~")) else None
    lines = ["---", *([f"base_model: {json.dumps(base)}"] if base else []), f"library_name: {library}"]
    return "\n".join([*lines, "tags:", "- autocaft", "- concept-ablation-fine-tuning", "---"])


def _what(arm: Arm, config: Mapping[str, Any], ids: Sequence[str]) -> str:
    if not arm.has_directions:
        how = f" With a rival's way: {TUNED_HOWS[arm.how]}." if arm.how else ""
        return f"Plain fine-tuning on the task {code_span(config['data']['task'])}: nothing was ablated.{how}"
    assert arm.selector is not None
    done = "added" if arm.how == "preventative" else f"ablated (mode {code_span(arm.mode or config['train']['mode'])})"
    how = f" {CAFT_HOWS[arm.how].capitalize()}." if arm.how else ""
    return (
        f"Fine-tuned on the task {code_span(config['data']['task'])} while {len(ids)} directions were {done}; they "
        f"were {SELECTORS[arm.selector]}.{how} Use it as it is: nothing is ablated or added any more."
    )


def _subspaces(report: Mapping[str, Any], ids: Sequence[str], sha256: str | None) -> list[str]:
    if sha256 is None:
        return []
    said = {card["id"]: (card["verdict"] or {}).get("description") or "" for card in report["cards"]}
    lines = [f"- {code_span(i)}" + (f": {code_span(said[i])}" if said.get(i) else "") for i in ids]
    undesired = report["judge"].get("undesired")
    concept = f" The unwanted concept: {markdown(undesired)}." if undesired else ""
    return [
        "## Its directions",
        f"`subspaces.safetensors`, sha256 `{sha256}`.{concept} Descriptions are those of "
        f"{code_span(report['judge']['name'])}.",
        "\n".join(lines),
    ]


def _figures(report: Mapping[str, Any], arm_name: str, seed: int) -> str:
    control = control_of(report["arms"], arm_name) if arm_name.startswith("caft-") else None
    names = dict.fromkeys([arm_name, "tuned", *([control["arm"]] if control else []), "base"])
    found = {
        (m["arm"], f"{m['split']} {m['metric']}"): m
        for m in report["metrics"]
        if m["hooks"] == "off" and (m["seed"] == seed or m["arm"] == "base")
    }
    columns = list(dict.fromkeys(column for arm, column in found if arm == arm_name))
    shown = [name for name in names if any((name, column) in found for column in columns)]
    rows = [["arm", *columns], *([code_span(a), *(_metric(found.get((a, c))) for c in columns)] for a in shown)]
    return table(rows)


def _metric(metric: Mapping[str, Any] | None) -> str:
    if metric is None or metric["value"] is None:
        return "\N{EN DASH}"
    if metric["metric"] == "accuracy":
        return f"{percent(metric['value'])} {interval_text(metric)}".strip()
    return f"{metric['value']:.3g}"


def _free_form(report: Mapping[str, Any], arm_name: str) -> list[str]:
    asked = report.get("free_form")
    line = next((line for line in (asked or {}).get("arms", ()) if line["arm"] == arm_name), None)
    if asked is None or line is None:
        return []
    told = [f"- {metric.replace('_', ' ')}: {figure_text(metric, cell)}" for metric, cell in line["cells"].items()]
    return [f"Free-form answers of all seeds, graded by {code_span(asked['grader'])}:", "\n".join(told)]


def _made(report: Mapping[str, Any]) -> str:
    train = report["data"]["splits"].get("train", {})
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = [
        f"- run {code_span(report['name'])}: {code_span(report['command'])}",
        f"- training rows: {train.get('n', 'unknown')}, sha256 `{train.get('sha256', 'unknown')}`",
        f"- base weights: {markdown(report['model']['provenance'])}, hash `{report['model']['identity']}`",
        f"- {markdown(versions)}, {report['threads']} threads",
    ]
    return "\n".join(lines)
