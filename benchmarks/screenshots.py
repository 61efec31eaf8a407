"""Pictures of the report and of the review page of a run, to look at: desk, phone, night and paper.

In: a finished run folder. Out: PNG files and the printed report (PDF) in screenshots/ (not committed), and how long the
report takes until its document is ready, at the run's size, at 200 and at 2,000 directions. The run folder stays as it
is: the review page is opened on a copy without models.

    python benchmarks/screenshots.py runs/quickstart
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from autocaft.report.html import render_html

SECTIONS = (
    "top", "arms", "pareto", "differences", "matched", "directions", "cards", "free-form", "pareto-free-form", "behind",
    "causes", "comparison", "ceiling", "method", "limits", "cost", "reproduce",
)  # fmt: skip
"""Places of the page; those that this run's report does not have are left out."""
LOOKS: dict[str, dict[str, Any]] = {
    "desk": {"viewport": {"width": 1280, "height": 1000}},
    "phone": {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2},
    "night": {"viewport": {"width": 1280, "height": 1000}, "color_scheme": "dark"},
    "paper": {"viewport": {"width": 760, "height": 1075}},
}
READY = "performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"
WITHOUT_MODELS = shutil.ignore_patterns("train", "tune", "*.safetensors", "review", ".lock")


def picture_report(browser: Browser, page_path: Path, out: Path) -> None:
    """Each part of the report in each look."""
    for look, options in LOOKS.items():
        context = browser.new_context(**options)
        page = context.new_page()
        page.goto(page_path.as_uri())
        if look == "paper":
            page.emulate_media(media="print")
        for number, section in enumerate(SECTIONS):
            place = page.locator("body" if section == "top" else f"#{section}")
            if place.count():
                place.evaluate("element => element.scrollIntoView()")
                page.wait_for_timeout(150)
                page.screenshot(path=out / f"report-{look}-{number:02}-{section}.png")
        if look == "paper":
            page.pdf(path=out / "report.pdf", format="A4")
        context.close()


def picture_review(browser: Browser, url: str, out: Path) -> None:
    """A card, the judge's words after an answer, and help, in each look."""
    for look, options in LOOKS.items():
        context = browser.new_context(**options)
        page = context.new_page()
        page.goto(url)
        page.wait_for_selector("#question")
        if look == "paper":
            page.emulate_media(media="print")
        page.screenshot(path=out / f"review-{look}-0-card.png")
        for number, (key, name) in enumerate((("a", "answered"), ("j", "judge"), ("?", "help")), start=1):
            page.keyboard.press(key)
            page.wait_for_timeout(400)
            page.screenshot(path=out / f"review-{look}-{number}-{name}.png")
        context.close()


def ready_ms(browser: Browser, html: str, folder: Path) -> float:
    """Milliseconds until the document is ready: the median of five openings."""
    path = folder / "report.html"
    path.write_text(html, encoding="utf-8")
    times = sorted(_open(browser.new_page(), path) for _ in range(5))
    return times[2]


def _open(page: Page, path: Path) -> float:
    page.goto(path.as_uri())
    ready = float(page.evaluate(READY))
    page.close()
    return ready


def resized(report: Mapping[str, Any], n: int) -> dict[str, Any]:
    """The report with `n` directions: its first ones, or copies of them under other names."""
    cards = report["cards"]
    return {**report, "cards": [{**cards[i % len(cards)], "id": f"L0.latent{i}"} for i in range(n)]}


@contextmanager
def review_server(run_dir: Path, folder: Path) -> Iterator[str]:
    """The address of a review of a copy of the run."""
    copy = folder / run_dir.name
    shutil.copytree(run_dir, copy, ignore=WITHOUT_MODELS)
    command = [sys.executable, "-c", "from autocaft.cli import main; main()", "review", str(copy), "--name", "ada"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(timeout=20)
        process.stdout.close()


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Pictures of a run's report and review page.")
    parser.add_argument("run_dir", type=Path, help="a finished run folder, as runs/quickstart")
    parser.add_argument("--out", type=Path, default=Path("screenshots"))
    options = parser.parse_args(arguments)
    path = options.run_dir / "report.json"
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not path.is_file() or chromium is None:
        sys.stderr.write("no Chromium on this machine\n" if path.is_file() else f"{path} is not there: run it first\n")
        return 1
    report = json.loads(path.read_text(encoding="utf-8"))
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        folder = Path(temporary)
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for name, found in {"this run": report, "200": resized(report, 200), "2,000": resized(report, 2000)}.items():
            html = render_html(found)
            sys.stdout.write(
                f"{name}: {len(found['cards']):,} directions, {len(html.encode()) / 1e6:.2f} MB, "
                f"ready after {ready_ms(browser, html, folder):.0f} ms\n"
            )
        page_path = folder / "report.html"
        page_path.write_text(render_html(report), encoding="utf-8")
        picture_report(browser, page_path, options.out)
        with review_server(options.run_dir, folder) as url:
            picture_review(browser, url, options.out)
        browser.close()
    sys.stdout.write(f"{len(list(options.out.glob('*.png')))} pictures in {options.out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
