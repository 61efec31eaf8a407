"""The judge against people on a run folder whose truth is planted."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nltk.metrics.agreement import AnnotationTask
from statsmodels.stats.inter_rater import cohens_kappa

from autocaft.cli.actions import compare_choices
from autocaft.compare.compare import compare_run
from autocaft.compare.hybrid import SimulatedReviewer, hybrid_curve
from autocaft.compare.raters import load_raters
from autocaft.compare.subspaces import compare_spans
from autocaft.compare.table import run_table
from autocaft.errors import ConfigError, DataError
from autocaft.records import Decision, Direction
from autocaft.review.acts import Act, ActLog, log_path
from autocaft.review.deck import load_deck
from autocaft.review.files import export_answers, import_answers
from autocaft.rundir.files import read_json, read_jsonl, read_records, write_json, write_jsonl, write_records
from tests.planted_run import AT, add_outcome, add_person, concept_ids, make_run, selected_ids

N_CANDIDATES = 2 * 23
"""Without the two decoys."""
MEASURES = ("precision", "recall", "f1", "kappa", "alpha")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return make_run(tmp_path / "planted")


def _acts(run_dir: Path, name: str, *said: tuple[str, str]) -> None:
    cards = load_deck(run_dir).cards
    with ActLog(log_path(run_dir, name)) as log:
        shown: set[str] = set()
        for direction_id, act in said:
            showing = 1 if act != "see judge" and direction_id in shown else 0
            log.append(Act(direction_id, act, f"human:{name}", "", 12.0, AT, showing, cards[direction_id].hash))  # type: ignore[arg-type]
            shown.add(direction_id)


def uneven_ids() -> set[str]:
    """A person's choice of 14, 7 a layer, to the judge's 10: they share four at layer 8 and three at layer 14, so that
    nothing is the same when the two are swapped."""
    return {f"L8.latent{i}" for i in (0, 1, 2, 3, 4, 5, 6)} | {f"L14.latent{i}" for i in (0, 1, 2, 4, 5, 6, 9)}


def _cells(row: dict[str, Any]) -> tuple[int, ...]:
    return tuple(row[f"n_{name}"] for name in ("shared", "only_first", "only_second", "neither"))


def _values(row: dict[str, Any]) -> list[float]:
    return [row[name]["value"] for name in MEASURES]


def _printed(found: dict[str, Any], by: str) -> dict[str, str]:
    """The rater's line on the terminal."""
    head, *rows = (re.split("  +", line) for line in run_table(found).split("\n\n")[1].splitlines())
    return next(dict(zip(head, row, strict=True)) for row in rows if row[0] == by)


def test_agreement_on_the_planted_pair_equals_the_hand_computation(run_dir: Path) -> None:
    """Kappa of n directions, a of them alike and c the sum of the products of both raters' margins (14 by 10 and 32 by
    36 of all 46): (a n - c) / (n^2 - c). Alpha of y yes among 2 n ratings: 1 - (n - a) (2 n - 1) / (y (2 n - y))."""
    add_person(run_dir, "ada", uneven_ids())
    found = compare_run(run_dir, SimulatedReviewer())
    (pair,) = found["auto_against_human"]
    rows = {(row["source"], row["layer"]): row for row in pair["agreement"]}
    by_hand = {
        (None, None): ((7, 7, 3, 29), [7 / 10, 7 / 14, 14 / 24, (36 * 46 - 1292) / (46**2 - 1292), 1 - 910 / 1632]),
        ("sae", None): ((7, 7, 3, 23), [7 / 10, 7 / 14, 14 / 24, (30 * 40 - 920) / (40**2 - 920), 1 - 790 / 1344]),
        ("sae", 8): ((4, 3, 1, 12), [4 / 5, 4 / 7, 8 / 12, (16 * 20 - 230) / (20**2 - 230), 1 - 156 / 336]),
        ("sae", 14): ((3, 4, 2, 11), [3 / 5, 3 / 7, 6 / 12, (14 * 20 - 230) / (20**2 - 230), 1 - 234 / 336]),
    }
    for place, (cells, values) in by_hand.items():
        assert (rows[place]["n"], _cells(rows[place])) == (sum(cells), cells), place
        assert _values(rows[place]) == pytest.approx(values), place
    overall = pair["agreement"][0]
    assert overall["n"] == N_CANDIDATES
    assert overall["kappa"]["value"] == pytest.approx(cohens_kappa([[7, 7], [3, 29]]).kappa)
    assert overall["kappa"]["low"] < overall["kappa"]["value"] < overall["kappa"]["high"]
    places = [(row["source"], row["layer"]) for row in pair["agreement"]]
    assert places == [(None, None), ("pca", None), ("pca", 8), ("pca", 14), ("sae", None), ("sae", 8), ("sae", 14)]
    assert pair["agreement"][1]["kappa"] is None, "nobody chose a PC: there is no kappa, and it is not 0 or 1"
    assert pair["n_unscored"] == 2
    named = {row["direction_id"]: (row["human"], row["auto"]) for row in pair["disagreements"]}
    assert named == dict.fromkeys(uneven_ids() - selected_ids(), ("ablate", "keep")) | dict.fromkeys(
        selected_ids() - uneven_ids(), ("keep", "ablate")
    )
    first = pair["disagreements"][0]
    assert first["human_reason"] == "ada thinks so" and first["auto_reason"].startswith("relevance")
    assert "auto:threshold against human:ada" in run_table(found)


