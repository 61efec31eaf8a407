"""What is ablated is gone where the next block reads it, nothing else changes, and nothing stays behind."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from autocaft.errors import AblationError, ConfigError
from autocaft.model.blocks import decoder_blocks
from autocaft.model.directions import Subspace, orthonormal_basis
from autocaft.model.hooks import Mode, Recorder, ablate
from autocaft.model.leace import LeastChange

MakeModel = Callable[..., PreTrainedModel]
LAYER, RANK, WIDTH = 1, 4, 32


def subspace_at(layer: int, *, seed: int = 0, rank: int = RANK) -> Subspace:
    generator = torch.Generator().manual_seed(seed)
    basis_DK = orthonormal_basis(torch.randn(rank, WIDTH, generator=generator))
    return Subspace(layer, basis_DK, torch.randn(WIDTH, generator=generator))


def oblique_at(layer: int) -> Subspace:
    """A subspace with a reader that leans away from its basis."""
    subspace = subspace_at(layer)
    draws_DD = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(1))
    return LeastChange({layer: draws_DD @ draws_DD.T + torch.eye(WIDTH)}, spans="covariance")(subspace)


def rows(*, n: int = 3, width: int = 7, seed: int = 0) -> Tensor:
    """Token ids (n, width) without specials; every row opens with the same token."""
    ids_BT = torch.randint(5, 90, (n, width), generator=torch.Generator().manual_seed(seed))
    ids_BT[:, 0] = 1
    return ids_BT


def next_input(model: nn.Module, layer: int, **inputs: Any) -> Tensor:
    """What block `layer + 1` is given: read by a pre-hook of that block, not from what a hook claims to return."""
    seen: list[Tensor] = []

    def look(module: nn.Module, args: Any, kwargs: Any) -> None:
        seen.append((args[0] if args else kwargs["hidden_states"]).detach().clone())

    handle = decoder_blocks(model)[layer + 1].register_forward_pre_hook(look, with_kwargs=True)
    try:
        model(**inputs)
    finally:
        handle.remove()
    return seen[0]


def n_hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


def padded(ids_BT: Tensor, n_pad: int, side: str) -> dict[str, Tensor]:
    pad = torch.zeros(len(ids_BT), n_pad, dtype=torch.long)
    parts = [pad, ids_BT] if side == "left" else [ids_BT, pad]
    masks = [pad, torch.ones_like(ids_BT)] if side == "left" else [torch.ones_like(ids_BT), pad]
    mask_BT = torch.cat(masks, dim=1)
    positions_BT = (mask_BT.cumsum(1) - 1).clamp_min(0)
    return {"input_ids": torch.cat(parts, dim=1), "attention_mask": mask_BT, "position_ids": positions_BT}


# What is left in the subspace


@torch.no_grad()
def test_nothing_is_left_in_the_subspace_where_the_next_block_reads(family_model: PreTrainedModel) -> None:
    subspace, ids_BT = subspace_at(LAYER), rows()
    before_BTD = next_input(family_model, LAYER, input_ids=ids_BT)
    with ablate(family_model, [subspace], mode="zero"):
        after_BTD = next_input(family_model, LAYER, input_ids=ids_BT)
    left = (after_BTD[:, 1:] @ subspace.basis_DK).norm() / (before_BTD[:, 1:] @ subspace.basis_DK).norm()
    assert left <= 1e-5, left
    assert torch.equal(after_BTD[:, 0], before_BTD[:, 0]), "the exempt position changed"


@torch.no_grad()
@pytest.mark.parametrize("how", ["bf16 weights", "autocast"])
def test_at_most_one_percent_is_left_in_bf16(family: str, make_model: MakeModel, how: str) -> None:
    model, subspace, ids_BT = make_model(family), subspace_at(LAYER), rows()
    if how == "bf16 weights":
        model = model.to(torch.bfloat16)
    context = torch.autocast("cpu", dtype=torch.bfloat16) if how == "autocast" else nullcontext()
    with context:
        before_BTD = next_input(model, LAYER, input_ids=ids_BT).float()
        with ablate(model, [subspace], mode="zero"):
            after_BTD = next_input(model, LAYER, input_ids=ids_BT).float()
    left = (after_BTD[:, 1:] @ subspace.basis_DK).norm() / (before_BTD[:, 1:] @ subspace.basis_DK).norm()
    assert left <= 0.01, left
    assert torch.equal(after_BTD[:, 0], before_BTD[:, 0])


@torch.no_grad()
def test_the_model_s_dtype_is_kept(make_model: MakeModel) -> None:
    model = make_model("llama").to(torch.bfloat16)
    with ablate(model, [subspace_at(LAYER)]):
        assert next_input(model, LAYER, input_ids=rows()).dtype == torch.bfloat16


@torch.no_grad()
def test_mean_mode_leaves_exactly_the_mean_s_component(family_model: PreTrainedModel) -> None:
    subspace, ids_BT = subspace_at(LAYER), rows()
    before_BTD = next_input(family_model, LAYER, input_ids=ids_BT)
    with ablate(family_model, [subspace], mode="mean"):
        after_BTD = next_input(family_model, LAYER, input_ids=ids_BT)
    assert subspace.mean_D is not None
    scale = (before_BTD[:, 1:] @ subspace.basis_DK).abs().max()
    off = (after_BTD[:, 1:] - subspace.mean_D) @ subspace.basis_DK
    assert off.abs().max() / scale <= 1e-5
    complement_DD = torch.eye(WIDTH) - subspace.basis_DK @ subspace.basis_DK.T
    torch.testing.assert_close(after_BTD @ complement_DD, before_BTD @ complement_DD, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("mode", ["mean", "resample", "mean-shift"])
def test_autocast_rounds_no_mean(make_model: MakeModel, mode: Mode) -> None:
    """It is as exact as what is removed, also where the first pass of an ablation is one of bf16 products."""
    model, subspace = make_model("llama"), subspace_at(LAYER)
    ids_BT = rows(n=1 if mode == "resample" else 3)  # a row that is alone borrows from none
    assert subspace.mean_D is not None
    mean_K = subspace.mean_D @ subspace.basis_DK
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before_BTD = next_input(model, LAYER, input_ids=ids_BT)
        with ablate(model, [subspace], mode=mode):
            after_BTD = next_input(model, LAYER, input_ids=ids_BT)
    assert after_BTD.dtype == torch.float32, "the residual stream has the weights' precision"
    after_BTD = after_BTD - before_BTD if mode == "mean-shift" else after_BTD
    torch.testing.assert_close(after_BTD[:, 1:] @ subspace.basis_DK, mean_K.expand(*ids_BT[:, 1:].shape, -1),
                               rtol=1e-4, atol=1e-5)  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("how", ["fp32", "bf16 weights", "autocast"])
def test_least_change_leaves_the_reader_nothing_and_moves_along_the_basis_alone(
    family: str, make_model: MakeModel, how: str
) -> None:
    model, subspace, ids_BT = make_model(family), oblique_at(LAYER), rows()
    assert subspace.mean_D is not None and subspace.read_DK is not None
    model = model.to(torch.bfloat16) if how == "bf16 weights" else model
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=how == "autocast"):
        before_BTD = next_input(model, LAYER, input_ids=ids_BT).float()
        with ablate(model, [subspace], mode="leace"):
            after_BTD = next_input(model, LAYER, input_ids=ids_BT).float()
    assert torch.equal(after_BTD[:, 0], before_BTD[:, 0]), "the exempt position changed"
    read_BTK = (before_BTD[:, 1:] - subspace.mean_D) @ subspace.read_DK
    left = ((after_BTD[:, 1:] - subspace.mean_D) @ subspace.read_DK).norm() / read_BTK.norm()
    assert left <= (1e-5 if how == "fp32" else 0.01), left
    removed_BTD = read_BTK @ subspace.basis_DK.T
    off = (before_BTD[:, 1:] - after_BTD[:, 1:] - removed_BTD).norm() / removed_BTD.norm()
    assert off <= (1e-5 if how == "fp32" else 0.01), off


@torch.no_grad()
@pytest.mark.parametrize("strength", [0.0, 0.25, 1.0])
def test_strength_is_the_share_that_is_removed(make_model: MakeModel, strength: float) -> None:
    model, subspace, ids_BT = make_model("llama"), subspace_at(LAYER), rows()
    before_BTK = next_input(model, LAYER, input_ids=ids_BT)[:, 1:] @ subspace.basis_DK
    with ablate(model, [subspace], mode="zero", strength=strength):
        after_BTK = next_input(model, LAYER, input_ids=ids_BT)[:, 1:] @ subspace.basis_DK
    torch.testing.assert_close(after_BTK, (1 - strength) * before_BTK, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_mean_shift_adds_a_constant_and_removes_nothing(make_model: MakeModel) -> None:
    model, subspace, ids_BT = make_model("llama"), subspace_at(LAYER), rows()
    before_BTD = next_input(model, LAYER, input_ids=ids_BT)
    with ablate(model, [subspace], mode="mean-shift"):
        shifted_BTD = next_input(model, LAYER, input_ids=ids_BT)
    with ablate(model, [subspace], mode="mean"):
        mean_BTD = next_input(model, LAYER, input_ids=ids_BT)
    with ablate(model, [subspace], mode="zero"):
        zero_BTD = next_input(model, LAYER, input_ids=ids_BT)
    added_BTD = shifted_BTD - before_BTD
    assert torch.equal(added_BTD[:, 0], torch.zeros_like(added_BTD[:, 0]))
    assert added_BTD[:, 1:].flatten(0, 1).std(dim=0).max() < 1e-5, "not the same at every position"
    torch.testing.assert_close(added_BTD, mean_BTD - zero_BTD, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_every_position_is_ablated_without_the_exemption(make_model: MakeModel) -> None:
    model, subspace = make_model("llama"), subspace_at(LAYER)
    ids_BT = rows()
    ids_BT[0, 0] = 7  # rows may then open with different tokens
    before_BTD = next_input(model, LAYER, input_ids=ids_BT)
    with ablate(model, [subspace], mode="zero", exempt_first=False):
        after_BTD = next_input(model, LAYER, input_ids=ids_BT)
    assert (after_BTD @ subspace.basis_DK).norm() / (before_BTD @ subspace.basis_DK).norm() <= 1e-5


@torch.no_grad()
def test_the_last_block_can_be_ablated(family_model: PreTrainedModel) -> None:
    ids_BT = rows()
    plain = family_model(input_ids=ids_BT).logits
    with ablate(family_model, [subspace_at(2)], mode="zero"):
        ablated = family_model(input_ids=ids_BT).logits
    assert torch.equal(plain[:, 0], ablated[:, 0])
    assert (plain[:, 1:] - ablated[:, 1:]).abs().amax(dim=-1).min() > 1e-4


# Gradients


def test_gradient_flows_through_and_none_through_what_was_ablated(family_model: PreTrainedModel) -> None:
    subspace, ids_BT = subspace_at(LAYER), rows()
    inner: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        acts_BTD = output[0] if isinstance(output, tuple) else output
        acts_BTD.retain_grad()
        inner.append(acts_BTD)

    handle = decoder_blocks(family_model)[LAYER].register_forward_hook(keep)  # before the ablation's hook
    with ablate(family_model, [subspace], mode="mean"):
        family_model(input_ids=ids_BT).logits.square().mean().backward()
    handle.remove()
    grad_BTD = inner[0].grad
    assert grad_BTD is not None
    inside = (grad_BTD[:, 1:] @ subspace.basis_DK).norm() / grad_BTD[:, 1:].norm()
    assert inside <= 1e-5, inside
    first = decoder_blocks(family_model)[0]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in first.parameters())
    assert sum(float(p.grad.abs().sum()) for p in first.parameters() if p.grad is not None) > 0


@pytest.mark.parametrize("mode", ["mean", "leace"])
def test_gradient_equals_that_of_the_formula(mode: Any) -> None:
    model, subspace = toy(tuple_output=False), oblique_at(0)
    assert subspace.mean_D is not None and subspace.read_DK is not None
    ids_BT, strength = rows(), 0.5
    acts_BTD = model.embed(ids_BT).detach().requires_grad_()
    blocks = model.model.layers
    projector_DD = (subspace.read_DK if mode == "leace" else subspace.basis_DK) @ subspace.basis_DK.T
    keep_BT1 = torch.ones(*ids_BT.shape, 1)
    keep_BT1[:, 0] = 0
    out_BTD = blocks[0](acts_BTD)
    out_BTD = out_BTD - strength * keep_BT1 * ((out_BTD - subspace.mean_D) @ projector_DD)
    wanted_BTD = torch.autograd.grad(blocks[1](out_BTD).square().sum(), acts_BTD)[0]
    with ablate(model, [subspace], mode=mode, strength=strength):
        model.given = acts_BTD
        found_BTD = torch.autograd.grad(model(input_ids=ids_BT).square().sum(), acts_BTD)[0]
    torch.testing.assert_close(found_BTD, wanted_BTD, rtol=1e-4, atol=1e-4)


def gradients(model: PreTrainedModel, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    model(**inputs).logits[:, -3:].square().mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(family: str, make_model: MakeModel, reentrant: bool) -> None:
    model, inputs = make_model(family).train(), padded(rows(), 2, "left")
    subspaces = [subspace_at(0), subspace_at(2, seed=1)]
    with ablate(model, subspaces):
        wanted = gradients(model, inputs)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()
    with ablate(model, subspaces):
        found = gradients(model, inputs)
        again = gradients(model, inputs)
    assert wanted.keys() == found.keys()
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-4, atol=1e-6)
        assert torch.equal(found[name], again[name])


def toy_gradients(model: Toy, *batches: dict[str, Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    sum(model(**inputs)[:, -3:].square().mean() for inputs in batches).backward()  # type: ignore[union-attr]
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def masked(n_pad: int) -> dict[str, Tensor]:
    inputs = padded(rows(width=9 - n_pad), n_pad, "left")
    return {name: inputs[name] for name in ("input_ids", "attention_mask")}


def test_checkpointing_around_the_hooks_gives_the_same_gradients() -> None:
    """Some releases of transformers recompute a block with its hooks, others without; both have to hold."""
    plain, model = toy(tuple_output=True), toy(tuple_output=True)
    model.is_checkpointed = True
    with ablate(plain, [subspace_at(0)]), ablate(model, [subspace_at(0)]):
        for n_pad in (1, 3):
            wanted, found = toy_gradients(plain, masked(n_pad)), toy_gradients(model, masked(n_pad))
            assert wanted.keys() == found.keys()
            assert all(torch.equal(wanted[name], found[name]) for name in wanted)
        first = model(**masked(1))[:, -3:].square().mean()
        with torch.no_grad():  # an evaluation between forward and backward changes nothing
            model(**masked(3))
        model.zero_grad()
        first.backward()
        wanted = toy_gradients(plain, masked(1))
        assert all(torch.equal(p.grad, wanted[name]) for name, p in model.named_parameters() if p.grad is not None)


def test_checkpointing_across_two_paddings_is_refused_rather_than_wrong() -> None:
    model = toy(tuple_output=False)
    model.is_checkpointed = True
    with ablate(model, [subspace_at(0)]), pytest.raises(AblationError, match="before the backward pass"):
        toy_gradients(model, masked(1), masked(3))


# Another row's projection


def lenders_of(after_BTK: Tensor, before_BTK: Tensor) -> list[int]:
    """Which row each row's coordinates come from: the same one at all columns."""
    distance_BB = (after_BTK[:, None] - before_BTK[None]).abs().amax(dim=(2, 3))
    assert (distance_BB.min(dim=1).values < 1e-4).all(), distance_BB
    return distance_BB.argmin(dim=1).tolist()


