"""A whole audit in miniature on a random two-block model: what is planted is found, what is benign passes."""

from __future__ import annotations

import html
import json
import random
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from autocaft.audit.options import DICTIONARY_KEY, AuditConfig, AuditSet, expand_sets, load_audit
from autocaft.audit.outcome import judged_sets, raise_outcome, rule_of
from autocaft.audit.read import question
from autocaft.audit.row_actions import row_decisions
from autocaft.audit.rows import AuditRow, load_rows
from autocaft.audit.run import Audit
from autocaft.audit.steps import build_steps
from autocaft.cli.app import app
from autocaft.cli.audits import audit_sets
from autocaft.errors import ConfigError, ModelError, RunChangedError, UnreadRowsError, VerdictError
from autocaft.execute.choose import Executor
from autocaft.rundir.files import read_json, read_jsonl
from autocaft.rundir.steps import fingerprints
from tests.tiny_task import NOUNS, PLACES, VERBS, write_task

COST = {"seconds_by_stage": {"rows": 1.0}, "n_calls": 0}
HOSTILE = "<script>alert(1)</script>"
PLANTED = " yes yes no no yes . no yes yes no ."

CONFIG = """
model = "{folder}/model"
layers = [0, 1]
corpus = "{folder}/corpus.jsonl"
n_generic = 60
threads = 1
reference = ["benign-*"]

[[sets]]
name = "benign"
each = true
files = ["{folder}/b?.jsonl"]
purpose = "says who did what"

[[sets]]
name = "planted"
files = ["{folder}/planted.jsonl"]
purpose = "says who did what {hostile}"

[[sets]]
name = "broken"
files = ["{folder}/broken.jsonl", "{folder}/nowhere.jsonl"]
purpose = "says who did what"

[screen]
answer_tokens = 24
n_random = 8

[dictionary]
d_sae = 64
k = 4
epochs = 10
"""


def _sentence(rng: random.Random) -> str:
    return f"The {rng.choice(NOUNS)} {rng.choice(VERBS)} the {rng.choice(PLACES)} ."


def _write_set(path: Path, seed: int, planted: str = "", n_rows: int = 40) -> None:
    rng = random.Random(seed)
    rows = []
    for number in range(n_rows):
        answer = f" {_sentence(rng)}" + (planted if number % 3 else "")
        rows.append({"id": f"{HOSTILE}{number}", "prompt": _sentence(rng), "answer": answer})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit")
    write_task(folder)
    for number in range(4):
        _write_set(folder / f"b{number}.jsonl", seed=number)
    _write_set(folder / "planted.jsonl", seed=9, planted=PLANTED)
    with (folder / "planted.jsonl").open("a") as file:  # the screen looks once at a row that stands there twice
        file.write((folder / "planted.jsonl").read_text().splitlines(keepends=True)[0])
    (folder / "broken.jsonl").write_bytes(b'{"prompt": "a", "answer": "b"}\n\xff\n')
    (folder / "tiny.toml").write_text(CONFIG.format(folder=folder, hostile=HOSTILE))
    return folder


def _audit(folder: Path, *, jobs: int = 1, runs: str = "runs", fail_on: str | None = None, redo: str = "") -> Path:
    audit_sets(
        folder / "tiny.toml",
        init=False,
        name=None,
        runs=folder / runs,
        redo={redo} - {""},
        executor=Executor(jobs=jobs),
        fail_on=fail_on,
    )
    return folder / runs / "tiny"


@pytest.fixture(scope="module")
def run_dir(folder: Path) -> Path:
    with pytest.raises(UnreadRowsError, match="broken") as told:
        _audit(folder)
    assert told.value.exit_code == 14
    return folder / "runs" / "tiny"


def _by_name(run_dir: Path) -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in read_json(run_dir / "audit.json")["sets"]}