@pytest.mark.parametrize("as_json", [True, False])
def test_nobody_s_text_writes_to_the_terminal(as_json: bool, run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names, notes, reasons, quotes: escapes and rich markup are shown as the text that they are."""
    evil = "\x1b[2J\x1b]0;owned\x07\u202e\x9b[bold]x[/bold]"
    add_person(run_dir, f"ada{evil}", concept_ids())
    for name, texts in (("judge/verdicts", ("description", "rationale")), ("select/decisions", ("reason",))):
        rows = read_jsonl(run_dir / f"{name}.jsonl")
        changed = [row | dict.fromkeys(texts, evil) | ({"quotes": [evil]} if "quotes" in row else {}) for row in rows]
        write_jsonl(run_dir / f"{name}.jsonl", changed)
    compare_choices(
        run_dir,
        None,
        candidates=None,
        as_json=as_json,
        out=False,
        reviewer_misses=0.2,
        reviewer_takes=0.02,
        reviewer_seconds=20.0,
    )
    printed = capsys.readouterr().out
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", printed)
    assert printed.count("[bold]x[/bold]") > 5
    if as_json:
        assert json.loads(printed)["auto_against_human"][0]["human"] == f"human:ada{evil}"
    else:
        assert "human:ada␛[2J␛]0;owned␇\\u202e\\u009b[bold]x[/bold]" in printed


def test_a_list_of_what_to_ablate_keeps_the_rest_of_its_kind_only(run_dir: Path) -> None:
    path = run_dir / "select" / "decisions.jsonl"
    rows = [Decision(i, True, "human:ada", "chosen in ada.json", AT).to_row() for i in sorted(concept_ids())]
    path.write_text(path.read_text() + "".join(json.dumps(row) + "\n" for row in rows))
    (ada,) = [r for r in load_raters(run_dir, _directions(run_dir)) if r.is_human]
    assert ada.from_list and len(ada.ablates) == 40 and ada.chosen == concept_ids()
    assert not any(".pc" in direction_id or "decoy" in direction_id for direction_id in ada.ablates)


def _directions(run_dir: Path) -> list[Direction]:
    return read_records(run_dir / "decompose" / "directions.jsonl", Direction)


def test_a_review_counts_what_was_said_before_the_judge_was_seen(run_dir: Path) -> None:
    _acts(run_dir, "eve", ("L8.latent0", "ablate"), ("L8.latent4", "keep"), ("L8.latent4", "see judge"))
    with ActLog(log_path(run_dir, "eve")) as log:
        first = log.acts[1]
        log.append(Act("L8.latent4", "withdraw", first.by, "", None, AT, 0, first.card))
        log.append(Act("L8.latent4", "ablate", first.by, "", 3.0, AT, 0, first.card))
    (eve,) = [r for r in load_raters(run_dir, _directions(run_dir)) if r.is_human]
    assert eve.ablates == {"L8.latent0": True, "L8.latent4": False}
    assert eve.n_not_blind == 1
    told = _printed(compare_run(run_dir, SimulatedReviewer()), "human:eve")
    assert (told["rated"], told["ablate"], told["not blind"]) == ("2", "1", "1")


def test_unsure_is_no_decision_and_an_answer_to_an_older_card_does_not_count(run_dir: Path) -> None:
    _acts(run_dir, "eve", ("L8.latent0", "ablate"), ("L8.latent1", "unsure"))
    with ActLog(log_path(run_dir, "eve")) as log:
        log.append(Act("L8.latent2", "ablate", "human:eve", "", 3.0, AT, 0, "another-card"))
    (eve,) = [r for r in load_raters(run_dir, _directions(run_dir)) if r.is_human]
    assert set(eve.ablates) == {"L8.latent0"} and eve.unsure == {"L8.latent1"}


def test_repeats_and_random_controls_are_counted(run_dir: Path) -> None:
    said = [("L8.latent0", "ablate"), ("L8.latent5", "keep"), ("L8.decoy0", "ablate"), ("L8.decoy1", "keep")]
    _acts(run_dir, "eve", *said, ("L8.latent0", "ablate"), ("L8.latent5", "ablate"))
    found = compare_run(run_dir, SimulatedReviewer())
    (eve,) = [row for row in found["raters"] if row["by"] == "human:eve"]
    assert (eve["self_agreement"]["n"], eve["self_agreement"]["n_same"]) == (2, 1)
    assert (eve["random_controls"]["n"], eve["random_controls"]["n_ablated"]) == (2, 1)
    assert eve["minutes"] == pytest.approx(6 * 12 / 60)
    assert (eve["n_rated"], eve["n_ablate"], found["n_candidates"]) == (2, 1, N_CANDIDATES)
    (pair,) = found["auto_against_human"]
    assert pair["agreement"][0]["n"] == 2, "decoys are no candidates"
    assert all("decoy" not in row["direction_id"] for row in pair["disagreements"])
    assert {(row["source"], row["layer"]) for row in pair["subspaces"]} == {("sae", 8)}
    assert pair["hybrid"]["points"][-1]["n_read"] == 2
    told = _printed(found, "human:eve")
    assert (told["rated"], told["not blind"], told["minutes"]) == ("2", "0", "1.2")
    assert told["same when repeated"] == told["random ablated"] == "1/2 [0.09, 0.91]", "with Wilson's interval"


# the ceiling


def _reads(run_dir: Path, name: str, chosen: set[str], ids: set[str] | None = None) -> None:
    """The person reads these directions, all if none are named, and ablates the chosen."""
    shown = set(load_deck(run_dir).cards) if ids is None else ids
    _acts(run_dir, name, *((i, "ablate" if i in chosen else "keep") for i in sorted(shown)))


def test_two_people_who_read_blind_are_the_ceiling(run_dir: Path) -> None:
    _reads(run_dir, "ada", concept_ids() | {"L8.decoy0"})
    _reads(run_dir, "bob", concept_ids() - {"L8.latent4"})
    found = compare_run(run_dir, SimulatedReviewer())
    (pair,) = found["human_against_human"]
    assert (pair["first"], pair["second"], pair["n_read_both"]) == ("human:ada", "human:bob", N_CANDIDATES)
    kappa = cohens_kappa([[9, 1], [0, 36]]).kappa
    assert pair["agreement"][0]["kappa"]["value"] == pytest.approx(kappa), "without the decoy on which they differ"
    assert pair["agreement"][0]["f1"]["value"] == pytest.approx(2 * 9 / (10 + 9))
    said = {"ada": concept_ids(), "bob": concept_ids() - {"L8.latent4"}}
    theirs = _nltk_alpha([(name, d.id, d.id in said[name]) for name in said for d in _directions(run_dir)])
    assert found["alpha_of_humans"]["value"] == pair["agreement"][0]["alpha"]["value"] == pytest.approx(theirs)
    assert len(found["auto_against_human"]) == 2 and found["no_ceiling"] is None


def _nltk_alpha(said: list[tuple[str, str, bool]]) -> float:
    return float(AnnotationTask(said).alpha())


def test_the_ceiling_is_of_what_both_read_and_the_judge_stands_beside_on_the_same(run_dir: Path) -> None:
    """At layer 8 ada ablates seven, bob four of them, the judge these four and one that neither took."""
    ids = {d.id for d in _directions(run_dir)}
    at_8 = {direction_id for direction_id in ids if direction_id.startswith("L8.")}
    _reads(run_dir, "ada", uneven_ids())
    _reads(run_dir, "bob", {f"L8.latent{i}" for i in range(4)}, at_8)
    (pair,) = compare_run(run_dir, SimulatedReviewer())["human_against_human"]
    assert pair["n_read_both"] == pair["agreement"][0]["n"] == len(at_8) == 23
    judged = {row["human"]: row for row in pair["auto_on_the_same"]}
    by_hand = [
        (pair["agreement"][0], (4, 3, 0, 16), [1, 4 / 7, 8 / 11, (20 * 23 - 332) / (23**2 - 332), 1 - 135 / 385]),
        (judged["human:ada"], (4, 3, 1, 15), [4 / 5, 4 / 7, 8 / 12, (19 * 23 - 323) / (23**2 - 323), 1 - 180 / 408]),
        (judged["human:bob"], (4, 0, 1, 18), [4 / 5, 1, 8 / 9, (22 * 23 - 362) / (23**2 - 362), 1 - 45 / 333]),
    ]
    for row, cells, values in by_hand:
        assert (row["n"], _cells(row)) == (23, cells)
        assert _values(row) == pytest.approx(values)


def test_alpha_of_three_people_who_read_different_parts_equals_nltk(run_dir: Path) -> None:
    ids = {d.id for d in _directions(run_dir)}
    chosen = {"ada": uneven_ids(), "bob": concept_ids(), "cy": selected_ids() - {"L8.latent0"}}
    read = {"ada": ids, "bob": {i for i in ids if i.startswith("L8.")}, "cy": {i for i in ids if ".latent1" not in i}}
    for name, shown in read.items():
        _reads(run_dir, name, chosen[name] | {"L8.decoy0"}, shown | {"L8.decoy0"})
    _acts(run_dir, "cy", ("L14.latent1", "unsure"), ("L8.decoy1", "ablate"))
    found = compare_run(run_dir, SimulatedReviewer())
    said = [(name, i, i in chosen[name]) for name, shown in read.items() for i in sorted(shown)]
    assert found["alpha_of_humans"]["value"] == pytest.approx(_nltk_alpha(said))
    assert len(found["human_against_human"]) == 3
    f1 = {(p["first"][6:], p["second"][6:]): p["agreement"][0]["f1"]["value"] for p in found["human_against_human"]}
    # ada and bob at layer 8: 7 and 5, all 5 shared; the others without latents 1 and 10 to 19: 12 and 7, 4 shared;
    # at layer 8: 4 and 3, 2 shared
    assert f1 == {
        ("ada", "bob"): pytest.approx(10 / 12),
        ("ada", "cy"): pytest.approx(8 / 19),
        ("bob", "cy"): pytest.approx(4 / 7),
    }


def test_people_who_read_different_directions_have_no_ceiling(run_dir: Path) -> None:
    ids = {d.id for d in _directions(run_dir)}
    at_8 = {direction_id for direction_id in ids if direction_id.startswith("L8.")}
    _reads(run_dir, "ada", concept_ids(), at_8)
    _reads(run_dir, "bob", concept_ids(), ids - at_8)
    found = compare_run(run_dir, SimulatedReviewer())
    assert found["human_against_human"] == [] and found["alpha_of_humans"] is None
    assert "no two people decided on the same" in found["no_ceiling"]
    assert "no ceiling" in run_table(found)


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_another_person_s_answers_do_not_make_a_second_reader(ending: str, run_dir: Path, tmp_path: Path) -> None:
    _reads(run_dir, "ada", concept_ids())
    export_answers(run_dir, "ada", tmp_path)
    _reads(run_dir, "bob", set(), {"L8.latent0", "L8.latent9"})
    import_answers(run_dir, "bob", tmp_path / f"ada.{ending}")
    found = compare_run(run_dir, SimulatedReviewer())
    (pair,) = found["human_against_human"]
    assert pair["n_read_both"] == 2, "only what bob said himself, before he had ada's answers"
    (bob,) = [row for row in found["raters"] if row["by"] == "human:bob"]
    assert (bob["n_rated"], bob["n_ablate"]) == (2, 0) and bob["n_copied"] == N_CANDIDATES + 2 - 1


def test_a_copied_file_and_a_list_make_no_second_reader(run_dir: Path) -> None:
    _reads(run_dir, "ada", concept_ids())
    log_path(run_dir, "bob").write_bytes(log_path(run_dir, "ada").read_bytes())
    path = run_dir / "select" / "decisions.jsonl"
    rows = [Decision(i, True, "human:cy", "chosen in cy.json", AT).to_row() for i in sorted(concept_ids())]
    path.write_text(path.read_text() + "".join(json.dumps(row) + "\n" for row in rows))
    found = compare_run(run_dir, SimulatedReviewer())
    assert found["human_against_human"] == []
    assert found["no_ceiling"].startswith("only human:ada read the cards blind")
    assert "copied" in found["no_ceiling"] and "human:cy gave a list" in found["no_ceiling"]
    assert {pair["human"] for pair in found["auto_against_human"]} == {"human:ada", "human:cy"}


def test_threshold_curve_holds_the_run_s_own_selection(run_dir: Path) -> None:
    add_person(run_dir, "ada", uneven_ids())
    (pair,) = compare_run(run_dir, SimulatedReviewer())["auto_against_human"]
    curve = pair["thresholds"]
    assert curve[0]["n_selected"] >= curve[-1]["n_selected"]
    at_selection = min((p for p in curve if p["threshold"] >= 50), key=lambda point: point["threshold"])
    assert at_selection["n_selected"] == len(selected_ids())
    values = [at_selection[name] for name in ("precision", "recall", "f1")]
    assert values == pytest.approx([7 / 10, 7 / 14, 14 / 24])


def test_other_names_for_the_same_span_agree_in_span() -> None:
    rng = np.random.default_rng(0)
    basis_DK, _ = np.linalg.qr(rng.normal(size=(40, 5)))
    turned_DK = basis_DK @ np.linalg.qr(rng.normal(size=(5, 5)))[0]
    spread = np.diag(np.linspace(0.1, 4, 40))
    same = compare_spans(basis_DK, turned_DK, spread)
    assert same["covered_human"] == pytest.approx(1) and max(same["angles_degrees"]) < 1e-4
    part = compare_spans(basis_DK, basis_DK[:, :2], spread)
    assert part["covered_auto"] == pytest.approx(1) and 0 < part["covered_human"] < 1
    across = np.linalg.svd(basis_DK)[0][:, 5:10]
    apart = compare_spans(basis_DK, across, None)
    assert apart["covered_human"] == pytest.approx(0, abs=1e-12) and apart["angles_degrees"] == pytest.approx([90] * 5)
    drawn = [compare_spans(basis_DK, np.linalg.qr(rng.normal(size=(40, 8)))[0], None) for _ in range(200)]
    mean = float(np.mean([row["covered_human"] for row in drawn]))
    assert mean == pytest.approx(drawn[0]["chance"], abs=0.02) and drawn[0]["chance"] == 0.2
    assert compare_spans(None, basis_DK, None)["covered_human"] is None


def test_spans_are_compared_layer_by_layer(run_dir: Path) -> None:
    add_person(run_dir, "ada", {"L8.latent0", "L8.latent1", "L14.pc0"})
    (pair,) = compare_run(run_dir, SimulatedReviewer())["auto_against_human"]
    rows = {(row["source"], row["layer"]): row for row in pair["subspaces"]}
    assert rows["sae", 8]["covered_human"] == pytest.approx(1, abs=1e-5), "the judge took both and more"
    assert rows["pca", 14]["n_auto"] == 0 and rows["pca", 14]["angles_degrees"] == []


def test_share_of_the_human_gain_is_pooled_over_seeds(run_dir: Path) -> None:
    add_person(run_dir, "ada", concept_ids())
    add_outcome(run_dir, {"base": 0.5, "tuned": 0.1, "caft-sae-auto": 0.7, "caft-sae-human": 0.9})
    found = compare_run(run_dir, SimulatedReviewer())
    (row,) = found["outcome"]
    assert row["share"]["value"] == pytest.approx(0.6 / 0.8) and row["seeds"] == [0, 1, 2] and not row["pooled"]
    assert row["by_seed"]["2"] == {"gain_human": pytest.approx(0.8), "gain_auto": pytest.approx(0.6)}
    assert row["share"]["low"] < 0.75 < row["share"]["high"]
    assert row["task"] == {"split": "neutral", "difference": {"value": 0.0, "low": None, "high": None}}
    (sweep,) = found["matched"]
    assert sweep["levels"] == [] and "auto has 1, human has 1" in sweep["why"]


def test_share_is_told_by_source_and_pooled_over_both(run_dir: Path) -> None:
    add_person(run_dir, "ada", concept_ids())
    arms = {"tuned": 0.1, "caft-sae-auto": 0.7, "caft-sae-human": 0.9, "caft-pca-auto": 0.2, "caft-pca-human": 0.5}
    add_outcome(run_dir, arms, seeds=(0, 1, 2, 3, 4))
    by_source = {row["auto"]: row for row in compare_run(run_dir, SimulatedReviewer())["outcome"]}
    shares = {auto: row["share"]["value"] for auto, row in by_source.items()}
    assert shares == {
        "caft-pca-auto": pytest.approx(0.1 / 0.4),
        "caft-sae-auto": pytest.approx(0.6 / 0.8),
        "caft-pca-auto and caft-sae-auto": pytest.approx(0.7 / 1.2),
    }
    pooled = by_source["caft-pca-auto and caft-sae-auto"]
    assert pooled["pooled"] and pooled["seeds"] == [0, 1, 2, 3, 4]
    assert pooled["share"]["low"] < 0.7 / 1.2 < pooled["share"]["high"]
    assert pooled["gain_human"]["value"] == pytest.approx(0.6) and pooled["task"]["difference"]["value"] == 0
    add_outcome(run_dir, arms | {"caft-sae-auto@50%": 0.6, "caft-sae-human@50%": 0.6})
    assert len(compare_run(run_dir, SimulatedReviewer())["outcome"]) == 3, "a part of a choice is no choice"


def _trains(run_dir: Path, arm: str, *n_by_seed: int) -> None:
    """What training leaves of an arm's choice."""
    for seed, n in enumerate(n_by_seed):
        chosen = {"ids": [f"L8.latent{i}" for i in range(n)], "matching": []}
        write_json(run_dir / "train" / arm / f"seed{seed}" / "set.json", chosen)


def test_the_sizes_of_both_arms_stand_beside_the_share(run_dir: Path) -> None:
    add_person(run_dir, "ada", concept_ids())
    gained = {"sae-auto": 0.7, "sae-hybrid": 0.8, "sae-human": 0.9, "pca-auto": 0.2, "pca-human": 0.5}
    add_outcome(run_dir, {"tuned": 0.1} | {f"caft-{name}": accuracy for name, accuracy in gained.items()})
    sizes = {"caft-sae-auto": 10, "caft-sae-hybrid": 12, "caft-sae-human": 14, "caft-pca-auto": 0}
    for arm, n in sizes.items():
        _trains(run_dir, arm, n, n)
    found = compare_run(run_dir, SimulatedReviewer())
    pca, sae, pooled = found["outcome"]
    assert sae["n_ablated"] == {"auto": 10, "human": 14} and sae["hybrid"]["n_ablated"] == {"hybrid": 12, "human": 14}
    assert pca["n_ablated"] == {"auto": 0, "human": None}, "nothing is a size; what is not known is none"
    assert pooled["n_ablated"] == {"auto": 10, "human": None}
    text = run_table(found)
    assert "caft-sae-auto of 10 directions against caft-sae-human of 14 directions, gain over tuned on ood" in text
    assert "(caft-sae-hybrid of 12 directions)" in text
    assert "caft-pca-auto of 0 directions against caft-pca-human, gain" in text
    _trains(run_dir, "caft-pca-human", 1)
    found = compare_run(run_dir, SimulatedReviewer())
    assert found["outcome"][2]["n_ablated"] == {"auto": 10, "human": 15}, "pooled: in all"
    assert "caft-pca-human of 1 direction," in run_table(found)


def test_no_human_gain_means_no_share(run_dir: Path) -> None:
    add_person(run_dir, "ada", concept_ids())
    add_outcome(run_dir, {"tuned": 0.1, "caft-sae-auto": 0.7, "caft-sae-human": 0.1})
    (row,) = compare_run(run_dir, SimulatedReviewer())["outcome"]
    assert row["share"] is None and "no gain" in row["why"]
    add_outcome(run_dir, {"tuned": 0.1, "caft-sae-auto": 0.7})
    assert compare_run(run_dir, SimulatedReviewer())["outcome"] == []


def test_a_faultless_simulated_reviewer_mends_the_judge_and_says_it_is_simulated(run_dir: Path) -> None:
    add_person(run_dir, "ada", concept_ids())
    hybrid = compare_run(run_dir, SimulatedReviewer(misses=0, takes=0, seconds=30))["auto_against_human"][0]["hybrid"]
    assert hybrid["simulated"] is True
    first, last = hybrid["points"][0], hybrid["points"][-1]
    assert (first["n_read"], first["minutes"]) == (0, 0) and first["f1"]["value"] == pytest.approx(0.8)
    assert last["minutes"] == pytest.approx(N_CANDIDATES * 0.5) and last["f1"]["value"] == 1
    for measure in ("f1", "kappa"):
        scores = [point[measure]["value"] for point in hybrid["points"]]
        assert scores == sorted(scores)
    (in_doubt,) = [point for point in hybrid["points"] if point["is_all_in_doubt"]]
    assert in_doubt["n_read"] == 2 and hybrid["gain"] is None, "the two unscored; no arm was trained"


def test_what_the_judge_abstains_on_is_read_before_what_lies_near_the_threshold() -> None:
    truth = {f"d{i}": i < 5 for i in range(40)}
    auto = truth | {"d7": True, "d8": True}
    relevance: dict[str, float | None] = {i: 90.0 if auto[i] else 10.0 for i in truth} | {"d9": 51.0}
    points = hybrid_curve(truth, auto, relevance, 50, SimulatedReviewer(misses=0, takes=0), abstained={"d7", "d8"})
    (in_doubt,) = [point for point in points if point["is_all_in_doubt"]]
    assert (in_doubt["n_read"], in_doubt["f1"]["value"], in_doubt["kappa"]["value"]) == (2, 1, 1)


def _helps(run_dir: Path, name: str, said: dict[str, bool]) -> None:
    """What the choose stage leaves of a person's file."""
    rows = [Decision(i, ablate, f"human:{name}", "", AT) for i, ablate in said.items()]
    write_records(run_dir / "choose" / "decisions.jsonl", rows)


def test_the_hybrid_s_gain_stands_between_the_ends_with_the_minutes_of_that_much_reading(run_dir: Path) -> None:
    """The person was timed for one of the two directions that the judge is not sure of (12 s), and for one other."""
    _helps(run_dir, "person", {"L8.latent8": True, "L14.latent8": False, "L8.latent0": True, "L8.pc0": False})
    _acts(run_dir, "person", ("L8.latent8", "ablate"), ("L8.latent0", "ablate"), ("L8.pc0", "keep"))
    arms = {"tuned": 0.1, "caft-sae-auto": 0.5, "caft-sae-hybrid": 0.7, "caft-sae-human": 0.9}
    add_outcome(run_dir, arms)
    with ActLog(log_path(run_dir, "person")) as log:
        log.append(dataclasses.replace(log.acts[0], direction_id="L14.latent8", act="unsure", seconds=None,
                                       card=load_deck(run_dir).cards["L14.latent8"].hash))  # fmt: skip
    found = compare_run(run_dir, SimulatedReviewer(seconds=30))
    (pair,) = found["auto_against_human"]
    gain = pair["hybrid"]["gain"]
    assert (gain["nobody_reads"]["value"], gain["person_reads_all"]["value"]) == (
        pytest.approx(0.4),
        pytest.approx(0.8),
    )
    assert gain["hybrid"]["gain_hybrid"]["value"] == pytest.approx(0.6)
    assert gain["hybrid"]["gain_hybrid"]["low"] < 0.6 < gain["hybrid"]["gain_hybrid"]["high"]
    assert gain["hybrid"]["by_seed"]["1"]["gain_hybrid"] == pytest.approx(0.6)
    assert (gain["share_nobody_reads"]["value"], gain["hybrid"]["share"]["value"]) == (
        pytest.approx(0.5),
        pytest.approx(0.75),
    )
    assert gain["doubt_read"] == {
        "n_read": 2, "minutes": pytest.approx((12 + 30) / 60), "n_recorded": 1, "n_stated": 1, "stated_seconds": 30,
    }  # fmt: skip
    assert (gain["all_read"]["n_read"], gain["all_read"]["n_stated"]) == (3, 1), "latents alone: no arm has components"
    (row,) = found["outcome"]
    assert row["hybrid"]["arm"] == "caft-sae-hybrid" and row["choice_by"] == "human:person"
    text = run_table(found)
    assert "2 that the judge is not sure of (hybrid)  0.7      0.60 [" in text and "nothing was trained" not in text
    assert "as recorded on the review page for 2 of 3; 30 s each stated, not measured, for the rest" in text
    assert "human:person decided on 3 of 46 candidates, among them 1 of the 2 that the judge is not sure of" in text


def test_a_choice_that_no_person_made_is_called_simulated_and_gives_no_person_a_gain(run_dir: Path) -> None:
    add_person(run_dir, "person", concept_ids())
    write_records(run_dir / "choose" / "decisions.jsonl", [Decision("L8.latent0", True, "simulated:x", "", AT)])
    add_outcome(run_dir, {"tuned": 0.1, "caft-sae-auto": 0.7, "caft-sae-human": 0.9})
    found = compare_run(run_dir, SimulatedReviewer())
    assert {rater["by"] for rater in found["raters"]} == {"auto:threshold", "human:person"}
    assert found["auto_against_human"][0]["hybrid"]["gain"] is None
    assert "the person's choice is SIMULATED (simulated:x)" in run_table(found)


def test_agreement_on_what_the_judge_is_not_sure_of_alone_says_so(run_dir: Path) -> None:
    _acts(run_dir, "eve", ("L8.latent8", "ablate"), ("L8.decoy0", "keep"))
    text = run_table(compare_run(run_dir, SimulatedReviewer()))
    assert "human:eve decided on 1 of 46 candidates, among them 1 of the 2" in text
    assert "These are the judge's hardest, so the agreement on all candidates is not known from them" in text
    add_person(run_dir, "ada", set())
    assert "human:ada decided on" not in run_table(compare_run(run_dir, SimulatedReviewer()))


def test_gain_is_told_where_nobody_reads_and_where_the_person_reads_all(run_dir: Path) -> None:
    add_person(run_dir, "person", concept_ids())
    add_person(run_dir, "bob", concept_ids())
    add_outcome(run_dir, {"tuned": 0.1, "caft-sae-auto": 0.7, "caft-sae-human": 0.9})
    found = compare_run(run_dir, SimulatedReviewer())
    gain = {pair["human"]: pair["hybrid"]["gain"] for pair in found["auto_against_human"]}
    assert gain["human:bob"] is None, "the human arm is of the choice in select.file, which is another's"
    ends = (gain["human:person"]["nobody_reads"]["value"], gain["human:person"]["person_reads_all"]["value"])
    assert ends == (pytest.approx(0.6), pytest.approx(0.8))
    assert "of what lies between nothing was trained" in run_table(found)


def test_the_least_sure_are_read_first_and_a_reviewer_who_guesses_does_harm() -> None:
    truth = {f"d{i}": i < 5 for i in range(20)}
    auto = truth | {"d5": True}
    relevance: dict[str, float | None] = {i: 90.0 if auto[i] else 10.0 for i in truth} | {"d5": 51.0, "d6": None}
    points = hybrid_curve(truth, auto, relevance, 50, SimulatedReviewer(misses=0, takes=0))
    assert {p["n_read"]: p["f1"]["value"] for p in points}[2] == 1, "d6 (unscored) and d5 (51) come first"
    guessed = hybrid_curve(truth, auto, relevance, 50, SimulatedReviewer(misses=0.5, takes=0.5))
    assert guessed[-1]["f1"]["value"] < guessed[0]["f1"]["value"]
    with pytest.raises(ConfigError, match="reviewer-takes"):
        SimulatedReviewer(takes=2)


def test_a_reviewer_who_misses_keeps_and_one_who_takes_ablates() -> None:
    """Four of twenty are the concept; all are read, so F1 is that of what was said."""
    truth = {f"d{i}": i < 4 for i in range(20)}
    relevance: dict[str, float | None] = dict.fromkeys(truth, 50.0)

    def f1(**errors: float) -> float:
        last = hybrid_curve(truth, truth, relevance, 50, SimulatedReviewer(**errors))[-1]
        return float(last["f1"]["value"])

    assert f1(misses=0, takes=0) == 1
    assert f1(misses=1, takes=0) == 0, "nothing is ablated"
    assert f1(misses=0, takes=1) == pytest.approx(2 * 4 / (4 + 20)), "everything is"
    assert f1(misses=0.5, takes=0) > f1(misses=0, takes=0.5), "sixteen can be taken, four missed"


def test_a_run_without_a_person_says_what_to_do(run_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"`autocaft review {run_dir} --name YOU`"):
        compare_run(run_dir, SimulatedReviewer())
    with pytest.raises(DataError, match="no run folder"):
        compare_run(tmp_path / "nowhere", SimulatedReviewer())
    (run_dir / "select" / "decisions.jsonl").unlink()
    with pytest.raises(DataError, match="autocaft select"):
        compare_run(run_dir, SimulatedReviewer())


def test_compare_json_is_written_only_when_asked(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_person(run_dir, "ada", concept_ids())
    options = {"candidates": None, "reviewer_misses": 0.2, "reviewer_takes": 0.02, "reviewer_seconds": 20.0}
    compare_choices(run_dir, None, as_json=True, out=False, **options)  # type: ignore[arg-type]
    printed = json.loads(capsys.readouterr().out)
    assert not (run_dir / "compare.json").exists()
    compare_choices(run_dir, None, as_json=False, out=True, **options)  # type: ignore[arg-type]
    assert read_json(run_dir / "compare.json") == printed
    assert "SIMULATED" in capsys.readouterr().out
