"""Look into the residual stream, or take a subspace out of it, while a model runs.

    with ablate(model, subspaces, mode="mean"):      # CAFT in two lines of any training script
        trainer.train()

    recorder = Recorder(model, layers=[14, 20])      # activations, stopping after block 20
    acts_by_layer = recorder.run(input_ids=..., attention_mask=...)

Ablation is `act - (act - origin) Q Qᵀ` after the decoder block (arXiv 2507.16795, section 3), origin 0 (mode `zero`)
or the base model's mean (mode `mean`). Mode `leace` is `act - (act - mean) R Qᵀ`, R such that as little changes as can
(arXiv 2306.03819, model/leace.py). Gradients flow through it. Mode `resample` puts another row's projection in the
place of the row's own (resampling ablation, as in causal scrubbing): it tells as little of the row, and what stands
there stays like what will stand there once the ablation ends.

The decision a reader would question: the first unpadded position of each row is left alone. It is an attention sink
whose norm is a hundred times that of any other token; projecting it changes the model everywhere. To leave it alone
leaks nothing only while it is the same token in every row, so that is checked in every forward pass.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from autocaft.errors import AblationError
from autocaft.model.blocks import check_layers, d_model, decoder_blocks, unwrapped
from autocaft.model.directions import Subspace

Mode = Literal["zero", "mean", "mean-shift", "resample", "leace"]
Passes = Literal["both", "activations", "gradients"]


class Ablation:
    """An open ablation, which may be changed between two forward passes (and their backward passes)."""

    def __init__(self, strength: float) -> None:
        self.strength = strength
        """Share of the projection that is removed; at 0 every block gives what it gives without the ablation."""
        self.allows_any_first = False
        """Whether rows may open with different tokens: only where nobody learns or compares what such a token could
        give away, as in the perplexity of generic text."""

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is removed for as long as this is open."""
        kept, self.strength = self.strength, 0.0
        try:
            yield
        finally:
            self.strength = kept


@contextmanager
def ablate(
    model: nn.Module,
    subspaces: Sequence[Subspace],
    *,
    mode: Mode = "mean",
    strength: float = 1.0,
    exempt_first: bool = True,
    passes: Passes = "both",
) -> Iterator[Ablation]:
    """Remove the subspaces' projections after their blocks for as long as the context is open.

    Keep the context open until the backward pass is done: with gradient checkpointing, blocks run again there.
    Contexts may be nested. Two at one layer project one after the other, so both subspaces are gone only if they are
    orthogonal; otherwise join them in one `Subspace`.

    Args:
        model: any HF decoder, bare or PEFT-wrapped, tensor or tuple blocks, with or without gradient checkpointing.
        subspaces: at most one a layer; moved to the block's device at first use.
        mode: `zero` removes the whole projection (the paper), `mean` keeps the mean's component, `mean-shift` is a
            control that adds the constant by which `mean` differs from `zero` and removes nothing. `resample` takes the
            projection of another row at the same column of the batch, drawn anew in each forward pass, without a
            gradient to it; the mean where that row has no token, or a row is alone. It is meant for shuffled training
            batches: rows that stand together for a reason would tell of each other.
        strength: share of the projection that is removed, 0 to 1.
        exempt_first: leave the first unpadded position of each row alone.
        passes: what the ablation changes: `activations` alone leaves the gradient as it is without it, `gradients`
            alone leaves the forward pass.

    Raises:
        AblationError: no subspace, one that does not fit the model, a missing mean or reader, rows that open with
            different tokens, or a packed batch.
        ConfigError: a layer the model does not have, or one named twice.
    """
    _check_subspaces(model, subspaces, mode, strength)
    blocks = decoder_blocks(model)
    root = unwrapped(model)
    ablation = Ablation(strength)
    in_flight = _Passes(root, ablation, exempt_first, resamples=mode == "resample")
    handles = []
    try:
        handles.append(root.register_forward_pre_hook(in_flight.read_batch, with_kwargs=True))
        handles.append(root.register_forward_hook(in_flight.end_batch, always_call=True))
        for subspace in subspaces:
            hook = _ablation_hook(subspace, mode, ablation, in_flight, passes)
            handles.append(blocks[subspace.layer].register_forward_hook(hook))
        assert len(handles) == len(subspaces) + 2, (len(handles), len(subspaces))
        yield ablation
    finally:
        for handle in handles:
            handle.remove()


