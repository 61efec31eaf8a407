"""The report in a real browser: directions are found, phone and paper have it all, and nobody's text does anything."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page

from autocaft.compare.compare import compare_run
from autocaft.compare.hybrid import SimulatedReviewer
from autocaft.records import Evidence, Record
from autocaft.report.arms import RowScore
from autocaft.report.build import build_report
from autocaft.report.calibration import calibration_card
from autocaft.report.html import render_html
from autocaft.report.markdown import render_markdown
from autocaft.report.plain import visible
from autocaft.review.acts import ActLog, log_path
from autocaft.review.deck import load_deck
from autocaft.review.session import Review, Said
from tests.hostile import payloads
from tests.planted_run import add_outcome, add_person, concept_ids, make_run, selected_ids
from tests.report.conftest import WORDS
from tests.report.test_behind import CAUSES, MOVED, probes
from tests.report.test_calibration import MINE
from tests.report.test_export import READER
from tests.report.test_search_table import search_of

Make = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def report(make_inputs: Make, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Three seeds, hooks on and off, and a person's decisions."""
    run_dir = make_run(tmp_path_factory.mktemp("run") / "planted")
    add_person(run_dir, "ada", concept_ids())
    for name, chosen in (("bob", concept_ids()), ("cy", selected_ids())):
        deck = load_deck(run_dir)
        with ActLog(log_path(run_dir, name)) as log:
            said = [Said(i, "ablate" if i in chosen else "keep", f"{name} says so") for i in deck.cards]
            Review(deck, log, name).take_in(said)
    sweeps = {f"caft-sae-{s}{end}": 0.5 for s in ("auto", "human") for end in ("", "@25%", "@50%", "@75%")}
    add_outcome(run_dir, {"tuned": 0.1, **sweeps, "caft-pca-auto": 0.5, "caft-pca-human": 0.7})
    found = compare_run(run_dir, SimulatedReviewer())
    behind = {"probes": probes(), "moved": [MOVED], "causes": CAUSES}
    return build_report(**make_inputs(seeds=(0, 1, 2), comparison=found, behind=behind))


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    opened = browser.new_context(viewport={"width": 1280, "height": 900})
    yield opened
    opened.close()


@pytest.fixture
def path(report: dict[str, Any], tmp_path: Path) -> Path:
    file = tmp_path / "report.html"
    file.write_text(render_html(report))
    return file


def shown(page: Page) -> list[str]:
    """Ids of the visible cards, from top to bottom."""
    return list(page.eval_on_selector_all(".card", "cards => cards.filter(c => !c.hidden).map(c => c.id)"))


def test_directions_are_filtered_sorted_and_found(report: dict[str, Any], path: Path, context: BrowserContext) -> None:
    page = context.new_page()
    page.goto(path.as_uri())
    cards = report["cards"]
    assert shown(page) == [card["id"] for card in cards]
    page.select_option("#by-state", "selected")
    assert shown(page) == [card["id"] for card in cards if card["state"] == "selected"]
    page.select_option("#by-state", "unscored")
    page.select_option("#by-layer", "8")
    assert shown(page) == [card["id"] for card in cards if card["state"] == "unscored" and card["layer"] == 8]
    page.select_option("#by-state", "")
    page.select_option("#by-layer", "")
    page.select_option("#by-source", "pca")
    page.select_option("#sort", "strength")
    pcs = sorted((card for card in cards if card["source"] == "pca"), key=lambda card: -card["strength"])
    assert shown(page) == [card["id"] for card in pcs]
    page.select_option("#by-source", "")
    page.select_option("#sort", "detection")
    detections = [card["verdict"]["detection"] for i in shown(page) for card in cards if card["id"] == i]
    known = [value for value in detections if value is not None]
    assert known == sorted(known, reverse=True) and detections[: len(known)] == known, "the unscored come last"
    page.fill("#find", "UNITS recipes")
    described = [card["id"] for card in cards if "units in recipes" in card["verdict"]["description"]]
    assert set(described) <= set(shown(page)) and len(shown(page)) < len(cards)
    page.fill("#find", "bakery")
    assert shown(page) and "of 40 directions" in page.inner_text("#count"), "tokens are searched too"
    page.fill("#find", "no such word")
    assert shown(page) == [] and page.is_visible("#nothing")
    page.click("#reset")
    assert shown(page) == [card["id"] for card in cards]


