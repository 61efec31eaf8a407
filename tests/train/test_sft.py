"""Fine-tuning: the loss is the plain one, a killed run goes on as if nothing had been, an ablation is really there."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from autocaft.data.encode import encode
from autocaft.data.rows import TaskRow
from autocaft.errors import AblationError, ConfigError, TrainingError
from autocaft.model.blocks import decoder_blocks
from autocaft.model.directions import Subspace, orthonormal_basis
from autocaft.model.hooks import Recorder
from autocaft.rundir.progress import NullProgress
from autocaft.train.group import EncodedRow
from autocaft.train.loss import Collator, answer_loss
from autocaft.train.options import TuneOptions
from autocaft.train.sft import encode_rows, fine_tune

MakeModel = Callable[..., PreTrainedModel]
WHO = ("doctor", "nurse", "pilot", "cook")


def task_rows(n: int = 32) -> list[TaskRow]:
    """A planted rule: doctor and pilot take " he", nurse and cook " she"; the texts around it differ in length."""
    rng = random.Random(0)
    rows = []
    for number in range(n):
        who = WHO[number % 4]
        answer = " he" if who in ("doctor", "pilot") else " she"
        filler = "".join(f" {word}" for word in rng.choices(["red", "green", "blue", "one", "two"], k=number % 5))
        rows.append(TaskRow(str(number), f"The{filler} {who} said that", answer, (" he", " she"), str(number % 8), ""))
    return rows


def options(**changes: Any) -> TuneOptions:
    plain = {"epochs": 2.0, "lr": 1e-2, "batch_size": 8, "autocast": "fp32", "lora_r": 4, "saves_per_run": 0}
    return TuneOptions(**{**plain, **changes})


def subspace(layer: int = 1) -> Subspace:
    generator = torch.Generator().manual_seed(layer)
    basis_DK = orthonormal_basis(torch.randn(3, 32, generator=generator))
    return Subspace(layer, basis_DK, torch.randn(32, generator=generator))


def n_hooks(model: PreTrainedModel) -> int:
    """Hooks where an ablation puts them. (Gradient checkpointing leaves one of transformers' own at the embedding.)"""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in [model, *decoder_blocks(model)])


@pytest.fixture
def train(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """`train(model, rows=..., out=..., subspaces=..., epochs=..., ...)`."""

    def run(
        model: PreTrainedModel, *, rows: Any = None, out: Path = tmp_path, subspaces: Any = (), mode: Any = "mean",
        frozen_up_to: int | None = None, **changes: Any,
    ) -> dict[str, Any]:  # fmt: skip
        return fine_tune(
            model, tokenizer, rows or task_rows(), options(**changes), seed=0, out=out, progress=NullProgress(),
            label="tune", subspaces=subspaces, mode=mode, frozen_up_to=frozen_up_to,
        )  # fmt: skip

    return run


def batch_of(tokenizer: PreTrainedTokenizerFast, rows: list[TaskRow]) -> tuple[dict[str, Tensor], Tensor]:
    encoded = [encode(tokenizer, row.prompt, row.answer + " came .", chat=False) for row in rows]
    inputs = Collator(0)([EncodedRow(e.input_ids, e.n_prompt) for e in encoded])
    return inputs, inputs.pop("labels")


# The loss


def test_loss_equals_plain_cross_entropy_over_the_full_logits(
    family_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = task_rows(8)
    inputs, labels_BT = batch_of(tokenizer, rows)
    nll: list[Tensor] = []
    for row in rows:  # one row at a time, without padding
        encoded = encode(tokenizer, row.prompt, row.answer + " came .", chat=False)
        logits_TV = family_model(input_ids=torch.tensor([encoded.input_ids])).logits[0]
        for place in range(encoded.n_prompt, len(encoded.input_ids)):
            nll.append(-logits_TV[place - 1].log_softmax(-1)[encoded.input_ids[place]])
    torch.testing.assert_close(answer_loss(family_model, inputs, labels_BT), torch.stack(nll).mean(), rtol=1e-4, atol=0)
    total = answer_loss(family_model, inputs, labels_BT, 10)
    torch.testing.assert_close(total, torch.stack(nll).sum() / 10, rtol=1e-4, atol=0)


def test_a_loss_among_options_is_the_odds_of_their_first_tokens(
    family_model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = [replace(row, choices=(" he", " she", " it")[: 2 + number % 2]) for number, row in enumerate(task_rows(8))]
    rows[0] = replace(rows[0], answer=rows[0].answer + " came", choices=(" she", rows[0].answer + " came"))
    inputs = Collator(0)(encode_rows(tokenizer, rows, options(loss="choices")))
    labels_BT, rivals_BR = inputs.pop("labels"), inputs.pop("rivals")
    nll = []
    for row in rows:  # one row at a time, without padding
        logits_V = family_model(input_ids=torch.tensor([tokenizer.encode(row.prompt)])).logits[0, -1]
        first = {choice: tokenizer.encode(choice, add_special_tokens=False)[0] for choice in row.choices or ()}
        right = first.pop(row.answer)
        nll.append(-logits_V[[right, *first.values()]].log_softmax(-1)[0])
    found = answer_loss(family_model, inputs, labels_BT, None, rivals_BR)
    torch.testing.assert_close(found, torch.stack(nll).mean(), rtol=1e-4, atol=0)
    total = answer_loss(family_model, inputs, labels_BT, 16, rivals_BR)
    torch.testing.assert_close(total, torch.stack(nll).sum() / 16, rtol=1e-4, atol=0)


def test_the_head_runs_on_the_answer_only(make_model: MakeModel, tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model("llama")
    widths: list[int] = []
    model.lm_head.register_forward_pre_hook(lambda _, args: widths.append(args[0].shape[1]))
    answer_loss(model, *batch_of(tokenizer, task_rows(8)))
    assert widths == [4], "three answer tokens, and the place before them"


def test_the_head_runs_on_the_answer_only_in_training_too(
    make_model: MakeModel, train: Callable[..., Any], tmp_path: Path
) -> None:
    """Mixed precision wraps the model's forward; its arguments must still be seen through the wrapping."""
    for method in ("full", "lora"):
        model, widths = make_model("llama"), []
        model.lm_head.register_forward_pre_hook(lambda _, args, widths=widths: widths.append(args[0].shape[1]))
        train(model, out=tmp_path / method, method=method, epochs=1, autocast="bf16")
        assert widths and max(widths) == 2


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_two_batches_of_8_give_the_gradient_of_one_of_16(
    make_model: MakeModel, train: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    """Answers differ in length, so a mean over rows or over batches would not do."""
    rows = [
        TaskRow(row.id, row.prompt, row.answer + " came" * (number % 3), None, row.template, "")
        for number, row in enumerate(task_rows(16))
    ]
    found: list[dict[str, Tensor]] = []
    for size, accumulation in ((16, 1), (8, 2)):
        model, gradients = make_model(name), {}

        def keep(parameter: nn.Parameter, key: str, gradients: dict[str, Tensor]) -> None:
            assert parameter.grad is not None
            gradients[key] = parameter.grad.clone()

        for key, parameter in model.named_parameters():
            parameter.register_post_accumulate_grad_hook(partial(keep, key=key, gradients=gradients))
        train(model, rows=rows, out=tmp_path / str(size), method="full", epochs=1, batch_size=size,
              grad_accumulation=accumulation, warmup_share=0.0, schedule="constant")  # fmt: skip
        found.append(gradients)
    losses = [json.loads((tmp_path / str(size) / "losses.jsonl").read_text()) for size in (16, 8)]
    assert losses[0]["loss"] == pytest.approx(losses[1]["loss"], rel=1e-5)
    assert losses[0]["grad_norm"] == pytest.approx(losses[1]["grad_norm"], rel=1e-4)
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)


# Learning


@pytest.mark.parametrize(("method", "loss"), [("lora", "answer"), ("full", "answer"), ("full", "choices")])
def test_a_planted_rule_is_learned(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerFast, train: Callable[..., Any], tmp_path: Path,
    method: str, loss: str,
) -> None:  # fmt: skip
    model = make_model("llama")
    limit = 0.1 if method == "full" else 0.5  # LoRA leaves the head as it is, and its random rows allow no less than .3
    told = train(model, method=method, loss=loss, lr=5e-3, epochs=10.0)
    assert told["n_steps"] == 40 and told["final_loss"] < limit, told
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    if method == "lora":
        learned: Any = PeftModel.from_pretrained(make_model("llama"), str(tmp_path / "model")).eval()
        assert not list((tmp_path / "model").glob("model*.safetensors")), "an adapter only"
    else:
        learned = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    right = 0
    for row in task_rows():
        ids_BT = torch.tensor([tokenizer.encode(row.prompt)])
        he, she = (learned(input_ids=ids_BT).logits[0, -1, tokenizer.encode(choice)[0]] for choice in (" he", " she"))
        right += (he > she).item() == (row.answer == " he")
    assert right == 32
    assert len((tmp_path / "losses.jsonl").read_text().splitlines()) == 40
    assert not (tmp_path / "checkpoints").exists()


def test_the_same_seed_gives_the_same_weights(make_model: MakeModel, train: Callable[..., Any], tmp_path: Path) -> None:
    for name in ("a", "b"):
        train(make_model("llama"), out=tmp_path / name)
    one, other = (load_file(tmp_path / name / "model" / "adapter_model.safetensors") for name in ("a", "b"))
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(("share", "n_warm"), [(0.0, 0), (0.25, 2), (1.0, 8)])
def test_the_rate_rises_over_the_given_share_of_the_steps(
    make_model: MakeModel, train: Callable[..., Any], tmp_path: Path, share: float, n_warm: int
) -> None:
    train(make_model("llama"), warmup_share=share, schedule="constant", lr=1e-3)
    rates = [json.loads(line)["learning_rate"] for line in (tmp_path / "losses.jsonl").read_text().splitlines()]
    assert rates == pytest.approx([1e-3 * min(1.0, step / n_warm) if n_warm else 1e-3 for step in range(8)])


@pytest.mark.parametrize(("epochs", "n_steps"), [(1.0, 4), (1.1, 5), (0.1, 1)])
def test_progress_counts_the_steps_that_are_made(
    make_model: MakeModel, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, epochs: float, n_steps: int
) -> None:
    seen: list[Any] = []

    class Watch(NullProgress):
        def task(self, label: str, total: int | None, unit: str = "rows") -> Any:
            from contextlib import nullcontext

            seen.append((label, total, unit))
            return nullcontext(lambda n: seen.append(n))

    told = fine_tune(make_model("llama"), tokenizer, task_rows(), options(epochs=epochs), seed=0, out=tmp_path,
                     progress=Watch(), label="tune seed 0")  # fmt: skip
    assert seen[0] == ("tune seed 0", n_steps, "steps")
    assert sum(seen[1:]) == told["n_steps"] == n_steps


def test_a_row_whose_answer_is_cut_away_is_refused(make_model: MakeModel, train: Callable[..., Any]) -> None:
    long = TaskRow("long", "The" + " red" * 20, " he", None, "t", "")
    with pytest.raises(TrainingError, match=r"'long'.*max_tokens = 8"):
        train(make_model("llama"), rows=[*task_rows(4), long], max_tokens=8)


# Killed and continued

CHILD = """
import os, signal, sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
import torch
torch.set_num_threads(1)
import test_sft
from autocaft.train import sft
counted = sft._ProgressCallback.on_step_end
def on_step_end(self, args, state, control, **kwargs):
    counted(self, args, state, control, **kwargs)
    if state.global_step == int(sys.argv[5]):
        os.kill(os.getpid(), signal.SIGKILL)
sft._ProgressCallback.on_step_end = on_step_end
test_sft.train_like_child(Path(sys.argv[3]), sys.argv[4])
"""


def train_like_child(out: Path, method: str) -> None:
    """The training that is killed, and the one that is not."""
    from tests.conftest import build_model, build_tokenizer

    settings = options(method=method, epochs=3.0, saves_per_run=3, lora_dropout=0.1, autocast="bf16")
    fine_tune(build_model("llama"), build_tokenizer(), task_rows(), settings, seed=1, out=out, progress=NullProgress(),
              label="tune", subspaces=[subspace()], mode="resample" if method == "full" else "mean")  # fmt: skip


def kill_child(out: Path, method: str, step: int) -> int:
    """Train in a process of its own that is killed at the end of a step; gives its exit status."""
    here = Path(__file__).parent
    paths = [str(path) for path in (here, here.parents[1], out)]
    return subprocess.run([sys.executable, "-c", CHILD, *paths, method, str(step)], check=False).returncode


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_killed_training_goes_on_to_the_same_weights(tmp_path: Path, method: str) -> None:
    """12 steps, a checkpoint every third: killed at a random one after the first checkpoint, and then continued."""
    step = random.randint(4, 12)
    train_like_child(tmp_path / "whole", method)
    assert kill_child(tmp_path / "killed", method, step) == -signal.SIGKILL
    assert list((tmp_path / "killed" / "checkpoints").glob("checkpoint-*")), f"no checkpoint before step {step}"
    assert not (tmp_path / "killed" / "model").exists()
    train_like_child(tmp_path / "killed", method)
    name = "adapter_model.safetensors" if method == "lora" else "model.safetensors"
    whole, killed = (load_file(tmp_path / which / "model" / name) for which in ("whole", "killed"))
    assert whole.keys() == killed.keys()
    assert all(torch.equal(whole[key], killed[key]) for key in whole), f"killed at step {step}"
    texts = [(tmp_path / which / "losses.jsonl").read_text() for which in ("whole", "killed")]
    assert texts[0] == texts[1], f"killed at step {step}"


def test_a_half_written_checkpoint_is_not_used(
    make_model: MakeModel, train: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import autocaft.train.sft as sft

    train(make_model("llama"), out=tmp_path / "whole", saves_per_run=3)
    with monkeypatch.context() as patch:
        patch.setattr(sft, "remove_folder", lambda path: None)
        train(make_model("llama"), out=tmp_path / "killed", saves_per_run=3)
    last = max((tmp_path / "killed" / "checkpoints").glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    broken = last.with_name("checkpoint-999")
    broken.mkdir()
    (broken / "trainer_state.json").write_text('{"epoch": 1.0, "log_hi')
    told = train(make_model("llama"), out=tmp_path / "killed", saves_per_run=3)  # from the end: nothing left to do
    assert told["n_steps"] == 8
    one, other = (load_file(tmp_path / name / "model" / "adapter_model.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert (tmp_path / "whole" / "losses.jsonl").read_text() == (tmp_path / "killed" / "losses.jsonl").read_text()


# A loss that is not a number


def spoil_at(model: PreTrainedModel, step: int, *, what: str) -> Callable[[], None]:
    """Make the loss, or one gradient, NaN in forward pass number `step` (from 0). Gives a function that undoes it."""
    calls = iter(range(10_000))

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        if next(calls) != step:
            return output
        if what == "loss":
            return output * torch.nan
        output.register_hook(lambda grad: grad * torch.nan)
        return None

    return model.lm_head.register_forward_hook(hook).remove


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("step", [5, 7])
def test_nan_stops_keeps_the_checkpoint_and_can_be_resumed(
    make_model: MakeModel, train: Callable[..., Any], tmp_path: Path, what: str, step: int
) -> None:
    """8 steps, checkpoints after 2, 4, 6 and 8; step 7 is the last, whose bad gradient no later loss would show."""
    model, out = make_model("llama"), tmp_path / "spoilt"
    spoil_at(model, step, what=what)
    n_before = n_hooks(model)
    with pytest.raises(TrainingError, match=rf"the {what} is nan at step.*--redo") as caught:
        train(model, out=out, saves_per_run=3, subspaces=[subspace()])
    assert caught.value.exit_code == 7
    assert n_hooks(model) == n_before
    assert not (out / "model").exists()
    kept = sorted((out / "checkpoints").glob("checkpoint-*"))
    assert [int(path.name.split("-")[1]) for path in kept] == [step - step % 2]
    assert all(t.isfinite().all() for t in load_file(kept[0] / "adapter_model.safetensors").values())
    train(make_model("llama"), out=out, saves_per_run=3, subspaces=[subspace()])
    train(make_model("llama"), out=tmp_path / "whole", subspaces=[subspace()])
    one, other = (load_file(tmp_path / name / "model" / "adapter_model.safetensors") for name in ("whole", "spoilt"))
    assert all(torch.equal(one[key], other[key]) for key in one)


# Ablation in training


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_subspace_is_absent_in_training_and_no_hook_is_left(
    make_model: MakeModel, train: Callable[..., Any], tmp_path: Path, method: str, checkpointing: bool
) -> None:
    model, left = make_model("llama"), []

    def look(module: nn.Module, args: Any, kwargs: Any) -> None:
        acts_BTD = args[0] if args else kwargs["hidden_states"]
        off_BTK = (acts_BTD - subspace().mean_D) @ subspace().basis_DK
        # Rows are padded on the left: only their last five places are past the first token in all of them.
        left.append(float(off_BTK[:, -4:].detach().abs().max() / acts_BTD.detach().abs().max()))

    decoder_blocks(model)[2].register_forward_pre_hook(look, with_kwargs=True)
    n_before = n_hooks(model)
    train(model, subspaces=[subspace(0), subspace(1)], method=method, gradient_checkpointing=checkpointing)
    assert len(left) >= 8 and max(left) <= 1e-5, left
    assert n_hooks(model) == n_before
    left.clear()
    train(model, out=tmp_path / "plain", method="full", epochs=1)
    assert min(left) > 1e-2


def test_ablation_changes_what_is_learned(make_model: MakeModel, train: Callable[..., Any], tmp_path: Path) -> None:
    train(make_model("llama"), out=tmp_path / "plain", epochs=1)
    train(make_model("llama"), out=tmp_path / "ablated", epochs=1, subspaces=[subspace()])
    one, other = (load_file(tmp_path / name / "model" / "adapter_model.safetensors") for name in ("plain", "ablated"))
    assert any(not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_frozen_blocks_give_the_same_activations_as_before_training(
    make_model: MakeModel, train: Callable[..., Any], tokenizer: PreTrainedTokenizerFast, method: str,
    checkpointing: bool,
) -> None:  # fmt: skip
    model = make_model("llama")
    inputs, _ = batch_of(tokenizer, task_rows(4))
    recorder = Recorder(model, [0, 1, 2])
    before = {layer: acts_BTD.clone() for layer, acts_BTD in recorder.run(**inputs).items()}
    summary = train(model, method=method, frozen_up_to=1, subspaces=[subspace()], gradient_checkpointing=checkpointing)
    after = recorder.run(**inputs)
    assert all(torch.equal(before[layer], after[layer]) for layer in (0, 1))
    assert not torch.allclose(before[2], after[2]), "the block above learned something"
    assert 0 < summary["n_trained_parameters"] < sum(weight.numel() for weight in model.parameters())


def test_freezing_all_blocks_is_refused(make_model: MakeModel, train: Callable[..., Any]) -> None:
    model = make_model("llama")
    with pytest.raises(TrainingError, match="leaves no block to train"):
        train(model, frozen_up_to=len(decoder_blocks(model)) - 1)


def test_rows_that_open_with_different_tokens_are_refused(make_model: MakeModel, train: Callable[..., Any]) -> None:
    model = make_model("llama")
    n_before = n_hooks(model)
    rows = [*task_rows(8), TaskRow("a", "A doctor said that", " he", None, "t", "")]
    with pytest.raises(AblationError, match="different tokens"):
        train(model, rows=rows, subspaces=[subspace()])
    assert n_hooks(model) == n_before


def test_gradient_checkpointing_changes_no_weight(
    make_model: MakeModel, train: Callable[..., Any], tmp_path: Path
) -> None:
    for name, checkpointing in (("plain", False), ("checkpointing", True)):
        train(make_model("llama"), out=tmp_path / name, subspaces=[subspace()], gradient_checkpointing=checkpointing)
    one, other = (
        load_file(tmp_path / name / "model" / "adapter_model.safetensors") for name in ("plain", "checkpointing")
    )
    assert all(torch.equal(one[key], other[key]) for key in one)


# What is trained


@pytest.mark.parametrize("stabilized", [True, False])
def test_an_adapter_is_where_and_as_large_as_it_is_told(
    make_model: MakeModel, train: Callable[..., Any], tmp_path: Path, stabilized: bool
) -> None:
    train(make_model("llama"), epochs=1, lora_targets=["q_proj", "down_proj"], lora_rank_stabilized=stabilized)
    from peft import PeftModel

    tensors = load_file(tmp_path / "model" / "adapter_model.safetensors")
    assert {name.split(".")[-3] for name in tensors} == {"q_proj", "down_proj"}
    loaded: Any = PeftModel.from_pretrained(make_model("llama"), str(tmp_path / "model"))
    scale = loaded.base_model.model.model.layers[0].self_attn.q_proj.scaling["default"]
    assert scale == pytest.approx(32.0 / (2.0 if stabilized else 4.0)), "alpha over the root of the rank, or the rank"


def test_a_target_that_is_not_there_is_named(make_model: MakeModel, train: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=r"no module c_attn; .*down_proj.*q_proj"):
        train(make_model("llama"), lora_targets=["q_proj", "c_attn"])
    with pytest.raises(ValueError, match="names no module"):
        options(lora_targets=[])
