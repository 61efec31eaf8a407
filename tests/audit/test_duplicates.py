"""Copies and near-copies, planted in and between sets, are found and counted; what only shares a part is none."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from autocaft.audit import duplicates
from autocaft.audit.duplicates import find_alike, likeness, write_duplicates
from autocaft.audit.options import AuditConfig, AuditSet, DuplicateOptions
from autocaft.audit.run import Audit
from autocaft.audit.shingles import HashedSet, key_of, shingles_of, write_shingles
from autocaft.audit.steps import build_steps
from autocaft.data.rows import TaskRow
from autocaft.rundir.files import read_json
from autocaft.rundir.progress import Log, QuietProgress
from autocaft.rundir.steps import Step, fingerprints

Row = tuple[str, str]
WORDS = [
    f"{first}{second}" for first in ("ba", "ko", "mi", "ru", "te", "zu") for second in "abcdefghijklmnopqrstuvwxyz"
]


def _text(rng: random.Random, n_words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(n_words))


def _rows(seed: int, n: int, n_words: int = 30) -> list[Row]:
    rng = random.Random(seed)
    return [(_text(rng, n_words), _text(rng, n_words)) for _ in range(n)]


def _changed(text: str, at: int = 10) -> str:
    """With another word at that place."""
    words = text.split()
    return " ".join([*words[:at], "another", *words[at + 1 :]])


def _task(prompt: Any, answer: str) -> TaskRow:
    return TaskRow("r", prompt, answer, None, "t", "s")


def _likeness(first: TaskRow, second: TaskRow) -> tuple[float, float]:
    row_P, part_P = likeness([shingles_of(row, 3) for row in (first, second)], np.array([0]), np.array([1]))
    return float(row_P[0]), float(part_P[0])


def _hashed(folder: Path, sets: dict[str, list[Row]], options: DuplicateOptions) -> list[HashedSet]:
    found = []
    for name, rows in sets.items():
        path, out = folder / f"{name}.jsonl", folder / "shingles" / name
        out.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"id": f"{name}{n}", "prompt": p, "answer": a}) for n, (p, a) in enumerate(rows)]
        path.write_text("\n".join(lines))
        write_shingles(AuditSet(name, (path,), "p", None, False), options.words, out)
        found.append(HashedSet.open(name, out))
    return found


def _search(folder: Path, sets: dict[str, list[Row]], **options: Any) -> dict[str, Any]:
    chosen = DuplicateOptions(**options)
    (folder / "out").mkdir(parents=True, exist_ok=True)
    progress = QuietProgress(Log(folder / "log"))
    write_duplicates(_hashed(folder, sets, chosen), chosen, folder / "out", progress)
    found: dict[str, Any] = read_json(folder / "out" / "duplicates.json")
    return found


def _counts(found: dict[str, Any], name: str) -> tuple[int, int, int]:
    """Rows with a copy, with a copy or near-copy, and rows if each counts once."""
    line = found["sets"][name]
    return line["n_exact_copies"], line["n_copies"], line["n_distinct"]


def test_planted_copies_and_near_copies_in_a_set_are_counted(tmp_path: Path) -> None:
    rows = _rows(0, 60)
    rows += [(f"  {prompt.upper()}\n", f"\uff21{answer}"[1:].replace(" ", "\u00a0\t")) for prompt, answer in rows[:5]]
    rows += [(prompt, _changed(answer)) for prompt, answer in rows[10:17]]
    rows += [rows[20], rows[20]]
    found = _search(tmp_path, {"a": rows})
    assert _counts(found, "a") == (5 * 2 + 3, 5 * 2 + 3 + 7 * 2, 60)
    exact, near = found["sets"]["a"]["examples"]
    assert exact["likeness"] is None and near["likeness"] == pytest.approx((56 - 3) / (56 + 3), abs=1e-3)
    first, twin = (int(row["id"].removeprefix("a")) for row in near["rows"])
    assert {first, twin} & set(range(10, 17)) and {first, twin} & set(range(65, 72)), (first, twin)
    copies = pd.read_parquet(tmp_path / "out" / "copies.parquet")
    assert len(copies) == 27 and copies["family"].nunique() == 13
    assert set(copies["line"]) >= {1, 61, 11, 66, 21, 73, 74}


def test_what_shares_a_prompt_or_an_answer_alone_is_no_copy(tmp_path: Path) -> None:
    rng = random.Random(1)
    long = _text(rng, 200)
    same_prompt = [(long, _text(rng, 20)) for _ in range(20)]
    same_answer = [(_text(rng, 20), long) for _ in range(20)]
    template = [(f"{_text(rng, 20)} {_text(random.Random(2), 40)}", "yes") for _ in range(20)]
    refusals = [(_text(rng, 8), "I cannot help with that") for _ in range(20)]
    sets = {"prompt": same_prompt, "answer": same_answer, "template": template, "refusal": refusals}
    found = _search(tmp_path, sets)
    assert {name: _counts(found, name) for name in sets} == dict.fromkeys(sets, (0, 0, 20))
    assert found["n_compared"] > 100, "many of these were proposed"
    short_blanks = [(f"{_text(random.Random(2), 60)} {number}", "yes") for number in range(9)]
    assert _counts(_search(tmp_path / "blanks", {"a": short_blanks}), "a") == (0, 9, 1), "and this is, as the page says"


def test_rows_that_sets_share_are_counted_for_each_pair_and_each_way(tmp_path: Path) -> None:
    a, b, c = _rows(1, 50), _rows(2, 80), _rows(3, 40)
    b += a[:6] + [(_changed(prompt), answer) for prompt, answer in a[6:10]]
    c += [a[0], a[0], b[40]]
    found = _search(tmp_path, {"a": a, "b": b, "c": c})
    shared = {tuple(line["sets"]): line for line in found["shared"]}
    assert set(shared) == {("a", "b"), ("a", "c"), ("b", "c")}
    ab, ac, bc = (shared[pair] for pair in (("a", "b"), ("a", "c"), ("b", "c")))
    assert (ab["n_shared"], ab["n_exact"], ab["share"]) == ([10, 10], [6, 6], [10 / 50, round(10 / 90, 4)])
    assert (ac["n_shared"], ac["n_exact"]) == ([1, 2], [1, 2]), "one row of a stands twice in c"
    assert bc["n_shared"] == [2, 3]
    assert _counts(found, "a") == (0, 0, 50) and _counts(found, "c") == (2, 2, 42), "other sets are no copies within"
    assert [pair["likeness"] is None for pair in ab["examples"]] == [True, False]
    assert [row["set"] for pair in ab["examples"] for row in pair["rows"]] == ["a", "b"] * 2


def test_neither_the_order_of_sets_nor_that_of_rows_counts(tmp_path: Path) -> None:
    a, b, c = _rows(1, 40), _rows(2, 40), _rows(3, 40)
    b += [(_changed(prompt), answer) for prompt, answer in a[:9]]
    c += b[:5] + a[:3]
    forth = _search(tmp_path / "forth", {"a": a, "b": b, "c": c})
    back = _search(tmp_path / "back", {"c": c[::-1], "b": b[::-1], "a": a[::-1]})
    for line in [*forth["shared"], *back["shared"], *forth["sets"].values(), *back["sets"].values()]:
        del line["examples"]  # which of two equal rows is shown is the first in its file
    assert forth == back and len(forth["shared"]) == 3


def test_where_no_set_can_be_read_there_is_nothing_to_tell(tmp_path: Path) -> None:
    assert _search(tmp_path, {}) == {"n_compared": 0, "sets": {}, "shared": []}


def test_what_minhash_proposes_falsely_is_compared_and_not_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [*_rows(5, 12), *((prompt, _changed(answer)) for prompt, answer in _rows(5, 1))]
    monkeypatch.setattr(duplicates, "_bands", lambda shingles, *_: np.zeros((len(shingles), 2), np.uint64))
    found = _search(tmp_path, {"a": rows})
    assert found["n_compared"] == 2 * 13 * 12 // 2 - 1, "all with all in each band, but what was found is not redone"
    assert _counts(found, "a") == (0, 2, 12)


def test_comparisons_grow_with_the_rows_also_where_all_are_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "MAX_NEIGHBOURS", 4)
    options = DuplicateOptions()
    prompt = _text(random.Random(0), 60)
    n_compared = []
    for n in (200, 400):
        rows = [(f"{prompt} {number}", prompt) for number in range(n)]
        sets = _hashed(tmp_path / str(n), {"a": rows}, options)
        alike = find_alike(sets, options, QuietProgress(Log(tmp_path / "log")))
        assert len(np.unique(alike.pairs_E2)) == n, "each has been found beside another"
        n_compared.append(alike.n_compared)
    assert 1.8 < n_compared[1] / n_compared[0] < 2.2 and n_compared[1] <= 16 * 4 * 400 < 400 * 399 / 2


def test_a_pair_at_the_threshold_is_seldom_missed(tmp_path: Path) -> None:
    rows = _rows(7, 200, n_words=17)
    twins = [(_changed(prompt, 8), answer) for prompt, answer in rows]
    found = _search(tmp_path, {"a": rows, "b": twins})
    alike = (30 - 3) / (30 + 3)
    assert found["shared"][0]["examples"][0]["likeness"] == pytest.approx(alike, abs=1e-3)
    assert 0.9 * 200 <= found["shared"][0]["n_shared"][0] <= 200
    assert _search(tmp_path / "strict", {"a": rows, "b": twins}, threshold=0.82)["shared"] == []


def test_a_chat_and_plain_text_of_the_same_words_are_copies_and_system_messages_make_no_likeness() -> None:
    user, system = {"role": "user", "content": "How hot?"}, {"role": "system", "content": "Be brief. " * 30}
    assert key_of(_task((user,), "Very.")) == key_of(_task("how  hot?", "very."))
    assert key_of(_task((system, user), "Very.")) != key_of(_task((user,), "Very."))
    other = {"role": "user", "content": "Where is the nearest station?"}
    alike = _likeness(*(_task((system, turn), "Very.") for turn in (user, other)))
    assert alike == (pytest.approx(1 / 5), 0.0), "the answer alone is the same"


def test_texts_without_spaces_or_words_are_compared_too() -> None:
    def alike(first: str, second: str) -> float:
        return _likeness(_task("p", first), _task("p", second))[0]

    chinese = "今天天气很好我们去公园散步然后回家吃饭看书睡觉明天再去学校上课"
    assert 0.7 < alike(chinese, chinese.replace("书", "报")) < 0.9
    assert alike("+ - *", "+ - /") == pytest.approx(1 / 3) and alike("!?", "!?") == 1


def test_likeness_is_the_share_of_runs_of_words() -> None:
    first, second = (_task("a b c d", answer) for answer in ("e f g h i", "e f g h x"))
    assert _likeness(first, second) == (4 / 6, 2 / 4)
    assert _likeness(first, first) == (1.0, 1.0)
    assert key_of(_task("a b", "c")) != key_of(_task("a", "b c")), "prompt and answer are two things"


def test_a_changed_set_is_read_again_and_no_other(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text('{"prompt": "a", "answer": "b"}\n')
    sets = ({"each": True, "files": [str(tmp_path / "?.jsonl")], "purpose": "p"},)
    config = AuditConfig.model_validate({"sets": sets})
    before = fingerprints(build_steps(Audit(config), "x"))
    (tmp_path / "b.jsonl").write_text('{"prompt": "a", "answer": "c"}\n')
    after = fingerprints(build_steps(Audit(config), "x"))
    changed = {name for name in after if after[name] != before[name]}
    assert {"shingles/b", "duplicates", "report"} <= changed and "shingles/a" not in changed


def test_another_threshold_compares_anew_and_reads_nothing_again() -> None:
    def steps(**options: Any) -> list[Step]:
        sets = ({"name": "a", "files": ["nowhere.jsonl"], "purpose": "p"},)
        return build_steps(Audit(AuditConfig.model_validate({"sets": sets, "duplicates": options})), "x")

    before, after = fingerprints(steps()), fingerprints(steps(threshold=0.9))
    changed = {step.name: step.derived for step in steps() if before[step.name] != after[step.name]}
    assert changed == {"duplicates": True, "report": True}, "derived: made anew without --redo"