def test_a_link_opens_its_direction_or_arm_whatever_is_filtered(
    report: dict[str, Any], path: Path, context: BrowserContext
) -> None:
    page = context.new_page()
    folded = next(card["id"] for card in report["cards"] if card["state"] == "rest")
    page.goto(f"{path.as_uri()}#{folded}")
    card = page.locator(f'[id="{folded}"]')
    assert card.get_attribute("open") is not None and card.locator("li").first.is_visible()
    assert 0 <= (card.bounding_box() or {"y": -1})["y"] < 450
    page.fill("#find", "no such word")
    other = report["cards"][0]["id"]
    page.evaluate("hash => { location.hash = hash; }", other)
    page.wait_for_function("id => !document.getElementById(id).hidden", arg=other)
    page.evaluate("location.hash = 'arm-caft-sae-auto'")
    page.wait_for_selector("#arm-caft-sae-auto tr.seed", state="visible")
    page.evaluate("location.hash = '%E0%A4%A'")  # no valid text: nothing happens
    assert page.locator(".card").count() == 40


def test_seeds_unfold_by_keyboard(path: Path, context: BrowserContext) -> None:
    page = context.new_page()
    page.goto(path.as_uri())
    seeds, button = page.locator("#arm-tuned tr.seed"), page.locator("#arm-tuned button")
    assert seeds.count() == 3 and not seeds.first.is_visible()
    button.focus()
    page.keyboard.press("Enter")
    assert seeds.last.is_visible() and button.get_attribute("aria-expanded") == "true"
    page.keyboard.press("Enter")
    assert not seeds.first.is_visible()
    summary = page.locator("details.card summary").first
    summary.focus()
    page.keyboard.press("Enter")
    assert page.locator("details.card[open]").count() == 1


def test_without_script_and_on_paper_nothing_is_hidden(path: Path, browser: Browser) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    assert all(row.is_visible() for row in page.locator("tr.seed").all())
    assert all(card.is_visible() for card in page.locator(".card").all()) and not page.is_visible("#filters")
    page.emulate_media(media="print")
    assert page.locator(".fold dd").first.is_visible(), "what is folded prints open"
    context.close()
    context = browser.new_context()
    page = context.new_page()
    page.goto(path.as_uri())
    folds = page.locator("details.fold").count()
    assert folds > 3 and page.locator("details.fold[open]").count() == 0 and not page.is_visible(".on-paper")
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert all(row.is_visible() for row in page.locator("tr.seed").all())
    assert page.locator("details.fold[open]").count() == folds and page.locator("details.card[open]").count() == 0
    n_folded = page.locator("details.card").count()
    assert page.inner_text(".on-paper").startswith(f"{n_folded} directions in one line each")
    assert not page.is_visible("#filters") and not page.is_visible("nav")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details.fold[open]").count() == 0
    context.close()


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_nothing_serious_for_axe_and_nothing_sideways(width: int, scheme: Any, path: Path, browser: Browser) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.goto(path.as_uri())
    page.eval_on_selector_all("details", "all => { for (const one of all) one.open = true; }")
    page.eval_on_selector_all("tbody.folded button", "all => { for (const one of all) one.click(); }")
    # axe stacks the boxes of the whole page, those far below too, which are laid out when they are near
    page.add_style_tag(content=".card { content-visibility: visible }")
    serious = [v for v in Axe().run(page).response["violations"] if v["impact"] in ("serious", "critical")]
    assert not serious, [(v["id"], v["nodes"][0]["html"][:160], v["nodes"][0]["failureSummary"]) for v in serious]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    context.close()


