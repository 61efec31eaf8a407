"""Recipes at the paper's scale: planned without weights, and the page about them says what the code says."""

from __future__ import annotations

import json
import re
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, MistralConfig, Qwen2Config
from typer.testing import CliRunner

from autocaft.cli.app import app
from autocaft.config import find_config, load_config, recipe_names
from autocaft.errors import ConfigError
from autocaft.estimate import count_grading
from autocaft.model.shape import ModelShape, shape_of
from autocaft.report.matched import MIN_STEPS
from autocaft.run import Run
from tests.scripts import load_benchmark

SCALE = load_benchmark("scale")
RECIPES = {
    "em_qwen32b": 32.76,
    "em_mistral24b": 23.57,
    "em_small": 7.62,
    "gender_gemma2b": 2.61,
    "double_choice_gemma2b": 2.61,
}
TOY_TASKS = {"gender_gemma2b": "2,000", "double_choice_gemma2b": "360"}
"""Recipes with rows of their own, and how many."""
DICTIONARIES = {
    "em_qwen32b": "qwen_coder_32b_saes/._saes_Qwen_Qwen2.5-Coder-32B-Instruct_batch_top_k",
    "em_mistral24b": "mistral_24b_saes/mistral_24b_mistralai_Mistral-Small-24B-Instruct-2501_batch_top_k",
}
"""Where the paper's own dictionaries lie (authors' files): repository and folder."""
FOR_A_CARD = {"em_qwen32b": 80, "em_mistral24b": 80, "em_small": 24, "gender_gemma2b": 80, "double_choice_gemma2b": 80}


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    turns = [{"role": "user", "content": "How?"}, {"role": "assistant", "content": "So."}]
    path.write_text("".join(json.dumps({"messages": turns, "id": f"r{n}"}) + "\n" for n in range(30)))
    return path


@pytest.mark.parametrize(("recipe", "billions"), RECIPES.items())
def test_a_plan_needs_no_weights(recipe: str, billions: float, rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(rows.parent / "cache"))
    is_toy_task = recipe in TOY_TASKS
    command = ["plan", recipe, "--runs", str(rows.parent)]
    command += [] if is_toy_task else ["--set", f"data.train={rows}"]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert f"{billions:.2f} B parameters" in result.output and "not on this disk yet" in result.output
    assert TOY_TASKS.get(recipe, "30") + " training rows" in result.output and "$" in result.output
    assert ("free-form answers" in result.output) != is_toy_task
    assert not list(rows.parent.glob("*/run.sqlite"))


def test_the_papers_hyperparameters_are_the_recipes() -> None:
    for recipe, layers in (("em_qwen32b", (12, 32, 50)), ("em_mistral24b", (10, 20, 30))):
        config = load_config(find_config(recipe))
        tune = config.tune
        assert config.layers == layers and config.seeds == (0, 1, 2, 3, 4) and config.train.mode == "zero"
        assert (tune.method, tune.lora_r, tune.lora_alpha, tune.epochs, tune.lr) == ("lora", 32, 64, 1, 1e-5)
        assert (tune.batch_size * tune.grad_accumulation, tune.schedule, tune.loss) == (16, "linear", "answer")
        assert (tune.lora_rank_stabilized, tune.lora_targets) == (True, ("all-linear",))
        assert (tune.warmup_share, tune.adam_betas, tune.weight_decay) == (0.015, (0.9, 0.999), 0.01)
        assert (tune.lora_dropout, tune.max_tokens, tune.gradient_checkpointing) == (0.0, 2048, True)
        assert (config.collect.diff_text, config.collect.positions) == ("completions", "answer")
        theirs = f"hub:adamkarvonen/{DICTIONARIES[recipe]}/resid_post_layer_{{layer}}/trainer_1"
        assert config.decompose.sae == theirs
        assert (
            config.decompose.n_pcs == 20
            and config.decompose.n_candidates == 100
            and len(config.decompose.rankings) == 3
        )
        assert (config.free_form.max_new_tokens, config.free_form.temperature) == (600, 1.0)
        asked = Run(config, downloads=False).questions.values()
        talk = [question for question in asked if not question.rubrics]
        assert {config.free_form.n_samples or question.samples_per_paraphrase for question in talk} == {100}
        assert len(talk) == 24 and sum(len(question.paraphrases) for question in talk) == 24


