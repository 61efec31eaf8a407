"""The way through the cards, and the log: nothing confirmed is lost, nothing is seen before it may be."""

from __future__ import annotations

import dataclasses
import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from autocaft.errors import ConfigError, DataError, RunLockedError
from autocaft.review.acts import CHOICES, ActLog, acts_on_cards, answers, log_path, read_acts, reviewers
from autocaft.review.deck import Deck, doubtful_part, histogram, load_deck
from autocaft.review.server import Page
from autocaft.review.session import MIN_GAP, Draft, Review, Said, Showing, plan_order
from autocaft.rundir.files import read_jsonl, write_jsonl
from tests.planted_run import make_run


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return make_run(tmp_path / "planted")


@pytest.fixture
def deck(run_dir: Path) -> Deck:
    return load_deck(run_dir)


@pytest.fixture
def review(run_dir: Path, deck: Deck) -> Iterator[Review]:
    with ActLog(log_path(run_dir, "ada")) as log:
        yield Review(deck, log, "ada")


def _answer_all(review: Review, n: int | None = None) -> None:
    while review.current is not None and n != 0:
        review.answer(review.current, "keep", "", 5.0)
        n = None if n is None else n - 1


# order


def test_order_is_random_per_reviewer_and_the_same_when_taken_up_again(deck: Deck) -> None:
    ids = list(deck.cards)
    assert plan_order(ids, "ada") == plan_order(ids[::-1], "ada")
    assert plan_order(ids, "ada") != plan_order(ids, "bob")
    first = [showing.direction_id for showing in plan_order(ids, "ada") if showing.repeat == 0]
    assert sorted(first) == sorted(ids) and first != ids


def test_repeats_come_a_while_after_the_first_time() -> None:
    order = plan_order([f"d{i}" for i in range(200)], "ada")
    place = {(showing.direction_id, showing.repeat): i for i, showing in enumerate(order)}
    repeats = [showing for showing in order if showing.repeat]
    assert len(repeats) == 10
    assert all(place[s.direction_id, 1] - place[s.direction_id, 0] >= MIN_GAP for s in repeats)
    assert len(plan_order(["one"], "ada")) == 1 and plan_order([], "ada") == []


def test_controls_are_mixed_in_and_look_like_the_rest(deck: Deck) -> None:
    assert {"L8.decoy0", "L8.decoy1"} <= set(deck.cards)
    assert set(deck.cards["L8.decoy0"].poles) == set(deck.cards["L8.pc0"].poles)


# only what the judge is not sure of


def test_the_doubtful_part_is_the_judge_s_doubts_and_the_controls_with_repeats(run_dir: Path, deck: Deck) -> None:
    path = run_dir / "judge" / "verdicts.jsonl"
    rows = [row | {"abstains": row["direction_id"] in ("L8.latent0", "L8.pc1")} for row in read_jsonl(path)]
    write_jsonl(path, rows)
    part = doubtful_part(load_deck(run_dir))
    doubted = {"L8.latent8", "L14.latent8", "L8.latent0", "L8.pc1"}
    assert set(part.cards) == doubted | {"L8.decoy0", "L8.decoy1"}
    assert "the 4 of 46 directions that the judge is not sure of, with random ones among them" in part.part
    with ActLog(log_path(run_dir, "ada")) as log:
        review = Review(part, log, "ada")
        assert any(showing.repeat for showing in review.order), "some are shown twice"
        _answer_all(review)
        assert {act.direction_id for act in log.acts} == set(part.cards)
        whole = Review(load_deck(run_dir), log, "ada")
        assert whole.current is not None and {name for name, n in whole.standing if n == 0} == set(part.cards)


def test_without_doubts_there_is_no_part_to_read(deck: Deck) -> None:
    sure = {i: dataclasses.replace(v, unscored_reason=None, relevance=5.0) for i, v in deck.verdicts.items()}
    with pytest.raises(DataError, match="sure of all 46"):
        doubtful_part(dataclasses.replace(deck, verdicts=sure))


# answering


def test_every_card_is_shown_and_answered_once_and_repeats_twice(review: Review) -> None:
    _answer_all(review)
    assert len(review.standing) == len(review.order) == review.progress.n_done
    assert review.progress.seconds_left == 0


