"""From the text of a reply to a checked JSON object, or to the reason why there is none.

In: a `Reply` and the closed schema it was asked to fit, if any. Out: an `Outcome`. Vendors promise to obey a schema;
it is checked here all the same, because servers that ignore it look exactly like those that obey it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jsonschema import Draft202012Validator, ValidationError

from autocaft.llm.outcomes import Outcome, Reply

OFF_MENU = frozenset({"enum", "const", "minimum", "maximum"})
"""Schema rules about which value was chosen; the others are about the reply's form."""
LIMITS = ("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "uniqueItems", "pattern")
NOT_ON_THE_WIRE = frozenset({*LIMITS, "$schema", "title"})
"""Rules that one of the vendors answers with 400; they are checked here after the reply."""
CODE_BLOCK = re.compile(r"^\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*$", re.DOTALL)


def read_reply(reply: Reply, schema: Mapping[str, Any] | None) -> Outcome:
    """The outcome of an answer that came: ok with its value, a refusal, or unusable with the reason."""
    return replace(_read(reply, schema), text=reply.text, usage=reply.usage, token_odds=reply.token_odds)


def _read(reply: Reply, schema: Mapping[str, Any] | None) -> Outcome:
    if reply.stop == "refusal":
        return Outcome("refusal", reason="refusal", detail=_line(reply.text))
    if not reply.text.strip():
        return _unusable(reply, "empty", "the reply had no text")
    if schema is None:
        return Outcome("ok")
    try:
        value = json.loads(_unwrapped(reply.text), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        return _unusable(reply, "parse_failure", f"not valid JSON: {_line(error)}")
    problem = schema_problem(value, schema)
    if problem is not None:
        reason, detail = problem
        return Outcome("parse_failure", reason=reason, detail=detail)
    return Outcome("ok", value=value)


def _unusable(reply: Reply, reason: str, detail: str) -> Outcome:
    """A reply without a JSON object; that it was cut off explains all else."""
    if reply.stop == "length":
        return Outcome("truncated", reason="truncated", detail=f"cut off at the longest reply allowed; {detail}")
    return Outcome("parse_failure", reason=reason, detail=detail)


def schema_problem(value: Any, schema: Mapping[str, Any]) -> tuple[str, str] | None:
    """None if the value fits; else (`off_menu` or `parse_failure`, what is wrong and where)."""
    errors = sorted(Draft202012Validator(dict(schema)).iter_errors(value), key=_place)
    if not errors:
        return None
    # a wrong form outweighs a wrong value: the value may only look wrong because the form is
    wrong_form = [error for error in errors if error.validator not in OFF_MENU]
    error = (wrong_form or errors)[0]
    return ("parse_failure" if wrong_form else "off_menu"), f"{_place(error) or 'the object'}: {_line(error.message)}"


def wire_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema without the rules that vendors do not accept."""

    def strip(node: Any, *, is_schema: bool) -> Any:
        if isinstance(node, Mapping):
            # names of properties are data, not rules: a property may be called `title`
            kept = {k: v for k, v in node.items() if not (is_schema and k in NOT_ON_THE_WIRE)}
            return {k: strip(v, is_schema=not (is_schema and k == "properties")) for k, v in kept.items()}
        if isinstance(node, list):
            return [strip(item, is_schema=is_schema) for item in node]
        return node

    stripped: dict[str, Any] = strip(schema, is_schema=True)
    return stripped


def _unwrapped(text: str) -> str:
    """The text without a Markdown code block around it, which servers without structured output like to add."""
    block = CODE_BLOCK.match(text)
    return block.group(1) if block else text


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _place(error: ValidationError) -> str:
    return ".".join(str(part) for part in error.absolute_path)


def _line(text: object) -> str:
    return " ".join(str(text).split())[:200]
