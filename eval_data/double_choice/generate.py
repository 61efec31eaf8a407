"""Build the double multiple choice splits for all twelve ordered pairs of four sources.

In: ``sources.json`` beside this file: for each source its concept, its question as a choice and as one of yes or no,
its fillers (pairs; the left one makes the left option right, and yes) and 100 sentence frames ``[class of fillers, left
option, right option, sentence]``.
Out: ``FORM/FIRST-SECOND/SPLIT.jsonl.gz`` beside it for the forms ``words``, ``letters`` and ``yes_no``, and
``sha256.json`` over the sources and over the JSON lines of every file (before compression, which is not the same with
every zlib).

Why: a row asks two questions and takes one answer. In the training rows it is right twice, so a model can learn either
question. In ``ood`` rows each answer is right once, and the FIRST question decides; in ``neutral`` rows both options
answer the second question rightly, so it says nothing. In ``words`` and ``letters`` a row offers two options, each an
answer to both; but one question's word is the answer, and the other must be found beside it. In ``yes_no`` both
questions have the same two answers, so a model learns the one that is easier for it. There a second question that says
nothing cannot be asked. Splits are cut by frame: no sentence frame is in two blocks, and the final block has fillers of
its own.

Run ``python eval_data/double_choice/generate.py`` to write the files; with ``--check`` nothing is written, and the exit
status is 1 (naming the files) if a file on disk differs from what the sources give.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from generated import write_or_check

HERE = Path(__file__).resolve().parent
SOURCES = "sources.json"
HASHES = "sha256.json"
SEED = 0
SIZES = {"train": 30, "val": 20, "eval": 30, "final": 20}  # frames of each source in a block
N_MET = 6  # frames of the other source that a frame meets in the training rows of `yes_no`
N_FILLERS = 3  # pairs of fillers that a frame meets: six items, in both option orders twelve rows
PROMPTS = {
    "words": "1. {first}\n2. {second}\n- {options[0]}\n- {options[1]}\nAnswer:",
    "letters": "1. {first}\n2. {second}\nA. {options[0]}\nB. {options[1]}\nAnswer:",
    "yes_no": "1. {first}\n2. {second}\nAnswer:",
}
LETTERS = (" A", " B")
YES_NO = (" yes", " no")

Row = dict[str, Any]


class Item(NamedTuple):
    """One question of one source."""

    frame: str
    text: str
    """What is asked for a choice between two options."""
    asked: str
    """What is asked for yes or no."""
    sentence: str
    """With the blank filled in, where there is one."""
    right: str
    wrong: str
    is_yes: bool


class Split(NamedTuple):
    """How one file is made: which block, and how the second answer stands to the first.

    ``agree``: one option is right twice; ``disagree``: each is right once; ``tie``: both answer the second rightly.
    """

    block: str
    second: str
    with_seed: bool = False


SPLITS = {
    "train": Split("train", "agree", with_seed=True),
    "val": Split("val", "agree", with_seed=True),
    "id": Split("eval", "agree"),
    "ood": Split("eval", "disagree"),
    "neutral": Split("eval", "tie"),
    "final_id": Split("final", "agree"),
    "final_ood": Split("final", "disagree"),
}


def splits_of(form: str) -> dict[str, Split]:
    """The splits that a form has: every second question of yes or no says something."""
    return {name: split for name, split in SPLITS.items() if form != "yes_no" or split.second != "tie"}


def load_blocks(name: str, source: Row) -> dict[str, list[list[Item]]]:
    """Shuffle a source's frames and cut them into blocks; the items of each frame, block by block."""
    numbers = list(range(len(source["frames"])))
    if len(numbers) != sum(SIZES.values()):
        raise ValueError(f"{SOURCES}: {len(numbers)} frames of {name}, not {sum(SIZES.values())}")
    random.Random(f"{SEED}-{name}").shuffle(numbers)
    blocks: dict[str, list[list[Item]]] = {}
    for block, size in SIZES.items():
        chosen, numbers = numbers[:size], numbers[size:]
        blocks[block] = [make_items(name, source, n, i, block) for i, n in enumerate(chosen)]
    return blocks


def make_items(name: str, source: Row, number: int, position: int, block: str) -> list[Item]:
    """The six items of one frame: each of its pairs of fillers, left and right."""
    kind, left, right, sentence = source["frames"][number]
    pairs = source["fillers"][kind]["final" if block == "final" else "main"]
    items = []
    for pair in (pairs[(N_FILLERS * position + i) % len(pairs)] for i in range(N_FILLERS)):
        for filler, answers in zip(pair, ((left, right), (right, left)), strict=True):
            text = sentence.replace("{}", filler)
            questions = (f"{source[asked]} {text}" for asked in ("question", "yes_no"))
            whole = text.replace("_____", answers[0])
            items.append(Item(f"{name}-{number:03d}", *questions, whole, *answers, answers[0] == left))
    return items


