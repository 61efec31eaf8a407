"""How large a run will be, and what its judge will cost, before anything is bought.

In: a run and its folder. Out: lines for `autocaft plan`. The requests that are counted are those the judge would send,
about the mined windows where they are there and else about windows of generic text of the same length. The decision a
reader would question: tokens are counted with the base model's tokenizer, whoever the judge is. Vendors do not give
theirs away; the count at most rests on bytes and needs none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autocaft.judge.base import Card, Concept
from autocaft.judge.options import JudgeOptions
from autocaft.llm.outcomes import Usage
from autocaft.llm.prices import NANO, Price
from autocaft.preflight import light_tokenizer
from autocaft.records import Direction, Example, Source
from autocaft.rundir.files import read_records
from autocaft.rundir.store import STORE_NAME, RunStore
from autocaft.select.search import dials_to_try

if TYPE_CHECKING:
    from autocaft.config import RunConfig
    from autocaft.evaluate.options import FreeFormOptions
    from autocaft.evaluate.questions import Question
    from autocaft.run import Run

CHARS_PER_TOKEN = 4.4
"""Of English text; used where no tokenizer is on this disk, and for the length of a reply."""
TEMPLATE_TOKENS = 12
"""A chat template's own tokens around a system and a user message."""
Count = Callable[[str], int]
ON_DISK = {
    "acts": "the base model's activations",
    "compared": "its activations on the compared texts, only where base and tuned do not fit into memory together",
}


def estimate(run: Run, run_dir: Path) -> list[str]:
    """Sizes and costs of a run, in lines."""
    from autocaft.discover.collect import plan_bytes

    config = run.config
    n_trainings = len(config.seeds) * (1 + sum(arm.is_trained_apart for arm in config.parsed_arms))
    absent = run.absent_sets
    n_rows = "an unknown number of" if config.data.train in absent else f"{len(run.train_rows):,}"
    lines = ["", f"{n_rows} training rows, {n_trainings} trainings of {config.tune.epochs:g} epochs"]
    lines += [f"{spec} is not on this disk yet, and nothing is known of its rows" for spec in absent]
    lines += search_lines(run)
    lines += model_lines(run)
    width = run.weights.d_model or (run.shape.hidden_size if run.shape else None)
    if width is not None:
        sizes = plan_bytes(n_rows=len(run.read_rows), n_layers=len(config.layers), width=width, options=config.collect)
        lines += [f"on disk, at most {sizes[name] / 1e6:,.0f} MB: {what}" for name, what in ON_DISK.items()]
    lines += free_form_lines(run)
    if config.judge.chat_judges:
        return lines + judge_lines(run, run_dir)
    return [*lines, f"judge {config.judge.judge}: no paid call"]


def search_lines(run: Run) -> list[str]:
    """The trainings of a search; nothing where no arm is searched."""
    options, n_sources = run.config.select.search, len(run.config.searched_sources)
    if not n_sources:
        return []
    n_trials = n_sources * len(dials_to_try(options, run.config.layers))
    epochs = run.config.tune.epochs * options.share_of_steps
    return [f"and {n_trials} trials of {epochs:g} epochs for the search, with {n_sources} plain beside them"]


def model_lines(run: Run) -> list[str]:
    """The model's size and the memory of a training, from its shape; nothing for families whose config differs."""
    shape, config, tune = run.shape, run.config, run.config.tune
    if shape is None:
        return []
    n_adapter = shape.n_adapter(tune.lora_r, tune.lora_targets) if tune.method == "lora" else None
    n_bytes = shape.training_bytes(
        dtype=config.dtype,
        n_adapter=n_adapter,
        n_rows=tune.share[0],
        max_tokens=tune.max_tokens,
        checkpointing=tune.gradient_checkpointing,
        quantization=config.quantization,
        n_shards=tune.processes if tune.sharding == "fsdp" else 1,
    )
    kind = config.dtype if config.quantization == "none" else f"{config.quantization} and {config.dtype}"
    each = "" if tune.processes == 1 else f" on each of {tune.processes} cards"
    adapter = "" if n_adapter is None else f", LoRA of rank {tune.lora_r}: {n_adapter / 1e6:,.0f} M"
    where = "" if run.weights.config is not None else "; its weights are not on this disk yet"
    return [
        f"{shape.n_parameters / 1e9:,.2f} B parameters, "
        f"{shape.weight_bytes(config.dtype, config.quantization) / 1e9:,.1f} GB as {kind}{adapter}{where}",
        f"in a training at most {n_bytes / 1e9:,.1f} GB{each} with {tune.share[0]} x {tune.max_tokens:,} tokens a "
        "batch (from shapes, docs/scale.md)",
    ]


