"""Selection: the rule, a person's file, the oracle, and matched controls, on planted candidates."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autocaft.arms import ArmSource, Selector
from autocaft.errors import ConfigError, DataError, NothingSelectedError
from autocaft.records import Decision, Direction, Example, Verdict
from autocaft.rundir.files import read_json, read_records
from autocaft.select.choices import ask_oracle, read_person_choice, read_words
from autocaft.select.choose import HYBRID, choose
from autocaft.select.controls import VarianceMeter, draw_live, draw_matched, take_top
from autocaft.select.options import SelectOptions
from autocaft.select.select import ArmSet, choose_set, chosen_ids, select
from autocaft.select.verdicts import decide

AT = "2026-01-02T03:04:05Z"
NEEDED: set[tuple[ArmSource, Selector]] = {("sae", "auto"), ("sae", "random")}


def _direction(layer: int, index: int, variance: float = 1.0, source: str = "sae") -> Direction:
    name = "latent" if source == "sae" else "pc"
    strength = 1.0 / (1 + index)
    return Direction(f"L{layer}.{name}{index}", layer, source, index, strength, "attribution", variance)  # type: ignore[arg-type]


def _verdict(
    direction: Direction, relevance: float | None, wanted: float | None = 0.0, reason: str | None = None
) -> Verdict:
    return Verdict(direction.id, "top", "words about it", 80.0, "single", 0.8, 0.6, 0.9, None, relevance, wanted, (),
                   reason, "", "offline", "hash")  # fmt: skip


def _planted(n: int = 40) -> tuple[list[Direction], list[Verdict]]:
    """Two layers; latents 0-4 of each are the concept, 5 and 6 are unscored."""
    rng = np.random.default_rng(0)
    directions = [_direction(layer, i, float(rng.gamma(2.0))) for layer in (8, 14) for i in range(n)]
    verdicts = []
    for d in directions:
        if d.index in (5, 6):
            verdicts.append(_verdict(d, None, None, "too few windows"))
        else:
            verdicts.append(_verdict(d, 90.0 if d.index < 5 else 10.0))
    return directions, verdicts


def _log(out: Path, **settings: Any) -> list[Decision]:
    """The decisions on the planted candidates, as they lie in the run folder."""
    directions, verdicts = _planted()
    select(directions, verdicts, SelectOptions(**settings), examples=(), needed=NEEDED, out=out, at=AT)
    return read_records(out / "decisions.jsonl", Decision)


def _chosen(out: Path, *, needed: set[tuple[ArmSource, Selector]] = frozenset(), **settings: Any) -> list[Decision]:  # type: ignore[assignment]
    """The judge's decisions on the planted candidates, then the person's, in the two folders of a run."""
    directions, verdicts = _planted()
    log = _log(out / "select", **settings)
    choose(directions, verdicts, log, SelectOptions(**settings), needed=needed, out=out / "choose", at=AT)
    return [*log, *read_records(out / "choose" / "decisions.jsonl", Decision)]


def _set(
    decisions: Sequence[Decision],
    selector: Selector,
    seed: int = 0,
    share: float | None = None,
    relevance: dict[str, float] | None = None,
    layers: tuple[int, ...] | None = None,
    live: Mapping[int, Sequence[int]] | None = None,
    **settings: Any,
) -> ArmSet:
    """The set of one SAE arm on the planted candidates, which lie apart from each other."""
    directions, _ = _planted()
    return choose_set(
        "sae",
        selector,
        seed=seed,
        share=share,
        layers=layers,
        relevance=relevance,
        directions=directions,
        vectors_ND=np.eye(len(directions)),
        decisions=decisions,
        live_by_layer=live or {8: range(500), 14: range(500)},
        covariance_by_layer={},
        options=SelectOptions(**settings),
    )


def test_planted_concept_is_selected_and_nothing_else(tmp_path: Path) -> None:
    expected = tuple(f"L{layer}.latent{i}" for layer in (8, 14) for i in range(5))
    log = _log(tmp_path)
    assert _set(log, "auto", seed=0).ids == _set(log, "auto", seed=1).ids == expected
    assert read_json(tmp_path / "summary.json")["n_selected"] == 10


def test_unscored_is_never_selected_and_is_counted_by_reason(tmp_path: Path) -> None:
    directions, verdicts = _planted()
    without_one = [v for v in verdicts if v.direction_id != "L8.latent20"]
    options = SelectOptions(threshold=0, per_layer_cap=100)
    counts = select(directions, without_one, options, examples=(), needed=NEEDED, out=tmp_path)
    log = read_records(tmp_path / "decisions.jsonl", Decision)
    unscored = {f"L{layer}.latent{i}" for layer in (8, 14) for i in (5, 6)} | {"L8.latent20"}
    assert set(chosen_ids(log, "auto")) == {d.id for d in directions} - unscored
    assert counts.n_unscored_by_reason == {"no verdict": 1, "too few windows": 4}
    assert counts.n_scored == counts.n_candidates - 5
    assert {d.direction_id: d.reason for d in log}["L8.latent5"] == "unscored: too few windows"


def test_cap_keeps_the_most_relevant_of_each_layer() -> None:
    directions = [_direction(8, i) for i in range(6)]
    decisions = decide(directions, [_verdict(d, 60 + d.index) for d in directions], SelectOptions(per_layer_cap=2), AT)
    assert [d.direction_id for d in decisions if d.ablate] == ["L8.latent4", "L8.latent5"]
    assert "2 of layer 8 are more relevant" in decisions[0].reason


def test_wanted_concept_is_spared() -> None:
    directions = [_direction(8, i) for i in range(3)]
    verdicts = [_verdict(d, 80.0, wanted) for d, wanted in zip(directions, (95.0, 75.0, 5.0), strict=True)]
    spared = decide(directions, verdicts, SelectOptions(), AT)
    assert [d.ablate for d in spared] == [False, True, True]
    assert [d.ablate for d in decide(directions, verdicts, SelectOptions(margin=20), AT)] == [False, False, True]
    assert not any(d.ablate for d in decide(directions, verdicts, SelectOptions(min_detection=0.9), AT))


def test_nothing_selected_names_the_best_and_a_threshold_that_works(tmp_path: Path) -> None:
    with pytest.raises(NothingSelectedError) as caught:
        _log(tmp_path, threshold=95)
    message = str(caught.value)
    assert caught.value.exit_code == 6
    assert "L8.latent0" in message and "4 unscored" in message
    assert "--set select.threshold=90 takes 10" in message
    assert not list(tmp_path.iterdir()), "a refused selection leaves nothing behind"
    assert len(_set(_log(tmp_path, threshold=90), "auto").ids) == 10


def test_all_unscored_says_to_look_at_the_judge(tmp_path: Path) -> None:
    directions, _ = _planted()
    with pytest.raises(NothingSelectedError, match="No candidate has a score"):
        select(directions, [], SelectOptions(), examples=(), needed=NEEDED, out=tmp_path)


def test_verdicts_of_another_run_are_refused() -> None:
    directions, verdicts = _planted()
    with pytest.raises(DataError, match="none of the 79 candidates"):
        decide(directions[1:], verdicts, SelectOptions(), AT)


def test_a_rerun_adds_no_decision_and_changes_no_byte(tmp_path: Path) -> None:
    first = _log(tmp_path)
    before = [(tmp_path / name).read_bytes() for name in ("decisions.jsonl", "summary.json")]
    directions, verdicts = _planted()
    select(directions, verdicts, SelectOptions(), examples=(), needed=NEEDED, out=tmp_path, at="later")
    assert [(tmp_path / name).read_bytes() for name in ("decisions.jsonl", "summary.json")] == before
    assert read_records(tmp_path / "decisions.jsonl", Decision) == first


def test_last_decision_counts(tmp_path: Path) -> None:
    _log(tmp_path)
    log = _log(tmp_path, per_layer_cap=1)
    assert chosen_ids(log, "auto") == ["L8.latent0", "L14.latent0"]
    assert len(log) == 80 + 8


def test_a_search_takes_a_part_of_the_judges_choice_and_of_no_one_elses(tmp_path: Path) -> None:
    file = tmp_path / "human.json"
    file.write_text(json.dumps({"14": [3, 7]}))
    log = _log(tmp_path / "select", file=str(file))
    relevance = {f"L{layer}.latent{i}": 90.0 + i for layer in (8, 14) for i in range(5)}
    assert _set(log, "searched").ids == _set(log, "auto").ids
    assert _set(log, "searched", layers=(14,)).ids == tuple(f"L14.latent{i}" for i in range(5))
    part = _set(log, "searched", share=0.4, relevance=relevance, layers=(14,))
    assert part.ids == ("L14.latent4", "L14.latent3"), "the most relevant first"
    with pytest.raises(NothingSelectedError, match="at layers 20"):
        _set(log, "searched", layers=(20,))
    with pytest.raises(NothingSelectedError):
        _set([d for d in log if d.by.startswith("human:")], "searched")


# a person's file


def test_only_choices_from_a_file_are_human(tmp_path: Path) -> None:
    file = tmp_path / "human.json"
    file.write_text(json.dumps({"model.layers.14": [3, 7], "8": [2]}))
    log = _chosen(tmp_path, file=str(file), person="ada")
    human = [d for d in log if d.by.startswith("human:")]
    assert {d.direction_id for d in human} == {"L14.latent3", "L14.latent7", "L8.latent2"}
    assert all(d.by == "human:ada" and d.ablate for d in human)
    assert set(_set(log, "human").ids) == {d.direction_id for d in human}
    assert len(_set(log, "auto").ids) == 10, "the judge's choice stands beside the person's"
    only_human = _set(human, "random")
    assert len(only_human.ids) == 3 and not set(only_human.ids) & {d.direction_id for d in human}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ('{"model.layers.14": [99]}', "L14.latent39"),
        ('{"model.layers.13": [3]}', "L14.latent3"),
        ('{"model.layers.14": "3"}', "whole numbers"),
        ('{"encoder": [3]}', "names no layer"),
        ("[3]", "must be an object"),
        ("{", "not JSON"),
        ("{}", "chooses nothing"),
    ],
)
def test_a_choice_that_is_no_candidate_names_the_nearest(tmp_path: Path, content: str, named: str) -> None:
    file = tmp_path / "human.json"
    file.write_text(content)
    with pytest.raises(DataError, match=named):
        read_person_choice(file, _planted()[0], "ada", AT)


def test_a_layer_with_pcs_and_latents_asks_which(tmp_path: Path) -> None:
    file = tmp_path / "human.json"
    file.write_text('{"8": [1]}')
    both = [_direction(8, 1), _direction(8, 1, source="pca")]
    with pytest.raises(DataError, match=r"L8\.latent1 and L8\.pc1"):
        read_person_choice(file, both, "ada", AT)
    file.write_text('{"pca": {"8": [1]}}')
    assert [d.direction_id for d in read_person_choice(file, both, "ada", AT)] == ["L8.pc1"]


def test_human_arm_without_a_choice_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "human.json"
    file.write_text('{"keep": {"8": [2]}}')
    with pytest.raises(NothingSelectedError, match=r"select\.file"):
        _chosen(tmp_path / "run", needed={("sae", "human")}, file=str(file))
    assert not (tmp_path / "run" / "choose").exists(), "a refused choice leaves nothing behind"


# the judge with a person's help


def _doubting() -> list[Verdict]:
    """The planted verdicts, of which the judge abstains on one that it takes and one that it leaves."""
    abstained = ("L8.latent4", "L8.latent9", "L14.latent4")
    return [dataclasses.replace(v, abstains=v.direction_id in abstained) for v in _planted()[1]]


def _help(tmp_path: Path, content: dict[str, Any]) -> dict[str, Decision]:
    """Direction id -> who decided what, where a person's file stands beside the judge."""
    (tmp_path / "ada.json").write_text(json.dumps(content))
    directions, options = _planted()[0], SelectOptions(file=str(tmp_path / "ada.json"), person="ada")
    log = decide(directions, _doubting(), options, AT)
    choose(directions, _doubting(), log, options, needed={("sae", "hybrid")}, out=tmp_path / "choose", at=AT)
    return {d.direction_id: d for d in read_records(tmp_path / "choose" / HYBRID, Decision)}