def test_the_same_answer_sent_twice_is_saved_once(review: Review) -> None:
    assert review.answer(0, "ablate", "", 2.0) == "saved"
    assert review.answer(0, "ablate", "", 2.0) == "already saved"
    assert review.answer(0, "keep", "", 2.0) == "answered otherwise"
    assert [act.act for act in review.acts] == ["ablate"]


def test_undo_shows_the_direction_again_and_keeps_both_in_the_log(review: Review) -> None:
    _answer_all(review, 3)
    last = review.order[2]
    taken = review.undo()
    assert taken is not None and taken.direction_id == last.direction_id and review.current == 2
    review.answer(2, "ablate", "meant this", 1.0)
    assert [act.act for act in review.acts][-3:] == ["keep", "withdraw", "ablate"]
    assert review.standing[last.direction_id, 0].choice == "ablate" and review.current == 3


def test_who_got_no_reply_may_think_again_and_no_other_page_overwrites(review: Review) -> None:
    assert review.answer(0, "ablate", "", 2.0, "first") == "saved"
    assert review.answer(0, "ablate", "a  word", 2.0, "second") == "answered otherwise"
    assert review.answer(0, "ablate", "a  word", 2.0, "first") == "saved anew"
    assert review.answer(0, "ablate", "a word", 2.0, "first") == "already saved"
    assert review.answer(0, "keep", "a word", 3.0, "first") == "saved anew"
    assert [(act.act, act.note) for act in review.acts] == [("ablate", ""), ("ablate", "a word"), ("keep", "a word")]
    assert len(review.standing) == 1


def test_one_page_takes_one_answer_back_however_often_it_asks(review: Review) -> None:
    _answer_all(review, 3)
    taken = review.undo("first")
    assert review.undo("second") is not None
    assert review.undo("first") == taken and len(review.standing) == 1, "also when another window asked in between"
    assert review.undo("third") is not None and review.undo("fourth") is None and review.undo("fourth") is None


def test_a_card_that_comes_again_has_what_was_typed_and_read(review: Review) -> None:
    review.keep_draft(0, Draft("half a", 3.0))
    review.leave_for_later(0)
    assert review.draft == Draft("", 0.0)
    review.answer(1, "keep", "why", 5.0)
    review.undo()
    assert review.draft == Draft("why", 5.0)
    review.answer(1, "keep", "why", None)
    review.undo()
    assert review.draft == Draft("why", None), "a time that is not known in part is not known"
    while review.current != 0:
        _answer_all(review, 1)
    assert review.draft == Draft("half a", 3.0)


def test_with_other_candidates_old_repeats_do_not_count_and_undo_still_works(run_dir: Path, deck: Deck) -> None:
    with ActLog(log_path(run_dir, "ada")) as log:
        _answer_all(Review(deck, log, "ada"))
    fewer = dataclasses.replace(deck, cards=dict(list(deck.cards.items())[::2]))
    with ActLog(log_path(run_dir, "ada")) as log:
        review = Review(fewer, log, "ada")
        planned = {(showing.direction_id, showing.repeat) for showing in review.order}
        assert set(review.standing) <= planned and review.progress.n_done <= len(planned)
        while (taken := review.undo()) is not None:
            assert taken.direction_id in fewer.cards
        assert not review.standing


def test_a_card_shows_what_is_known_without_a_judge_but_not_how_the_direction_was_ranked(
    deck: Deck, run_dir: Path
) -> None:
    assert [label for label, _ in deck.cards["L8.latent0"].evidence] == [
        "fires in", "writes", "against", "loss without it",
    ]  # fmt: skip
    (run_dir / "mine" / "evidence.jsonl").unlink()
    assert load_deck(run_dir).cards["L8.latent0"].evidence == []


def test_what_is_left_for_later_comes_at_the_end(review: Review) -> None:
    review.leave_for_later(0)
    assert review.current == 1 and not review.acts, "leaving says nothing"
    _answer_all(
        review, len(review.order) - 1 - sum(s.direction_id == review.order[0].direction_id for s in review.order[1:])
    )
    assert review.current == 0


