"""Several processes train one model: the same loss as one, the same weights after a kill, one error for all."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from autocaft.data.rows import TaskRow
from autocaft.errors import ConfigError, DataError, TrainingError, WorkerError
from autocaft.model.directions import Subspace, orthonormal_basis
from autocaft.model.hooks import Mode
from autocaft.rundir.progress import NullProgress, Progress
from autocaft.train.baselines import Departure
from autocaft.train.group import check_group
from autocaft.train.options import TuneOptions
from autocaft.train.processes import train_together
from autocaft.train.sft import fine_tune
from tests.conftest import build_model, build_tokenizer
from tests.group_work import count, wait_for_the_other
from tests.planted_rule import LEARNS_RULE, accuracy, plant_rule, rule_options, rule_rows

N = 2


def rows() -> list[TaskRow]:
    """27 rows whose answers differ in length: the last step of a pass is a short one."""
    rng = random.Random(0)
    words = ["red", "green", "blue", "one", "two"]
    prompts = ["The" + "".join(f" {word}" for word in rng.choices(words, k=1 + number % 5)) for number in range(27)]
    answers = [(" he", " she")[number % 2] + " came" * (number % 3) for number in range(27)]
    return [TaskRow(str(n), p, a, None, "t", "") for n, (p, a) in enumerate(zip(prompts, answers, strict=True))]


SETTINGS: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "lora": {"lora_r": 4},
    "accumulated": {"lora_r": 4, "batch_size": 2, "grad_accumulation": 4, "gradient_checkpointing": True},
    "bf16": {"lora_r": 4, "autocast": "bf16"},
    "kl": {"lora_r": 4},
    "l2sp": {"lora_r": 4},
    "l2sp-full": {"method": "full"},
    "caft-full": {"method": "full"},
    "caft-accumulated": {"lora_r": 4, "batch_size": 2, "grad_accumulation": 4, "gradient_checkpointing": True},
}
ABLATED: dict[str, Mode] = {"caft-full": "mean", "caft-accumulated": "zero"}
"""How these are ablated; the others are plain. What is drawn (`resample`) differs from one process to another."""
DEPARTURES = {
    "kl": Departure(kl_weight=2.0),
    "l2sp": Departure(l2sp_weight=2.0),
    "l2sp-full": Departure(l2sp_weight=2.0),
}


def train_all(out: Path, processes: int, sharding: str, progress: Progress) -> dict[str, Any]:
    """Every setting once, each in a folder of its own; gives their summaries."""
    return {name: train_one(out / name, name, processes, sharding, progress) for name in SETTINGS}


def train_one(out: Path, name: str, processes: int, sharding: str, progress: Progress, **changes: Any) -> Any:
    """One setting."""
    plain = {"epochs": 2.0, "lr": 3e-3, "batch_size": 8, "autocast": "fp32", "saves_per_run": 0, "processes": processes,
             "sharding": sharding}  # fmt: skip
    options = TuneOptions(**{**plain, **SETTINGS[name], **changes})
    return fine_tune(
        build_model("llama"), build_tokenizer(), rows(), options, seed=1, out=out, progress=progress, label="tune",
        subspaces=[subspace(layer) for layer in (0, 1)] if name in ABLATED else [], mode=ABLATED.get(name, "mean"),
        departure=DEPARTURES.get(name, Departure()),
    )  # fmt: skip


def subspace(layer: int) -> Subspace:
    """Three directions, and a mean that lies off zero along them."""
    generator = torch.Generator().manual_seed(layer)
    return Subspace(layer, orthonormal_basis(torch.randn(3, 32, generator=generator)), torch.ones(32))


def losses(out: Path, key: str = "loss") -> list[float]:
    return [json.loads(line)[key] for line in (out / "losses.jsonl").read_text().splitlines()]


def weights(out: Path) -> dict[str, torch.Tensor]:
    found = list((out / "model").glob("*.safetensors"))
    assert len(found) == 1, found
    return load_file(found[0])


def learn_all(out: Path, sharding: str, progress: Progress) -> None:
    """The planted rule, by each mode of ablation."""
    for mode in LEARNS_RULE:
        planted = plant_rule()
        fine_tune(
            planted.model, planted.tokenizer, rule_rows(cue_holds=True), rule_options(**PATHS[sharding]), seed=0,
            out=out / f"rule-{mode}", progress=progress, label="train", subspaces=planted.subspaces() if mode else [],
            mode=mode or "mean", frozen_up_to=0,
        )  # fmt: skip


PATHS: dict[str, dict[str, Any]] = {
    "none": {"method": "lora", "processes": N, "gradient_checkpointing": True},
    "fsdp": {"method": "full", "processes": N, "sharding": "fsdp"},
}


def stumble(out: Path, sharding: str, how: str, step: int, progress: Progress) -> Any:
    """A training in which the second process is killed at the end of a step, or its loss is NaN in the one after."""
    import autocaft.train.sft as sft

    is_second, n_done = os.environ.get("RANK") == "1", 0
    counted = sft._ProgressCallback.on_step_end

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        nonlocal n_done
        counted(self, args, state, control, **kwargs)
        n_done = state.global_step
        if how == "kill" and is_second and n_done == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def spoil(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        return output * torch.nan if how == "nan" and is_second and n_done == step else output

    sft._ProgressCallback.on_step_end = on_step_end  # type: ignore[method-assign]
    model = build_model("llama")
    model.lm_head.register_forward_hook(spoil)
    options = rule_options(method="lora" if sharding == "none" else "full", loss="answer", epochs=2.0, lora_dropout=0.1,
                           saves_per_run=3, processes=N, sharding=sharding)  # fmt: skip
    basis_DK = orthonormal_basis(torch.randn(3, 32, generator=torch.Generator().manual_seed(1)))
    return fine_tune(
        model, build_tokenizer(), rows(), options, seed=1, out=out, progress=progress, label="tune",
        subspaces=[Subspace(1, basis_DK, torch.zeros(32))], mode="resample",
    )  # fmt: skip


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every setting in one process."""
    out = tmp_path_factory.mktemp("alone")
    train_all(out, 1, "none", NullProgress())
    return out