def test_a_person_has_a_say_in_the_hybrid_where_the_judge_was_not_sure_and_nowhere_else(tmp_path: Path) -> None:
    found = _help(tmp_path, {"8": [9, 5, 20], "keep": {"8": [4, 0]}})
    assert len(found) == 80
    by_person = {i: d.ablate for i, d in found.items() if d.by == "human:ada"}
    assert by_person == {"L8.latent9": True, "L8.latent5": True, "L8.latent4": False}, "unscored and abstained alone"
    assert {d.by for i, d in found.items() if i not in by_person} == {"auto:threshold"}
    assert not found["L8.latent20"].ablate and found["L8.latent0"].ablate, "of these the judge was sure"
    assert found["L14.latent4"].ablate and not found["L14.latent5"].ablate, "not decided: as the rule has it"
    ids = _set(list(found.values()), "hybrid").ids
    assert ids == tuple(i for i, d in found.items() if d.ablate) and len(ids) == 4 + 2 + 5


def test_a_file_that_no_person_made_is_never_called_human(tmp_path: Path) -> None:
    found = _help(tmp_path, {"by": "simulated:oracle, 10 % wrong", "sae": {"8": [9]}})
    assert {d.by for d in found.values()} == {"auto:threshold", "simulated:oracle, 10 % wrong"}
    said = read_records(tmp_path / "choose" / "decisions.jsonl", Decision)
    assert {d.by for d in said} == {"simulated:oracle, 10 % wrong"} and _set(said, "human").ids == ("L8.latent9",)
    for by in ("human:ada", "simulated:", "auto:threshold", 3):
        with pytest.raises(DataError, match=r"select\.person"):
            _help(tmp_path, {"by": by, "sae": {"8": [9]}})