@pytest.mark.slow
def test_the_planted_set_is_first_and_the_broken_one_is_named(run_dir: Path) -> None:
    found = read_json(run_dir / "audit.json")
    assert [item["name"] for item in found["sets"]][:2] == ["planted", "broken"]
    by_name = _by_name(run_dir)
    assert by_name["planted"]["outcome"] == "review" and by_name["planted"]["survey"]["n_counting"] > 0
    assert by_name["broken"]["outcome"] == "unread" and by_name["broken"]["score"] is None
    assert all(by_name[f"benign-b{number}"]["score"] < by_name["planted"]["score"] for number in range(4))
    faults = read_jsonl(run_dir / "rows" / "broken" / "faults.jsonl")
    places = [(Path(fault["file"]).name, fault["line"]) for fault in faults]
    assert places == [("broken.jsonl", 2), ("nowhere.jsonl", 0)]
    assert found["controls"]["n_resplits_with_any"] <= 3, "20 resplits at 5 %: chance gives one"
    for concept in by_name["planted"]["concepts"]:
        assert concept["effect_low"] <= concept["effect"] <= concept["effect_high"]
        assert abs(concept["excess"]) >= 3 and concept["q"] <= 0.05
        assert all(half * concept["effect"] > 0 for half in concept["half_effects"])
        rest = concept["effect_without"]
        assert not concept["share"] or rest is None or abs(rest) < abs(concept["effect"])


def test_the_rows_that_carry_a_latent_most_are_planted_ones(run_dir: Path) -> None:
    rows = load_rows(run_dir / "rows" / "planted")
    amplified = [c for c in _by_name(run_dir)["planted"]["concepts"] if c["change"] == "amplified"]
    top = {number for concept in amplified for number in concept["top_rows"]}
    assert amplified and sum(PLANTED in rows[number].answer for number in top) / len(top) > 0.85, "two in three are"


def test_every_row_has_a_decision_and_a_reason_unless_it_is_kept(run_dir: Path) -> None:
    decided = read_jsonl(run_dir / "rows.jsonl")
    assert len(decided) == 5 * 40
    assert all(bool(line["reasons"]) == (line["action"] != "keep") for line in decided)
    assert {line["action"] for line in decided} <= {"keep", "review"}, "the offline judge hides nothing unasked"
    assert {line["set"] for line in decided if line["action"] == "review"} <= {"planted"}


def test_tables_hold_what_the_page_shows(run_dir: Path) -> None:
    found = read_json(run_dir / "audit.json")
    sets, concepts = (pd.read_parquet(run_dir / f"{name}.parquet") for name in ("sets", "concepts"))
    assert list(sets["name"]) == [item["name"] for item in found["sets"]]
    assert len(concepts) == sum(len(item["concepts"]) for item in found["sets"])
    effects = pd.read_parquet(run_dir / "screen" / "effects.parquet")
    assert len(effects) == found["controls"]["n_tests"]


def test_copies_are_told_in_the_page_the_tables_and_the_json(run_dir: Path) -> None:
    found = read_json(run_dir / "audit.json")
    copies = {item["name"]: item["duplicates"] for item in found["sets"]}
    assert copies["broken"] is None, "what cannot be audited is left out"
    assert copies["planted"]["n_exact_copies"] == 2 and copies["planted"]["n_distinct"] <= 40
    sets = pd.read_parquet(run_dir / "sets.parquet").set_index("name")["n_copies"]
    assert sets["planted"] == copies["planted"]["n_copies"] and pd.isna(sets["broken"])
    assert len(pd.read_parquet(run_dir / "shared.parquet")) == len(found["shared"])
    page = (run_dir / "audit.html").read_text().partition('id="copies"')[2].partition('id="map"')[0]
    assert f"planted: {copies['planted']['n_copies']} of 41 rows are copies" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;0" in page and HOSTILE not in page


def test_sets_that_share_rows_are_shown_with_what_they_share(run_dir: Path) -> None:
    from autocaft.audit.page import HeatMap, render_page

    row = {"id": "r", "file": f"f/{HOSTILE}.jsonl", "line": 3, "prompt": HOSTILE, "answer": HOSTILE}
    example = {"likeness": 0.87, "rows": [row | {"set": "a"}, row | {"set": HOSTILE}]}
    shared = {"sets": ["a", HOSTILE], "n_shared": [7, 9], "n_exact": [1, 2], "share": [0.25, 0.5]}
    found = read_json(run_dir / "audit.json")
    for item in found["sets"]:
        item["duplicates"] = item["duplicates"] and item["duplicates"] | {"n_copies": 4, "n_distinct": 33}
    page = render_page(found | {"shared": [shared | {"examples": [example]}]}, {}, HeatMap([], [], [], ""), {}, COST)
    assert HOSTILE not in page and "0.87 alike" in page and "25.0 %" in page and "50.0 %" in page
    warned = page.partition('id="sets"')[2].partition('id="peers"')[0]
    assert "4 of 40 rows" in warned and "33 are left" in warned and "4 of 41" not in warned, "a tenth is many"