@torch.no_grad()
def test_resampling_gives_each_row_the_projection_of_another(family_model: PreTrainedModel) -> None:
    subspace, ids_BT = subspace_at(LAYER), rows(n=4)
    before_BTD = next_input(family_model, LAYER, input_ids=ids_BT)
    drawn = set()
    with ablate(family_model, [subspace], mode="resample"):
        for seed in range(12):
            torch.manual_seed(seed)
            after_BTD = next_input(family_model, LAYER, input_ids=ids_BT)
            assert torch.equal(after_BTD[:, 0], before_BTD[:, 0]), "the exempt position changed"
            coords = [(acts_BTD[:, 1:] @ subspace.basis_DK) for acts_BTD in (after_BTD, before_BTD)]
            lenders = lenders_of(*coords)
            assert all(lender != row for row, lender in enumerate(lenders)), "a row kept its own projection"
            assert sorted(lenders) == [0, 1, 2, 3]
            drawn.add(tuple(lenders))
    assert len(drawn) == 3, "each of the shifts by 1, 2 and 3 rows comes up"
    complement_DD = torch.eye(WIDTH) - subspace.basis_DK @ subspace.basis_DK.T
    torch.testing.assert_close(after_BTD @ complement_DD, before_BTD @ complement_DD, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_where_the_lender_has_no_token_and_where_a_row_is_alone_there_is_the_mean(make_model: MakeModel) -> None:
    model, subspace = make_model("llama"), subspace_at(LAYER)
    assert subspace.mean_D is not None
    mean_K = subspace.mean_D @ subspace.basis_DK
    long, short = padded(rows(n=1), 0, "left"), padded(rows(n=1, width=4), 3, "left")
    both = {name: torch.cat([long[name], short[name]]) for name in long}
    with ablate(model, [subspace], mode="resample"):
        after_BTD = next_input(model, LAYER, **both)
        alone_BTD = next_input(model, LAYER, **long)
    # columns 1 to 3 of the long row: padding and the exempt first token of the short one
    torch.testing.assert_close(after_BTD[0, 1:4] @ subspace.basis_DK, mean_K.expand(3, -1), rtol=1e-4, atol=1e-4)
    assert ((after_BTD[0, 4:] @ subspace.basis_DK - mean_K).abs() > 1e-2).any(dim=1).all()
    torch.testing.assert_close(alone_BTD[0, 1:] @ subspace.basis_DK, mean_K.expand(6, -1), rtol=1e-4, atol=1e-4)


def test_no_gradient_reaches_the_lender(make_model: MakeModel) -> None:
    model, ids_BT = make_model("llama"), torch.arange(5, 20).view(3, 5)
    ids_BT[:, 0] = 1
    with ablate(model, [subspace_at(0), subspace_at(LAYER)], mode="resample"):
        model(input_ids=ids_BT).logits[0].square().mean().backward()
    rows_VD = model.get_input_embeddings().weight.grad
    assert rows_VD[ids_BT[0]].abs().sum() > 0
    # llama ties no head here: whatever an embedding is told came through the blocks
    assert rows_VD[ids_BT[1:, 1:].flatten()].abs().sum() == 0


def test_resampling_is_recomputed_with_the_same_lenders() -> None:
    plain, model = toy(tuple_output=True), toy(tuple_output=True)
    model.is_checkpointed = True
    subspaces = [subspace_at(0)]
    with ablate(plain, subspaces, mode="resample"), ablate(model, subspaces, mode="resample"):
        for seed in range(4):
            found = []
            for one in (plain, model):
                torch.manual_seed(seed)
                found.append(toy_gradients(one, masked(2)))
            assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
        with pytest.raises(AblationError, match="before the backward pass"):
            toy_gradients(model, masked(2), masked(2))


def test_resampling_is_not_for_generation(make_model: MakeModel) -> None:
    model = make_model("llama")
    with ablate(model, [subspace_at(0)], mode="resample"), pytest.raises(AblationError, match="'mean' to generate"):
        model.generate(rows(), max_new_tokens=3)


# On every exit, as before


def test_outputs_and_hooks_are_as_before_after_the_context(family_model: PreTrainedModel) -> None:
    ids_BT, n_before = rows(), n_hooks(family_model)
    with torch.no_grad():
        plain = family_model(input_ids=ids_BT).logits
        with ablate(family_model, [subspace_at(0), subspace_at(2)]):
            assert n_hooks(family_model) > n_before
            assert not torch.equal(family_model(input_ids=ids_BT).logits, plain)
        assert torch.equal(family_model(input_ids=ids_BT).logits, plain)
    assert n_hooks(family_model) == n_before


def test_hooks_are_removed_after_an_exception(family_model: PreTrainedModel) -> None:
    ids_BT, n_before = rows(), n_hooks(family_model)
    with torch.no_grad():
        plain = family_model(input_ids=ids_BT).logits
        with pytest.raises(KeyError), ablate(family_model, [subspace_at(0)]):
            family_model(input_ids=ids_BT)
            raise KeyError
        with pytest.raises(AblationError), ablate(family_model, [subspace_at(0)]):
            family_model(inputs_embeds=torch.zeros(1, 3, WIDTH))
        assert torch.equal(family_model(input_ids=ids_BT).logits, plain)
    assert n_hooks(family_model) == n_before


# Nesting


@torch.no_grad()
def test_nested_contexts_remove_both_subspaces(family_model: PreTrainedModel) -> None:
    both = subspace_at(LAYER, rank=6)
    one, other = Subspace(LAYER, both.basis_DK[:, :3].contiguous()), Subspace(LAYER, both.basis_DK[:, 3:].contiguous())
    ids_BT, n_before = rows(), n_hooks(family_model)
    plain = next_input(family_model, LAYER, input_ids=ids_BT)
    with ablate(family_model, [one], mode="zero"):
        with ablate(family_model, [other], mode="zero"):
            nested = next_input(family_model, LAYER, input_ids=ids_BT)
        outer = next_input(family_model, LAYER, input_ids=ids_BT)
    with ablate(family_model, [Subspace(LAYER, both.basis_DK)], mode="zero"):
        joint = next_input(family_model, LAYER, input_ids=ids_BT)
    torch.testing.assert_close(nested, joint, rtol=1e-4, atol=1e-5)
    assert (outer[:, 1:] @ other.basis_DK).norm() > 0.1 * (plain[:, 1:] @ other.basis_DK).norm()
    assert (outer[:, 1:] @ one.basis_DK).norm() <= 1e-5 * (plain[:, 1:] @ one.basis_DK).norm()
    assert n_hooks(family_model) == n_before


@torch.no_grad()
def test_contexts_on_different_layers_equal_one_context(family_model: PreTrainedModel) -> None:
    low, high, ids_BT = subspace_at(0), subspace_at(2, seed=1), rows()
    with ablate(family_model, [low, high]):
        wanted = family_model(input_ids=ids_BT).logits
    with ablate(family_model, [low]), ablate(family_model, [high]):
        assert torch.equal(family_model(input_ids=ids_BT).logits, wanted)


# Batches


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_answer(family_model: PreTrainedModel, side: str) -> None:
    ids_BT = rows()
    with ablate(family_model, [subspace_at(0), subspace_at(LAYER, seed=1)]):
        wanted = family_model(input_ids=ids_BT).logits
        found = family_model(**padded(ids_BT, 3, side)).logits
    found = found[:, 3:] if side == "left" else found[:, :-3]
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_a_mask_given_by_position_counts(family_model: PreTrainedModel) -> None:
    """Llama's second argument is the mask, GPT-2's the cache: names come from the model's own signature."""
    inputs, subspace = padded(rows(), 2, "left"), subspace_at(LAYER)
    del inputs["position_ids"]
    import inspect

    names = list(inspect.signature(family_model.forward).parameters)
    upto = max(names.index("input_ids"), names.index("attention_mask")) + 1
    positional = [inputs.get(name) for name in names[:upto]]
    with ablate(family_model, [subspace]):
        assert torch.equal(family_model(*positional).logits, family_model(**inputs).logits)


@torch.no_grad()
def test_rows_that_open_with_different_tokens_are_refused(make_model: MakeModel) -> None:
    model, ids_BT = make_model("llama"), rows()
    ids_BT[2, 0] = 9
    with ablate(model, [subspace_at(0)]), pytest.raises(AblationError, match=r"ids 1 and 9.*Prepend"):
        model(input_ids=ids_BT)


@torch.no_grad()
def test_batches_that_open_with_different_tokens_are_refused(make_model: MakeModel) -> None:
    model, ids_BT = make_model("llama"), rows()
    other_BT = ids_BT.clone()
    other_BT[:, 0] = 9
    with ablate(model, [subspace_at(0)]):
        model(input_ids=ids_BT)
        with pytest.raises(AblationError, match="ids 1 and 9"):
            model(input_ids=other_BT)


@torch.no_grad()
def test_inputs_embeds_are_refused(make_model: MakeModel) -> None:
    model = make_model("llama")
    with ablate(model, [subspace_at(0)]), pytest.raises(AblationError, match="input_ids"):
        model(inputs_embeds=torch.zeros(1, 4, WIDTH))


@torch.no_grad()
def test_packed_batches_are_refused(make_model: MakeModel) -> None:
    model, ids_BT = make_model("llama"), rows()
    mask_B1TT = torch.ones(3, 1, 7, 7, dtype=torch.bool).tril()
    starts_again = torch.tensor([[0, 1, 2, 0, 1, 2, 3]]).expand(3, -1)
    with ablate(model, [subspace_at(0)]):
        with pytest.raises(AblationError, match="packing off"):
            model(input_ids=ids_BT, attention_mask=mask_B1TT)
        with pytest.raises(AblationError, match="packed into one row"):
            model(input_ids=ids_BT, position_ids=starts_again)


@torch.no_grad()
@pytest.mark.parametrize("n_pad", [0, 2])
def test_decoding_with_a_cache_equals_the_full_pass(family_model: PreTrainedModel, n_pad: int) -> None:
    inputs = padded(rows(), n_pad, "left")
    n_first = inputs["input_ids"].shape[1] - 3
    with ablate(family_model, [subspace_at(0), subspace_at(LAYER)]):
        wanted = family_model(**inputs).logits
        cache, parts = None, []
        for start, stop in [(0, n_first), (n_first, n_first + 1), (n_first + 1, n_first + 3)]:
            out = family_model(
                input_ids=inputs["input_ids"][:, start:stop],
                attention_mask=inputs["attention_mask"][:, :stop],
                position_ids=inputs["position_ids"][:, start:stop],
                past_key_values=cache,
                use_cache=True,
            )
            cache = out.past_key_values
            parts.append(out.logits)
    torch.testing.assert_close(torch.cat(parts, dim=1)[:, n_pad:], wanted[:, n_pad:], rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_generate_runs_under_ablation(make_model: MakeModel) -> None:
    model, ids_BT = make_model("llama"), rows()
    with ablate(model, [subspace_at(0)]):
        found_BT = model.generate(input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT), max_new_tokens=4,
                                  min_new_tokens=4, do_sample=False)  # fmt: skip
        step_BT = ids_BT
        for _ in range(4):
            logits_BV = model(input_ids=step_BT).logits[:, -1]
            logits_BV[:, 2] = -torch.inf
            step_BT = torch.cat([step_BT, logits_BV.argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(found_BT, step_BT)


# Wrapped and foreign models


def test_a_peft_model_is_ablated_and_trains(family: str, make_model: MakeModel) -> None:
    from peft import LoraConfig, get_peft_model

    subspace, ids_BT = subspace_at(LAYER), rows()
    bare = make_model(family)
    with torch.no_grad(), ablate(bare, [subspace], mode="zero"):
        wanted = next_input(bare, LAYER, input_ids=ids_BT)
    model = get_peft_model(make_model(family), LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    n_before = n_hooks(model)
    with ablate(model, [subspace], mode="zero"):
        torch.testing.assert_close(next_input(model, LAYER, input_ids=ids_BT), wanted)
        model(input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT)).logits.square().mean().backward()
    grads = [p.grad for name, p in model.named_parameters() if "lora_B" in name and ".0." in name]
    assert grads and any(g is not None and g.abs().sum() > 0 for g in grads)
    assert n_hooks(model) == n_before


class ToyBlock(nn.Module):
    def __init__(self, *, tuple_output: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.tuple_output = tuple_output

    def forward(self, hidden_states: Tensor) -> Any:
        out_BTD = hidden_states + self.linear(hidden_states).tanh()
        return (out_BTD, "attention weights") if self.tuple_output else out_BTD


class Toy(nn.Module):
    """Two blocks and nothing else, with the layout of a Hugging Face decoder."""

    def __init__(self, *, tuple_output: bool) -> None:
        super().__init__()
        self.config = SimpleNamespace(hidden_size=WIDTH)
        self.embed = nn.Embedding(96, WIDTH)
        self.model = nn.Module()
        self.model.layers = nn.ModuleList([ToyBlock(tuple_output=tuple_output) for _ in range(2)])
        self.given: Tensor | None = None
        self.extras: list[Any] = []
        self.is_checkpointed = False

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        acts_BTD = self.embed(input_ids) if self.given is None else self.given
        for block in self.model.layers:
            out = checkpoint(block, acts_BTD, use_reentrant=False) if self.is_checkpointed else block(acts_BTD)
            acts_BTD = out[0] if isinstance(out, tuple) else out
            self.extras.append(out[1:] if isinstance(out, tuple) else ())
        return acts_BTD


def toy(*, tuple_output: bool) -> Toy:
    torch.manual_seed(0)
    return Toy(tuple_output=tuple_output)


@torch.no_grad()
def test_blocks_that_return_tuples_are_ablated_and_keep_the_rest() -> None:
    model, subspace, ids_BT = toy(tuple_output=True), subspace_at(0), rows()
    with ablate(model, [subspace], mode="zero"):
        after_BTD = next_input(model, 0, input_ids=ids_BT)
    assert (after_BTD[:, 1:] @ subspace.basis_DK).abs().max() < 1e-5
    assert model.extras == [("attention weights",)] * 2
    plain = toy(tuple_output=False)
    with ablate(plain, [subspace], mode="zero"):
        assert torch.equal(next_input(plain, 0, input_ids=ids_BT), after_BTD)


# What would be a silent no-op is an error


def test_a_layer_out_of_range_is_an_error(make_model: MakeModel) -> None:
    with pytest.raises(ConfigError, match="3 is out of range; the model has 3 blocks, 0 to 2"):
        ablate(make_model("llama"), [subspace_at(3)]).__enter__()


def test_a_layer_named_twice_is_an_error(make_model: MakeModel) -> None:
    with pytest.raises(ConfigError, match="twice"):
        ablate(make_model("llama"), [subspace_at(1), subspace_at(1, seed=1)]).__enter__()


def test_no_subspace_is_an_error(make_model: MakeModel) -> None:
    with pytest.raises(AblationError, match="nothing would be removed"):
        ablate(make_model("llama"), []).__enter__()


@pytest.mark.parametrize("mode", ["mean", "mean-shift"])
def test_a_missing_mean_is_an_error(make_model: MakeModel, mode: Any) -> None:
    bare = Subspace(0, subspace_at(0).basis_DK)
    with pytest.raises(AblationError, match="mean"):
        ablate(make_model("llama"), [bare], mode=mode).__enter__()


def test_a_missing_reader_is_an_error(make_model: MakeModel) -> None:
    with pytest.raises(AblationError, match="'leace' needs readers"):
        ablate(make_model("llama"), [subspace_at(0)], mode="leace").__enter__()


def test_a_subspace_of_another_model_is_an_error(make_model: MakeModel) -> None:
    other = Subspace(0, orthonormal_basis(torch.randn(2, 48)), torch.zeros(48))
    with pytest.raises(AblationError, match="48 dimensions and the model 32"):
        ablate(make_model("llama"), [other]).__enter__()


def test_a_failed_check_leaves_no_hook(make_model: MakeModel) -> None:
    model = make_model("llama")
    n_before = n_hooks(model)
    for bad in ([], [subspace_at(7)], [subspace_at(0), subspace_at(0)]):
        with pytest.raises((AblationError, ConfigError)):
            ablate(model, bad).__enter__()
    assert n_hooks(model) == n_before


# Recorder


@torch.no_grad()
def test_recorder_gives_what_the_next_block_reads(family_model: PreTrainedModel) -> None:
    inputs = padded(rows(), 2, "left")
    found = Recorder(family_model, [1, 0]).run(**inputs)
    assert sorted(found) == [0, 1]
    for layer, acts_BTD in found.items():
        assert torch.equal(acts_BTD, next_input(family_model, layer, **inputs, use_cache=False))
    # Hidden states are read on the first call of a fresh model: some families hook their own blocks for them.
    hidden = family_model(**inputs, output_hidden_states=True, use_cache=False).hidden_states
    assert torch.equal(found[0], hidden[1]) and torch.equal(found[1], hidden[2])


@torch.no_grad()
def test_recorder_stops_after_the_deepest_layer(family_model: PreTrainedModel) -> None:
    called: list[str] = []
    watched = {"block 0": decoder_blocks(family_model)[0], "block 2": decoder_blocks(family_model)[2],
               "head": family_model.get_output_embeddings()}  # fmt: skip
    for name, module in watched.items():
        module.register_forward_pre_hook(lambda *_, name=name: called.append(name))
    n_before = n_hooks(family_model)
    Recorder(family_model, [0, 1]).run(input_ids=rows())
    assert called == ["block 0"]
    assert n_hooks(family_model) == n_before


def test_recorder_removes_its_hooks_after_an_exception(make_model: MakeModel) -> None:
    model = make_model("llama")
    n_before = n_hooks(model)
    with pytest.raises(IndexError):
        Recorder(model, [1]).run(input_ids=torch.tensor([[1, 5000]]))
    assert n_hooks(model) == n_before


@torch.no_grad()
def test_recorder_reads_what_the_ablation_left(make_model: MakeModel) -> None:
    model, subspace, ids_BT = make_model("llama"), subspace_at(LAYER), rows()
    with ablate(model, [subspace], mode="zero"):
        acts_BTD = Recorder(model, [LAYER]).run(input_ids=ids_BT)[LAYER]
        assert (acts_BTD[:, 1:] @ subspace.basis_DK).abs().max() < 1e-4
        assert torch.equal(acts_BTD, next_input(model, LAYER, input_ids=ids_BT))


@torch.no_grad()
def test_recorder_can_read_what_a_block_gives_before_its_ablation(make_model: MakeModel) -> None:
    model, subspace, ids_BT = make_model("llama"), subspace_at(LAYER), rows()
    plain_BTD = Recorder(model, [LAYER]).run(input_ids=ids_BT)[LAYER]
    with ablate(model, [subspace], mode="zero"):
        before_BTD = Recorder(model, [LAYER], before_hooks=True).run(input_ids=ids_BT)[LAYER]
    assert torch.equal(before_BTD, plain_BTD)


def test_recorder_refuses_a_layer_the_model_lacks(make_model: MakeModel) -> None:
    with pytest.raises(ConfigError, match="out of range"):
        Recorder(make_model("llama"), [5])