def _check_subspaces(model: nn.Module, subspaces: Sequence[Subspace], mode: str, strength: float) -> None:
    """Everything that would make the ablation a silent no-op, or another one than was asked for, is an error."""
    assert mode in typing.get_args(Mode), mode
    assert 0.0 <= strength <= 1.0, f"strength is a share between 0 and 1, got {strength}"
    if not subspaces:
        raise AblationError("ablate: no subspace given, so nothing would be removed")
    layers = [subspace.layer for subspace in subspaces]
    check_layers(model, layers)
    if mode != "zero" and any(subspace.mean_D is None for subspace in subspaces):
        raise AblationError(f"ablate: mode {mode!r} needs the base model's mean, and a subspace has none; use 'zero'")
    if mode == "leace" and any(subspace.read_DK is None for subspace in subspaces):
        raise AblationError("ablate: mode 'leace' needs readers, and a subspace has none; model/leace.py makes them")
    width = d_model(model)
    for subspace in subspaces:
        if len(subspace.basis_DK) != width:
            raise AblationError(
                f"ablate: the subspace of layer {subspace.layer} has {len(subspace.basis_DK)} dimensions and the model "
                f"{width}; it was made for another model"
            )


@dataclass(frozen=True)
class _Pass:
    """What the hooks need to know of one forward pass. None stands for all positions."""

    keep_BT1: Tensor | None = None
    """Multiplies what is removed: 0 at each row's first unpadded position if that is exempt, 1 elsewhere."""
    lends_BT1: Tensor | None = None
    """1 where a position's projection may be lent to another row: not padding, and not exempt."""
    shift: int = 0
    """How many rows further down the lender stands; 0: nothing is lent."""

    def is_like(self, other: _Pass) -> bool:
        """Whether blocks that run again may take either."""
        one, two = self.keep_BT1, other.keep_BT1
        same_mask = one is two or (one is not None and two is not None and torch.equal(one, two))
        return same_mask and self.shift == other.shift == 0


