"""Text from a run (tokens, descriptions, reasons, names) made harmless for the places it is shown in.

In: text that anybody may have written, since it comes from training data and from models. Out: the same to the eye,
and inert: no control character for a terminal, no formula for a spreadsheet, no markup or link for a Markdown reader.
HTML is escaped by the templates, which all come from `environment`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment

SIGNS = "=+-@＝＋－＠"  # the last four are the full-width forms
OPENING = re.compile(rf"(?= *['\t\r\n{SIGNS}])")
AFTER_SEPARATOR = re.compile(rf"([;,|] *)(?='*[{SIGNS}])")
GUARDED_AFTER_SEPARATOR = re.compile(rf"([;,|] *)'(?='*[{SIGNS}])")
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
MARKDOWN = re.compile(r"([\\`*_~<>|$&]|(?<=\])[(\[])")


def visible(text: str) -> str:
    """Control characters, and those that turn the direction of text, as signs of themselves; line ends and tabs stay.

    ESC becomes `␛`, so a terminal does nothing and a reader sees that it was there.
    """
    return UNSEEN.sub(_sign, text)


def one_line(text: str) -> str:
    """Text in one line: each run of white space is one space, control characters are signs of themselves."""
    return " ".join(visible(text).split())


def json_text(value: object) -> str:
    """JSON for people, safe to print: what would move a terminal is escaped, which a reader of JSON undoes."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return UNSEEN.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def environment(read: Callable[[str], str]) -> Environment:
    """The one way a page is made: everything is escaped, and a name that a template does not have is an error.

    Args:
        read: gives the text of a template by its file name.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    return Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(read),
        finalize=for_template,
    )


def for_template(value: object) -> object:
    """Jinja's `finalize`: every text that a template writes is `visible`, markup of our own stays."""
    return visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def readable(token: str) -> str:
    """A token as text in one line: tokenizer marks for a space become one, line ends become visible."""
    text = token.replace("\u0120", " ").replace("\u2581", " ").replace("\u010a", "\n")
    return visible(text.replace("\r", "")).replace("\n", "\u21b5").replace("\t", "\u21e5")


def markdown(text: str) -> str:
    """Text as text in Markdown: nothing in it becomes emphasis, HTML, an image or a link."""
    escaped = MARKDOWN.sub(r"\\\1", one_line(text))
    return escaped.replace("://", ":\\//").replace("www.", "www\\.").replace("@", "@\u2060")


def code_span(text: str) -> str:
    """Text in backticks, also in a cell of a table: nothing in it is linked, mentioned or rendered."""
    line = one_line(text).replace("|", "\\|")
    longest = max((len(run) for run in re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}" if line else ""


def guard_cell(text: str) -> str:
    """A cell that no spreadsheet takes for a formula, whatever it takes for a separator; `unguard_cell` undoes it."""
    inside = AFTER_SEPARATOR.sub(r"\1'", text)
    return f"'{inside}" if OPENING.match(inside) else inside


def unguard_cell(text: str) -> str:
    """What `guard_cell` was given."""
    return GUARDED_AFTER_SEPARATOR.sub(r"\1", text.removeprefix("'"))


def _sign(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else f"\\u{code:04x}"