def test_a_direction_is_not_chosen_and_kept_in_one_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"L8\.latent9 is both"):
        _help(tmp_path, {"8": [9], "keep": {"model.layers.8": [9]}})
    with pytest.raises(DataError, match="must be an object"):
        _help(tmp_path, {"8": [9], "keep": [3]})


def test_a_control_without_an_arm_of_the_judge_s_matches_the_person_where_the_judge_took_nothing(
    tmp_path: Path,
) -> None:
    file = tmp_path / "ada.json"
    file.write_text('{"8": [9, 10]}')
    directions, options = _planted()[0], SelectOptions(file=str(file), threshold=100)
    log = decide(directions, _planted()[1], options, AT)
    choose(directions, _planted()[1], log, options, needed={("sae", "random")}, out=tmp_path / "choose", at=AT)
    both = [*log, *read_records(tmp_path / "choose" / "decisions.jsonl", Decision)]
    assert len(_set(both, "random").ids) == 2


# the oracle


def _windows(direction: Direction, pole: str, peaks: list[str]) -> list[Example]:
    value = -2.0 if pole == "bottom" else 2.0
    return [
        Example(direction.id, pole, "describe", f"d{i}", (" the", peak, " ran"), (0.1, value, 0.2))  # type: ignore[arg-type]
        for i, peak in enumerate(peaks)
    ]


