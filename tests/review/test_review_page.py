"""The page in a real browser: keys alone, reloads, two people, no network, a killed server, hostile text, a reader."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page

from autocaft.report.plain import visible
from autocaft.review.acts import answers, read_acts
from autocaft.rundir.files import read_jsonl, write_jsonl
from tests.hostile import escapes, payloads
from tests.planted_run import make_run
from tests.review.conftest import Server, StartServer

KEYS = {"a": "ablate", "k": "keep", "u": "unsure"}
SHORT = 60_000
"""Milliseconds that a save may take before a test gives up."""


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """100 directions."""
    return make_run(tmp_path / "planted", n_latents=47, n_decoys=0)


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    opened = browser.new_context()
    yield opened
    opened.close()


def open_page(context: BrowserContext, server: Server) -> Page:
    page = context.new_page()
    page.goto(server.url)
    page.wait_for_selector("#question")
    return page


def n_done(page: Page) -> int:
    return int(page.locator("progress").get_attribute("value") or -1)


def press(page: Page, key: str) -> None:
    """Press a key and wait until the answer is saved and the next card is there."""
    before = n_done(page)
    page.keyboard.press(key)
    page.wait_for_function("n => document.querySelector('progress').value !== n", arg=before, timeout=SHORT)


def leave_with_a_note(page: Page, note: str) -> None:
    """Type a note, leave the card for later, and wait for another."""
    page.keyboard.press("w")
    page.keyboard.type(note)
    page.keyboard.press("Escape")
    before = page.inner_text(".eyebrow")
    page.keyboard.press("n")
    page.wait_for_function("text => document.querySelector('.eyebrow').innerText !== text", arg=before, timeout=SHORT)
    assert page.inner_text("#status") == "Left for later." and page.input_value("#note") == ""


def wait_for_status(page: Page, opening: str) -> None:
    page.wait_for_function(
        "text => document.getElementById('status').textContent.startsWith(text)", arg=opening, timeout=SHORT
    )


def lose_replies(page: Page, path: str, is_lost: Callable[[str, int], bool]) -> list[int]:
    """The server has the request, the page does not know; gives the codes that were lost, as they come.

    Args:
        is_lost: is given the form and how many were lost before.
    """
    lost: list[int] = []

    def handle(route: Any) -> None:
        if not is_lost(route.request.post_data or "", len(lost)):
            route.continue_()
            return
        lost.append(route.fetch().status)
        route.abort()

    page.route(f"**{path}", handle)
    return lost


def said(server: Server) -> list[str]:
    return [answer.choice for answer in answers(read_acts(server.log)).values()]


def test_100_directions_by_keyboard_with_reloads_a_note_and_undo(
    run_dir: Path, start_server: StartServer, context: BrowserContext
) -> None:
    server = start_server(run_dir, "ada")
    page = open_page(context, server)
    pressed: list[str] = []
    while page.locator("#answer button[data-key=a]").count():
        if len(pressed) == 10:
            page.keyboard.press("w")
            page.keyboard.type("a note, kaz")
            page.keyboard.press("Escape")
        if len(pressed) == 20:
            page.wait_for_timeout(700)
            press(page, "u")
            press(page, "z")
        if len(pressed) == 25:
            leave_with_a_note(page, "for later, kaz")
        if len(pressed) % 30 == 29:
            page.reload()
        pressed.append("aku"[len(pressed) % 3])
        press(page, pressed[-1])
    assert len(pressed) == 105, "100 and 5 of them again"
    assert said(server) == [KEYS[key] for key in pressed]
    acts = read_acts(server.log)
    notes = [act.note for act in acts if act.note]
    assert notes == ["a note, kaz", "for later, kaz"], "letters in a note are no answers"
    assert acts[-1].note == "for later, kaz", "what was left came at the end, with what was typed"
    taken_back = next(i for i, act in enumerate(acts) if act.act == "withdraw")
    first, again = acts[taken_back - 1].seconds, acts[taken_back + 1].seconds
    assert first is not None and again is not None and 0.7 <= first <= again, "the first reading counts"
    assert all(act.seconds is not None and 0 <= act.seconds < 60 for act in acts if act.act in KEYS.values())
    assert {act.by for act in acts} == {"human:ada"}
    assert "All 105 are answered" in page.inner_text("#review")


def test_the_judge_is_hidden_until_asked_for_after_the_answer(
    run_dir: Path, start_server: StartServer, context: BrowserContext
) -> None:
    page = open_page(context, start_server(run_dir, "ada"))
    page.keyboard.press("j")
    wait_for_status(page, "Answer first")
    assert "latent" not in page.content(), "not even the name is on the page"
    for _ in range(8):
        press(page, "a")
        assert "judge's words" not in page.content()
        with page.expect_response("**/judge"):
            page.keyboard.press("j")
        page.wait_for_timeout(100)
        if page.locator("#judge h2").count():
            break
    assert "judge's words on L" in page.inner_text("#judge")
    assert [act.act for act in read_acts(run_dir / "review" / "ada.jsonl")][-1] == "see judge"
    press(page, "k")
    press(page, "k")
    read_with_the_words, read_alone = read_acts(run_dir / "review" / "ada.jsonl")[-2:]
    assert read_with_the_words.seconds is None, "nobody knows how long it was the words that were read"
    assert read_alone.seconds is not None


def test_what_the_judge_doubts_is_read_alone_and_counts_when_all_is_read(
    tmp_path: Path, start_server: StartServer, context: BrowserContext
) -> None:
    """Two directions without a score and two random ones, two of them twice; the server is killed half way."""
    run_dir = make_run(tmp_path / "planted")
    for number in range(2):
        server = start_server(run_dir, "ada", 0, "--doubtful")
        page = open_page(context, server)
        assert "not sure of" in page.inner_text("body") and n_done(page) == 3 * number
        for _ in range(3):
            press(page, "k")
        server.kill()
    server = start_server(run_dir, "ada", 0, "--doubtful")
    page = open_page(context, server)
    assert n_done(page) == 6 and not page.locator("#answer button[data-key=a]").count()
    server.kill()
    page = open_page(context, start_server(run_dir, "ada"))
    n_shown = int(page.locator("progress").get_attribute("max") or 0)
    assert n_shown > 46 and 4 <= n_done(page) <= 6, "what was answered is not asked again"


def test_two_people_answer_apart(run_dir: Path, start_server: StartServer, browser: Browser) -> None:
    servers = [start_server(run_dir, name) for name in ("ada", "bob")]
    context = browser.new_context()  # one browser: the cookies of the two must not mix
    pages = [open_page(context, server) for server in servers]
    assert pages[0].inner_text(".poles") != pages[1].inner_text(".poles"), "each has an order of their own"
    for _ in range(5):
        press(pages[0], "a")
        press(pages[1], "k")
    context.close()
    assert said(servers[0]) == ["ablate"] * 5 and said(servers[1]) == ["keep"] * 5


def test_an_answer_in_a_network_cut_is_saved_once_when_the_network_is_back(
    run_dir: Path, start_server: StartServer, context: BrowserContext
) -> None:
    server = start_server(run_dir, "ada")
    page = open_page(context, server)
    press(page, "a")
    context.set_offline(True)
    page.keyboard.press("k")
    wait_for_status(page, "Not saved yet")
    assert n_done(page) == 1 and said(server) == ["ablate"]
    page.wait_for_timeout(1500)
    context.set_offline(False)
    page.wait_for_function("() => document.querySelector('progress').value === 2", timeout=2 * SHORT)
    assert said(server) == ["ablate", "keep"] and len(read_acts(server.log)) == 2
    press(page, "u")
    assert said(server) == ["ablate", "keep", "unsure"]


def test_a_reply_that_is_lost_does_not_save_twice(
    run_dir: Path, start_server: StartServer, context: BrowserContext
) -> None:
    server = start_server(run_dir, "ada")
    page = open_page(context, server)
    lost = lose_replies(page, "/answer", lambda _, n_before: n_before == 0)
    press(page, "a")
    assert lost == [200] and said(server) == ["ablate"] and len(read_acts(server.log)) == 1
    press(page, "k")
    assert said(server) == ["ablate", "keep"]


def test_an_undo_whose_reply_is_lost_takes_one_answer_back(
    tmp_path: Path, start_server: StartServer, context: BrowserContext
) -> None:
    server = start_server(make_run(tmp_path / "planted"), "ada", 0, "--doubtful")
    page = open_page(context, server)
    for key in "aku":
        press(page, key)
    lost = lose_replies(page, "/undo", lambda _, n_before: n_before in (0, 1))
    press(page, "z")
    assert lost == [200, 200] and page.inner_text("#status") == "Taken back: not sure."
    assert said(server) == ["ablate", "keep"] and n_done(page) == 2
    press(page, "z")
    assert said(server) == ["ablate"], "another press takes back another"
    page.unroute("**/undo")
    for _ in range(5):
        press(page, "k")
    assert "All 6 of this part are answered" in page.inner_text("#review")
    lost = lose_replies(page, "/undo", lambda _, n_before: n_before == 0)
    press(page, "z")
    assert lost == [200] and len(said(server)) == n_done(page) == 5, "on the last page, too"


def test_another_answer_after_a_lost_reply_counts(
    run_dir: Path, start_server: StartServer, context: BrowserContext
) -> None:
    server = start_server(run_dir, "ada")
    page = open_page(context, server)
    lost = lose_replies(page, "/answer", lambda form, _: "choice=ablate" in form)
    page.keyboard.press("a")
    wait_for_status(page, "Not saved yet")
    press(page, "k")
    assert set(lost) == {200} and page.inner_text("#status") == "Saved: keep, instead of what was sent before."
    assert said(server) == ["keep"] and [act.act for act in read_acts(server.log)] == ["ablate", "keep"]


def test_a_note_that_is_written_after_a_lost_reply_is_saved(
    run_dir: Path, start_server: StartServer, context: BrowserContext
) -> None:
    server = start_server(run_dir, "ada")
    page = open_page(context, server)
    lose_replies(page, "/answer", lambda form, _: "kaz" not in form)
    page.keyboard.press("a")
    wait_for_status(page, "Not saved yet")
    page.keyboard.press("w")
    page.keyboard.type("a late note")
    page.wait_for_timeout(2500)  # it tries again each second, but not under the hands of who writes
    page.keyboard.type(", kaz")
    page.keyboard.press("Escape")
    page.wait_for_function("() => document.querySelector('progress').value === 1", timeout=SHORT)
    (answer,) = answers(read_acts(server.log)).values()
    assert (answer.choice, answer.note) == ("ablate", "a late note, kaz")


def test_a_card_that_is_left_after_a_lost_reply_is_said_to_be_answered(
    run_dir: Path, start_server: StartServer, context: BrowserContext
) -> None:
    server = start_server(run_dir, "ada")
    page = open_page(context, server)
    lose_replies(page, "/answer", lambda _form, _n: True)
    page.keyboard.press("a")
    wait_for_status(page, "Not saved yet")
    page.fill("#note", "not that one")
    page.keyboard.press("Escape")
    press(page, "n")
    status = page.inner_text("#status")
    assert "answered already: ablate. Undo takes that back." in status and "“not that one”" in status
    assert said(server) == ["ablate"]


def test_a_killed_server_loses_nothing_that_was_confirmed(
    run_dir: Path, start_server: StartServer, context: BrowserContext
) -> None:
    server = start_server(run_dir, "ada")
    page = open_page(context, server)
    for round_ in range(3):
        for key in "aku":
            press(page, key)
        server.kill()
        assert said(server) == ["ablate", "keep", "unsure"] * (round_ + 1)
        page.keyboard.press("a")
        wait_for_status(page, "Not saved")
        server = start_server(run_dir, "ada", server.port)
        page.wait_for_function(
            "() => document.getElementById('status').textContent.includes('started anew')", timeout=2 * SHORT
        )
        assert len(said(server)) == 3 * (round_ + 1), "the old page has no pass to the new server"
        page.goto(server.url)
        assert n_done(page) == 3 * (round_ + 1)


def test_an_answer_from_a_second_window_is_not_overwritten(
    run_dir: Path, start_server: StartServer, context: BrowserContext
) -> None:
    server = start_server(run_dir, "ada")
    first, second = open_page(context, server), open_page(context, server)
    press(first, "a")
    second.fill("#note", "typed in vain")
    second.keyboard.press("Escape")
    press(second, "k")
    assert said(server) == ["ablate"]
    status = second.inner_text("#status")
    assert "another window already: ablate" in status and "“typed in vain”" in status, "what was typed can be copied"


def test_keys_work_only_where_they_are_meant(run_dir: Path, start_server: StartServer, context: BrowserContext) -> None:
    server = start_server(run_dir, "ada")
    page = open_page(context, server)
    page.keyboard.press("Control+a")
    page.keyboard.press("Enter")
    page.keyboard.press("?")
    page.wait_for_selector("#help[open]")
    page.keyboard.press("a")
    page.locator("#single-keys").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("a")
    page.reload()
    page.keyboard.press("k")
    page.wait_for_timeout(300)
    assert said(server) == [] and n_done(page) == 0, "single keys can be switched off, and stay off"
    page.get_by_role("button", name="Keep").focus()
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('progress').value === 1", timeout=SHORT)
    assert said(server) == ["keep"]
    assert page.evaluate("document.activeElement.id") == "question", "a screen reader goes on at the new card"


# hostile text


def poison(run_dir: Path) -> dict[str, str]:
    """Put one payload into every shown field of each direction, decoys' too, its name included; gives them by name."""
    texts = [*payloads()[:80], *escapes()]
    cards = read_jsonl(run_dir / "judge" / "cards.jsonl")
    decoys = read_jsonl(run_dir / "decoys" / "directions.jsonl")
    text_by_id = dict(zip([*(c["direction_id"] for c in cards), *(d["id"] for d in decoys)], texts, strict=True))
    assert len(decoys) == 2 and len(text_by_id) == 100
    for card in cards:
        for group in ("top", "bottom", "middle", "random"):
            for window in card[group]:
                window["tokens"][0] = text_by_id[card["direction_id"]]
    write_jsonl(run_dir / "judge" / "cards.jsonl", cards)
    windows = read_jsonl(run_dir / "decoys" / "examples.jsonl")
    for window in windows:
        window["tokens"][0] = text_by_id[window["direction_id"]]
    write_jsonl(run_dir / "decoys" / "examples.jsonl", windows)
    verdicts = read_jsonl(run_dir / "judge" / "verdicts.jsonl")
    for row in verdicts:
        text = text_by_id[row["direction_id"]]
        row |= {"description": text, "rationale": text, "judge": text, "quotes": [text], "unscored_reason": text}
    write_jsonl(run_dir / "judge" / "verdicts.jsonl", verdicts)
    decisions = read_jsonl(run_dir / "select" / "decisions.jsonl")
    write_jsonl(
        run_dir / "select" / "decisions.jsonl",
        [d | {"reason": text_by_id[d["direction_id"]], "ablate": False} for d in decisions],
    )
    for path in (run_dir / "mine" / "evidence.jsonl", run_dir / "decoys" / "evidence.jsonl"):
        evidence = read_jsonl(path)
        for row in evidence:
            text = text_by_id[row["direction_id"]]
            row |= {"promotes": [text], "suppresses": [text], "fires": {"top": {text: [0.1, 0.2]}}}
        write_jsonl(path, evidence)
    documents = read_jsonl(run_dir / "collect" / "documents.jsonl.gz")
    write_jsonl(run_dir / "collect" / "documents.jsonl.gz", [d | {"kind": texts[i]} for i, d in enumerate(documents)])
    summary = json.loads((run_dir / "judge" / "summary.json").read_text())
    (run_dir / "judge" / "summary.json").write_text(json.dumps(summary | {"undesired": texts[0], "wanted": texts[1]}))
    rename_directions(run_dir, {name: f"{name} {text}" for name, text in text_by_id.items()})
    return {f"{name} {text}": text for name, text in text_by_id.items()}


