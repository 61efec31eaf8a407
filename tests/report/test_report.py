"""The report: numbers as they are, honest words, nothing injected, nothing fetched, the same bytes twice."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from autocaft.records import Evidence, Example
from autocaft.report.build import build_report, dump_report, summary_table, write_report
from autocaft.report.figure import NARROW, WIDE, draw_figure, spread
from autocaft.report.html import MAX_CARDS, content_policy, render_html, shade
from autocaft.report.markdown import render_markdown
from autocaft.report.plain import readable
from autocaft.report.tables import direction_rows
from autocaft.report.words import duration, percent

Make = Callable[..., dict[str, Any]]
HOSTILE = '<script>alert("x")</script>'
FLAT = {
    ("base", "off"): (0.5, 0.5, 0.5),
    ("tuned", "off"): (0.99, 0.13, 0.88),
    ("caft-sae-auto", "off"): (0.99, 0.12, 0.88),
    ("caft-sae-random", "off"): (0.99, 0.15, 0.88),
}


@pytest.fixture(scope="module")
def report(make_inputs: Make) -> dict[str, Any]:
    return build_report(**make_inputs())


class _Page(HTMLParser):
    """Balance of tags, and every attribute that could fetch something."""

    VOID = frozenset(("meta", "br", "link", "img", "hr", "input"))

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for key, value in attrs if key in ("src", "href", "srcset", "action", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"


def _parse(html: str) -> _Page:
    page = _Page()
    page.feed(html)
    assert page.open == []
    return page


def test_same_inputs_give_the_same_bytes(make_inputs: Make, report: dict[str, Any]) -> None:
    again = build_report(**make_inputs())
    assert dump_report(again) == dump_report(report)
    assert render_html(again) == render_html(report)


def test_report_has_its_parts_and_survives_json(report: dict[str, Any], tmp_path: Path) -> None:
    write_report(report, tmp_path)
    loaded = json.loads((tmp_path / "report.json").read_text())
    assert loaded == report
    for key in ("metrics", "directions", "judge", "cost", "timing", "versions", "threads", "model", "data", "config"):
        assert key in loaded
    assert loaded["directions"]["live"] == 7613 and loaded["directions"]["selected"] == 8
    assert loaded["directions"]["unscored_by_reason"] == {"too few windows": 2}
    assert loaded["directions"]["by_layer"][0] == {
        "layer": 8, "live": 3911, "dead": 180, "always_on": 5, "candidates": 20, "selected": 4,
    }  # fmt: skip
    assert (tmp_path / "report.html").read_text() == render_html(loaded)


def test_page_is_one_file_that_asks_for_nothing_and_runs_nothing_but_its_own(report: dict[str, Any]) -> None:
    html = render_html(report)
    page = _parse(html)
    assert not page.tags & {"link", "img", "iframe", "object", "form"}
    assert all(link.startswith("#") for link in page.links)
    ids = set(re.findall(r' id="([^"]+)"', html))
    assert {link[1:] for link in page.links} <= ids, "every link on the page leads somewhere"
    assert not re.search(r"(?:https?:)?//[a-z]|@import|url\(| style=| on[a-z]+=", html)
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', html)
    assert policy.replace("&#39;", "'") == content_policy(style, script)
    assert "unsafe" not in policy and "default-src" in policy


def test_every_direction_and_arm_has_a_link_and_every_seed_a_line(make_inputs: Make) -> None:
    several = build_report(**make_inputs(seeds=(0, 1, 2)))
    html = render_html(several)
    for card in several["cards"]:
        assert f'id="{card["id"]}"' in html
    arms = {line["arm"] for line in several["arms"]}
    assert all(f'<tbody class="arm" id="arm-{arm}">' in html for arm in arms)
    assert html.count('<tr class="seed more">') == len(several["arms"]) * 3
    assert re.search(r"worst: seed \d, \d+%", html)


def test_what_is_left_out_of_a_large_page_is_said(make_inputs: Make) -> None:
    report = build_report(**make_inputs())
    card = report["cards"][-1]
    many = {**report, "cards": [*report["cards"], *({**card, "id": f"L9.latent{i}"} for i in range(2000))]}
    html = render_html(many)
    assert html.count("data-strength=") == MAX_CARDS == 1000
    assert "The page shows 1,000 of 2,040 directions" in html and "directions.csv" in html


def test_a_control_of_the_same_mode_stands_beside_its_arm(make_inputs: Make) -> None:
    rates = {
        **FLAT,
        ("caft-sae-auto-zero", "off"): (0.9, 0.8, 0.8),
        ("caft-sae-random-zero", "off"): (0.9, 0.3, 0.8),
        ("caft-pca-auto", "off"): (0.9, 0.8, 0.8),
        ("caft-sae-auto@25%", "off"): (0.9, 0.6, 0.8),
        ("caft-sae-auto-zero@50%", "off"): (0.9, 0.7, 0.8),
        ("caft-sae-random-zero@50%", "off"): (0.9, 0.3, 0.8),
    }
    lines = {line["arm"]: line["against_control"] for line in build_report(**make_inputs(rates=rates))["arms"]}
    assert lines["caft-sae-auto"]["arm"] == "caft-sae-random"
    assert lines["caft-sae-auto-zero"]["arm"] == "caft-sae-random-zero"
    assert 0.35 < lines["caft-sae-auto-zero"]["low"] < 0.5 < lines["caft-sae-auto-zero"]["high"] < 0.65
    assert lines["caft-sae-auto-zero@50%"]["arm"] == "caft-sae-random-zero@50%"
    assert lines["caft-sae-auto@25%"] is None, "a control of the whole is none of a part"
    assert lines["caft-pca-auto"] is lines["tuned"] is lines["caft-sae-random"] is None


def test_markup_in_a_token_a_description_or_a_name_is_shown_as_text(make_inputs: Make) -> None:
    values = make_inputs()
    first = values["verdicts"][0]
    hostile = {"description": f"about {HOSTILE}", "other_description": HOSTILE, "doubt": HOSTILE, "abstains": True}
    values["verdicts"] = [dataclasses.replace(first, **hostile), *values["verdicts"][1:]]
    tokens = (HOSTILE, "<b>bold</b>", "[bold]rich[/bold]", "{{ 7 * 7 }}", "' onclick='x")
    projections = (3.0, 1.0, 2.0, 5.0, 4.0)
    values["examples"] = [Example(first.direction_id, "top", "describe", "d", tokens, projections), *values["examples"]]
    values["metrics"] = [dataclasses.replace(m, arm=f"{m.arm}{HOSTILE}") for m in values["metrics"]]
    values["config_toml"] = f'corpus = "{HOSTILE}"'
    html = render_html(build_report(**values))
    assert HOSTILE not in html and "<b>bold" not in html and "&lt;script&gt;" in html
    assert "[bold]rich[/bold]" in html and "{{ 7 * 7 }}" in html and "49" not in re.findall(r">49<", html)
    assert _parse(html) and html.count("<script>") == 1


def test_figure_has_every_arm_and_says_it_in_words(report: dict[str, Any]) -> None:
    for frame in (WIDE, NARROW):
        svg = draw_figure(report["arms"], frame, "f")
        assert svg.count('class="arm"') == len(report["arms"]) == 6
        for arm in ("base", "tuned", "caft-sae-auto", "caft-sae-random"):
            assert f'data-arm="{arm}"' in svg and f">{arm}</text>" in svg
        assert "<title id=" in svg and "<desc id=" in svg
        assert "caft-sae-auto, hooks on" in svg


def test_a_long_name_makes_the_plot_smaller_instead_of_leaving_the_page(report: dict[str, Any]) -> None:
    long = [line | {"arm": "caft-sae-random-live-mean-shift"} for line in report["arms"][:1]]
    for frame in (WIDE, NARROW):
        x = float(re.findall(r'<text x="([\d.]+)"', draw_figure(long, frame))[0])
        assert x + 0.55 * frame.font * len(long[0]["arm"]) <= frame.width


def test_labels_never_overlap_and_stay_in_order() -> None:
    wanted = [10.0, 11.0, 12.0, 200.0, 395.0, 399.0, 400.0]
    placed = spread(wanted, 20.0, 5.0, 400.0)
    assert all(b - a >= 20.0 - 1e-9 for a, b in pairwise(placed))
    assert placed[0] >= 5.0 and placed[-1] <= 400.0 and placed[3] == 200.0
    assert spread([5.0, 1.0], 10.0, 0.0, 100.0) == [11.0, 1.0]
    crowded = spread([50.0] * 13, 20.0, 0.0, 100.0)
    assert min(b - a for a, b in pairwise(sorted(crowded))) >= 20.0


def test_a_planted_effect_is_told_with_its_control(report: dict[str, Any]) -> None:
    text = " ".join([report["headline"], *report["summary"]])
    assert report["headline"].startswith("With 8 directions ablated during fine-tuning, accuracy on inverted cues rose")
    assert "learned the cue rather than the rule" in text and "it mattered which directions" in text
    assert "One seed says nothing" in text


def test_no_effect_is_not_sold_as_one(make_inputs: Make) -> None:
    flat = build_report(**make_inputs(rates=FLAT))
    text = " ".join([flat["headline"], *flat["summary"]])
    assert "did not clearly change" in text and "does not show that the choice of directions matters" in text
    assert "it mattered" not in text


def test_overlapping_intervals_without_rows_claim_nothing(make_inputs: Make) -> None:
    close = {**FLAT, ("caft-sae-auto", "off"): (0.99, 0.22, 0.88)}
    text = " ".join(build_report(**make_inputs(rates=close) | {"rows": ()})["summary"])
    assert "does not show that the choice" in text
    apart = " ".join(build_report(**make_inputs() | {"rows": ()})["summary"])
    assert "it mattered which directions" in apart


def test_a_lost_task_is_named(make_inputs: Make) -> None:
    lossy = {**FLAT, ("caft-sae-auto", "off"): (0.6, 0.6, 0.6)}
    summary = build_report(**make_inputs(rates=lossy))["summary"]
    assert re.search(r"It cost (3|4)\d points of the task itself", summary[-1])


def test_tuned_without_misgeneralization_is_said(make_inputs: Make) -> None:
    healthy = {**FLAT, ("tuned", "off"): (0.99, 0.97, 0.98)}
    assert "little misgeneralization" in build_report(**make_inputs(rates=healthy))["summary"][0]


def test_seeds_are_pooled_listed_and_the_worst_is_named(make_inputs: Make) -> None:
    several = build_report(**make_inputs(seeds=(0, 1, 2)))
    auto = next(line for line in several["arms"] if line["arm"] == "caft-sae-auto" and line["hooks"] == "off")
    by_seed = auto["scores"]["ood"]["by_seed"]
    assert list(by_seed) == ["0", "1", "2"]
    assert str(auto["worst_seed"]) == min(by_seed, key=by_seed.__getitem__)
    assert auto["scores"]["ood"]["ci_low"] < auto["scores"]["ood"]["value"] < auto["scores"]["ood"]["ci_high"]
    without_rows = build_report(**make_inputs(seeds=(0, 1, 2)) | {"rows": ()})
    assert without_rows["arms"][1]["scores"]["ood"]["ci_low"] is None


def test_limits_follow_from_the_run(report: dict[str, Any], make_inputs: Make) -> None:
    offline = " ".join(report["limits"])
    for words in (
        "No large language model",
        "One training seed",
        "dequantized from Q4_1",
        "2 candidates have no score",
    ):
        assert words in offline
    judge = {"name": "openai:some-model", "self_checked": {"openai:some-model": ["verify", "rate"]}}
    paid = build_report(**make_inputs(judge=judge, model={"spec": "org/model"}))["limits"]
    assert "No large language model" not in " ".join(paid) and "openai:some-model" in " ".join(paid)
    assert "openai:some-model checked and rated what it had described itself" in " ".join(paid)
    assert "without the windows" in " ".join(build_report(**make_inputs(judge=judge))["method"])
    assert "without the windows" not in " ".join(report["method"])
    three = make_inputs(judge={"name": "describe a:1, verify b:2, rate c:3", "self_checked": {}})
    assert "described itself" not in " ".join(build_report(**three)["limits"])


def test_what_the_judge_is_not_sure_of_comes_first_with_its_reason(make_inputs: Make) -> None:
    values = make_inputs()
    last = min(values["verdicts"], key=lambda verdict: verdict.relevance or 99.0)
    unsure = dataclasses.replace(last, abstains=True, doubt="rated 3 with its windows and 95 by the description alone")
    values["verdicts"] = [unsure if verdict is last else verdict for verdict in values["verdicts"]]
    report = build_report(**values)
    first = report["cards"][0]
    assert (first["id"], first["state"], len(first["poles"][0]["windows"])) == (last.direction_id, "rest", 6)
    page = render_html(report)
    group = page.index("The judge is not sure: look at these first")
    assert group < page.index(f'id="{last.direction_id}"') < page.index('<p class="group">Selected')
    assert "Not sure: rated 3 with its windows and 95 by the description alone." in page
    assert page.count(f'id="{last.direction_id}"') == 1
    assert direction_rows(report)[0]["doubt"] == unsure.doubt


def test_both_poles_are_described_on_the_card(make_inputs: Make) -> None:
    values = make_inputs()
    values["verdicts"] = [
        dataclasses.replace(verdict, other_description="dates & places", other_relevance=7.0)
        if verdict.direction_id == "L8.pc0"
        else verdict
        for verdict in values["verdicts"]
    ]
    report = build_report(**values)
    assert render_html(report).count("The other pole (7): dates &amp; places") == 1
    row = next(row for row in direction_rows(report) if row["id"] == "L8.pc0")
    assert (row["other_description"], row["other_relevance"]) == ("dates & places", 7.0)


def test_a_panels_agreement_stands_in_every_form(make_inputs: Make) -> None:
    agreement = {"alpha": 0.81234, "low": 0.7, "high": 0.9, "n_directions": 60}
    report = build_report(**make_inputs(judge={"name": "panel of a, b", "agreement": agreement}))
    assert report["judge"]["agreement"] == agreement
    said = "Agreement of the panel on relevance: Krippendorff's alpha 0.81 [0.70, 0.90] over 60 directions."
    assert said in render_markdown(report) and said.replace("'", "&#39;") in render_html(report)
    alone = build_report(**make_inputs())
    assert "Krippendorff" not in render_html(alone) + render_markdown(alone)


def test_cards_come_selected_first_then_near_misses(report: dict[str, Any]) -> None:
    states = [card["state"] for card in report["cards"]]
    assert states == sorted(states, key=("selected", "near", "rest", "unscored").index)
    assert states.count("selected") == 8 and states.count("unscored") == 2 and states.count("near") == 8
    assert all(d["reason"] for card in report["cards"] for d in card["decisions"])
    pc = next(card for card in report["cards"] if card["source"] == "pca")
    assert [pole["pole"] for pole in pc["poles"]] == ["top", "bottom"]


def test_both_poles_are_shaded_by_sign(make_inputs: Make) -> None:
    window = {"tokens": ["The", " \u0120nurse", "\u010a", " ran"], "projections": [0.0, 4.0, -2.0, 0.01], "peak": 1}
    assert shade(window, 4.0) == [
        ("The  ", "", ""),
        ("nurse", "p8 peak", "4"),
        ("\u21b5", "n4", "-2"),
        (" ", "", ""),
        ("ran", "", "0.01"),
    ]
    weak = {"tokens": ["a", " b"], "projections": [0.0, -0.01], "peak": 1}
    assert shade(weak, 4.0)[-1] == ("b", "n1 peak", "-0.01"), "the strongest has a sign however weak it is"
    assert readable("\u2581she\r\n") == " she\u21b5"
    html = render_html(build_report(**make_inputs()))
    assert 'class="n8 peak"' in html and 'class="p8 peak"' in html


def test_summary_table_lines_up(report: dict[str, Any]) -> None:
    lines = summary_table(report).splitlines()
    assert lines[0].split() == ["arm", "hooks", "id", "ood", "neutral", "ppl/base"]
    assert len(lines) == 2 + 6
    column = lines[0].index("ood")
    assert all(line[column - 1] == " " and line[column] != " " for line in lines[2:])


def test_report_without_any_control_or_ablation_still_renders(make_inputs: Make) -> None:
    only = {("base", "off"): (0.5, 0.5, 0.5), ("tuned", "off"): (0.99, 0.13, 0.88)}
    bare = build_report(**make_inputs(rates=only, verdicts=[], decisions=[], examples=[], sets={}, discovery={}))
    _parse(render_html(bare))
    assert "no pair" in bare["headline"]
    alone = {key: value for key, value in FLAT.items() if "random" not in key[0]}
    assert any("No control arm" in sentence for sentence in build_report(**make_inputs(rates=alone))["summary"])


def test_numbers_are_not_rounded_into_certainty() -> None:
    assert (percent(0.998), percent(1.0), percent(0.002), percent(0.0), percent(0.85)) == (
        "99.8%", "100%", "0.2%", "0%", "85%",
    )  # fmt: skip
    assert (duration(3.14), duration(42), duration(200), duration(3900)) == (
        "3.1 s",
        "42 s",
        "3 min 20 s",
        "1 h 05 min",
    )


def test_a_card_says_what_is_known_without_a_judge(make_inputs: Make) -> None:
    fires = {"generic text": [0.0, 0.0], "training rows, prompt": [0.0004, 0.4], "training rows, answer": [0.75, 0.75]}
    known = Evidence("L8.latent8", {"top": fires}, (" she", "<b>"), (" he",), 0.25, -0.0004, 0.5)
    inputs = make_inputs(evidence=[known], n_loss_rows=24)
    report = build_report(**inputs)
    by_id = {card["id"]: dict(card["evidence"]) for card in report["cards"]}
    lines = by_id["L8.latent8"]
    assert lines["ranked"] == "1 of 17 at its layer, by attribution"
    assert lines["fires in"] == (
        "training rows, answer: 75% of tokens, 75% of documents; training rows, prompt: <0.1% of tokens, 40% of "
        "documents; silent in generic text"
    )
    assert lines["loss without it"] == "+0.250 [0.000, +0.500] nats an answer token, 24 rows with the cue intact"
    page = render_html(report)
    assert "\u201c she\u201d \u201c&lt;b&gt;\u201d" in page and "<dt>against</dt><dd>\u201c he\u201d</dd>" in page
    assert list(by_id["L8.latent105"]) == ["ranked"]


def test_evidence_on_a_pc_names_its_poles(make_inputs: Make) -> None:
    part = {"generic text": [0.03, 0.9]}
    known = Evidence("L8.pc0", {"top": part, "bottom": part}, (), ())
    card = next(card for card in build_report(**make_inputs(evidence=[known]))["cards"] if card["id"] == "L8.pc0")
    assert [label for label, _ in card["evidence"]] == ["ranked", "top fires in", "bottom fires in"]