def test_oracle_takes_a_direction_by_the_peaks_of_either_pole(tmp_path: Path) -> None:
    (tmp_path / "gender.txt").write_text("# made by hand\nShe\nhe\n")
    words = read_words(tmp_path / "gender.txt")
    latent, pc, other = _direction(8, 0), _direction(8, 0, source="pca"), _direction(8, 1)
    examples = [
        *_windows(latent, "top", [" she", "Ġhe", " dog"]),
        *_windows(pc, "top", [" dog", " cat"]),
        *_windows(pc, "bottom", [" She", " he"]),
        *_windows(other, "top", [" dog", " cat"]),
    ]
    decisions = ask_oracle([latent, pc, other], examples, words, "gender", 0.5, AT)
    assert [d.ablate for d in decisions] == [True, True, False]
    assert all(d.by == "oracle:gender" for d in decisions)


# controls


def test_random_candidate_is_disjoint_and_matched_in_count_per_layer(tmp_path: Path) -> None:
    log = _log(tmp_path)
    chosen = set(_set(log, "auto").ids)
    for seed in (0, 1):
        control = _set(log, "random", seed)
        assert not chosen & set(control.ids) and len(set(control.ids)) == len(control.ids)
        assert [sum(i.startswith(f"L{layer}.") for i in control.ids) for layer in (8, 14)] == [5, 5]
        assert [(match.n_chosen, match.n_drawn) for match in control.matching] == [(5, 5), (5, 5)]


