"""How a run was made, in a few sentences: from its resolved configuration and nothing else.

In: the config of report.json and how many rows trained. Out: sentences in the order of the run. The decision a reader
would question: only what a reader needs to judge the figures is told; the whole configuration stands in the report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from autocaft.arms import CAFT_HOWS, TUNED_HOWS, parse_arm

MODES = {
    "mean": "the projection on {what} set to the base model's mean on {text}",
    "zero": "the projection on {what} set to zero",
    "resample": "the projection on {what} replaced by that of another row of the batch",
    "leace": "what of the activations goes along with {what} set to the base model's mean on {text}, by the oblique "
    "projection that changes them least (LEACE)",
    "mean-shift": "the base model's mean on {text} along {what} added, and nothing removed",
}


def method(config: Mapping[str, Any], n_rows: int | None, judge: str) -> list[str]:
    """What was done, one sentence or two a stage."""
    arms = [arm for arm in config["arms"] if arm.startswith("caft-")]
    sentences = [_tuning(config, n_rows)]
    if not arms:
        return [*sentences, *_departing(config), _measuring(config)]
    return [*sentences, _discovery(config), _judging(config, judge), _selecting(config), *_searching(config),
            _ablating(config), *_departing(config), _measuring(config)]  # fmt: skip


def _departing(config: Mapping[str, Any]) -> list[str]:
    """What the words for rivals and controls mean that stand in the arms' names."""
    hows = {arm.how: arm for arm in map(parse_arm, config["arms"]) if arm.how}
    said = [f"{how}: {text}" for how, text in {**CAFT_HOWS, **TUNED_HOWS}.items() if how in hows]
    return [f"In the arms' names, {'; '.join(said)}."] if said else []


def _tuning(config: Mapping[str, Any], n_rows: int | None) -> str:
    tune = config["tune"]
    how = _lora(tune) if tune["method"] == "lora" else "full fine-tuning"
    how += ", the loss among a row's options" if tune["loss"] == "choices" else ""
    rows = "the training rows" if n_rows is None else f"{n_rows:,} training rows"
    batch = tune["batch_size"] * tune["grad_accumulation"]
    seeds = config["seeds"]
    return (
        f"Every arm starts from {config['model']} and sees {rows} for {_epochs(tune['epochs'])}: {how}, learning rate "
        f"{tune['lr']:g}, {batch} rows a step{_processes(tune)}, {_seeds(seeds)}." + _untrained(config)
    )


def _processes(tune: Mapping[str, Any]) -> str:
    kind = ", sharded" if tune["sharding"] == "fsdp" else ""
    return "" if tune["processes"] == 1 else f" shared by {tune['processes']} processes{kind}"


def _lora(tune: Mapping[str, Any]) -> str:
    targets = tune["lora_targets"]
    where = "" if "all-linear" in targets else f" on {_listed(targets)}"
    return f"LoRA (r {tune['lora_r']}{'' if tune['lora_rank_stabilized'] else ', scale over the rank'}){where}"


def _untrained(config: Mapping[str, Any]) -> str:
    if config["tune"]["trained_blocks"] == "all":
        return ""
    return (
        f" Embeddings and decoder blocks up to {min(config['layers'])}, where the lowest ablation is, are not trained."
    )


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {_listed([str(seed) for seed in seeds])}"


def _discovery(config: Mapping[str, Any]) -> str:
    collect, decompose = config["collect"], config["decompose"]
    text = "training rows" if collect["diff_text"] == "train" else "the tuned model's completions"
    kinds = []
    if "pca" in decompose["sources"]:
        kinds.append(f"{decompose['n_pcs']} {_components_of(decompose['pcs'], text)}")
    if "sae" in decompose["sources"]:
        made = "a dictionary trained here" if decompose["sae"] == "train" else decompose["sae"]
        kinds.append(
            f"the {decompose['n_candidates']} latents of {made} that rank highest by each of "
            f"{_listed(decompose['rankings'])}"
        )
    blocks = _listed([str(layer) for layer in config["layers"]])
    return f"Candidates, after decoder {'block' if len(config['layers']) == 1 else 'blocks'} {blocks}: " + (
        f"{'; '.join(kinds)}. They are sought once, in the tuned model of seed {config['seeds'][0]}."
    )