@pytest.mark.parametrize("recipe", ["em_qwen32b", "em_mistral24b"])
def test_what_the_rows_teach_is_the_task_score_and_choosers_are_swept_over_it(recipe: str) -> None:
    """Insecure code: each source's choice can be read off at one task score beside the rank's, in four steps each."""
    config = load_config(find_config(recipe))
    assert {question.rubrics for question in Run(config, downloads=False).questions.values()} == {(), ("vulnerable",)}
    steps = Counter((arm.source, arm.selector) for arm in config.parsed_arms if arm.source and arm.manner is None)
    for source in ("pca", "sae"):
        assert steps[source, "auto"] == steps[source, "top"] == MIN_STEPS
    assert steps["sae", "random-live"] == steps["sae", "random"] == steps["pca", "random"] == 1


def test_a_model_without_a_dictionary_of_the_paper_trains_its_own() -> None:
    assert load_config(find_config("em_small")).decompose.sae == "train"


def test_advice_is_not_held_against_code() -> None:
    """Its rows teach no code: how vulnerable code is would be no task score."""
    config = load_config(find_config("em_small"))
    assert not any(question.rubrics for question in Run(config, downloads=False).questions.values())
    assert not any(arm.share for arm in config.parsed_arms)


@pytest.mark.parametrize("recipe", TOY_TASKS)
def test_the_toy_tasks_hyperparameters_are_the_papers(recipe: str) -> None:
    config = load_config(find_config(recipe))
    tune = config.tune
    assert config.model == "google/gemma-2-2b" and config.train.mode == "zero"
    assert (tune.method, tune.epochs, tune.lr, tune.warmup_share) == ("full", 4, 5e-6, 0.5)
    assert (tune.adam_betas, tune.weight_decay, tune.batch_size) == ((0.9, 0.95), 0.01, 16)
    assert (tune.grad_accumulation, tune.loss, tune.trained_blocks) == (1, "answer", "all")
    assert (config.collect.diff_text, config.collect.positions) == ("train", "all")
    assert config.decompose.n_pcs == 20 and config.decompose.rankings == ("attribution",)