def test_a_review_goes_on_after_a_restart(run_dir: Path, deck: Deck) -> None:
    for n in (4, 7):
        with ActLog(log_path(run_dir, "ada")) as log:
            _answer_all(Review(deck, log, "ada"), n)
    with ActLog(log_path(run_dir, "ada")) as log:
        assert Review(deck, log, "ada").current == 11
    assert reviewers(run_dir) == ["ada"]


def test_an_answer_to_a_card_that_changed_does_not_count(run_dir: Path, deck: Deck, review: Review) -> None:
    review.answer(0, "ablate", "", 1.0)
    path = run_dir / "judge" / "cards.jsonl"
    path.write_text(path.read_text().replace(deck.cards[review.order[0].direction_id].hash, "another"))
    assert Review(load_deck(run_dir), review._log, "ada").current == 0


# the state, kept act by act


def _current_from_the_log(review: Review, left: list[int], taken_back: int | None) -> int | None:
    """What is to be shown, worked out anew from every act."""
    hashes = {card.hash for card in review.deck.cards.values()}
    done = answers(acts_on_cards(read_acts(review._log.path), hashes))
    open_ = [i for i, s in enumerate(review.order) if (s.direction_id, s.repeat) not in done]
    ready = [i for i in open_ if review.order[i].repeat == 0 or (review.order[i].direction_id, 0) in done]
    wanted = [i for i in open_ if i == taken_back] + [i for i in ready if i not in left]
    return next(iter(wanted + [i for i in left if i in ready]), None)


@pytest.mark.parametrize("seed", range(4))
def test_the_state_is_what_the_log_says_after_any_acts_from_any_window(seed: int, run_dir: Path, deck: Deck) -> None:
    rng = random.Random(seed)
    left: list[int] = []
    taken_back = None
    few = dataclasses.replace(deck, cards=dict(list(deck.cards.items())[:12]))
    with ActLog(log_path(run_dir, "ada")) as log:
        review = Review(few, log, "ada")
        for _ in range(150):
            stale = rng.randrange(len(review.order))  # another window can show any card
            showing = stale if rng.random() < 0.3 or review.current is None else review.current
            deed = rng.choice(["answer", "answer", "answer", "undo", "later", "judge"])
            if deed == "answer" and review.answer(showing, rng.choice(CHOICES), "", 1.0) == "saved":
                taken_back = None
            elif deed == "undo" and (taken := review.undo()) is not None:
                act = review.acts[-1]
                taken_back = review.order.index(Showing(taken.direction_id, act.showing))
                assert (act.act, act.direction_id) == ("withdraw", taken.direction_id)
            elif deed == "later":
                review.leave_for_later(showing)
                left, taken_back = [i for i in left if i != showing] + [showing], None
            elif deed == "judge" and review.may_see_judge(review.order[showing].direction_id):
                review.see_judge([review.order[showing].direction_id])
            fresh = Review(few, log, "ada")
            assert list(review.standing.items()) == list(fresh.standing.items())
            assert (review.acts, review.progress, review.last) == (fresh.acts, fresh.progress, fresh.last)
            for direction_id in few.cards:
                assert review.may_see_judge(direction_id) == fresh.may_see_judge(direction_id)
            assert review.current == _current_from_the_log(review, left, taken_back)


