from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import WIDTH, sentence, tiny_llama

from autocaft.data.corpus import Document, read_documents
from autocaft.data.encode import encode
from autocaft.data.rows import TaskRow
from autocaft.discover.collect import collect, load_stats, plan_bytes
from autocaft.discover.options import CollectOptions
from autocaft.discover.pair import ModelPair
from autocaft.discover.paired import paired_batches
from autocaft.discover.pca import CovarianceFitter
from autocaft.discover.shards import ShardReader
from autocaft.errors import DataError
from autocaft.rundir.progress import NullProgress

LAYERS = (0, 1)


def make_rows(n: int = 12) -> list[TaskRow]:
    generator = torch.Generator().manual_seed(3)
    texts = [sentence(generator, 5 + i % 4) for i in range(n)]
    return [TaskRow(f"row-{i}", text, " him", None, f"t{i}", text + " him") for i, text in enumerate(texts)]


def make_generic(n: int = 15) -> list[Document]:
    generator = torch.Generator().manual_seed(4)
    return [
        Document(f"generic-{i}", "generic", "the cat" if i % 2 else None, sentence(generator, 12)) for i in range(n)
    ]


def run(pair: ModelPair, tokenizer: Any, out: Path, **options: Any) -> dict[str, Any]:
    chosen = CollectOptions(**{"n_continuations": 2, "continuation_tokens": 5, "store": "float32", **options})
    return collect(
        models=pair,
        tokenizer=tokenizer,
        rows=make_rows(),
        generic=make_generic(),
        layers=LAYERS,
        options=chosen,
        out=out,
        progress=NullProgress(),
    )


def with_planted_shift(base: Any, direction_D: torch.Tensor) -> Any:
    """A copy whose first block writes more along one direction, by an amount that depends on the token."""
    tuned = copy.deepcopy(base)
    reader_D = torch.randn(48, generator=torch.Generator().manual_seed(9))
    weight = tuned.model.layers[0].mlp.down_proj.weight
    weight.data += 3.0 * torch.outer(direction_D, reader_D / reader_D.norm())
    return tuned


