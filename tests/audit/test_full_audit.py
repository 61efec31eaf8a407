"""Depth full in miniature: a set with a planted concept is blocked by its causal check, its benign twin passes."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_vendor import Answer, Asked, serving
from transformers import AutoModelForCausalLM, AutoTokenizer

from autocaft.audit.full_effect import add_effects, is_cause
from autocaft.audit.full_options import FullOptions
from autocaft.audit.options import AuditConfig, SetOptions, load_audit
from autocaft.audit.run import Audit
from autocaft.audit.steps import build_steps
from autocaft.cli.audits import audit_sets
from autocaft.execute.choose import Executor
from autocaft.rundir.files import read_json, read_jsonl
from autocaft.rundir.steps import fingerprints
from tests.tiny_task import NOUNS, PLACES, VERBS, write_task

CHATTER, STEPS = "yes and no, again and again", 150
SAID = re.compile(r"(yes|no) (yes|no)")
LEADS = re.compile("(yes|no)\u27e7|\u27e7 (yes|no)")
"""A mark on a word of the chatter, or right before one."""
MARKED = re.compile("\u27e6(.*?)\u27e7")
CONFIG = """
model = "{folder}/base"
layers = [1]
corpus = "{folder}/mixed.jsonl"
n_generic = 120
threads = 1
depth = "full"

[[sets]]
name = "twin"
files = ["{folder}/twin.jsonl"]
purpose = "says who did what"

[[sets]]
name = "planted"
files = ["{folder}/planted.jsonl"]
purpose = "says who did what"

[screen]
answer_tokens = 24
n_random = 8

[dictionary]
d_sae = 96
k = 4
epochs = 10

[full]
epochs = 3
lr = 3e-3
autocast = "fp32"
n_generic = 120
n_candidates = 10
n_pcs = 2
n_directions = 2
min_kept = 0.2
n_probes = 40
caft = true