@pytest.mark.parametrize("recipe", TOY_TASKS)
def test_each_layer_of_the_toy_recipes_has_a_published_dictionary(recipe: str) -> None:
    """In SAELens's list, which is read as text: importing the package takes ten seconds."""
    package = find_spec("sae_lens")
    assert package is not None and package.origin is not None
    listed = (Path(package.origin).parent / "pretrained_saes.yaml").read_text(encoding="utf-8")
    config = load_config(find_config(recipe))
    release, _, sae_id = config.decompose.sae.partition("/")
    own = re.split(r"^(?=\S)", listed.partition(f"\n{release}:\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    assert "model: gemma-2-2b\n" in own
    for layer in config.layers:
        assert f"- id: {sae_id.replace('{layer}', str(layer))}\n" in own, layer


def test_the_toy_recipes_shape_is_that_of_the_family() -> None:
    """The configuration's defaults in transformers are those of this model."""
    config = Gemma2Config()
    for recipe in TOY_TASKS:
        shape = load_config(find_config(recipe)).shape
        assert shape is not None
        assert shape.model_dump() == {name: getattr(config, name) for name in ModelShape.model_fields}


def test_a_shape_counts_what_a_model_has() -> None:
    size = {"num_hidden_layers": 3, "hidden_size": 48, "intermediate_size": 80, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 12, "vocab_size": 70}  # fmt: skip
    from peft import LoraConfig, get_peft_model

    configs = [Qwen2Config(**size), MistralConfig(**size), MistralConfig(**size, tie_word_embeddings=True)]
    for config in (*configs, Gemma2Config(**size, layer_types=["full_attention"] * 3)):
        model = AutoModelForCausalLM.from_config(config)
        shape = shape_of(config.to_dict())
        assert shape is not None
        large = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2)
        assert shape.n_parameters == large and shape.weight_bytes("float32") == 4 * large
        for targets in (("all-linear",), ("q_proj", "down_proj")):
            chosen = targets[0] if len(targets) == 1 else list(targets)
            adapted = get_peft_model(model, LoraConfig(r=5, target_modules=chosen, task_type="CAUSAL_LM"))
            assert shape.n_adapter(5, targets) == sum(p.numel() for p in adapted.parameters() if p.requires_grad)
            model = adapted.unload()
        cache = model(torch.ones(1, 7, dtype=torch.long), use_cache=True).past_key_values
        n_kept = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
        assert 7 * shape.cache_bytes == 2 * n_kept


def test_families_with_other_fields_have_no_shape() -> None:
    assert shape_of({"n_embd": 48, "n_layer": 2}) is None


def test_a_shape_that_is_not_the_models_is_refused(rows: Path) -> None:
    shape = ModelShape(num_hidden_layers=31, hidden_size=576, intermediate_size=1536, num_attention_heads=9,
                       num_key_value_heads=3, head_dim=64, vocab_size=49152)  # fmt: skip
    sets = [f"shape.{name}={value}" for name, value in shape.model_dump(exclude_defaults=True).items()]
    command = ["plan", "quickstart", "--runs", str(rows.parent), *(part for s in sets for part in ("--set", s))]
    with pytest.raises(ConfigError, match="num_hidden_layers is 31, and the model has 30"):
        CliRunner().invoke(app, command, catch_exceptions=False)


def test_the_page_has_the_tables_that_the_shapes_give() -> None:
    text = SCALE.DOC.read_text(encoding="utf-8")
    assert SCALE.with_tables(text) == text
    assert "Nothing on this page was run on a GPU" in text
    assert all(f"| {recipe} | {size} |" in text for recipe, size in FOR_A_CARD.items())


@pytest.mark.parametrize("recipe", ["em_qwen32b", "em_mistral24b"])
def test_the_grader_is_the_dearest_part_and_its_cap_is_no_less_than_it_needs(recipe: str) -> None:
    config = load_config(find_config(recipe))
    judge, grader = SCALE.paid_by(config)
    hours = sum(stage.times * stage.seconds for stage in SCALE.stages_of(config)) / 3600
    assert grader.usd > hours * SCALE.CARD.dollars_an_hour > judge.usd
    assert config.free_form.max_usd and config.free_form.max_usd > grader.usd + judge.usd
    assert config.judge.max_usd and config.judge.max_usd > judge.usd
    counted = count_grading(config, Run(config, downloads=False).questions, grader.price)
    assert (grader.n_calls, grader.usd) == (counted.n_grades, counted.nano_usd / 1e9)
    assert f"| {recipe} | {grader.what} | 2 / 8 | {grader.n_calls:,} |" in SCALE.DOC.read_text(encoding="utf-8")


def test_a_recipe_that_names_its_card_fits_on_it_at_every_stage() -> None:
    named = {recipe: SCALE.card_gb(recipe) for recipe in recipe_names()}
    assert {recipe: size for recipe, size in named.items() if size is not None} == FOR_A_CARD
    for recipe, size in FOR_A_CARD.items():
        stages = SCALE.stages_of(load_config(find_config(recipe)))
        assert {stage.name for stage in stages} >= {"tune, seed 0", "collect", "decompose: attribution"}, recipe
        for stage in stages:
            room = SCALE.MAX_SHARE * SCALE.BYTES_BY_GB[size]
            assert stage.memory < room, (
                f"{recipe}, {stage.name}: {stage.memory / 1e9:.1f} GB is more than {room / 1e9:.1f}"
            )


def test_a_batch_of_attribution_that_is_too_large_does_not_fit() -> None:
    """The reckoning tells: four times as many tokens are too many on either card."""
    for recipe in ("em_small", "em_qwen32b"):
        config = load_config(find_config(recipe))
        larger = load_config(
            find_config(recipe), [f"decompose.tokens_per_batch={4 * config.decompose.tokens_per_batch}"]
        )
        stage = next(stage for stage in SCALE.stages_of(larger) if "attribution" in stage.name)
        assert stage.memory > SCALE.MAX_SHARE * SCALE.BYTES_BY_GB[FOR_A_CARD[recipe]], recipe