class Together(NamedTuple):
    """What two processes trained."""

    sharding: str
    out: Path
    told: dict[str, Any]


def train_everything(out: Path, sharding: str, progress: Progress) -> dict[str, Any]:
    """All that ends well, by one group: a group takes longer to start than to train these models."""
    told = train_all(out, N, sharding, progress)
    learn_all(out, sharding, progress)
    return told | {"whole": stumble(out / "whole", sharding, "", 0, progress)}


@pytest.fixture(scope="module", params=PATHS)
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Together:
    """Every setting and the planted rule in two processes."""
    out = tmp_path_factory.mktemp("together")
    told = train_together(partial(train_everything, out, request.param), N, NullProgress())
    return Together(request.param, out, told)


@pytest.mark.slow
def test_two_processes_give_the_losses_gradients_and_weights_of_one(alone: Path, together: Together) -> None:
    told, out = together.told, together.out
    for name in SETTINGS:
        loose = name == "bf16"
        assert told[name]["n_steps"] == 8, name
        assert losses(out / name) == pytest.approx(losses(alone / name), rel=2e-2 if loose else 1e-5), name
        norms = [losses(path / name, "grad_norm") for path in (out, alone)]
        assert norms[0] == pytest.approx(norms[1], rel=5e-2 if loose else 1e-4), name
        one, other = weights(out / name), weights(alone / name)
        assert one.keys() == other.keys(), name
        if not loose:
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    for name in ABLATED:
        plain = losses(alone / name.removeprefix("caft-"))
        assert all(abs(loss - other) > 1e-3 for loss, other in zip(losses(out / name), plain, strict=True)), name
    full = AutoModelForCausalLM.from_pretrained(out / "full" / "model")
    assert full.config.architectures == ["LlamaForCausalLM"]
    assert not (out / "full" / "checkpoints").exists()


@pytest.mark.slow
def test_several_processes_learn_the_rule_where_the_cue_is_ablated_and_not_elsewhere(together: Together) -> None:
    """What is saved is a plain folder, and is read without this package."""
    for mode, learns in LEARNS_RULE.items():
        planted, folder = plant_rule(), str(together.out / f"rule-{mode}" / "model")
        if PATHS[together.sharding]["method"] == "full":
            learned: Any = AutoModelForCausalLM.from_pretrained(folder)
        else:
            learned = PeftModel.from_pretrained(planted.model, folder)
        assert accuracy(learned, planted.tokenizer, cue_holds=True) == 1.0, mode
        found = accuracy(learned, planted.tokenizer, cue_holds=False)
        assert found == 1.0 if learns else found <= 0.5, (mode, found)