def test_planted_difference_is_the_first_component(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    direction_D = torch.nn.functional.normalize(torch.randn(WIDTH, generator=torch.Generator().manual_seed(5)), dim=0)
    run(ModelPair.of(model, with_planted_shift(model, direction_D)), tokenizer, tmp_path)
    pca = load_stats(tmp_path).differences[0].pca(3)
    assert abs(float(pca.vectors_ND[0] @ direction_D)) > 0.99
    assert float(pca.explained_N[0]) > 0.95


def test_base_means_are_of_generic_text_and_of_the_rows_without_the_first_token(
    model: Any, tokenizer: Any, tmp_path: Path
) -> None:
    run(ModelPair.of(model, copy.deepcopy(model)), tokenizer, tmp_path)
    stats = load_stats(tmp_path)
    texts = {
        "generic": [(document.prompt, document.text) for document in make_generic()],
        "train": [(row.prompt, row.answer) for row in make_rows()],
    }
    for kind, mean_D in (("generic", stats.generic_mean[0]), ("train", stats.train_mean[0])):
        acts = []
        for prompt, text in texts[kind]:
            ids = encode(tokenizer, prompt, text, chat=False).input_ids
            with torch.no_grad():
                hidden = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
            acts.append(hidden[1][0, 1:])
        torch.testing.assert_close(mean_D, torch.cat(acts).mean(0), rtol=0.05, atol=0.02)


def test_summary_counts_documents_and_tokens(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    summary = run(ModelPair.of(model, copy.deepcopy(model)), tokenizer, tmp_path)
    documents = read_documents(tmp_path / "documents.jsonl.gz")
    assert summary["n_documents"] == {"generic": 15, "seeded": 24, "train": 12} and len(documents) == 51
    assert summary["n_tokens"]["mining"] == ShardReader(tmp_path / "acts").n_rows


def test_killed_collect_starts_cleanly_and_gives_the_same(
    model: Any, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from autocaft.discover import collect as module

    pair = ModelPair.of(model, tiny_llama(1))
    run(pair, tokenizer, tmp_path / "whole", tokens_per_batch=64)
    real, n_calls = module.record_batch, 0

    def dying(*args: Any) -> Any:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(module, "record_batch", dying)
    with pytest.raises(KeyboardInterrupt):
        run(pair, tokenizer, tmp_path / "killed", tokens_per_batch=64)
    run(pair, tokenizer, tmp_path / "killed", tokens_per_batch=64)
    for name in ("documents.jsonl.gz", "stats.safetensors", "acts/00000.L1.safetensors", "summary.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_no_head_and_no_block_above_the_deepest_is_run(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    tuned = tiny_llama(1)
    for part in (model, tuned):
        part.model.layers[2].register_forward_pre_hook(lambda *_: pytest.fail("a block above the deepest layer ran"))
        part.lm_head.register_forward_pre_hook(lambda *_: pytest.fail("the LM head ran"))
    run(ModelPair.of(model, tuned), tokenizer, tmp_path, n_continuations=0)


def _paired(pair: ModelPair, tokenizer: Any, scratch: Path, positions: Any = "all") -> dict[int, CovarianceFitter]:
    encoded = [encode(tokenizer, row.prompt, row.answer, chat=False) for row in make_rows()]
    fitters = {layer: CovarianceFitter(WIDTH) for layer in LAYERS}
    for _, paired in paired_batches(
        pair, encoded, LAYERS, positions=positions, tokens_per_batch=40, pad_id=0, scratch=scratch
    ):
        for layer, (base_ND, tuned_ND) in paired.items():
            fitters[layer].update(tuned_ND - base_ND)
    return fitters


def test_one_model_after_the_other_gives_what_side_by_side_gives(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    tuned = tiny_llama(1)
    together = _paired(ModelPair.of(model, tuned), tokenizer, tmp_path / "unused")
    in_turn = ModelPair(lambda: model, lambda: tuned, "in turn")
    apart = _paired(in_turn, tokenizer, tmp_path / "scratch")
    assert not (tmp_path / "unused").exists() and len(in_turn.held) == 1
    for layer in LAYERS:
        torch.testing.assert_close(apart[layer].covariance_DD, together[layer].covariance_DD)


def test_a_lora_model_is_both_base_and_tuned(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base = copy.deepcopy(model)
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)).eval()
    one = _paired(ModelPair.of(None, tuned), tokenizer, tmp_path)
    two = _paired(ModelPair.of(base, tuned), tokenizer, tmp_path)
    assert float(one[1].covariance_DD.trace()) > 0
    torch.testing.assert_close(one[1].covariance_DD, two[1].covariance_DD, rtol=1e-4, atol=1e-6)


def test_answer_positions_are_the_answer_tokens_only(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    pair = ModelPair.of(model, tiny_llama(1))
    assert _paired(pair, tokenizer, tmp_path, "answer")[0].n == len(make_rows())


def test_completions_need_prompts(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    generic = [Document("generic-0", "generic", None, "the cat runs")]
    with pytest.raises(DataError, match="prompt"):
        collect(
            models=ModelPair.of(model, tiny_llama(1)),
            tokenizer=tokenizer,
            rows=make_rows(),
            generic=generic,
            layers=LAYERS,
            options=CollectOptions(diff_text="completions", n_continuations=0),
            out=tmp_path,
            progress=NullProgress(),
        )


def test_completions_come_from_the_tuned_model(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    summary = run(
        ModelPair.of(model, tiny_llama(1)),
        tokenizer,
        tmp_path,
        diff_text="completions",
        positions="answer",
        completion_tokens=6,
        n_continuations=0,
    )
    documents = read_documents(tmp_path / "compared.jsonl.gz")
    assert {document.kind for document in documents} == {"completion"}
    assert summary["n_compared_rows"] == 7 and summary["n_compared_tokens"] <= 7 * 6


def test_plan_is_a_bound_on_what_is_written(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    options = {"max_tokens": 24}
    run(ModelPair.of(model, tiny_llama(1)), tokenizer, tmp_path, **options)
    chosen = CollectOptions(n_generic=15, n_continuations=2, store="float32", **options)
    bound = plan_bytes(n_rows=12, n_layers=2, width=WIDTH, options=chosen)["acts"]
    written = sum(path.stat().st_size for path in (tmp_path / "acts").glob("*.L*.safetensors"))
    assert written <= bound + 4096