@dataclass
class Grading:
    """The free-form answers of a run and their grades, with what these cost where the grader's price is known."""

    n_models: int
    n_answers: int = 0
    n_grades_by_rubric: Counter[str] = field(default_factory=Counter)
    nano_usd: int = 0
    """If each answer is as long as it may be."""
    nano_usd_most: int = 0
    """And each reply too, with a token a byte."""

    @property
    def n_grades(self) -> int:
        """Under all rubrics."""
        return self.n_grades_by_rubric.total()


def free_form_lines(run: Run) -> list[str]:
    """How many free-form answers are made, and what their grades can cost at most; nothing if none are asked."""
    options = run.config.free_form
    if not run.questions:
        return []
    price = grader_price(options)
    counted = count_grading(run.config, run.questions, price)
    lines = [
        f"{counted.n_answers:,} free-form answers of at most {options.max_new_tokens:,} tokens, by "
        f"{counted.n_models} models"
    ]
    if not options.grader:
        return lines
    if options.rules is not None:
        return [*lines, f"graded by {options.grader}, which costs nothing"]
    usd, usd_most = counted.nano_usd / NANO, counted.nano_usd_most / NANO
    dollars = f"about ${usd:,.2f} if each is as long as it may be; at most ${usd_most:,.2f}"
    dollars = "the price is not known; give it in free_form.prices" if price is None else dollars
    by_rubric = ", ".join(f"{name} {n:,}" for name, n in counted.n_grades_by_rubric.items())
    lines += [f"{counted.n_grades:,} grades by {options.grader} ({by_rubric}): {dollars}"]
    if options.max_usd is not None:
        lines.append(f"  cap: ${options.max_usd:,.2f}, with what the judge has spent (free_form.max_usd)")
    return lines


def grader_price(options: FreeFormOptions) -> Price | None:
    """The price of a language model that grades; None where none does, or nobody knows."""
    from autocaft.llm.doors import price_of

    is_asked = bool(options.grader) and options.rules is None
    return price_of(options.grader, options, has_address=True) if is_asked else None


def count_grading(config: RunConfig, questions: Mapping[str, Question], price: Price | None) -> Grading:
    """Every answer of every model, and each grade that is asked about it."""
    from autocaft.evaluate.grade import rubric_of
    from autocaft.evaluate.questions import FreeAnswer, rubrics_of
    from autocaft.llm.budget import most_usage
    from autocaft.llm.outcomes import ChatRequest

    options = config.free_form
    longest = "word " * options.max_new_tokens
    found = Grading(sum(1 if arm.name == "base" else len(config.seeds) for arm in config.parsed_arms))
    for question in questions.values():
        times = found.n_models * (options.n_samples or question.samples_per_paraphrase)
        for wording in question.paraphrases:
            found.n_answers += times
            answer = FreeAnswer("", question.id, wording, longest)
            for name in rubrics_of(question, options.rubrics):
                found.n_grades_by_rubric[name] += times
                if price is not None:
                    asked = ChatRequest("", *rubric_of(name, question).fill(answer), None, options.max_output_tokens)
                    n_chars = len(asked.system) + len(asked.user)
                    usage = Usage(round(n_chars / CHARS_PER_TOKEN) + TEMPLATE_TOKENS, 2)
                    found.nano_usd += times * price.nano_usd(usage)
                    found.nano_usd_most += times * price.nano_usd(most_usage(asked))
    return found