class _Passes:
    """The forward pass in flight, read from the batch once for all hooks."""

    def __init__(self, root: nn.Module, ablation: Ablation, exempt_first: bool, *, resamples: bool) -> None:
        self.ablation, self.exempt_first, self.resamples = ablation, exempt_first, resamples
        self.names = tuple(inspect.signature(root.forward).parameters)
        self.first_token: Tensor | None = None
        self.in_flight = False
        self.now = _Pass()
        self.awaiting: list[_Pass] = []
        """Different passes that a backward pass may still recompute; two are enough to refuse."""
        self.is_recomputed = False

    def read_batch(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the whole model: find the first unpadded positions, check their token, draw lenders."""
        given = {**dict(zip(self.names, args, strict=False)), **kwargs}
        keep_BT1 = self._keep(given)
        self.now = self._with_lenders(given, keep_BT1) if self.resamples else _Pass(keep_BT1)
        self.in_flight = True
        if torch.is_grad_enabled():
            self._await_backward()

    def end_batch(self, module: nn.Module, args: Any, output: Any) -> None:
        """Forward hook of the whole model, called after an exception too."""
        self.in_flight = False

    def _await_backward(self) -> None:
        """Note the pass for blocks that run again in the backward pass (gradient checkpointing around hooks)."""
        if self.is_recomputed:
            self.awaiting, self.is_recomputed = [], False
        if len(self.awaiting) < 2 and not any(old.is_like(self.now) for old in self.awaiting):
            self.awaiting.append(self.now)

    def current(self) -> _Pass:
        """The pass of a block that runs now: forward, or again in the backward pass."""
        if self.in_flight or not self.awaiting:
            return self.now
        if len(self.awaiting) > 1:
            raise AblationError(
                "ablate: two batches that differ in padding (or, resampled, in lenders) went forward before the "
                "backward pass of the first, so gradient checkpointing would recompute the wrong ablation. Go backward "
                "after each batch, run passes without a backward under torch.no_grad(), or switch checkpointing off"
            )
        self.is_recomputed = True
        return self.awaiting[0]

    def _with_lenders(self, given: dict[str, Any], keep_BT1: Tensor | None) -> _Pass:
        """Each row's lender is the row `shift` further down, so that none lends to itself; a row alone has none."""
        ids_BT, mask_BT = given.get("input_ids"), given.get("attention_mask")
        if ids_BT is None or _continues_cache(given):
            raise AblationError("ablate: mode 'resample' needs whole batches of input_ids; use 'mean' to generate")
        lends_BT1 = None if mask_BT is None else mask_BT.unsqueeze(-1).float()
        if keep_BT1 is not None:
            lends_BT1 = keep_BT1 if lends_BT1 is None else lends_BT1 * keep_BT1
        # torch's own generator: a training that goes on from a checkpoint draws as if it had never stopped
        shift = int(torch.randint(1, len(ids_BT), ())) if len(ids_BT) > 1 else 0
        return _Pass(keep_BT1, lends_BT1, shift)

    def _keep(self, given: dict[str, Any]) -> Tensor | None:
        if not self.exempt_first or _continues_cache(given):
            return None
        ids_BT = given.get("input_ids")
        if ids_BT is None:
            raise AblationError("ablate: called with inputs_embeds; the first token cannot be checked. Pass input_ids")
        first_BT = _first_positions(ids_BT, given.get("attention_mask"), given.get("position_ids"))
        if not self.ablation.allows_any_first:
            self._check_same_token(ids_BT[first_BT])
        return (~first_BT).unsqueeze(-1).float()

    def _check_same_token(self, first_B: Tensor) -> None:
        if self.first_token is None:
            self.first_token = first_B[:1]
        differs_B = first_B != self.first_token.to(first_B.device)
        if differs_B.any():
            was, now = int(self.first_token), int(first_B[differs_B][0])
            raise AblationError(
                f"ablate: rows open with different tokens (ids {was} and {now}), and the first position is exempt, so "
                "it could carry the concept past the ablation. Prepend BOS to every row, or use exempt_first=False"
            )


def _continues_cache(kwargs: dict[str, Any]) -> bool:
    """Whether this pass decodes on from a cached prefix: the row's first token is not in it."""
    cache = kwargs.get("past_key_values")
    return cache is not None and cache.get_seq_length() > 0


def _first_positions(ids_BT: Tensor, mask_BT: Any, positions_BT: Tensor | None) -> Tensor:
    """True at each row's first unpadded position, (B, T); padding may be on either side."""
    if mask_BT is None:
        mask_BT = torch.ones_like(ids_BT)
    shape = tuple(getattr(mask_BT, "shape", ()))
    if shape != tuple(ids_BT.shape):
        raise AblationError(
            f"ablate: an attention mask of shape {shape} beside ids of shape {tuple(ids_BT.shape)}; "
            "packed or padding-free batches have no first position per row. Turn packing off"
        )
    mask_BT = mask_BT.to(torch.bool)
    first_BT = mask_BT & (mask_BT.cumsum(dim=1) == 1)
    if positions_BT is not None and ((positions_BT == 0) & mask_BT & ~first_BT).any():
        raise AblationError(
            "ablate: the position ids start again inside a row, so several texts are packed into one row and only the "
            "first of them would have its first position exempt. Turn packing off"
        )
    return first_BT


def _ablation_hook(
    subspace: Subspace, mode: Mode, ablation: Ablation, in_flight: _Passes, passes: Passes
) -> Callable[[nn.Module, Any, Any], Any]:
    """Forward hook of one block. Thin factors move to the block's device once, in fp32."""
    placed: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = {}

    def factors(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        if device not in placed:
            basis_DK = subspace.basis_DK.to(device)
            read_DK = basis_DK
            if mode == "leace":
                assert subspace.read_DK is not None
                read_DK = subspace.read_DK.to(device)
            origin_K = torch.zeros(basis_DK.shape[1], device=device)
            if mode != "zero":
                assert subspace.mean_D is not None
                origin_K = subspace.mean_D.to(device) @ read_DK
            placed[device] = read_DK, basis_DK, origin_K
        return placed[device]

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        if ablation.strength == 0.0:
            return output
        acts_BTD = output[0] if isinstance(output, tuple) else output
        now, strength = in_flight.current(), ablation.strength
        # Autocast would turn the thin products into bf16 and leave a hundred times more behind.
        with torch.autocast(acts_BTD.device.type, enabled=False):
            read_DK, basis_DK, origin_K = factors(acts_BTD.device)
            if mode == "mean-shift":
                new_BTD = _shift(acts_BTD, basis_DK, origin_K * strength, now.keep_BT1)
            else:
                new_BTD = _project_out(acts_BTD, read_DK, basis_DK, origin_K, strength, now)
        if passes == "activations":
            new_BTD = _ValueOf.apply(new_BTD.detach(), acts_BTD)
        elif passes == "gradients":
            new_BTD = _ValueOf.apply(acts_BTD.detach(), new_BTD)
        return (new_BTD, *output[1:]) if isinstance(output, tuple) else new_BTD

    return hook


class _ValueOf(torch.autograd.Function):
    """The value of the first tensor with the gradient of the second, bit for bit."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, source: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return None, grads[0]


def _project_out(
    acts_BTD: Tensor, read_DK: Tensor, basis_DK: Tensor, origin_K: Tensor, strength: float, now: _Pass
) -> Tensor:
    """`acts - strength (acts R - target) Qᵀ`, R mostly Q, the target being the origin or what another row lends; the
    only full-width tensor it keeps is its result."""
    coords_BTK = acts_BTD.float() @ read_DK - origin_K
    if now.shift:
        lent_BTK = coords_BTK.detach() if now.lends_BT1 is None else coords_BTK.detach() * now.lends_BT1
        coords_BTK = coords_BTK - lent_BTK.roll(now.shift, dims=0)
    if now.keep_BT1 is not None:
        coords_BTK = coords_BTK * now.keep_BT1
    flat_ND = torch.addmm(acts_BTD.flatten(0, -2).float(), coords_BTK.flatten(0, -2), basis_DK.T, alpha=-strength)
    return flat_ND.view(acts_BTD.shape).to(acts_BTD.dtype)


def _shift(acts_BTD: Tensor, basis_DK: Tensor, origin_K: Tensor, keep_BT1: Tensor | None) -> Tensor:
    """Add the mean's component and remove nothing: what `mean` does beyond `zero`, alone."""
    shift_D = basis_DK @ origin_K
    return (acts_BTD.float() + (shift_D if keep_BT1 is None else shift_D * keep_BT1)).to(acts_BTD.dtype)


class _StopForwardError(Exception):
    """Raised by the deepest recorded block: nothing after it is needed."""


class Recorder:
    """Run a model up to its deepest chosen block and hand back the residual stream after each chosen one."""

    def __init__(self, model: nn.Module, layers: Sequence[int], *, before_hooks: bool = False) -> None:
        """Args:
        before_hooks: read what each block gives, before an open ablation changes it; by default what the next
            block reads.
        """
        check_layers(model, tuple(layers))
        assert layers, "Recorder: no layers given"
        self.model = model
        self.layers = tuple(sorted(layers))
        self.before_hooks = before_hooks

    def run(self, **inputs: Tensor) -> dict[int, Tensor]:
        """Activations (B, T, D) by layer, in the model's dtype, attached to the graph if gradients are on.

        The blocks above the deepest chosen one and the LM head are not computed.
        """
        acts_by_layer: dict[int, Tensor] = {}
        blocks = decoder_blocks(self.model)
        handles = []
        try:
            for layer in self.layers:
                capture = self._capture(layer, acts_by_layer)
                handles.append(blocks[layer].register_forward_hook(capture, prepend=self.before_hooks))
            self.model(**inputs, use_cache=False)
        except _StopForwardError:
            pass
        finally:
            for handle in handles:
                handle.remove()
        assert len(acts_by_layer) == len(self.layers), f"hooks fired at {sorted(acts_by_layer)}, not at {self.layers}"
        return acts_by_layer

    def _capture(self, layer: int, acts_by_layer: dict[int, Tensor]) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            acts_by_layer[layer] = output[0] if isinstance(output, tuple) else output
            if layer == self.layers[-1]:
                raise _StopForwardError

        return hook