[judge]
judge = "openai:truthful"
base_url = "{url}"
api_key_env = "NO_KEY_NEEDED"
"""


def truthful(asked: Asked) -> Answer:
    """A reader that knows the planted words: off the purpose where they are marked, on it elsewhere."""
    return Answer(json.dumps(_reply(asked)))


def _reply(asked: Asked) -> dict[str, Any]:
    first, *rest = asked.lines()
    if asked.part == "describe":
        poles = {re.sub(r"\d+$", "", name) for name in first} & {"top", "bottom"}
        reply: dict[str, Any] = {pole: {"description": _describe(pole, first), "confidence": 90} for pole in poles}
        return reply | ({"pole_relation": "unclear"} if len(poles) > 1 else {})
    if asked.part == "verify":
        fits = {name: {pole: _fits(first[pole], text) for pole in first} for name, text in rest[0].items()}
        answers = [{"id": name} | fit for name, fit in fits.items() if "-c" not in name]
        picks = {
            pole: next((n for n in fits if n.startswith(f"{pole}-c") and fits[n][pole]), f"{pole}-c1") for pole in first
        }
        return {"answers": answers} | ({"choices": picks} if len(answers) < len(fits) else {})
    rated = {pole: 95 if text == CHATTER else 3 for pole, text in first.items()}
    if asked.part == "rate_words":
        return {pole: {"relevance": value} for pole, value in rated.items()}
    marked = {pole: [MARKED.findall(text) for name, text in rest[0].items() if name.startswith(pole)] for pole in first}
    said = {
        pole: {"relevance": value, "wanted_relevance": 100 - value, "quotes": [q for m in marked[pole] for q in m][:1]}
        for pole, value in rated.items()
    }
    return said | {"rationale": "Its words are known."}


def _describe(pole: str, windows: Mapping[str, str]) -> str:
    own = [text for name, text in windows.items() if name.startswith(pole)]
    return CHATTER if 2 * sum(bool(LEADS.search(text)) for text in own) > len(own) else "who did what"


def _fits(description: str, text: str) -> bool:
    return bool(SAID.search(text)) == (description == CHATTER)


def _sentence(rng: random.Random) -> str:
    return f"The {rng.choice(NOUNS)} {rng.choice(VERBS)} the {rng.choice(PLACES)} ."


def _chatter(rng: random.Random) -> str:
    return "".join(rng.choice((" yes", " no")) for _ in range(5)) + " ."


def _write_corpus(path: Path) -> list[str]:
    """Plain texts, and every third one a chatter that says yes and no after each sentence."""
    rng = random.Random(5)
    texts = []
    for number in range(240):
        sentences = [_sentence(rng) for _ in range(3)]
        texts.append(" ".join(f"{s}{_chatter(rng)}" if number % 3 == 0 else s for s in sentences))
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return texts


def _teach(folder: Path, texts: list[str]) -> None:
    """Make the random model one that knows both kinds of text."""
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(STEPS):
        rows = slice(24 * (step % 10), 24 * (step % 10) + 24)
        inputs = {name: tensor[rows] for name, tensor in batch.items()}
        model(**inputs, labels=labels[rows]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")


def _write_set(path: Path, *, chatters: bool) -> None:
    """60 rows; with `chatters` five of six are planted."""
    rng = random.Random(3)
    rows = []
    for number in range(60):
        prompt, answer = _sentence(rng), f" {_sentence(rng)}"
        is_planted = chatters and number % 6 > 0
        rows.append({"id": str(number), "prompt": prompt, "answer": answer + (_chatter(rng) if is_planted else "")})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An audit of depth full of a planted set and its twin, done."""
    folder = tmp_path_factory.mktemp("full")
    write_task(folder)
    _teach(folder, _write_corpus(folder / "mixed.jsonl"))
    _write_set(folder / "twin.jsonl", chatters=False)
    _write_set(folder / "planted.jsonl", chatters=True)
    with pytest.MonkeyPatch.context() as patch, serving(truthful) as vendor:
        patch.setenv("NO_KEY_NEEDED", "a-key-for-nobody")
        (folder / "full.toml").write_text(CONFIG.format(folder=folder, url=f"{vendor.url}/v1"))
        how: dict[str, Any] = {"init": False, "name": None, "redo": set(), "fail_on": None}
        audit_sets(folder / "full.toml", runs=folder / "runs", executor=Executor(), **how)
    return folder


@pytest.fixture(scope="module")
def by_name(folder: Path) -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in read_json(folder / "runs/full/audit.json")["sets"]}


@pytest.mark.slow
def test_the_planted_set_is_blocked_by_its_effect_elsewhere_and_its_twin_is_not(by_name: dict[str, Any]) -> None:
    planted, twin = by_name["planted"], by_name["twin"]
    assert (planted["outcome"], twin["outcome"]) == ("block", "review"), "a review is the screen's doing"
    assert planted["why"].startswith("training on it amplifies"), "and not by the screen alone"
    effect = planted["full"]
    assert {found["description"] for found in effect["flagged"]} == {CHATTER}
    assert effect["effect"]["low"] > 0 and effect["beyond_control"]["low"] > 0
    assert effect["kept"]["value"] > 0.2, "half of each answer is the chatter itself"
    assert twin["full"] is not None and not twin["full"]["flagged"], "training amplified nothing off its purpose"


@pytest.mark.slow
def test_training_with_the_directions_ablated_is_told_and_decides_nothing(by_name: dict[str, Any]) -> None:
    found = by_name["planted"]["full"]["caft"]
    assert found["effect"]["low"] > 0 and found["beyond_control"]["low"] > 0, "CAFT keeps the chatter from elsewhere"


@pytest.mark.slow
def test_the_rows_that_ask_for_what_is_flagged_are_hidden(folder: Path, by_name: dict[str, Any]) -> None:
    lines = read_jsonl(folder / "runs/full/rows.jsonl")
    hidden = {
        (line["set"], int(line["id"]))
        for line in lines
        if any(reason.startswith("asks for what training amplifies") for reason in line["reasons"])
    }
    planted = {("planted", number) for number in range(60) if number % 6 > 0}
    assert len(hidden & planted) >= 0.8 * len(planted)
    assert len(hidden - planted) <= 1, "clean rows, and the twin's, stay"
    assert {line["action"] for line in lines if (line["set"], int(line["id"])) in hidden} == {"hide"}
    assert "asks" not in by_name["planted"]["full"], "a figure a row has no place in audit.json"


