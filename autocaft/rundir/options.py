"""The base class of every room's options, and what turns options into text.

In: pydantic classes whose fields carry one docstring each. Out: rows for `--help` and the written TOML, dotted keys
for fingerprints, and plain sentences for bad values. A field is documented once, under the field; whatever a user
reads about it comes from there.

The decision a reader would question: whether a field can change results is said at the field (`transport`), not in
a list kept by the runner, because a list elsewhere is forgotten when a field is added. Unmarked fields count.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, Union

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from autocaft.errors import ConfigError


class Options(BaseModel):
    """Options of one room: frozen, unknown keys are errors, the docstring under a field is its documentation."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


AnyOptions = TypeVar("AnyOptions", bound=Options)


class FieldDoc(NamedTuple):
    """One leaf field, as `--help` and the written TOML need it."""

    key: str
    """Dotted; `NAME` stands for a name the user chooses, `N` for a place in a list."""
    type_text: str
    default: Any
    """`...` (Ellipsis) where the field is required."""
    doc: str
    affects_results: bool


def transport(default: Any = ..., **kwargs: Any) -> Any:
    """A pydantic Field that cannot change results: concurrency, retries, timeouts, batch size of inference, paths.

    It is left out of fingerprints, so changing it never redoes a step.
    """
    if "default_factory" not in kwargs:
        kwargs["default"] = default
    return Field(json_schema_extra={"affects_results": False}, **kwargs)


def added(default: Any, **kwargs: Any) -> Any:
    """A pydantic Field that came after runs were made: it counts in fingerprints only where it is not its default.

    The default must say what those runs did: they stay finished.
    """
    return Field(default=default, json_schema_extra={"counts_as_default": False}, **kwargs)


def affects_results(field: FieldInfo) -> bool:
    """Whether a change of this field makes a step different (everything not made with `transport` does)."""
    extra = field.json_schema_extra
    return not (isinstance(extra, dict) and extra.get("affects_results") is False)


def _counts(field: FieldInfo, value: Any) -> bool:
    """Whether a field with this value goes into a fingerprint."""
    extra = field.json_schema_extra
    is_added = isinstance(extra, dict) and extra.get("counts_as_default") is False
    return affects_results(field) and not (is_added and value == field.default)


def describe_fields(model_class: type[Options]) -> list[FieldDoc]:
    """Every leaf field of the class and of the options inside it, in order of declaration."""
    return _describe(model_class, prefix="", defaults=None, counts=True)


def _describe(model_class: type[Options], prefix: str, defaults: Options | None, counts: bool) -> list[FieldDoc]:
    rows: list[FieldDoc] = []
    for name, field in model_class.model_fields.items():
        default = getattr(defaults, name) if defaults is not None else _default_of(field)
        field_counts = counts and affects_results(field)
        inner, place = _options_inside(field.annotation)
        if inner is None:
            text = _type_text(field.annotation) + _limits(field)
            rows.append(FieldDoc(prefix + name, text, default, _one_line(field.description), field_counts))
        else:
            inner_defaults = default if isinstance(default, Options) else None
            rows += _describe(inner, f"{prefix}{name}{place}.", inner_defaults, field_counts)
    return rows


def _default_of(field: FieldInfo) -> Any:
    return ... if field.is_required() else field.get_default(call_default_factory=True, validated_data={})


def _options_inside(annotation: Any) -> tuple[type[Options] | None, str]:
    """The Options class that a field holds (alone, optional, or in a table or list), and how to write its place."""
    if isinstance(annotation, type) and issubclass(annotation, Options):
        return annotation, ""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    candidates = [argument for argument in arguments if isinstance(argument, type) and issubclass(argument, Options)]
    if len(candidates) != 1:
        return None, ""
    if origin in (Union, types.UnionType):
        return candidates[0], ""
    return candidates[0], ".NAME" if origin is dict else ".N"