def test_control_is_the_same_for_a_seed_and_another_for_another(tmp_path: Path) -> None:
    log = _log(tmp_path)
    selectors: tuple[Selector, ...] = ("random", "random-live")
    for selector in selectors:
        assert _set(log, selector) == _set(log, selector)
        assert _set(log, selector, 0).ids != _set(log, selector, 1).ids
        assert _set(log, selector, random_seed=1).ids != _set(log, selector).ids


def test_no_candidate_left_for_a_control_is_an_error(tmp_path: Path) -> None:
    everything = [dataclasses.replace(decision, ablate=True) for decision in _log(tmp_path)]
    with pytest.raises(ConfigError, match="every candidate was chosen"):
        _set(everything, "random")


def test_removed_variance_of_the_span_is_matched() -> None:
    rng = np.random.default_rng(0)
    n, width = 60, 24
    root = rng.normal(size=(width, width)) * np.linspace(3, 0.1, width)
    covariance = root.T @ root / width
    vectors = rng.normal(size=(n, width)) + 0.8 * rng.normal(size=width)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    candidates = [_direction(8, i) for i in range(n)]
    chosen = candidates[:6]
    ids, matches = draw_matched(
        candidates, chosen, seed=(0, 0), n_draws=400, vectors_ND=vectors, covariance_by_layer={8: covariance}
    )
    basis, _ = np.linalg.qr(vectors[:6].T)
    assert matches[0].measured_by == "span"
    assert matches[0].removed_chosen == pytest.approx(float(np.trace(basis.T @ covariance @ basis)))
    assert matches[0].removed_control == pytest.approx(matches[0].removed_chosen, rel=0.02)
    assert matches[0].share_chosen is not None and 0 < matches[0].share_chosen < 1
    assert len(ids) == 6


def test_two_copies_of_a_direction_remove_their_variance_once() -> None:
    candidates = [_direction(8, 0), _direction(8, 1)]
    meter = VarianceMeter(candidates, np.array([[1.0, 0.0], [1.0, 0.0]]), np.diag([3.0, 1.0]))
    assert meter.removed(np.array([[0, 1]]))[0] == pytest.approx(3.0)


def test_without_covariance_loud_directions_get_loud_controls() -> None:
    candidates = [_direction(8, i, variance=10.0 if i % 10 == 0 else 0.1) for i in range(60)]
    chosen = [candidates[0], candidates[10]]
    _, matches = draw_matched(candidates, chosen, seed=(0, 0), n_draws=200)
    assert matches[0].measured_by == "sum" and matches[0].share_chosen is None
    assert matches[0].removed_control == pytest.approx(matches[0].removed_chosen, rel=0.05)


def test_too_few_unchosen_candidates_are_reported_not_hidden() -> None:
    candidates = [_direction(8, i) for i in range(5)]
    ids, matches = draw_matched(candidates, candidates[:3], seed=(0, 0), n_draws=10)
    assert set(ids) == {"L8.latent3", "L8.latent4"} and (matches[0].n_chosen, matches[0].n_drawn) == (3, 2)


def test_live_controls_are_drawn_anew_for_each_seed_and_need_a_dictionary() -> None:
    chosen = [_direction(8, i) for i in range(4)]
    live = {8: range(1000)}
    assert len(draw_live(chosen, live, (0, 0))) == 4
    assert draw_live(chosen, live, (0, 0)) != draw_live(chosen, live, (0, 1))
    with pytest.raises(ConfigError, match="random-live"):
        draw_live(chosen, None, (0, 0))


def test_live_controls_are_live_alone_and_as_many_a_layer() -> None:
    """Half of each dictionary is dead: the odd latents of one layer and the first twenty of the other. The chosen ones
    are among these, so a draw from them would be seen."""
    chosen = [*(_direction(8, i) for i in range(1, 12, 2)), *(_direction(14, i) for i in range(3))]
    live = {8: range(0, 40, 2), 14: range(20, 40)}
    seen: set[str] = set()
    for seed in range(40):
        ids = draw_live(chosen, live, (0, seed))
        assert len(set(ids)) == len(ids) == 9
        assert [sum(i.startswith(f"L{layer}.") for i in ids) for layer in (8, 14)] == [6, 3]
        seen |= set(ids)
    assert seen == {f"L{layer}.latent{i}" for layer, own in live.items() for i in own}, "every live one, and no other"
    with pytest.raises(ConfigError, match="needs 3 live latents of layer 14, and 2 are known"):
        draw_live(chosen, {**live, 14: range(2)}, (0, 0))