def _lines_run(what: Callable[[], Any]) -> int:
    """How many lines of the review page, its templates included, run in a call."""
    n_lines = 0

    def count(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal n_lines
        name = frame.f_code.co_filename
        if "autocaft/review" not in name and name != "<template>":
            return None
        n_lines += event == "line"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        what()
    finally:
        sys.settrace(before)
    return n_lines


def test_a_save_among_thousands_of_cards_is_no_more_work_than_among_a_few(run_dir: Path, deck: Deck) -> None:
    one = deck.cards["L8.latent0"]
    lines = []
    for n in (60, 3000):
        cards = {f"d{i}": dataclasses.replace(one, direction_id=f"d{i}", hash=f"h{i}") for i in range(n)}
        with ActLog(log_path(run_dir, f"reader{n}")) as log:
            review = Review(dataclasses.replace(deck, cards=cards), log, "ada")
            page = Page(review, run_dir=run_dir, token="", cookie="")
            review.take_in([Said(direction_id, "keep", "") for direction_id in list(cards)[20:]])
            _answer_all(review, 5)
            page._render(status="")

            def save_take_back_and_leave(review: Review = review, page: Page = page) -> None:
                for deed in (lambda showing: review.answer(showing, "keep", "", 1.0), review.leave_for_later):
                    assert review.current is not None
                    deed(review.current)
                    page._render(status="")
                review.undo()
                page._render(status="")

            lines.append(_lines_run(save_take_back_and_leave))
    assert lines[1] < 1.1 * lines[0], lines


# what may be seen


def test_the_judge_is_not_seen_before_the_answer_and_what_follows_is_not_blind(review: Review) -> None:
    once = next(
        i for i, s in enumerate(review.order) if sum(t.direction_id == s.direction_id for t in review.order) == 1
    )
    direction_id = review.order[once].direction_id
    with pytest.raises(AssertionError):
        review.see_judge([direction_id])
    review.answer(once, "keep", "", 1.0)
    review.see_judge([direction_id])
    review.see_judge([direction_id])
    assert [act.act for act in review.acts] == ["keep", "see judge"], "seeing is logged once"
    review.undo()
    review.answer(once, "ablate", "", 1.0)
    assert answers(review.acts)[direction_id, 0].choice == "ablate"
    assert answers(review.acts, blind=True)[direction_id, 0].choice == "keep"


def test_the_judge_on_a_direction_that_comes_again_is_held_back(review: Review) -> None:
    repeated = next(s.direction_id for s in review.order if s.repeat == 1)
    first, second = (i for i, s in enumerate(review.order) if s.direction_id == repeated)
    review.answer(first, "keep", "", 1.0)
    assert not review.may_see_judge(repeated)
    review.answer(second, "keep", "", 1.0)
    assert review.may_see_judge(repeated)


# the log


def test_a_line_cut_off_by_a_kill_is_dropped_and_the_next_is_whole(run_dir: Path, deck: Deck) -> None:
    path = log_path(run_dir, "ada")
    with ActLog(path) as log:
        _answer_all(Review(deck, log, "ada"), 3)
    whole = path.read_bytes()
    for cut in (1, 20, len(whole.splitlines()[-1])):
        path.write_bytes(whole[:-cut])
        assert len(read_acts(path)) == 2
        with ActLog(path) as log:
            _answer_all(Review(deck, log, "ada"), 1)
        assert len(read_acts(path)) == 3
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_two_processes_do_not_write_one_file(run_dir: Path) -> None:
    with (
        ActLog(log_path(run_dir, "ada")),
        pytest.raises(RunLockedError, match="another"),
        ActLog(log_path(run_dir, "ada")),
    ):
        pass
    with ActLog(log_path(run_dir, "ada")), ActLog(log_path(run_dir, "bob")):
        pass


def test_a_spoilt_line_is_named(run_dir: Path) -> None:
    path = log_path(run_dir, "ada")
    path.parent.mkdir()
    path.write_text('{"direction_id": 3}\n')
    with pytest.raises(DataError, match=r"ada\.jsonl:1"):
        read_acts(path)


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "x" * 41, "é"])
def test_a_reviewer_s_name_can_only_name_a_file(name: str, run_dir: Path) -> None:
    with pytest.raises(ConfigError, match="reviewer"):
        log_path(run_dir, name)


def test_a_run_without_cards_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="autocaft judge"):
        load_deck(tmp_path)


# the histogram


@pytest.mark.parametrize("values", [[0.0, 0.0, 3.0], [-2.0, 0.0, 5.0], [-1.0, -0.5], [0.001, -100.0, 2.0]])
def test_histogram_counts_every_value_and_no_bar_mixes_the_signs(values: list[float]) -> None:
    bins = histogram(values)
    assert sum(b.n for b in bins) == len(values)
    assert all(b.low >= 0 or b.high <= 0 for b in bins)
    assert (bins[0].low, bins[-1].high) == (min(*values, 0), max(*values, 0))
    assert sum(b.n for b in bins if b.high <= 0) == sum(value < 0 for value in values)
    assert histogram([0.0, 0.0]) == []