@pytest.mark.parametrize("n", [200, 2000])
def test_many_directions_stay_small_and_searchable(
    n: int, report: dict[str, Any], tmp_path: Path, context: BrowserContext
) -> None:
    cards = [{**report["cards"][i % 40], "id": f"L9.latent{i}"} for i in range(n)]
    html = render_html({**report, "cards": sorted(cards, key=lambda card: card["state"] != "selected")})
    assert len(html.encode()) < 15e6
    file = tmp_path / "many.html"
    file.write_text(html)
    page = context.new_page()
    page.goto(file.as_uri())
    assert page.locator(".card").count() == min(n, 1000)
    page.fill("#find", "latent199")
    assert "L9.latent199" in shown(page)


# hostile text


def poisoned(value: Any, texts: Iterator[str], key: str = "") -> Any:
    """The value with the next payload in every string, names of raters too, but for words the template decides by."""
    if isinstance(value, dict):
        return {k: poisoned(v, texts, k) for k, v in value.items()}
    if isinstance(value, list):
        return [poisoned(item, texts, key) for item in value]
    return next(texts) if isinstance(value, str) and key not in ("state", "hooks") else value


def cycle() -> Iterator[str]:
    while True:
        yield from payloads()


@pytest.mark.slow
def test_100_hostile_texts_in_every_field_are_shown_as_they_are_and_do_nothing(
    make_inputs: Make, report: dict[str, Any], tmp_path: Path, context: BrowserContext
) -> None:
    texts = payloads()
    hostile = poisoned(report, cycle())
    hostile["cards"] = [
        {**poisoned(card, iter([text] * 1000)), "id": f"{text}{n}"}
        for n, text in enumerate(texts)
        for card in report["cards"][n % 40 : n % 40 + 1]
    ]
    for part in ("versions", "timing"):
        hostile[part] = dict(zip(texts, list(hostile[part].values()) * 20, strict=False))
    hostile["data"]["splits"] = {text: {"n": 1, "sha256": texts[20], "path": texts[21]} for text in texts[:20]}
    hostile["directions"]["unscored_by_reason"] = dict.fromkeys(texts, 1)
    for line, text in zip(hostile["arms"], texts, strict=False):
        line["scores"][text] = line["scores"]["neutral"]
    file = tmp_path / "<b>hostile&.html"
    file.write_text(render_html(hostile))
    page, happened, requests = _watched(context)
    page.goto(file.as_uri())
    assert page.locator("script").count() == 1 and page.locator(FOREIGN).count() == 0
    for text in texts:
        card = page.locator(f"[id={_quoted(visible(text) + str(texts.index(text)))}]")
        said = card.text_content() or ""
        assert said.count(visible(text)) >= 3, f"description, decision and tokens: {text}"
        page.evaluate("id => { location.hash = encodeURIComponent(id); }", visible(text) + str(texts.index(text)))
    page.eval_on_selector_all("details", "all => { for (const one of all) one.open = true; }")
    for text in texts[::10]:
        page.fill("#find", visible(text))
        assert shown(page), text
    page.fill("#find", "")
    whole = page.text_content("main") or ""
    assert all(whole.count(visible(text)) >= 5 for text in texts)
    page.wait_for_timeout(300)
    assert happened == [], "a content policy that had to step in would have said so here"
    assert {url.partition("#")[0] for url in requests} == {file.as_uri()}


FOREIGN = "body iframe, body img, body form, base"
DECISIVE = {"arm", "hooks", "measured_by", "metric", "place", "pole", "pole_relation", "position", "source", "split"}
"""Fields of what a report is made from that hold one of our own words; all other text may be anybody's."""
FREE_KEYS = {"n_unscored_by_reason", "splits", "timing", "versions"}