def _components_of(pcs: str, text: str) -> str:
    if pcs == "difference":
        return f"principal components of tuned minus base on {text}"
    if pcs == "contrast":
        return (
            "components, at most, by which the base model's activations on training prompts of different answers "
            "differ, one kind of token at a time"
        )
    return "independent components (ICA) of the base model's activations on the training rows and their continuations"


def _judging(config: Mapping[str, Any], judge: str) -> str:
    options = config["judge"]
    checked = ""
    if options["check_words"] and not judge.startswith(("offline", "files:")):
        checked = (
            " A description that verifies is rated once more without the windows; where that rating differs, the "
            "verdict abstains."
        )
    return (
        f"The judge ({judge}) describes a direction from at most {options['n_describe']} windows of text a pole, tells "
        f"held-out windows from others by that description (at most {options['n_verify']}; detection), and rates it "
        f"from 0 to 100 against the unwanted and the wanted concept.{checked} It sees no evaluation split."
    )


def _selecting(config: Mapping[str, Any]) -> str:
    select = config["select"]
    margin = f", at least {select['margin']:g} above the wanted concept" if select["margin"] else ""
    detection = (
        "better than chance (the low end of its 95% interval above 0.5)"
        if select["min_detection"] is None
        else f"at least {select['min_detection']:g}"
    )
    return (
        f"Selected: relevance at least {select['threshold']:g}{margin}, detection {detection}, at most "
        f"{select['per_layer_cap']} a layer and source. Random controls are as many a layer, drawn anew for each seed."
    )


def _searching(config: Mapping[str, Any]) -> list[str]:
    """How the dials of searched arms were found, and on what."""
    if not any(parse_arm(arm).selector == "searched" for arm in config["arms"]):
        return []
    search = config["select"]["search"]
    n_rows, has_val = search["n_rows"], "val" in config["data"]["splits"]
    rows = f"{n_rows} rows of the split val" if has_val else f"up to {n_rows} training rows that no trial learned from"
    return [
        f"Where, how much and how strongly a searched arm ablates was chosen among short trainings "
        f"({100 * search['share_of_steps']:g}% of the epochs, seed {config['seeds'][0]}): the one that, hooks off, "
        "moved least from the base model along the judged directions, each weighed by its relevance, on the texts on "
        f"which the tuned model was compared with it, while its loss on {rows} exceeded that of a plain training of "
        f"its length by at most {search['max_loss_rise']:g} nats and its KL to the base model, on "
        f"{search['n_documents']} documents of generic text, by at most {search['max_kl_rise']:g}. The search read no "
        "split in which the cue is broken."
    ]


def _ablating(config: Mapping[str, Any]) -> str:
    train = config["train"]
    strength = "" if train["strength"] == 1 else f" (strength {train['strength']:g})"
    text = {"generic": "generic text", "train": "the training rows"}[train["mean_of"]]
    what = {
        "direction": "its directions",
        "covariance": "what goes along with its directions (the covariance of the activations with their coordinates)",
    }[train["basis"]]
    how = MODES[train["mode"]].format(text=text, what=what)
    return (
        f"An ablated arm is the same fine-tuning with {how}{strength}, unless its name says another "
        "mode. Afterwards nothing is ablated."
    )


def _measuring(config: Mapping[str, Any]) -> str:
    n_documents = min(config["data"]["n_held_out"], config["evaluate"]["n_damage_documents"])
    return (
        "A choice counts as right if the model finds the right answer likelier than the other. Perplexity and KL to "
        f"the base model are on {n_documents} documents of generic text that no other stage reads."
    )


def _listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _epochs(n: float) -> str:
    return f"{n:g} epoch" if n == 1 else f"{n:g} epochs"