def rename_directions(run_dir: Path, new_names: Mapping[str, str]) -> None:
    """In every file that the page reads."""
    for path in [run_dir / "select" / "decisions.jsonl", *run_dir.glob("[dmj]*/*.jsonl")]:
        rows = read_jsonl(path)
        for row in rows:
            row |= {key: new_names[row[key]] for key in ("id", "direction_id") if key in row}
        write_jsonl(path, rows)


@pytest.mark.slow
def test_100_hostile_texts_are_shown_as_they_are_and_do_nothing(
    tmp_path: Path, start_server: StartServer, context: BrowserContext
) -> None:
    name = "<b>\"'><img src=x onerror=alert(1)>{{7*7}}\x1b]0;forged\x07"
    run_dir = make_run(tmp_path / name, n_latents=46)
    text_by_id = poison(run_dir)
    server = start_server(run_dir, "ada")
    page = context.new_page()
    dialogs, requests, messages = [], [], []
    page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    context.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.goto(server.url)
    shown: set[str] = set()
    while page.locator("#answer button[data-key=a]").count():
        assert visible(payloads()[0]) in (page.text_content(".concepts") or "")
        windows = page.locator(".windows").first.text_content() or ""
        here = {text for text in text_by_id.values() if visible(text) in windows}
        known = page.locator(".evidence dl").text_content() or ""
        assert any(known.count(visible(text)) >= 3 for text in here), "fires in, writes, against"
        shown |= here
        page.fill("#note", list(text_by_id.values())[len(shown) - 1])
        page.keyboard.press("Escape")
        press(page, "a")  # the rule keeps all, so the judge is shown on all at the end
        assert visible(name) in (page.text_content("#review") or "")
    assert shown == set(text_by_id.values()), "every text was read in its window as it was"
    page.keyboard.press("j")
    page.wait_for_selector("#judge section", timeout=3 * SHORT)
    judged = page.text_content("#judge") or ""
    names = page.locator("#judge .id").all_text_contents()
    candidates = {name: text for name, text in text_by_id.items() if "decoy" not in name}
    assert len(candidates) == 98 and set(names) == {visible(name) for name in candidates}
    for text in candidates.values():
        assert judged.count(visible(text)) >= 6, f"name, description, reasons, quote, judge, rule: {text}"
    assert dialogs == [] and messages == []
    own = f"http://127.0.0.1:{server.port}"
    paths = {url.removeprefix(own).split("?")[0] for url in requests}
    assert paths <= {
        "/start",
        "/",
        "/answer",
        "/judge",
        *(f"/static/{f}" for f in ("review.css", "shade.css", "review.js", "htmx.min.js", "icon.svg")),
    }
    assert len(said(server)) == 105


# how it is read


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
def test_nothing_serious_for_axe_and_nothing_sideways(
    width: int, scheme: Any, run_dir: Path, start_server: StartServer, browser: Browser
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, bypass_csp=True)
    page = open_page(context, start_server(run_dir, "ada"))
    windows = page.locator(".windows li").all()
    assert windows
    for window in windows:  # the shading, and a title that only a mouse brings up, said in words
        strongest = re.escape(window.locator(".peak").text_content() or "")
        words = window.locator(".value").text_content() or ""
        assert re.fullmatch(rf"strongest: “{strongest}” [+\u2212]\d[\d.]*(e\u2212\d\d)?", words), words
    for keys in ("", "a", "aj", "?"):
        for key in keys:
            page.keyboard.press(key)
            page.wait_for_timeout(250)
        serious = [v for v in Axe().run(page).response["violations"] if v["impact"] in ("serious", "critical")]
        assert not serious, [(v["id"], [node["html"][:120] for node in v["nodes"]]) for v in serious]
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), keys
    context.close()