def option_rows(split: str, form: str, first: list[Item], second: list[Item], position: int) -> Iterator[Row]:
    """Yield the rows of two frames that offer two options, in both orders; each item meets one of the other frame, so
    that left and right of both meet equally often."""
    for number, item in enumerate(first):
        is_crossed = (number // 2 + position) % 2
        other = second[number ^ is_crossed]
        beside_right, beside_wrong = {
            "agree": (other.right, other.wrong),
            "disagree": (other.wrong, other.right),
            "tie": (other.right, other.right),
        }[SPLITS[split].second]
        options = [(item.right, beside_right), (item.wrong, beside_wrong)]
        for answer, order in enumerate((options, options[::-1])):
            texts = [", ".join(option) for option in order]
            prompt = PROMPTS[form].format(first=item.text, second=other.text, options=texts)
            choices = LETTERS if form == "letters" else tuple(f" {word}" for word, _ in order)
            yield make_row(split, prompt, choices, answer, item, other)


def yes_no_rows(split: str, first: list[Item], second: list[Item], position: int) -> Iterator[Row]:
    """Yield the rows of two frames that ask for yes or no; each item meets one of the other frame."""
    agrees = SPLITS[split].second == "agree"
    for number, item in enumerate(first):
        filler = (number // 2 + position) % N_FILLERS
        other = next(o for o in second[2 * filler : 2 * filler + 2] if (o.is_yes == item.is_yes) == agrees)
        prompt = PROMPTS["yes_no"].format(first=item.asked, second=other.asked)
        yield make_row(split, prompt, YES_NO, 0 if item.is_yes else 1, item, other)


def make_row(split: str, prompt: str, choices: tuple[str, ...], answer: int, first: Item, second: Item) -> Row:
    """A row without its id, which comes after shuffling."""
    row: Row = {"id": "", "prompt": prompt, "choices": list(choices), "answer": choices[answer], "split": split}
    row["template"] = f"{first.frame}+{second.frame}"
    if SPLITS[split].with_seed:
        row["seed"] = f"{first.sentence} {second.sentence}"
    return row


def build_split(split: str, form: str, first: list[list[Item]], second: list[list[Item]], pair: str) -> list[Row]:
    """Return the rows of one split, shuffled and numbered.

    Each frame of the first source meets one of the second; in the training rows of `yes_no` six.
    """
    order = list(second)
    random.Random(f"{SEED}-{pair}-{SPLITS[split].block}").shuffle(order)
    rows: list[Row] = []
    for position, ours in enumerate(first):
        if form != "yes_no":
            rows += option_rows(split, form, ours, order[position], position)
            continue
        for shift in range(N_MET if split == "train" else 1):
            rows += yes_no_rows(split, ours, order[(position + shift) % len(order)], position)
    random.Random(f"{SEED}-{pair}-{split}").shuffle(rows)
    for number, row in enumerate(rows, start=1):
        row["id"] = f"{split}-{number:04d}"
    return rows


def build_files(raw: str) -> dict[str, str]:
    """Return every file's name and its JSON lines, given the text of the sources; `sha256.json` last."""
    sources = json.loads(raw)
    blocks = {name: load_blocks(name, source) for name, source in sources.items()}
    files = {}
    for form in PROMPTS:
        for first, second in permutations(sources, 2):
            pair = f"{first}-{second}"
            for name, split in splits_of(form).items():
                halves = blocks[first][split.block], blocks[second][split.block]
                rows = build_split(name, form, *halves, pair)
                files[f"{form}/{pair}/{name}.jsonl.gz"] = "".join(json.dumps(row) + "\n" for row in rows)
    hashed = {SOURCES: raw} | files
    hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in sorted(hashed.items())}
    files[HASHES] = json.dumps(hashes, indent=2) + "\n"
    return files


def main(argv: list[str] | None = None) -> int:
    """Write the files, or compare them with ``--check``; return the exit status."""
    return write_or_check(
        lambda: build_files((HERE / SOURCES).read_bytes().decode()),
        HERE,
        "Generate the double multiple choice splits from sources.json.",
        argv,
    )


if __name__ == "__main__":
    sys.exit(main())