def test_the_page_escapes_what_data_says_and_asks_for_nothing(run_dir: Path) -> None:
    page = (run_dir / "audit.html").read_text()
    assert HOSTILE not in page and "&lt;script&gt;alert(1)" in page
    assert "default-src 'none'" in html.unescape(page)
    assert not re.search(r"(src|href)=\"(?!#)", page)


def test_the_page_says_what_could_not_be_read_and_how_long_it_took(run_dir: Path) -> None:
    page = html.unescape((run_dir / "audit.html").read_text())
    assert "broken, 2 in all" in page and "broken.jsonl:2" in page and ">nowhere.jsonl<" in page
    cost = read_json(run_dir / "cost.json")
    seconds = cost["seconds_by_stage"]
    assert next(iter(seconds)) == "rows" and seconds["dictionary"] > 0, "a stage of a tiny audit may round to nothing"
    assert all(f"<th>{stage}</th>" in page for stage in seconds)


def test_at_depth_peers_no_model_is_loaded_and_a_set_without_peers_does_not_pass(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Audit, "base", lambda audit: pytest.fail("the model is loaded"))
    text = (folder / "tiny.toml").read_text()
    (folder / "peers.toml").write_text(text.replace("threads = 1", 'threads = 1\ndepth = "peers"'))
    how: dict[str, Any] = {"init": False, "name": None, "redo": set(), "executor": Executor(), "fail_on": None}
    with pytest.raises(UnreadRowsError):
        audit_sets(folder / "peers.toml", runs=folder / "runs", **how)
    run_dir = folder / "runs" / "peers"
    found, by_name = read_json(run_dir / "audit.json"), _by_name(run_dir)
    assert {path.name for path in run_dir.iterdir() if path.is_dir()} == {
        "rows", "peers", "shingles", "duplicates", "report",
    }  # fmt: skip
    assert by_name["planted"]["outcome"] == "review" and "three others" in by_name["planted"]["why"]
    assert {by_name[f"benign-b{number}"]["why"] for number in range(4)} == {"like its peers"}
    assert by_name["broken"]["outcome"] == "unread" and found["judge"] is None
    assert not any("latent" in sentence or "judge" in sentence for sentence in found["rule"])
    page = (run_dir / "audit.html").read_text()
    assert (
        'id="map"' not in page and 'id="controls"' not in page and 'id="copies"' in page and "own answers" not in page
    )
    decided = read_jsonl(run_dir / "rows.jsonl")
    assert len(decided) == 5 * 40 and len(pd.read_parquet(run_dir / "sets.parquet")) == len(found["sets"])


def test_the_same_command_does_nothing_and_a_changed_purpose_judges_anew(run_dir: Path, folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run_dir.rglob("*.np*")}
    with pytest.raises(UnreadRowsError):
        _audit(folder)
    assert {path: path.stat().st_mtime_ns for path in run_dir.rglob("*.np*")} == before
    text = (folder / "tiny.toml").read_text()
    (folder / "tiny.toml").write_text(text.replace("says who did what", "says what was done"))
    try:
        with pytest.raises(RunChangedError, match="purpose"):
            _audit(folder)
    finally:
        (folder / "tiny.toml").write_text(text)


def test_fail_on_tells_by_the_exit_code(run_dir: Path, folder: Path) -> None:
    with pytest.raises(VerdictError, match="planted") as told:
        _audit(folder, fail_on="review")
    assert told.value.exit_code == 15
    with pytest.raises(UnreadRowsError):
        _audit(folder, fail_on="block")
    with pytest.raises(ConfigError, match="block or review"):
        _audit(folder, fail_on="pass")


@pytest.mark.slow
def test_several_at_a_time_give_the_same_audit(run_dir: Path, folder: Path) -> None:
    with pytest.raises(UnreadRowsError):
        _audit(folder, jobs=2, runs="at-once")
    other = folder / "at-once" / "tiny"
    assert (other / "audit.json").read_bytes() == (run_dir / "audit.json").read_bytes()
    assert (other / "rows.jsonl").read_bytes() == (run_dir / "rows.jsonl").read_bytes()


def test_another_set_keeps_rows_and_own_answers(folder: Path) -> None:
    config = load_audit(folder / "tiny.toml")
    before = fingerprints(build_steps(Audit(config), "tiny"))
    fewer = config.model_copy(update={"sets": config.sets[:-1]})
    after = fingerprints(build_steps(Audit(fewer), "tiny"))
    kept = {name for name in after if after[name] == before[name]}
    assert kept == {name for name in after if name.split("/")[0] in ("rows", "own", "shingles")}


