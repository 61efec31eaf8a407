"""Memory, time and dollars of each stage of a large recipe, from the model's shape and stated assumptions; what judge
and grader are paid, as `autocaft plan` says it; and the rates that were measured on a CPU, from results/.

    python benchmarks/scale.py --write     the tables into docs/scale.md
    python benchmarks/scale.py --check     exit 1 if those there differ

In: recipes with a [shape], results/collect.json and results/generate.json. Out: Markdown tables. The decision a reader
would question: nothing about a card was measured. The operations and bytes follow from shapes, but how much of a card's
peak is reached is assumed, and said so in the table's caption; put your own card's figures in `CARD`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from bars import COLLECT, GENERATE

from autocaft.config import RunConfig, find_config, load_config, recipe_names
from autocaft.data.options import DataOptions
from autocaft.estimate import count_calls, count_grading, grader_price, planned_cards, tokens_by
from autocaft.evaluate.questions import load_questions
from autocaft.judge.stage import price_of
from autocaft.llm.prices import NANO, Price
from autocaft.model.generate import ROWS_ON_ACCELERATOR
from autocaft.model.shape import ModelShape
from autocaft.resources import data_path
from autocaft.run import Run

ROOT = Path(__file__).resolve().parent.parent
DOC = ROOT / "docs" / "scale.md"
RESULTS = ROOT / "results"
RECIPE = "em_qwen32b"
N_LATENTS = 16384
"""Of a dictionary that somebody published, assumed."""
MAX_SHARE = 0.9
"""Of a card: the rest is for kernels' buffers, fragmentation and the framework."""


@dataclass(frozen=True)
class Card:
    """One accelerator and what is assumed of it."""

    name: str
    flops: float
    """Peak of dense bf16 products, operations a second."""
    bandwidth: float
    """Bytes a second."""
    memory: float
    """Bytes."""
    utilisation: float
    """Assumed share of either peak that is reached."""
    dollars_an_hour: float
    """Assumed."""


CARD = Card("H100 80 GB", 989e12, 3.35e12, 85.5e9, 0.4, 3.0)
BYTES_BY_GB = {80: CARD.memory, 24: 24.1e9}
"""Memory of the cards that recipes name in their first line: an H100; an A10, the smallest that is called 24 GB."""
N_CARDS = 8
N_ROWS, ROW_TOKENS = 6000, 300
"""Of the insecure-code data set: its published size; tokens of a row, assumed."""
PROMPT_TOKENS = 100
"""Of a question, a coding task (the longest) or a generic prompt with its chat template, assumed."""


COLUMNS = {
    "tune and train": "tune, seed 0",
    "collect": "collect",
    "attribution": "decompose: attribution",
    "answer": "answer, a model",
}
"""Of the table of recipes: heading -> stage."""


@dataclass(frozen=True)
class Stage:
    """One line of the table."""

    name: str
    times: float
    """How often it is run; a training stopped after a half counts as one half."""
    memory: float
    seconds: float
    """Once."""
    is_serial: bool
    """Whether the others wait for it."""


