"""Writes the dictionaries beside this file with the libraries whose formats they have, and what those encode.

    pip download --no-deps dictionary-learning==0.1.0 eai-sparsify==1.3.3    # unpacked into two folders
    pip install einops simple-parsing natsort                                # in a venv of its own
    python make.py DICTIONARY_LEARNING SPARSIFY

Only the modules that hold an SAE are imported: their packages would load trainers and a language model library.
Gemma Scope is written by no library; its encode is the one of its paper (arXiv 2408.05147, section 2.2).
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

HERE = Path(__file__).parent
WIDTH, N_LATENTS, K, LAYER = 16, 32, 4, 5


def import_from(root: str, package: str, name: str) -> Any:
    """A module without running the `__init__` of the packages around it."""
    for depth in range(1, name.count(".") + 2):
        parent = ".".join([package, *name.split(".")][:depth])
        if parent not in sys.modules:
            sys.modules[parent] = types.ModuleType(parent)
            sys.modules[parent].__path__ = [str(Path(root, *parent.split(".")))]  # type: ignore[attr-defined]
    return importlib.import_module(f"{package}.{name}")


def main(dictionary_learning: str, sparsify: str) -> None:
    torch.manual_seed(0)
    acts_ND = 3 * torch.randn(24, WIDTH) + 1
    trainers = "dictionary_learning", "trainers"
    import_from(dictionary_learning, "dictionary_learning", "dictionary")
    size = {"steps": 2000, "activation_dim": WIDTH, "dict_size": N_LATENTS, "layer": LAYER, "lm_name": "some/model",
            "device": "cpu", "submodule_name": f"resid_post_layer_{LAYER}", "warmup_steps": 10}  # fmt: skip
    jump = {"sparsity_warmup_steps": 10}
    makers = {
        "standard": ("standard", "StandardTrainer", jump),
        "top_k": ("top_k", "TopKTrainer", {"k": K}),
        "batch_top_k": ("batch_top_k", "BatchTopKTrainer", {"k": K}),
        "matryoshka": ("matryoshka_batch_top_k", "MatryoshkaBatchTopKTrainer",
                       {"k": K, "group_fractions": [0.25, 0.75]}),
        "jump_relu": ("jumprelu", "JumpReluTrainer", {**jump, "target_l0": 4.0}),
    }  # fmt: skip
    for name, (module, trainer_class, own) in makers.items():
        found = import_from(dictionary_learning, trainers[0], f"{trainers[1]}.{module}")
        trainer = getattr(found, trainer_class)(**size, **own)
        disturb(trainer.ae)
        folder = HERE / f"dictionary_learning_{name}"
        folder.mkdir(exist_ok=True)
        torch.save({key: value.cpu() for key, value in trainer.ae.state_dict().items()}, folder / "ae.pt")
        (folder / "config.json").write_text(json.dumps({"trainer": trainer.config}, indent=1, default=str) + "\n")
        keep(folder, acts_ND, trainer.ae.encode(acts_ND))
    write_sparsify(sparsify, acts_ND)
    write_gemma_scope(acts_ND)


def disturb(ae: Any) -> None:
    """Biases and thresholds as after a training, and decoder rows of length two."""
    with torch.no_grad():
        for name, value in ae.state_dict().items():
            if name == "threshold":
                value.copy_(0.5 + 0.5 * torch.rand(value.shape))
            elif value.is_floating_point():
                value.add_(0.3 * torch.randn(value.shape))
            if name in ("decoder.weight", "W_dec"):
                value.mul_(2)


def keep(folder: Path, acts_ND: Tensor, latents_NS: Tensor) -> None:
    save_file({"acts_ND": acts_ND, "latents_NS": latents_NS.detach().contiguous()}, folder / "encoded.safetensors")


def write_sparsify(root: str, acts_ND: Tensor) -> None:
    config = import_from(root, "sparsify", "config").SparseCoderConfig(num_latents=N_LATENTS, k=K)
    sae = import_from(root, "sparsify", "sparse_coder").SparseCoder(WIDTH, config)
    disturb(sae)
    folder = HERE / f"sparsify/layers.{LAYER}"
    sae.save_to_disk(folder)
    (folder / "cfg.json").write_text(json.dumps(json.loads((folder / "cfg.json").read_text()), indent=1) + "\n")
    found = sae.encode(acts_ND)
    latents_NS = torch.zeros(len(acts_ND), N_LATENTS).scatter(1, found.top_indices, found.top_acts)
    keep(folder, acts_ND, latents_NS)


def write_gemma_scope(acts_ND: Tensor) -> None:
    weights = {"W_enc": torch.randn(WIDTH, N_LATENTS), "b_enc": torch.randn(N_LATENTS),
               "W_dec": torch.randn(N_LATENTS, WIDTH), "b_dec": torch.randn(WIDTH),
               "threshold": 2 * torch.rand(N_LATENTS)}  # fmt: skip
    folder = HERE / f"gemma_scope/layer_{LAYER}/width_32/average_l0_8"
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "params.npz", **{name: tensor.numpy() for name, tensor in weights.items()})
    before_NS = acts_ND @ weights["W_enc"] + weights["b_enc"]
    keep(folder, acts_ND, before_NS.relu() * (before_NS > weights["threshold"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
