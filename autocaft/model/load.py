"""Load a language model and its tokenizer into memory.

In: `Weights` from `locate`. Out: a `PreTrainedModel` in evaluation mode on the accelerator if there is one, its
tokenizer, and ways to the base model behind a fine-tuned one. Weights that are to be quantized are so in every stage:
what an adapter is trained on is what it is measured on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from autocaft.model.locate import Quantization, Weights, check_quantization
from autocaft.rundir.files import replacing_folder


def default_device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator if accelerator is not None else torch.device("cpu")


@cache
def multiplies_bf16(device: torch.device) -> bool:
    """Whether the hardware has products of bf16 numbers.

    A CPU with AVX2 alone and a GPU older than Ampere emulate them, the CPU at a fifth of the speed of fp32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or not hasattr(torch.cpu, "get_capabilities"):  # before torch 2.13
        return True
    can = torch.cpu.get_capabilities()
    return bool(can["architecture"] != "x86_64" or can["avx512_bf16"] or can["amx_bf16"])


@contextmanager
def autocast_bf16(device: torch.device, *, enabled: bool = True, keeps_casts: bool = True) -> Iterator[None]:
    """bf16 matrix products beside fp32 weights, where the hardware has them (about twice as fast as fp32).

    Args:
        keeps_casts: keep each weight's bf16 copy until the context ends; of no use where it holds one forward pass.
    """
    enabled = enabled and multiplies_bf16(device)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled, cache_enabled=keeps_casts):
        yield


@contextmanager
def weights_in_bf16(model: Any) -> Iterator[None]:
    """The model's weights as bf16 copies while the context is open, where the hardware multiplies them; the originals
    come back bit for bit, and quantized ones stay as they are.

    For sampling: autocast would cast every weight anew for each token, which costs as much as the products.
    """
    if not multiplies_bf16(next(model.parameters()).device):
        yield
        return
    originals = {parameter: parameter.data for parameter in model.parameters() if parameter.is_floating_point()}
    try:
        for parameter in originals:
            parameter.data = parameter.data.to(torch.bfloat16)
        yield
    finally:
        for parameter, data in originals.items():
            parameter.data = data


def load_tokenizer(weights: Weights) -> PreTrainedTokenizerBase:
    """The tokenizer, with a padding token."""
    _dequantize_once(weights)
    tokenizer = AutoTokenizer.from_pretrained(weights.folder)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    weights: Weights, *, dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> PreTrainedModel:
    """The language model in evaluation mode.

    Raises:
        ModelError: it is to be quantized, and bitsandbytes is not installed.
    """
    _dequantize_once(weights)
    place = device or default_device()
    if weights.quantization is None:
        model: Any = AutoModelForCausalLM.from_pretrained(weights.folder, dtype=dtype).to(place)  # type: ignore[arg-type]
    else:
        check_quantization(weights)
        how = _bitsandbytes(weights.quantization, dtype)
        model = AutoModelForCausalLM.from_pretrained(
            weights.folder, dtype=dtype, quantization_config=how, device_map={"": place}
        )
    loaded: PreTrainedModel = model.eval()
    if weights.revision is not None:
        # an adapter names its base by this: the id, and no folder of this machine
        loaded.name_or_path = loaded.config.name_or_path = weights.spec
        loaded.config._commit_hash = weights.revision
    head = loaded.get_output_embeddings()
    if head is not None:
        head.register_forward_pre_hook(_contiguous)
    return loaded


def _bitsandbytes(kind: Quantization, dtype: torch.dtype) -> BitsAndBytesConfig:
    """The linear layers of the blocks in four bits (NF4, QLoRA, arXiv 2305.14314) or eight; the rest keeps `dtype`."""
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype, bnb_4bit_use_double_quant=True
    )


def _contiguous(module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Before the language-model head: copy the few positions it reads into one block.

    `logits_to_keep` hands it a strided slice. With a frozen head (LoRA) torch then multiplies row by row against a copy
    of the whole vocabulary for each: 3.4 GB and 2.9 s for 60 rows at a vocabulary of 49,000, instead of .02 s.
    """
    return (args[0].contiguous(), *args[1:])


def load_trained(
    weights: Weights, folder: Path, *, dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> PreTrainedModel:
    """A model this package trained: the base with the adapter in `folder`, or the full weights found there."""
    if not (folder / "adapter_config.json").is_file():
        return load_model(Weights(str(folder), folder, "trained here", ""), dtype=dtype, device=device)
    from peft import PeftModel

    base = load_model(weights, dtype=dtype, device=device)
    return PeftModel.from_pretrained(base, str(folder)).eval()  # type: ignore[return-value]


def has_adapter(model: Any) -> bool:
    """Whether the model is a base with a LoRA adapter that can be switched off."""
    return hasattr(model, "disable_adapter") and hasattr(model, "get_base_model")


@contextmanager
def as_base(model: Any) -> Iterator[PreTrainedModel]:
    """The base model inside a LoRA model: its adapter is off while the context is open."""
    with model.disable_adapter():
        yield model


def _dequantize_once(weights: Weights) -> None:
    """Write a GGUF model as a folder of fp32 safetensors with its tokenizer, unless that was done before, or is being
    done by another process: a folder that one reads from must not be replaced."""
    if weights.gguf is None or weights.folder.is_dir():
        return
    weights.folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{weights.folder}.lock"):
        if not weights.folder.is_dir():
            _dequantize(weights.gguf, weights.folder)


def _dequantize(gguf: Path, folder: Path) -> None:
    source, name = gguf.parent, gguf.name
    model: Any = AutoModelForCausalLM.from_pretrained(source, gguf_file=name, dtype=torch.float32)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config  # the weights are plain fp32 now, and save_pretrained refuses otherwise
    model.hf_quantizer = None
    with replacing_folder(folder) as tmp:
        model.save_pretrained(tmp)
        AutoTokenizer.from_pretrained(source, gguf_file=name).save_pretrained(tmp)
