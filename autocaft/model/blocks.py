"""Find the decoder blocks of a Hugging Face causal language model.

In: any `PreTrainedModel`, also inside a wrapper of PEFT, DDP, FSDP or torch.compile. Out: its `nn.ModuleList` of
decoder blocks; block `i` is "layer i", and the value after it (resid_post) is the hookpoint of that layer.

The blocks are found by their path, and not by their class: new families arrive weekly, and nearly all keep one of
these four names. A model with none of them is an error that lists what was tried, never a silent no-op.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from autocaft.errors import ConfigError, ModelError

_PATHS = (
    "model.layers",  # Llama, Mistral, Qwen, Gemma, OLMo, Phi
    "model.language_model.layers",  # the text half of vision-language models
    "transformer.h",  # GPT-2, GPT-J, Falcon
    "gpt_neox.layers",  # Pythia, GPT-NeoX
    "model.decoder.layers",  # OPT
)
_FINAL_NORMS = ("norm", "ln_f", "final_layer_norm")


def unwrapped(model: Any) -> Any:
    """The model without its wrappers (DDP, FSDP, torch.compile, PEFT); the same object where there is none."""
    from accelerate.utils import extract_model_from_parallel

    model = extract_model_from_parallel(model, keep_torch_compile=False)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def decoder_blocks(model: nn.Module) -> nn.ModuleList:
    """The decoder blocks in order of depth.

    Raises:
        ModelError: the model has none of the known layouts.
    """
    root = unwrapped(model)
    for path in _PATHS:
        found: nn.Module | None = root
        for name in path.split("."):
            found = getattr(found, name, None)
        if isinstance(found, nn.ModuleList) and len(found) > 0:
            return found
    raise ModelError(f"{type(root).__name__}: no decoder blocks found at any of {', '.join(_PATHS)}")


def final_norm(model: nn.Module) -> nn.Module:
    """The norm between the last block and the head, which stands beside the blocks.

    Raises:
        ModelError: none of the known names is there.
    """
    blocks = decoder_blocks(model)
    parent = next(
        module for module in unwrapped(model).modules() if any(child is blocks for child in module.children())
    )
    for name in _FINAL_NORMS:
        norm: nn.Module | None = getattr(parent, name, None)
        if norm is not None:
            return norm
    raise ModelError(f"{type(parent).__name__}: no final norm found; looked for {', '.join(_FINAL_NORMS)}")


def check_layers(model: nn.Module, layers: list[int] | tuple[int, ...]) -> None:
    """Fail unless every layer exists.

    Raises:
        ConfigError: a layer is out of range or named twice.
    """
    n_layers = len(decoder_blocks(model))
    for layer in layers:
        if not 0 <= layer < n_layers:
            raise ConfigError(f"layers: {layer} is out of range; the model has {n_layers} blocks, 0 to {n_layers - 1}")
    if len(set(layers)) != len(layers):
        raise ConfigError(f"layers: {list(layers)} names a layer twice")


def d_model(model: nn.Module) -> int:
    """Width of the residual stream."""
    config = unwrapped(model).config
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    return int(config.hidden_size)


def last_logits(model: Any, n_positions: int) -> dict[str, int]:
    """Forward arguments that ask for the logits of the last positions only; none for the few models that cannot."""
    can = "logits_to_keep" in inspect.signature(unwrapped(model).forward).parameters
    return {"logits_to_keep": n_positions} if can else {}
