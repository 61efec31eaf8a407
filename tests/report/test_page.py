"""The report in a real browser: it fits a phone and a desk, and asks the network for nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autocaft.report.build import build_report
from autocaft.report.html import render_html

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
# Runs in the copy that the test opens; the report itself forbids scripts.
MEASURE = "<script>document.title = document.documentElement.scrollWidth + ' ' + innerWidth</script>"


def test_a_browser_is_there_where_pages_must_be_tested() -> None:
    assert CHROMIUM or not os.environ.get("CI"), "CI must have Chromium: .ci/run installs it"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [500, 1280])
def test_the_page_does_not_scroll_sideways(
    width: int, make_inputs: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", render_html(build_report(**make_inputs())))
    page = tmp_path / "page.html"
    page.write_text(html.replace("</body>", MEASURE + "</body>"))
    arguments = [*FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900", "--dump-dom"]
    result = subprocess.run([str(CHROMIUM), *arguments, str(page)], capture_output=True, text=True, timeout=60)
    match = re.search(r"<title>(\d+) (\d+)</title>", result.stdout)
    assert match, result.stderr[-400:]
    assert int(match[1]) <= int(match[2]), f"the page is {match[1]} px wide in a window of {match[2]}"