@dataclass
class Calls:
    """Calls to one reader with their tokens, as expected (every description verifies, no repair, no rating near the
    threshold) and at most (a repair for each direction, every rating asked again as often as allowed, every reply as
    long as allowed, a token a byte)."""

    n_directions: int = 0
    n_calls: int = 0
    n_calls_most: int = 0
    expected: list[Usage] = field(default_factory=list)
    """Of single calls: a price may have steps by length."""
    most: list[Usage] = field(default_factory=list)

    def add(self, expected: Sequence[Usage], most: Sequence[Usage], times: int) -> None:
        """The calls about one direction, and as many others like it."""
        self.n_directions += times
        self.n_calls += times * len(expected)
        self.n_calls_most += times * len(most)
        self.expected += [*expected] * times
        self.most += [*most] * times

    def lines(self, reader: str, price: Price | None, *, batch: bool = False) -> list[str]:
        """For people."""
        tokens = [f"{sum(u.input_tokens for u in usages):,} in and {sum(u.output_tokens for u in usages):,} out"
                  for usages in (self.expected, self.most)]  # fmt: skip
        lines = [
            f"{reader}: {self.n_directions:,} directions, {self.n_calls:,} calls, at most {self.n_calls_most:,}"
            + (" (batches)" if batch else ""),
            f"  tokens: about {tokens[0]}; at most {tokens[1]}",
        ]
        if price is None:
            return [*lines, f"  dollars: the price of {reader} is not known; give it in judge.prices"]
        usd, usd_most = (sum(price.nano_usd(usage) for usage in usages) / NANO for usages in (self.expected, self.most))
        return [*lines, f"  dollars: about ${usd:,.2f}; at most ${usd_most:,.2f} ({price.source})"]


def judge_lines(run: Run, run_dir: Path) -> list[str]:
    """Calls, tokens and dollars of each reader that is asked, and what the run has spent so far."""
    from autocaft.judge.stage import price_of

    options = run.config.judge
    tokenizer = light_tokenizer(run.weights)
    cards = planned_cards(run, run_dir)
    lines = []
    for reader, calls in count_calls(cards, options, tokens_by(tokenizer.encode if tokenizer else None)).items():
        lines += calls.lines(reader, price_of(reader, options), batch=options.batch)
    if any(times > 1 for _, times in cards):
        lines.append("  (directions are not mined yet: this is for as many as there can be)")
    if options.max_usd is not None:
        lines.append(f"  cap: ${options.max_usd:,.2f} (judge.max_usd)")
    if (run_dir / STORE_NAME).is_file():
        with RunStore(run_dir / STORE_NAME) as store:
            charges = store.charges()
        spent = sum(charge.nano_usd or 0 for charge in charges if not charge.is_held) / NANO
        held = sum(charge.nano_usd or 0 for charge in charges if charge.is_held) / NANO
        n_held = sum(charge.is_held for charge in charges)
        lines.append(
            f"  so far: ${spent:,.4f} for {len(charges) - n_held:,} answers, which need no second call"
            + (f"; at most ${held:,.4f} more for {n_held:,} that never came" if n_held else "")
        )
    return lines


def count_calls(cards: Sequence[tuple[Card, int]], options: JudgeOptions, count: Count) -> dict[str, Calls]:
    """What judging the cards takes, by who is asked; each card stands for so many directions."""
    concept = Concept(options.undesired, options.wanted)
    return count_asked([(card, concept, times) for card, times in cards], options, count)