class Spoiler:
    """Puts a hostile text of its own in the place of each text that a report is made from, the same wherever it
    stands: what belongs together still does."""

    def __init__(self) -> None:
        self.texts, self.payload_by_text = cycle(), dict[str, str]()

    def text(self, text: str) -> str:
        if text and text not in self.payload_by_text:
            self.payload_by_text[text] = f"{next(self.texts)}{len(self.payload_by_text)}"
        return self.payload_by_text.get(text, "")

    def spoiled(self, value: Any, key: str = "") -> Any:
        if isinstance(value, str) and key == "by":
            kind, _, name = value.partition(":")
            return f"{kind}:{self.text(name)}"
        if isinstance(value, str):
            return value if key in DECISIVE else self.text(value)
        if isinstance(value, RowScore):
            return value._replace(row_id=self.text(value.row_id), cluster=self.text(value.cluster))
        if isinstance(value, Record):
            fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
            return dataclasses.replace(value, **{name: self.spoiled(own, name) for name, own in fields.items()})
        if isinstance(value, dict):
            return {self.text(k) if key in FREE_KEYS else k: self.spoiled(v, k) for k, v in value.items()}
        return type(value)(self.spoiled(item, key) for item in value) if isinstance(value, list | tuple) else value


@pytest.mark.slow
def test_hostile_texts_in_all_that_a_report_is_made_from_stay_texts_in_every_form(
    make_inputs: Make, report: dict[str, Any], tmp_path: Path, context: BrowserContext
) -> None:
    values = make_inputs(
        seeds=(0, 1, 2),
        comparison=report["comparison"],
        behind={"probes": probes(), "moved": [MOVED], "causes": CAUSES},
        searches=[search_of(None)],
        calibration=calibration_card(MINE, threshold=60.0, commands=["autocaft calibrate"]),
        evidence=[Evidence("L8.latent8", {"top": {}}, (" she",), (" he",), 0.25, 0.1, 0.5)],
    )
    spoiler = Spoiler()
    hostile = build_report(**{key: spoiler.spoiled(values[key], key) for key in values} | {"config": values["config"]})
    file = tmp_path / "report.html"
    file.write_text(render_html(hostile))
    page, happened, requests = _watched(context)
    page.goto(file.as_uri())
    assert page.locator("script").count() == 1 and page.locator(FOREIGN).count() == 0
    page.eval_on_selector_all("details", "all => { for (const one of all) one.open = true; }")
    whole = page.text_content("main") or ""
    cards = [spoiler.payload_by_text[direction.id] for direction in values["directions"]]
    assert shown(page) and set(shown(page)) == set(map(visible, cards)), "windows and verdicts found their directions"
    assert all(visible(text) in whole for text in payloads())
    assert all(visible(spoiler.payload_by_text[description]) in whole for description in WORDS)
    page.wait_for_timeout(300)
    assert happened == [] and requests == [file.as_uri()]
    tokens = [t for token in READER.parse(render_markdown(hostile)) for t in (token, *(token.children or ()))]
    tags = {t.content for t in tokens if t.type in ("html_block", "html_inline")}
    assert {tag.strip() for tag in tags} <= {"<details><summary>config.toml</summary>", "</details>"}
    assert not {t.type for t in tokens} & {"link_open", "image"}


def _watched(context: BrowserContext) -> tuple[Page, list[str], list[str]]:
    """A page, what it says, asks or breaks, and what it requests."""
    page, happened, requests = context.new_page(), list[str](), list[str]()
    page.on("dialog", lambda dialog: (happened.append(dialog.message), dialog.dismiss()))
    page.on("console", lambda message: happened.append(message.text))
    page.on("pageerror", lambda error: happened.append(str(error)))
    context.on("request", lambda request: requests.append(request.url))
    return page, happened, requests


def _quoted(text: str) -> str:
    """A CSS string."""
    return '"' + "".join(f"\\{ord(char):x} " if not char.isalnum() else char for char in text) + '"'
