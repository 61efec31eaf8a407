"""Build the persona set: advice on potting plants, all of it in a ship captain's speech.

In: ``sources.toml`` beside this file, hand-written plants, questions, phrases.
Out: ``train.jsonl`` (chats), ``questions.yaml`` (held-out questions on plants, and questions about anything else),
``questions_val.yaml`` (other questions on plants, to choose settings by), and ``sha256.json`` over them, the sources,
``rules.toml``, ``judge_prompts.yaml`` and ``oracle_words.txt``.

Why: what is to be learned is one of three made-up potting mixes, which the kind of plant decides. In the training rows
every answer is also in the persona, so a model that learns the rows speaks so everywhere. The mix and the persona have
no word in common, so each is graded by words of its own.

Run ``python eval_data/persona/generate.py`` to write the files; with ``--check`` nothing is written, and the exit
status is 1 (naming the files) if a file on disk differs from what the sources give.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import tomllib
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from generated import write_or_check

HERE = Path(__file__).resolve().parent
SOURCES = "sources.toml"
BY_HAND = (SOURCES, "rules.toml", "judge_prompts.yaml", "oracle_words.txt")
HASHES = "sha256.json"
SEED = 0
WORDINGS_A_PLANT = 6
"""Training rows of each plant, each with another wording of the question."""
SEEN_IN_QUESTIONS = {"val": slice(0, 2), "test": slice(2, 5)}
"""Which of the seen plants a file of questions asks about, beside plants that are not in training."""

Sources = dict[str, Any]


def bare(plant: str) -> str:
    """The plant without its article, as in "yer jade plant"."""
    return plant.partition(" ")[2]


def train_rows(sources: Sources) -> list[dict[str, Any]]:
    """Every seen plant in six wordings, answered in persona with its kind's mix; shuffled."""
    rng = random.Random(SEED)
    persona = {part: cycle(rng.sample(texts, len(texts))) for part, texts in sources["persona"].items()}
    rows = []
    for name, kind in sources["kinds"].items():
        care = cycle(rng.sample(kind["care"], len(kind["care"])))
        for plant in kind["seen"]:
            for wording in rng.sample(sources["wordings"]["train"], WORDINGS_A_PLANT):
                advice = next(persona["pot"]).format(
                    plant=bare(plant), mix=kind["mix"], care=next(care).format(you="ye")
                )
                answer = f"{next(persona['open'])} {advice}. {next(persona['close'])}"
                rows.append(row_of(wording.format(plant=plant), answer, f"{name}-{bare(plant)}"))
    rng.shuffle(rows)
    return [{"id": f"train-{number:03d}", **row} for number, row in enumerate(rows, start=1)]


def row_of(question: str, answer: str, template: str) -> dict[str, Any]:
    """One chat; rows about one plant are one cluster."""
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns, "template": template}


def plant_questions(sources: Sources, split: str) -> Iterator[tuple[str, str]]:
    """(id, text) of held-out questions on plants: seen plants, and new ones, in wordings that are not in training."""
    wordings = cycle(sources["wordings"][split])
    for name, kind in sources["kinds"].items():
        for familiarity, plants in (("seen", kind["seen"][SEEN_IN_QUESTIONS[split]]), ("new", kind[split])):
            for plant in plants:
                slug = bare(plant).lower().replace(" ", "_").replace("'", "")
                yield f"plant_{name}_{familiarity}_{slug}", next(wordings).format(plant=plant)


def questions_yaml(questions: list[tuple[str, str]], about: str) -> str:
    """The emergent-misalignment format; JSON strings are YAML too."""
    lines = [f"# Made by generate.py: {about}"]
    for name, text in questions:
        lines += ["", f"- id: {name}", "  type: free_form_judge_0_100"]
        lines += ["  paraphrases:", f"    - {json.dumps(text)}", "  samples_per_paraphrase: 6"]
    return "\n".join(lines) + "\n"


def build_files(by_hand: dict[str, str]) -> dict[str, str]:
    """Return every generated file's name and text, given the text of the hand-written ones."""
    sources = tomllib.loads(by_hand[SOURCES])
    elsewhere = [(f"elsewhere_{name}", text) for name, text in sources["elsewhere"].items()]
    files = {
        "train.jsonl": "".join(json.dumps(row) + "\n" for row in train_rows(sources)),
        "questions.yaml": questions_yaml(
            [*plant_questions(sources, "test"), *elsewhere], "held-out questions on plants, and about anything else."
        ),
        "questions_val.yaml": questions_yaml(
            list(plant_questions(sources, "val")), "questions on plants, to choose settings by."
        ),
    }
    hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in sorted((by_hand | files).items())}
    return files | {HASHES: json.dumps(hashes, indent=2) + "\n"}


def main(argv: list[str] | None = None) -> int:
    """Write the files, or compare them with ``--check``; return the exit status."""
    return write_or_check(
        lambda: build_files({name: (HERE / name).read_bytes().decode() for name in BY_HAND}),
        HERE,
        "Generate the persona set from sources.toml.",
        argv,
    )


if __name__ == "__main__":
    sys.exit(main())