def _type_text(annotation: Any) -> str:
    """A type as a user reads it: `int`, `"mean" | "zero"`, `list of int`, `text`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type_text(arguments[0])
    if origin is Literal:
        return " | ".join(f'"{value}"' if isinstance(value, str) else str(value) for value in arguments)
    if origin in (Union, types.UnionType):
        return " | ".join(_type_text(argument) for argument in arguments)
    if origin in (list, tuple, set, frozenset):
        kinds = dict.fromkeys(_type_text(argument) for argument in arguments if argument is not Ellipsis)
        return "list of " + ", ".join(kinds)
    if origin is dict:
        return "table of " + _type_text(arguments[1])
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " | ".join(f'"{member.value}"' for member in annotation)
    names = {str: "text", Path: "path", type(None): "none", bool: "true | false"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _limits(field: FieldInfo) -> str:
    """`, >= 0, <= 1` from the field's bounds."""
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    found = [
        f"{sign} {getattr(bound, name)}"
        for bound in field.metadata
        for name, sign in signs.items()
        if getattr(bound, name, None) is not None
    ]
    return "".join(f", {text}" for text in found)


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def flatten(options: Options | Mapping[str, Any]) -> dict[str, Any]:
    """All values under dotted keys, as plain JSON types. Lists stay whole; an empty table stays `{}`."""
    return _dotted(_plain(options, only_results=False))


def fingerprint_options(options: Options | Mapping[str, Any]) -> dict[str, Any]:
    """Like `flatten`, but only what can change results: what belongs into a step's fingerprint."""
    return _dotted(_plain(options, only_results=True))


def _plain(value: Any, *, only_results: bool) -> Any:
    if isinstance(value, Options):
        fields = type(value).model_fields.items()
        return {
            name: _plain(getattr(value, name), only_results=only_results)
            for name, field in fields
            if not only_results or _counts(field, getattr(value, name))
        }
    if isinstance(value, Mapping):
        return {str(key): _plain(item, only_results=only_results) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, only_results=only_results) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(_plain(item, only_results=only_results) for item in value)
    if isinstance(value, Enum):
        return _plain(value.value, only_results=only_results)
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"an option must be a plain value, a list or a table, not {type(value).__name__}: {value!r}")


def _dotted(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict) and value:
            rows.update(_dotted(value, f"{prefix}{key}."))
        else:
            rows[prefix + key] = value
    return rows


def unknown_key_message(key: str, known: Iterable[str]) -> str:
    """Says that a key is unknown and names the nearest known one (spelling first, then the right table)."""
    keys = list(known)
    last = key.rsplit(".", 1)[-1]
    by_last: dict[str, str] = {}
    for candidate in keys:
        by_last.setdefault(candidate.rsplit(".", 1)[-1], candidate)
    near = [by_last[last]] if last in by_last else difflib.get_close_matches(key, keys, n=1, cutoff=0.7)
    if not near:
        near = [by_last[name] for name in difflib.get_close_matches(last, list(by_last), n=1, cutoff=0.6)]
    if near:
        return f"unknown key `{key}`; the nearest known key is `{near[0]}`"
    return f"unknown key `{key}`; known keys are {', '.join(f'`{name}`' for name in sorted(keys)) or 'none'}"


def make_options(model_class: type[AnyOptions], values: Mapping[str, Any], where: str) -> AnyOptions:
    """Build options from a table; every fault is told at once, one plain sentence each.

    Raises:
        ConfigError: naming `where` (a file or `command line`), each key and what it should be.
    """
    try:
        return model_class.model_validate(dict(values))
    except ValidationError as error:
        lines = "\n".join(f"  {line}" for line in validation_sentences(error, model_class))
        raise ConfigError(f"{where} cannot be used:\n{lines}") from None


def validation_sentences(error: ValidationError, model_class: type[Options]) -> list[str]:
    """One sentence for each fault that pydantic found, without its vocabulary."""
    known = {row.key: row for row in describe_fields(model_class)}
    sentences: list[str] = []
    for fault in error.errors(include_url=False):
        key = ".".join(str(part) for part in fault["loc"])
        message = fault["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
        if fault["type"] == "extra_forbidden":
            sentences.append(unknown_key_message(key, known))
        elif fault["type"] == "missing":
            doc = known[key].doc if key in known else ""
            sentences.append(f"`{key}` is missing" + (f": {doc}" if doc else ""))
        elif fault["type"] in ("value_error", "assertion_error"):
            sentences.append(f"`{key}`: {message}" if key else message)
        else:
            sentences.append(f"`{key}` is {fault['input']!r}: {message[:1].lower()}{message[1:]}")
    return sentences