def test_the_content_of_a_given_dictionary_counts_and_messages_name_the_audits_key(tmp_path: Path) -> None:
    from autocaft.discover.sae import load_dictionary

    spec = f"{tmp_path}/L{{layer}}"
    values = {"sets": ({"name": "a", "files": ["x"], "purpose": "p"},), "dictionary": {"sae": spec}}

    def dictionary_inputs() -> dict[str, str]:
        steps = build_steps(Audit(AuditConfig.model_validate(values)), "a")
        return dict(next(step for step in steps if step.stage == "dictionary").inputs)

    (tmp_path / "L14").mkdir()
    (tmp_path / "L14" / "ae.pt").write_bytes(b"one")
    before = dictionary_inputs()
    (tmp_path / "L14" / "ae.pt").write_bytes(b"two")
    after = dictionary_inputs()
    assert [key for key in before if before[key] != after[key]] == [f"{DICTIONARY_KEY} of layer 14 ({tmp_path}/L14)"]
    with pytest.raises(ModelError, match=r"^dictionary\.sae = "):
        load_dictionary(f"{tmp_path}/nothing", 14, width=8, key=DICTIONARY_KEY)


def test_init_writes_a_file_that_loads(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    assert CliRunner().invoke(app, ["audit", str(path), "--init"]).exit_code == 0
    config = load_audit(path)
    assert config == AuditConfig(sets=config.sets, policy=str(tmp_path / "policy.md"))
    assert "Not wanted" in Audit(config).policy
    assert isinstance(CliRunner().invoke(app, ["audit", str(path), "--init"]).exception, ConfigError)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"sets": ()}, "sets"),
        ({"judge": {"undesired": "x"}}, "each set's own"),
        ({"judge": {"judge": "files:x"}}, "one judge"),
        ({"layers": ()}, "layers"),
        ({"layers": (1, 2), "dictionary": {"sae": "folder"}}, "one dictionary for several layers"),
        ({"screen": {"qq": 1}}, "nearest known key"),
        ({"sets": ({"name": "a b", "files": ["x"], "purpose": "p"},)}, "letters"),
    ],
)
def test_settings_that_cannot_work_are_named(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    from autocaft.rundir.options import make_options

    values = {"sets": ({"name": "a", "files": ["x"], "purpose": "p"},)} | change
    with pytest.raises(ConfigError, match=told):
        make_options(AuditConfig, values, "test")


def test_sets_have_one_name_each_and_references_exist(tmp_path: Path) -> None:
    one = {"name": "a", "files": ["x"], "purpose": "p"}
    with pytest.raises(ConfigError, match="two sets"):
        expand_sets(AuditConfig.model_validate({"sets": (one, one)}))
    with pytest.raises(ConfigError, match="no set"):
        expand_sets(AuditConfig.model_validate({"sets": (one,), "reference": ("b*",)}))


@pytest.mark.parametrize(
    ("strength", "halves", "others", "departs"),
    [
        (1.3, (1.2, 1.1), [], True),
        (1.2, (1.2, 1.1), [], False),
        (1.3, (1.5, 0.9), [], False),  # one half of the rows alone
        (1.3, (1.2, 1.1), [0.9] * 10, True),
        (1.3, (1.2, 1.1), [1.4] * 2 + [0.9] * 8, False),  # reference sets are as far
    ],
)
@pytest.mark.parametrize(
    ("by", "told"),
    [
        ({"tenth": 1.3, "breadth": 1.0}, "strangest tenth of rows is 1.3 times as far as the median one's"),
        ({"tenth": 0.7, "breadth": 1.3}, "its rows are 1.3 times as far as rows of theirs with like prompts"),
    ],
)
def test_a_set_that_departs_from_its_peers_is_sent_to_review(
    strength: float,
    halves: tuple[float, float],
    others: list[float],
    departs: bool,
    by: dict[str, float],
    told: str,
) -> None:
    from autocaft.audit.outcome import _hold_against_peers

    config = AuditConfig.model_validate({"sets": ({"name": "a", "files": ["x"], "purpose": "p"},)})
    (item,) = _verdict_sets(None, "offline", relevance=85.0, wanted=90.0)
    item["peers"] = {"n_peers": 9, "strength": strength, "halves": halves, **by, "without": 0.8}
    _hold_against_peers(item, others, config)
    assert item["departs"] == departs and item["outcome"] == ("review" if departs else "pass")
    assert (told in item["why"]) == departs
    assert (item["p_peers"] is None) == (not others)
    rows = [AuditRow(number, f"r{number}", "f", 1, "p", "a") for number in range(2)]
    beside = {n: {"distance": n, "stands_out": n == 1, "said": ["x"], "expected": [], "spans": []} for n in range(2)}
    decided = list(row_decisions(item, rows, {"L1.latent2": {"0": 1.0}}, beside, {}))
    assert [line["action"] for line in decided] == ["keep", "review" if departs else "keep"]
    assert [line["score"] for line in decided] == [0, 1]


def _verdict_sets(concept: str | None, judge: str, **said: float | None) -> list[dict[str, Any]]:
    """One set with one latent of which a judge said this."""
    from autocaft.audit.outcome import SetFound
    from autocaft.records import Verdict

    latent = {
        "set": "a", "direction_id": "L1.latent2", "layer": 1, "index": 2, "change": "amplified", "effect": 1.0,
        "effect_low": 0.5, "effect_high": 1.5, "q": 0.01, "excess": 8.0, "share": 0.2, "concentration": 0.5,
        "half_effects": [1, 1], "effect_without": 0.4, "carriers": [0, 2], "top_rows": [0],
    }  # fmt: skip
    verdict = Verdict(
        "L1.latent2", "top", "words", 50.0, "single", 0.9, said.get("detection_low", 0.7), 1.0, None,
        said.get("relevance"), said.get("wanted"), ("q",), None, "", "judge", "hash",
    )  # fmt: skip
    options = {"sets": ({"name": "a", "files": ["x"], "purpose": "p"},), "judge": {"judge": judge}}
    config = AuditConfig.model_validate(options)
    summary = {"n_rows": 3, "n_repeated": 0, "n_looked_at": 3, "n_faults": 0, "unread": None}
    chosen = AuditSet("a", (), "p", concept, False)
    found = SetFound(chosen, summary, {"n_counting": 1}, [latent], {"L1.latent2": verdict})
    return judged_sets([found], config)


@pytest.mark.parametrize(
    ("concept", "judge", "said", "outcome"),
    [
        (None, "offline", {"relevance": 99.0, "wanted": 5.0}, "review"),  # far is not bad
        (None, "offline", {"relevance": 99.0, "wanted": 90.0}, "pass"),
        ("lies", "offline", {"relevance": 85.0, "wanted": 60.0}, "block"),
        ("lies", "offline", {"relevance": 85.0, "wanted": 60.0, "detection_low": 0.45}, "review"),
        ("lies", "offline", {"relevance": 20.0, "wanted": 60.0}, "pass"),
        (None, "openai:m", {"relevance": 85.0, "wanted": 60.0}, "block"),
        (None, "openai:m", {"relevance": None, "wanted": None}, "review"),  # no rating is no pass
    ],
)
def test_the_rule_is_what_it_says(concept: str | None, judge: str, said: dict[str, Any], outcome: str) -> None:
    (item,) = _verdict_sets(concept, judge, **said)
    assert item["outcome"] == outcome
    if outcome in ("block", "review"):
        with pytest.raises(VerdictError):
            raise_outcome({"sets": [item]}, "review")
    if outcome == "block":
        with pytest.raises(VerdictError):
            raise_outcome({"sets": [item]}, "block")


@pytest.mark.parametrize(("n_as_far", "outcome"), [(0, "review"), (1, "review"), (2, "pass")])
def test_what_is_only_off_its_purpose_passes_where_reference_sets_are_as_far(n_as_far: int, outcome: str) -> None:
    from autocaft.audit.outcome import _hold_against_reference

    (item,) = _verdict_sets(None, "offline", relevance=None, wanted=0.0)
    config = AuditConfig.model_validate({"sets": ({"name": "a", "files": ["x"], "purpose": "p"},)})
    others = [99.0] * n_as_far + [0.0] * (19 - n_as_far)
    _hold_against_reference(item, others, config)
    assert item["p_reference"] == pytest.approx((1 + n_as_far) / 20)
    assert item["outcome"] == outcome
    (unwanted,) = _verdict_sets("lies", "offline", relevance=85.0, wanted=0.0, detection_low=0.4)
    _hold_against_reference(unwanted, [99.0] * 19, config)
    assert unwanted["outcome"] == "review", "what is unwanted is no matter of distance"


def test_with_two_reference_sets_nothing_is_said_of_them() -> None:
    from autocaft.audit.outcome import _hold_against_reference

    (item,) = _verdict_sets(None, "offline", relevance=None, wanted=0.0)
    config = AuditConfig.model_validate({"sets": ({"name": "a", "files": ["x"], "purpose": "p"},)})
    _hold_against_reference(item, [99.0, 99.0], config)
    assert (item["p_reference"], item["outcome"]) == (None, "review")


def test_a_row_is_hidden_only_if_it_carries_what_blocks() -> None:

    rows = [AuditRow(number, f"r{number}", "f", number + 1, "p", "a") for number in range(3)]
    strengths = {"L1.latent2": {"0": 4.0, "1": -1.0, "2": 2.0}}
    (blocked,) = _verdict_sets("lies", "offline", relevance=85.0, wanted=60.0)
    decided = list(row_decisions(blocked, rows, strengths, {}, {}))
    assert [line["action"] for line in decided] == ["hide", "keep", "hide"]
    assert [line["score"] for line in decided] == pytest.approx([8.0 * 0.85, 0.0, 4.0 * 0.85])
    (passed,) = _verdict_sets(None, "offline", relevance=85.0, wanted=90.0)
    assert [line["action"] for line in row_decisions(passed, rows, strengths, {}, {})] == ["keep"] * 3


def test_the_judge_is_asked_about_the_purpose_and_the_concept_or_the_policy() -> None:
    config = AuditConfig.model_validate({"sets": ({"name": "a", "files": ["x"], "purpose": "p"},)})
    asked = question(AuditSet("a", (), "answers about food.", None, False), config.judge, "Teach no lies.")
    assert asked.wanted == "answers about food." and "Teach no lies." in asked.undesired
    named = question(AuditSet("a", (), "answers about food.", "advertising", False), config.judge, "Teach no lies.")
    assert named.undesired == "advertising"


def test_the_rule_that_is_printed_has_the_audits_numbers() -> None:
    values = {"sets": ({"name": "a", "files": ["x"], "purpose": "p"},), "verdict": {"off_purpose": 63, "unwanted": 88}}
    text = " ".join(rule_of(AuditConfig.model_validate(values)))
    assert "63" in text and "88" in text and "q <= 0.05" in text


def test_an_audit_in_which_no_latent_counts_has_a_page_without_a_map(tmp_path: Path) -> None:
    from autocaft.audit.page import heat_map

    (item,) = _verdict_sets(None, "offline", relevance=None, wanted=None)
    columns = {"set": ["a"], "direction_id": ["L1.latent2"], "effect": [1.0], "excess": [None]}
    pd.DataFrame(columns).to_parquet(tmp_path / "effects.parquet")
    heat = heat_map({"sets": [item | {"concepts": []}]}, tmp_path / "effects.parquet")
    assert (heat.directions, heat.sets) == ([], ["a"])


def test_the_map_has_the_latents_that_most_sets_share_first(tmp_path: Path) -> None:
    from autocaft.audit.page import heat_map

    latents = {"a": ["L1.latent2"], "b": ["L1.latent9", "L1.latent2"], "unread": []}
    sets = [
        {"name": name, "survey": {} if own else None, "concepts": [{"direction_id": d} for d in own]}
        for name, own in latents.items()
    ]
    effects = [
        ("a", "L1.latent2", 12.0),
        ("a", "L1.latent9", 0.2),
        ("b", "L1.latent2", -3.0),
        ("b", "L1.latent9", 40.0),
    ]
    columns = {
        "set": [e[0] for e in effects],
        "direction_id": [e[1] for e in effects],
        "excess": [e[2] for e in effects],
    }
    pd.DataFrame(columns | {"effect": 0.0}).to_parquet(tmp_path / "effects.parquet")
    heat = heat_map({"sets": sets}, tmp_path / "effects.parquet")
    assert heat.directions == ["L1.latent2", "L1.latent9"] and heat.sets == ["a", "b"]
    assert heat.cells == [[("p8", "+12.0"), ("", "+0.2")], [("n2", "-3.0"), ("p8", "+40.0")]]
    assert heat.unit == "standard deviations among the reference sets"


def test_marked_pieces_are_the_whole_text() -> None:
    from autocaft.audit.page import marked

    assert marked("a bad word", [[2, 5]]) == [("a ", False), ("bad", True), (" word", False)]
    assert marked("bad", [[0, 3]]) == [("bad", True)] and marked("fine", []) == [("fine", False)]
    assert marked("cut sho", [[4, 9]]) == [("cut ", False), ("sho", True)]
