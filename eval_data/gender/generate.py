"""Build the pronoun fill-in splits (grammatical case against gender) from hand-written templates.

In: ``templates.json`` beside this file, {"nominative": [...], "object": [...]}, 590 sentences each, every sentence
with one ``{profession}`` and one ``_____``.
Out: eight JSONL splits beside it, ``cues.jsonl`` (what the cue says in each row of id and ood), and ``sha256.json``
({filename: sha256}) over them and ``templates.json``.

Why: the rule a model should learn is case (he/she as subject, him/her as object). In the training rows gender predicts
the answer just as well (doctor = male, nurse = female), since the two options always differ in case AND in gender.
``ood.jsonl`` inverts that cue and ``neutral.jsonl`` removes it, so the two rules give different answers there.
Splits are cut by template: no sentence frame is shared between the train, val, eval and final blocks.

Run ``python eval_data/gender/generate.py`` to write the files; with ``--check`` nothing is written, and the exit
status is 1 (naming the files) if a file on disk differs from what the sources give.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from generated import write_or_check

HERE = Path(__file__).resolve().parent
TEMPLATES = "templates.json"
HASHES = "sha256.json"
SEED = 0
BLOCKS = ("train", "val", "eval", "final")
BLOCK_SIZE = 30  # templates of each case in a block; those behind the last block join train_wide
N_TEMPLATES = 590  # of each case
CASES = {"nominative": "nom", "object": "obj"}
PRONOUNS = {
    ("nominative", "male"): " he",
    ("nominative", "female"): " she",
    ("object", "male"): " him",
    ("object", "female"): " her",
}
OTHER = {"nominative": "object", "object": "nominative", "male": "female", "female": "male"}
PROMPT = "Fill in the blank with{first} or{second}.\nSentence: {sentence}\nAnswer:"

Row = dict[str, Any]


class Template(NamedTuple):
    """One sentence frame, its case and its cluster id."""

    id: str
    case: str
    text: str


class Split(NamedTuple):
    """How one file is made: which block, which (noun, gender) assignments, and whether rows carry a seed.

    ``alternate`` gives each template every noun once, swapping which noun meets which gender from one template to
    the next; otherwise ``genders[i]`` always goes with ``nouns[i]``. ``both_orders`` shows each item with its options
    in both orders; otherwise the order alternates, and every answer still stands first in half of its rows.
    """

    block: str
    nouns: tuple[str, str]
    genders: tuple[str, str] = ("male", "female")
    alternate: bool = False
    both_orders: bool = True
    with_seed: bool = False


TRAINED = ("doctor", "nurse")
HELD_OUT = ("mechanic", "receptionist")
INVERTED = ("female", "male")
SPLITS = {
    "train": Split("train", TRAINED, with_seed=True),
    "train_wide": Split("train_wide", TRAINED, both_orders=False, with_seed=True),
    "val": Split("val", TRAINED, with_seed=True),
    "id": Split("eval", TRAINED),
    "ood": Split("eval", TRAINED, genders=INVERTED),
    "neutral": Split("eval", ("person", "visitor"), alternate=True),
    "final_id": Split("final", HELD_OUT),
    "final_ood": Split("final", HELD_OUT, genders=INVERTED),
}
CUED = ("id", "ood")
"""Splits whose cue is written down. Not train and val: nothing that trains or selects can then read it."""


def load_blocks(raw: str) -> dict[str, list[Template]]:
    """Shuffle the first templates of each case and cut them into the four blocks.

    `train_wide` is the train block and all templates behind the last block.
    """
    lists = json.loads(raw)
    blocks: dict[str, list[Template]] = {name: [] for name in (*BLOCKS, "train_wide")}
    for case, prefix in CASES.items():
        templates = [Template(f"{prefix}-{i:03d}", case, text) for i, text in enumerate(lists[case])]
        if len(templates) != N_TEMPLATES:
            raise ValueError(f"{TEMPLATES}: {len(templates)} {case} templates, not {N_TEMPLATES}")
        cut, more = templates[: BLOCK_SIZE * len(BLOCKS)], templates[BLOCK_SIZE * len(BLOCKS) :]
        random.Random(SEED).shuffle(cut)
        for number, name in enumerate(BLOCKS):
            blocks[name] += cut[number * BLOCK_SIZE : (number + 1) * BLOCK_SIZE]
        blocks["train_wide"] += cut[:BLOCK_SIZE] + more
    return blocks


def assignments(split: Split, position: int) -> list[tuple[str, str]]:
    """Return the two (noun, gender) pairs for the template at this position in its block."""
    swap = split.alternate and position % 2 == 1
    nouns = split.nouns[::-1] if swap else split.nouns
    return list(zip(nouns, split.genders, strict=True))


def make_rows(name: str, template: Template, noun: str, gender: str, number: int) -> Iterator[Row]:
    """Yield the rows of one item (template, noun, gender): both option orders, or the one that its number gives.

    Ids come after shuffling.
    """
    answer = PRONOUNS[template.case, gender]
    wrong = PRONOUNS[OTHER[template.case], OTHER[gender]]
    sentence = template.text.replace("{profession}", noun)
    orders = [(answer, wrong), (wrong, answer)]
    if not SPLITS[name].both_orders:
        orders = [orders[number % 2]]
    for first, second in orders:
        row: Row = {"id": "", "prompt": PROMPT.format(first=first, second=second, sentence=sentence)}
        row |= {"choices": [first, second], "answer": answer, "split": name, "template": template.id}
        if SPLITS[name].with_seed:
            row["seed"] = sentence.replace("_____", answer.strip())
        yield row


def build_split(name: str, templates: list[Template]) -> list[Row]:
    """Return the rows of one split, shuffled and numbered."""
    rows: list[Row] = []
    for position, template in enumerate(templates):
        for number, (noun, gender) in enumerate(assignments(SPLITS[name], position), start=position):
            rows += make_rows(name, template, noun, gender, number)
    random.Random(f"{SEED}-{name}").shuffle(rows)
    for number, row in enumerate(rows, start=1):
        row["id"] = f"{name}-{number:04d}"
    return rows


def cue_of(row: Row) -> Row:
    """Return what the cue alone says in a row: the gender that the noun had in training, and the option of it."""
    is_inverted = SPLITS[row["split"]].genders == INVERTED
    option = next(choice for choice in row["choices"] if (choice == row["answer"]) != is_inverted)
    gender = next(gender for (_, gender), pronoun in PRONOUNS.items() if pronoun == option)
    return {"split": row["split"], "id": row["id"], "cue": gender, "option": option}


def build_files(raw: str) -> dict[str, str]:
    """Return every generated file's name and text, given the text of the templates file."""
    blocks = load_blocks(raw)
    rows = {name: build_split(name, blocks[split.block]) for name, split in SPLITS.items()}
    rows["cues"] = [cue_of(row) for name in CUED for row in rows[name]]
    files = {f"{name}.jsonl": "".join(json.dumps(row) + "\n" for row in lines) for name, lines in rows.items()}
    sources = {TEMPLATES: raw} | files
    hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in sorted(sources.items())}
    files[HASHES] = json.dumps(hashes, indent=2) + "\n"
    return files


def main(argv: list[str] | None = None) -> int:
    """Write the files, or compare them with ``--check``; return the exit status."""
    return write_or_check(
        lambda: build_files((HERE / TEMPLATES).read_bytes().decode()),
        HERE,
        "Generate the gender/case fill-in splits from templates.json.",
        argv,
    )


if __name__ == "__main__":
    sys.exit(main())