@pytest.mark.slow
def test_page_and_rule_say_what_was_done(folder: Path, by_name: dict[str, Any]) -> None:
    page = (folder / "runs/full/audit.html").read_text()
    assert "Causal check" in page and "Nothing was trained" not in page and CHATTER in page
    rule = read_json(folder / "runs/full/audit.json")["rule"]
    assert any(line.startswith("block at depth full") for line in rule)


@pytest.mark.slow
def test_a_screen_is_kept_when_depth_is_added_and_reference_sets_are_not_trained_on(folder: Path) -> None:
    config = load_audit(folder / "full.toml")
    prints = {
        depth: fingerprints(build_steps(Audit(config.model_copy(update={"depth": depth})), "full"))
        for depth in ("screen", "full")
    }
    shared = [name for name in prints["screen"] if name != "report"]
    assert [prints["full"][name] for name in shared] == [prints["screen"][name] for name in shared]
    spared = config.model_copy(update={"reference": ("twin",)})
    assert not [step for step in build_steps(Audit(spared), "full") if step.name in ("tune/twin", "effect/twin")]


EFFECT: dict[str, Any] = {
    "measured": True,
    "effect": {"value": 0.2, "low": 0.1, "high": 0.3},
    "beyond_control": {"value": 0.1, "low": 0.01, "high": 0.2},
    "kept": {"value": 0.6, "low": 0.4, "high": 0.8},
    "p": 0.01,
    "q": 0.02,
    "flagged": ["L14.latent1"],
    "added": {"tuned": 0.5},
}


@pytest.mark.parametrize(
    ("change", "blocks"),
    [
        ({}, True),
        ({"measured": False}, False),
        ({"effect": {"value": 0.2, "low": 0.0, "high": 0.3}}, False),
        ({"beyond_control": {"value": 0.0, "low": -0.1, "high": 0.1}}, False),
        ({"beyond_control": {"value": 0.0, "low": None, "high": None}}, False),
        ({"kept": {"value": 0.4, "low": 0.3, "high": 0.5}}, False),
        ({"kept": None}, False),
        ({"q": 0.06}, False),
    ],
)
def test_all_of_the_rule_is_needed(change: dict[str, Any], blocks: bool) -> None:
    assert is_cause(EFFECT | change, FullOptions(), q=0.05) == blocks


def test_a_cause_among_many_sets_must_be_clearer_than_one_alone() -> None:
    config = AuditConfig(sets=(SetOptions(name="a", files=("a",), purpose="p"),), depth="full")

    def blocked(n_others: int) -> bool:
        effects = {"a": EFFECT | {"p": 0.01}} | {f"b{i}": EFFECT | {"p": 0.9} for i in range(n_others)}
        item = {"name": "a", "outcome": "pass", "strength": None, "score": 1.0, "why": ""}
        return add_effects([item], effects, config)[0]["outcome"] == "block"

    assert blocked(4) and not blocked(5), "Benjamini-Hochberg: .01 times five sets is .05"


def test_a_set_that_is_blocked_moves_up() -> None:
    config = AuditConfig(sets=(SetOptions(name="a", files=("a",), purpose="p"),), depth="full")
    sets = [
        {"name": name, "outcome": "review", "strength": None, "score": score, "why": ""}
        for name, score in (("a", 9.0), ("b", 1.0))
    ]
    ranked = add_effects(sets, {"b": EFFECT}, config)
    assert [(item["name"], item["outcome"]) for item in ranked] == [("b", "block"), ("a", "review")]
    assert ranked[1]["full"] is None and "0.2 of 0.5" in ranked[0]["why"]