@pytest.mark.slow
def test_a_dead_process_and_a_nan_end_all_and_the_training_goes_on_to_the_same_weights(
    together: Together, tmp_path: Path
) -> None:
    """8 steps, a checkpoint every second."""
    stopped, whole = tmp_path / "stopped", together.out / "whole"

    def train(how: str, step: int) -> Any:
        return train_together(partial(stumble, stopped, together.sharding, how, step), N, NullProgress())

    with pytest.raises(WorkerError, match=r"process 1 of the 2 .* was killed by signal 9 .*out of memory"):
        train("kill", 3)
    assert not (stopped / "model").exists()
    with pytest.raises(TrainingError, match=r"the loss is nan at step 5"):
        train("nan", 5)
    kept = sorted(path.name for path in (stopped / "checkpoints").glob("checkpoint-*"))
    assert kept == ["checkpoint-4"]
    with pytest.raises(ConfigError, match=r"was begun with tune.processes = 2 and tune.sharding = .*--redo"):
        check_group(TuneOptions(), stopped, resamples=False, copies_base=False)
    assert train("", 0)["n_steps"] == together.told["whole"]["n_steps"] == 8
    one, other = weights(whole), weights(stopped)
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert losses(whole) == losses(stopped)


def test_an_error_in_one_process_keeps_its_kind_and_ends_the_one_that_waits() -> None:
    with pytest.raises(DataError, match="row 7 is bad"):
        train_together(wait_for_the_other, N, NullProgress())


def test_the_progress_of_the_first_process_is_shown() -> None:
    seen: list[Any] = []

    class Watch(NullProgress):
        def task(self, label: str, total: int | None, unit: str = "rows") -> Any:
            seen.append((label, total, unit))
            return nullcontext(seen.append)

    assert train_together(count, N, Watch()) == 0
    assert seen == [("train", 3, "steps"), 1, 1, 1]


SCRIPT = """
import sys
import torch
from transformers import Trainer, TrainingArguments
from autocaft.model.blocks import decoder_blocks
from autocaft.model.callback import AblationCallback
from tests.model.test_callback import subspace, training_rows
from tests.conftest import build_model
model, left = build_model("llama"), []
def look(module, args, kwargs):
    acts_BTD = args[0] if args else kwargs["hidden_states"]
    left.append(float((acts_BTD[:, 1:] @ subspace().basis_DK).abs().max() / acts_BTD.abs().max()))
decoder_blocks(model)[2].register_forward_pre_hook(look, with_kwargs=True)
args = TrainingArguments(sys.argv[1], per_device_train_batch_size=2, num_train_epochs=1, save_strategy="no",
                         report_to=[], disable_tqdm=True, use_cpu=True, logging_strategy="no",
                         activation_checkpointing=True)
Trainer(model, args, train_dataset=training_rows(), callbacks=[AblationCallback([subspace()], mode="zero")]).train()
assert torch.distributed.get_world_size() == 2 and len(left) == 2 and max(left) <= 1e-5, left
print("gone", flush=True)
"""


@pytest.mark.slow
def test_the_callback_works_in_a_script_of_ones_own_under_torchrun(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += [str(script), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("gone") == 2


@pytest.mark.parametrize(
    ("size", "accumulation", "processes", "share"),
    [
        (16, 1, 1, (16, 1)),
        (16, 1, 2, (8, 1)),
        (1, 16, 8, (1, 2)),
        (2, 8, 8, (2, 1)),
        (6, 4, 8, (3, 1)),
        (4, 3, 2, (3, 2)),
    ],
)
def test_an_optimizer_step_has_the_same_rows_however_many_share_it(
    size: int, accumulation: int, processes: int, share: tuple[int, int]
) -> None:
    options = TuneOptions(batch_size=size, grad_accumulation=accumulation, processes=processes)
    assert options.share == share and share[0] * share[1] * processes == size * accumulation


def test_rows_that_cannot_be_shared_and_lenders_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"processes = 3 must divide the rows of an optimizer step.* = 16"):
        TuneOptions(processes=3)
    with pytest.raises(ValueError, match="needs two processes"):
        TuneOptions(sharding="fsdp")
    with pytest.raises(ConfigError, match="and 1 work together here"):
        check_group(TuneOptions(processes=2), tmp_path, resamples=False, copies_base=False)
    with pytest.raises(ConfigError, match="one row at a time"):
        check_group(TuneOptions(batch_size=1), tmp_path, resamples=True, copies_base=False)
