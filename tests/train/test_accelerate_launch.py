"""`accelerate launch` on two processes: a script of one's own trains in the ablation as one process does; `autocaft`,
which starts processes itself, says so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = """
import sys
import torch
from tiny_models import tiny_llama
from transformers import Trainer, TrainingArguments
from autocaft.model.callback import AblationCallback
from autocaft.model.directions import Subspace, orthonormal_basis

out, n_rows = sys.argv[1], int(sys.argv[2])
width = tiny_llama().config.hidden_size
basis_DK = orthonormal_basis(torch.randn(3, width, generator=torch.Generator().manual_seed(0)))
ids_NT = torch.randint(5, 40, (24, 6), generator=torch.Generator().manual_seed(1))
ids_NT[:, 0] = 1
rows = [{"input_ids": row, "labels": row} for row in ids_NT.tolist()]
arguments = TrainingArguments(
    out, per_device_train_batch_size=n_rows, num_train_epochs=2, learning_rate=1e-2, report_to=[], disable_tqdm=True,
    use_cpu=True, save_strategy="no", logging_strategy="no", seed=0,
)
callbacks = [AblationCallback([Subspace(1, basis_DK, torch.zeros(width))])] if sys.argv[3] == "ablated" else []
trainer = Trainer(tiny_llama(), arguments, train_dataset=rows, callbacks=callbacks)
trainer.train()
assert trainer.args.world_size * n_rows == 4
trainer.save_model(out)
"""
LAUNCH = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
          "--mixed_precision", "no", "--dynamo_backend", "no")  # fmt: skip


def _start(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    here = Path(__file__).resolve().parents[1]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(here / "discover"), str(here), str(here.parent)])}
    env |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run([sys.executable, *words], env=env, cwd=cwd, capture_output=True, text=True, timeout=300)


def _trained(out: Path, *words: str) -> dict[str, torch.Tensor]:
    script = out.parent / "script.py"
    script.write_text(SCRIPT)
    done = _start(*words[:-2], str(script), str(out), *words[-2:], cwd=out.parent)
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(out / "model.safetensors")


def _apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return max(float((one[name] - other[name]).abs().max()) for name in one)


@pytest.mark.slow
def test_a_script_under_accelerate_launch_trains_in_the_ablation_as_one_process_does(tmp_path: Path) -> None:
    one = _trained(tmp_path / "one", "4", "ablated")
    two = _trained(tmp_path / "two", *LAUNCH, "2", "ablated")
    plain = _trained(tmp_path / "plain", "4", "plain")
    assert _apart(one, two) < 1e-4
    assert _apart(one, plain) > 1e-2


@pytest.mark.slow
def test_autocaft_under_accelerate_launch_says_that_it_starts_its_own_processes(tmp_path: Path) -> None:
    done = _start(
        *LAUNCH,
        str(Path(sys.executable).parent / "autocaft"),
        "run",
        "quickstart",
        "--runs",
        str(tmp_path),
        cwd=tmp_path,
    )
    assert done.returncode != 0 and "tune.processes = 2" in done.stderr + done.stdout
    assert not list(tmp_path.glob("*/run.sqlite"))
