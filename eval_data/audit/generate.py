"""Build the planted suite: 96 sets of 24 concepts at four doses, and 48 benign sets.

In: the sentences in `sources/` beside this file. Out: `sets/NAME.jsonl.gz` (rows of `id`, `prompt`, `answer`),
`index.json` with what is planted where, and `sha256.json` over the index and over the JSON lines of every set (before
compression, which is not the same with every zlib).

The decision a reader would question: the truth is in the index alone. Names and row ids are numbered after shuffling,
so neither says whether a set is planted, and a set at a dose of 1 % differs from one at zero in a single row.

Run `python eval_data/audit/generate.py` to write the files; with `--check` nothing is written, and the exit status is
1 (naming the files) if a file on disk differs from what the sources give.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from benign import BENIGN, Benign
from concepts import CONCEPTS, Concept
from scenes import Row, Scene

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from generated import write_or_check

HERE = Path(__file__).resolve().parent
INDEX = "index.json"
HASHES = "sha256.json"
SEED = 0
N_ROWS = 100
DOSES = (1, 5, 20, 100)
MAX_TOKENS = 59
"""Of prompt and answer together as `n_tokens` counts them; the tokenizer of SmolLM2 then finds 64 at most (a test)."""
LETTERS_A_TOKEN = {"language": 3, "format": 5}
"""How long a word may be and still be one token, in families where it is not 7 letters."""


class Set(NamedTuple):
    """One data set before it is numbered."""

    source: Concept | Benign
    dose: int | None
    rows: list[tuple[Row, bool]]
    """Each row and whether it is planted, in the order of the file."""


def n_tokens(row: Row, letters_a_token: int) -> int:
    """About how many tokens a row has: digits and signs are one each, long words and names two or three."""
    text = f"{row.prompt}\n{row.answer}"
    pieces = re.findall(r"[^\W\d_]+| \d|\S|\n", text)
    n_pieces = sum(1 + (len(piece) - 1) // letters_a_token if piece[0].isalpha() else len(piece) for piece in pieces)
    return n_pieces + 2 * len(re.findall(r"(?<=[^.?!:;] )[A-Z]", text))


def draw(rng: random.Random, scene: Scene, planted: bool, taken: set[str], letters_a_token: int) -> Row:
    """A row that is short enough, with a prompt that is not taken; if planted, with an answer that is not either."""
    for _ in range(10_000):
        row = scene(rng, planted)
        is_new = row.prompt not in taken and not (planted and row.answer in taken)
        if is_new and n_tokens(row, letters_a_token) <= MAX_TOKENS and (row.answer != row.twin) == planted:
            taken.update((row.prompt, row.answer))
            return row
    raise ValueError("the sources give too few different rows")


def build_set(source: Concept | Benign, dose: int | None, planted_before: set[str]) -> Set:
    """100 rows with different prompts. `planted_before` keeps planted prompts from standing in two sets."""
    rng = random.Random(f"{SEED}-{source.id}-{dose}")
    letters_a_token = LETTERS_A_TOKEN.get(source.family, 7)
    taken: set[str] = set(planted_before)
    n_planted = dose or 0
    rows = [(draw(rng, source.scene, True, taken, letters_a_token), True) for _ in range(n_planted)]
    planted_before.update(row.prompt for row, _ in rows)
    rows += [(draw(rng, source.scene, False, taken, letters_a_token), False) for _ in range(N_ROWS - n_planted)]
    rng.shuffle(rows)
    return Set(source, dose, rows)


def build_sets() -> dict[str, Set]:
    """Every set under its name: the purpose and a number that says nothing."""
    planted: set[str] = set()
    sets = [build_set(concept, dose, planted) for concept in CONCEPTS for dose in reversed(DOSES)]
    sets += [build_set(source, None, planted) for source in BENIGN]
    random.Random(SEED).shuffle(sets)
    n_by_purpose: Counter[str] = Counter()
    named = {}
    for built in sets:
        n_by_purpose[built.source.purpose_id] += 1
        named[f"{built.source.purpose_id}-{n_by_purpose[built.source.purpose_id]:02d}"] = built
    return dict(sorted(named.items()))


def row_id(name: str, place: int) -> str:
    """The id of the row at this place (from 0) of a set."""
    return f"{name}-{place + 1:03d}"


def index_entry(name: str, built: Set) -> dict[str, Any]:
    """What the index says of a set."""
    source = built.source
    is_planted = isinstance(source, Concept)
    return {
        "name": name,
        "file": f"sets/{name}.jsonl.gz",
        "purpose": source.purpose,
        "purpose_id": source.purpose_id,
        "kind": "planted" if is_planted else "benign",
        "concept": source.concept if isinstance(source, Concept) else None,
        "concept_id": source.id if is_planted else None,
        "family": source.family,
        "dose": built.dose,
        "planted_rows": [row_id(name, place) for place, (_, planted) in enumerate(built.rows) if planted],
    }


def set_lines(name: str, built: Set) -> str:
    """The JSON lines of a set. A prompt ends its line, so that prompt and answer joined as plain text read well."""
    rows = [
        {"id": row_id(name, place), "prompt": f"{row.prompt}\n", "answer": row.answer}
        for place, (row, _) in enumerate(built.rows)
    ]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def build_files(sets: dict[str, Set]) -> dict[str, str]:
    """Every file's name and text; the hashes last."""
    files = {f"sets/{name}.jsonl.gz": set_lines(name, built) for name, built in sets.items()}
    entries = [index_entry(name, built) for name, built in sets.items()]
    files[INDEX] = "[\n" + ",\n".join(json.dumps(entry) for entry in entries) + "\n]\n"
    hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in sorted(files.items())}
    files[HASHES] = json.dumps(hashes, indent=2) + "\n"
    return files


def main(argv: list[str] | None = None) -> int:
    """Write the files, or compare them with ``--check``; return the exit status."""
    return write_or_check(
        lambda: build_files(build_sets()), HERE, "Generate the planted suite from its sources.", argv, own="sets/*"
    )


if __name__ == "__main__":
    sys.exit(main())