def count_asked(asked: Sequence[tuple[Card, Concept, int]], options: JudgeOptions, count: Count) -> dict[str, Calls]:
    """The same for cards that are asked about several concepts: a request that came before is answered by then."""
    from autocaft.judge.chat import MAX_RATINGS, READER_BY_CALL, planned_requests
    from autocaft.llm.budget import most_usage

    calls: dict[str, Calls] = {}
    seen: set[tuple[str, str, str]] = set()
    for judge in options.chat_judges:
        readers = options.readers_of(judge)
        reader_by_call = {call: readers[part] for call, part in READER_BY_CALL.items()}
        for card, concept, times in asked:
            planned = planned_requests(card, concept, judge, options)
            new = [p for p in planned if (reader_by_call[p[0]], p[1].system, p[1].user) not in seen]
            seen.update((reader_by_call[call], request.system, request.user) for call, request, _ in new)
            for reader in dict.fromkeys(reader_by_call[call] for call, _, _ in new):
                own = [(call, r, n_chars) for call, r, n_chars in new if reader_by_call[call] == reader]
                expected = [
                    Usage(count(r.system) + count(r.user) + TEMPLATE_TOKENS, round(n_chars / CHARS_PER_TOKEN))
                    for _, r, n_chars in own
                ]
                # a direction that is rated again near the threshold is not rated without its windows too
                once = [most_usage(request) for call, request, _ in own if call != "rate_words"]
                again = [most_usage(request) for call, request, _ in own if call == "rate"] * (MAX_RATINGS - 1)
                repair = max(once, key=lambda usage: usage.input_tokens)
                calls.setdefault(reader, Calls()).add(expected, [*once, *again, repair], times)
    return calls


def tokens_by(encode: Callable[[str], Sequence[int]] | None) -> Count:
    """A counter of tokens; by length where there is no tokenizer."""
    return (lambda text: round(len(text) / CHARS_PER_TOKEN)) if encode is None else lambda text: len(encode(text))


def planned_cards(run: Run, run_dir: Path) -> list[tuple[Card, int]]:
    """The cards of the run, or one for each kind of direction and how many of it there can be."""
    from autocaft.judge.cards import build_cards

    config, options = run.config, run.config.judge
    directions, examples = run_dir / "decompose/directions.jsonl", run_dir / "mine/examples.jsonl"
    sizes: dict[str, Any] = {"n_describe": options.n_describe, "n_verify": options.n_verify}
    if directions.is_file() and examples.is_file():
        cards = build_cards(read_records(directions, Direction), read_records(examples, Example), **sizes)
        return [(card, 1) for card in cards if card.poles and card.verify]
    n_layers = len(config.layers)
    kinds: dict[Source, int] = {
        "sae": n_layers * len(config.decompose.rankings) * config.decompose.n_candidates,
        "pca": n_layers * config.decompose.n_pcs,
    }
    # of a corpus that is not on this disk yet, the length of its windows is known and no more is needed
    texts = [document.text for document in run.generic_documents] or ["word " * (2 * config.mine.window + 1)]
    planned = []
    for source, n in kinds.items():
        if source in config.decompose.sources:
            direction = Direction(source, config.layers[0], source, 0, 1.0, "")
            windows = _stand_ins(source, texts, 2 * config.mine.window + 1, options)
            planned.append((build_cards([direction], windows, **sizes)[0], n))
    return planned


def _stand_ins(source: Source, texts: Sequence[str], n_tokens: int, options: JudgeOptions) -> list[Example]:
    """Windows as they will be mined, from generic text: as many and as long, one strong token in each."""
    n_chars = round(n_tokens * CHARS_PER_TOKEN)
    poles = {"top": 1.0, "random": 0.1, "middle": 0.1} | ({"bottom": -1.0} if source == "pca" else {})
    examples: list[Example] = []
    for split in ("describe", "verify"):
        for pole, strength in poles.items():
            for _ in range(max(options.n_describe, options.n_verify)):
                number = len(examples)
                text = f"{number} {texts[number % len(texts)]}"[:n_chars]
                tokens = (text[:6], text[6:])
                examples.append(Example(source, pole, split, str(number), tokens, (strength, 0.0)))  # type: ignore[arg-type]
    return examples