def test_live_controls_of_an_arm_leave_dead_candidates_out(tmp_path: Path) -> None:
    """What the arm draws from is the dictionary: chosen ones may be drawn, dead ones may not."""
    live = {8: range(100, 110), 14: [0, 1, 2, 3, 4, 200, 201]}
    drawn = {i for seed in range(40) for i in _set(_log(tmp_path), "random-live", seed, live=live).ids}
    assert drawn == {f"L{layer}.latent{i}" for layer, own in live.items() for i in own}
    for seed in (0, 1):
        ids = _set(_log(tmp_path), "random-live", seed, live=live).ids
        assert [sum(i.startswith(f"L{layer}.") for i in ids) for layer in (8, 14)] == [5, 5]


def test_a_share_is_the_most_relevant_of_each_layer_and_its_control_as_many(tmp_path: Path) -> None:
    log = _log(tmp_path)
    relevance = {f"L{layer}.latent{i}": 90.0 + i for layer in (8, 14) for i in range(5)}
    assert _set(log, "auto", share=0.4, relevance=relevance).ids == (
        "L8.latent4",
        "L8.latent3",
        "L14.latent4",
        "L14.latent3",
    )
    assert len(_set(log, "auto", share=0.41, relevance=relevance).ids) == 6, "rounded up, so none is empty"
    assert len(_set(log, "auto", share=0.01, relevance=relevance).ids) == 2
    parts = [set(_set(log, "auto", share=share, relevance=relevance).ids) for share in (0.25, 0.5, 0.75, None)]
    assert all(small < large for small, large in pairwise(parts)), "each step holds the one before"
    for selector in ("random", "random-live", "top"):
        control = _set(log, selector, share=0.4, relevance=relevance)  # type: ignore[arg-type]
        assert sorted(i.split(".")[0] for i in control.ids) == ["L14", "L14", "L8", "L8"]
    assert not set(_set(log, "random", share=0.4, relevance=relevance).ids) & parts[-1], "nothing that was chosen"


def test_a_share_of_a_person_s_choice_goes_by_rank(tmp_path: Path) -> None:
    file = tmp_path / "ada.json"
    file.write_text(json.dumps({"8": [9, 2, 5, 30]}))
    log = _chosen(tmp_path / "run", file=str(file))
    directions, _ = _planted()
    strength = {d.id: d.strength for d in directions}
    ids = _set(log, "human", share=0.5, relevance={"L8.latent30": 99.0}).ids
    ranked = sorted((f"L8.latent{i}" for i in (9, 2, 5, 30)), key=lambda i: -strength[i])
    assert ids == tuple(ranked[:2]), "the judge's relevance has no say in it"


def test_top_goes_by_rank_alone() -> None:
    candidates = [_direction(8, i) for i in range(6)]
    assert take_top(candidates, candidates[4:]) == ["L8.latent0", "L8.latent1"]


def test_top_is_as_many_of_each_layer_as_were_chosen_there(tmp_path: Path) -> None:
    """The other layer is louder by far, and the candidates stand in no order."""
    quiet = [dataclasses.replace(_direction(8, i), strength=0.01 * (1 + i * 7 % 10)) for i in range(10)]
    loud = [dataclasses.replace(_direction(14, i), strength=10.0 + i * 3 % 10) for i in range(10)]
    candidates = [direction for pair in zip(loud, quiet, strict=True) for direction in pair]
    chosen = [quiet[0], loud[0], quiet[1], quiet[2], loud[1], quiet[5]]
    assert take_top(candidates, chosen) == [
        "L8.latent7", "L8.latent4", "L8.latent1", "L8.latent8", "L14.latent3", "L14.latent6",
    ]  # fmt: skip
    assert take_top(candidates, [loud[0]]) == ["L14.latent3"], "nothing where nothing was chosen"
    log = _log(tmp_path)
    log = [dataclasses.replace(d, ablate=d.ablate and d.direction_id != "L14.latent0") for d in log]
    assert _set(log, "top").ids == tuple(f"L{layer}.latent{i}" for layer, n in ((8, 5), (14, 4)) for i in range(n))