def main() -> int:
    """Write or check the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--write", action="store_true")
    group.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    text = DOC.read_text(encoding="utf-8")
    new = with_tables(text)
    if arguments.write:
        DOC.write_text(new, encoding="utf-8")
    elif new != text:
        sys.stderr.write(f"{DOC.relative_to(ROOT)}: its tables differ; run python benchmarks/scale.py --write\n")
        return 1
    return 0


def with_tables(text: str) -> str:
    """The document with the tables that the recipes give."""
    text = _with_table(text, "scale", scale_table(load_config(find_config(RECIPE))))
    text = _with_table(text, "paid", paid_table())
    text = _with_table(text, "rates", rates_table(RESULTS))
    return _with_table(text, "recipes", recipe_table())


def _with_table(text: str, name: str, table: str) -> str:
    """The document with a table between its marks."""
    begin, end = f"<!-- table:{name} -->\n", f"<!-- /table:{name} -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return before + begin + table + end + after


def card_gb(recipe: str) -> int | None:
    """The size of the card that a recipe says it is for in its first line; None for the others."""
    first = find_config(recipe).read_text(encoding="utf-8").partition("\n")[0]
    found = re.search(r"(\d+) GB card", first)
    return None if found is None else int(found[1])


def stages_of(config: RunConfig, card: Card = CARD) -> list[Stage]:
    """Every stage that uses the card."""
    shape, tune, collect = config.shape, config.tune, config.collect
    assert shape is not None, "the recipe has no [shape]"
    arms, n_seeds = config.parsed_arms, len(config.seeds)
    trainings = [arm.stop_at or 1.0 for arm in arms if arm.is_trained_apart or arm.name == "tuned"]
    is_lora = tune.method == "lora"
    training = (
        N_ROWS
        * ROW_TOKENS
        * tune.epochs
        * shape.training_flops(lora=is_lora, checkpointing=tune.gradient_checkpointing)
    )
    n_adapter = shape.n_adapter(tune.lora_r, tune.lora_targets) if is_lora else None
    memory = shape.training_bytes(
        dtype=config.dtype,
        n_adapter=n_adapter,
        n_rows=tune.batch_size,
        max_tokens=tune.max_tokens,
        checkpointing=tune.gradient_checkpointing,
    )
    weights = shape.weight_bytes(config.dtype) + 4 * (n_adapter or 0)
    both = weights if is_lora else 2 * weights
    read = collect.n_generic * collect.max_tokens + 2 * collect.n_completions * (
        PROMPT_TOKENS + collect.completion_tokens
    )
    collect_rows = collect.rows_per_batch or ROWS_ON_ACCELERATOR
    written = _sampling(shape, config, card, collect.n_completions, collect.completion_tokens, collect_rows)
    ranked = min(collect.n_rows, N_ROWS) * ROW_TOKENS * 2 * shape.forward_flops
    reach = card.flops * card.utilisation
    stages = [
        Stage("tune, seed 0", 1, memory, training / reach, True),
        Stage(
            "collect", 1, both + _cache(shape, collect_rows, collect.completion_tokens),
            written + read * shape.forward_flops / reach, True,
        ),
        Stage("decompose: attribution", 1, weights + _attribution(shape, config), ranked / reach, True),
        Stage("train, an arm and seed", sum(trainings) * n_seeds - 1, memory, training / reach, False),
    ]  # fmt: skip
    return [*stages, *_answering(shape, config, card, weights)]


def _answering(shape: ModelShape, config: RunConfig, card: Card, weights: float) -> list[Stage]:
    """Free-form answers of every model, if questions are asked."""
    options = config.free_form
    if not options.files:
        return []
    counted = count_grading(config, load_questions(*map(data_path, options.files)), None)
    n_answers, rows = counted.n_answers // counted.n_models, options.rows_per_batch or ROWS_ON_ACCELERATOR
    seconds = _sampling(shape, config, card, n_answers, options.max_new_tokens, rows)
    memory = weights + _cache(shape, rows, options.max_new_tokens)
    return [Stage("answer, a model", counted.n_models, memory, seconds, False)]


def _sampling(shape: ModelShape, config: RunConfig, card: Card, n_texts: int, n_tokens: int, rows: int) -> float:
    """Seconds: each step of a batch reads all weights once, and the cache of its rows."""
    a_step = shape.weight_bytes(config.dtype) + _cache(shape, rows, n_tokens) / 2
    return -(-n_texts // rows) * n_tokens * a_step / (card.bandwidth * card.utilisation)


def _attribution(shape: ModelShape, config: RunConfig) -> float:
    """The dictionaries, and what a batch keeps for its gradients: the blocks above the lowest hookpoint, the logits. A
    batch has one row at least, and that may be as long as training allows."""
    longest = config.decompose.attribution_max_tokens or config.tune.max_tokens
    n_tokens = max(config.decompose.tokens_per_batch, longest)
    above = shape.num_hidden_layers - min(config.layers) - 1
    kept = shape.activation_bytes(n_tokens, checkpointing=False) * above / shape.num_hidden_layers
    n_latents = config.decompose.d_sae if config.decompose.sae == "train" else N_LATENTS
    dictionaries = 12 * shape.hidden_size * n_latents * len(config.layers)
    return dictionaries + kept + shape.logit_bytes(n_tokens)


def _cache(shape: ModelShape, rows: int, n_tokens: int) -> float:
    return shape.cache_bytes * rows * (PROMPT_TOKENS + n_tokens)


def scale_table(config: RunConfig, card: Card = CARD) -> str:
    """The table, and a line on the whole run on one card and on several."""
    stages = stages_of(config, card)
    counts = (1, N_CARDS)
    head = ["stage", "times", "GB on the card", "hours, once"]
    head += [f"hours, all, on {n}" for n in counts] + [f"dollars on {n}" for n in counts]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    total = dict.fromkeys(counts, 0.0)
    for s in stages:
        # what the others wait for runs on one card, and all are paid for
        hours = {n: s.times * s.seconds / 3600 / (1 if s.is_serial else n) for n in counts}
        total = {n: total[n] + hours[n] for n in counts}
        lines.append([s.name, f"{s.times:g}", f"{s.memory / 1e9:.0f}", f"{s.seconds / 3600:.2f}", *_bill(hours, card)])
    lines.append(["all", "", "", "", *_bill(total, card)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _bill(hours: Mapping[int, float], card: Card) -> list[str]:
    """Hours by number of cards, and what they cost."""
    dollars = [n * value * card.dollars_an_hour for n, value in hours.items()]
    return [f"{value:.1f}" for value in hours.values()] + [f"{value:,.0f}" for value in dollars]


@dataclass(frozen=True)
class Paid:
    """What one reader of a recipe is asked, and its dollars."""

    what: str
    n_calls: int
    usd: float
    usd_most: float
    price: Price | None


def paid_by(config: RunConfig) -> list[Paid]:
    """The judge's readers and the grader, in the figures of `autocaft plan` where nothing is mined and no tokenizer is
    on this disk: tokens by length. Windows of text that ships stand in for a corpus that would be downloaded."""
    shipped = config.data.model_copy(update={"corpus": DataOptions.model_fields["corpus"].default})
    run = Run(config.model_copy(update={"data": shipped}), downloads=False)
    found = []
    cards = planned_cards(run, Path("nothing-is-mined")) if config.judge.chat_judges else []
    for reader, calls in count_calls(cards, config.judge, tokens_by(None)).items():
        price = price_of(reader, config.judge)
        both = [sum(price.nano_usd(u) for u in us) / NANO if price else 0.0 for us in (calls.expected, calls.most)]
        found.append(Paid(f"judge, {reader.partition(':')[2]}", calls.n_calls, both[0], both[1], price))
    price = grader_price(config.free_form)
    if price is not None:
        counted = count_grading(config, run.questions, price)
        both = [nano / NANO for nano in (counted.nano_usd, counted.nano_usd_most)]
        name = config.free_form.grader.partition(":")[2]
        found.append(Paid(f"grader, {name}", counted.n_grades, both[0], both[1], price))
    return found


def paid_table() -> str:
    """Judge and grader of every recipe that names its card and pays one."""
    head = ["recipe", "who is paid", "$ for a million tokens, in / out", "calls", "dollars, about", "at most"]
    lines = [head, ["---", "---", *["---:"] * (len(head) - 2)]]
    for recipe in recipe_names():
        for paid in paid_by(load_config(find_config(recipe))) if card_gb(recipe) else []:
            assert paid.price is not None, f"{recipe}: nobody knows the price of {paid.what}"
            prices = " / ".join(f"{usd.normalize():f}" for usd in (paid.price.usd(10**6, 0), paid.price.usd(0, 10**6)))
            dollars = [f"{usd:,.0f}" for usd in (paid.usd, paid.usd_most)]
            lines.append([recipe, paid.what, prices, f"{paid.n_calls:,}", *dollars])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def rates_table(results: Path) -> str:
    """What benchmarks/collect.py and benchmarks/generate.py measured on a CPU, beside their bars."""
    lines = [["what", "figure", "bar"], ["---", "---:", "---:"]]
    for name, bars in (("collect", COLLECT), ("generate", GENERATE)):
        figures = json.loads((results / f"{name}.json").read_text(encoding="utf-8"))["figures"]
        for what, (relation, bound) in bars.items():
            if what in figures:
                lines.append([f"{name}: {what}", f"{figures[what]:.2f}", f"{relation} {bound:g}"])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def recipe_table() -> str:
    """Memory by stage of every recipe that names its card."""
    lines = ["| recipe | card | " + " | ".join(COLUMNS) + " |", "| --- | ---:" + " | ---:" * len(COLUMNS) + " |"]
    for recipe in recipe_names():
        size = card_gb(recipe)
        if size is None:
            continue
        found = {stage.name: stage.memory for stage in stages_of(load_config(find_config(recipe)))}
        cells = [f"{found[name] / 1e9:.1f}" if name in found else "-" for name in COLUMNS.values()]
        lines.append(f"| {recipe} | {size} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
