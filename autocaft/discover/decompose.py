"""Stage 3, decompose: candidate directions by components (PCs) and from a dictionary (SAE latents).

In: a `ModelPair`, training rows, a collect folder. Out, in `out`:
    directions.jsonl, vectors.safetensors   the candidates, layer by layer (model/directions.py)
    sae/L14/...                             trained dictionaries, in SAELens's format
    covariances.safetensors                 of the base model's activations, by layer: how much a set removes
    live.safetensors                        which latents are neither dead nor always on, by layer
    extents.safetensors                     lowest and highest projection of each candidate on the mining texts
    summary.json                            what was found, excluded and why

Dictionaries are kept one by one as they are trained, so a killed run goes on with the next layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from autocaft.data.corpus import Document, read_documents
from autocaft.data.encode import Encoded
from autocaft.data.rows import TaskRow
from autocaft.discover.collect import CollectStats, encode_rows, load_stats, read_compared
from autocaft.discover.contrast import Contrasts, Labels, PromptReader, contrast_components
from autocaft.discover.ica import independent_components, read_task_text
from autocaft.discover.options import CollectOptions, DecomposeOptions
from autocaft.discover.pair import ModelPair, device_of
from autocaft.discover.paired import paired_batches
from autocaft.discover.pca import CovarianceFitter
from autocaft.discover.rank import Candidate, DifferenceRanker, attribution, shortlist
from autocaft.discover.sae import ROWS, Dictionary, LatentStats, check_spec, load_dictionary, measure, train_dictionary
from autocaft.discover.shards import ShardReader
from autocaft.errors import DataError, NothingSelectedError
from autocaft.model.directions import DirectionSet
from autocaft.records import Direction
from autocaft.rundir.files import replacing, write_json
from autocaft.rundir.progress import Progress


def decompose(
    *,
    models: ModelPair,
    tokenizer: Any,
    rows: Sequence[TaskRow],
    collected: Path,
    collect_options: CollectOptions,
    options: DecomposeOptions,
    out: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Run the stage.

    Args:
        collected: folder of the collect stage, made with `collect_options`.

    Returns:
        Counts by layer, also in `summary.json`.
    """
    reader, stats = ShardReader(collected / "acts"), load_stats(collected)
    check_spec(options.sae, len(reader.layers))
    found: list[tuple[Direction, Tensor]] = []
    summary: dict[str, Any] = {str(layer): {} for layer in reader.layers}
    if "pca" in options.sources:
        found += _components(reader, stats, collected, tokenizer, rows, options, summary)
    latent_stats: dict[int, LatentStats] = {}
    if "sae" in options.sources:
        dictionaries = {i: _dictionary(reader, stats, i, options, out, progress) for i in reader.layers}
        latent_stats = {i: measure(d, reader, i, stats.mining_mean[i]) for i, d in dictionaries.items()}
        compared = read_compared(tokenizer, rows, collect_options, collected)
        read = _attributed(tokenizer, rows, options), compared
        context = (models, tokenizer, *read, collect_options, options, stats, progress)
        scores = _rank(dictionaries, *context, scratch=collected / "compared")
        for layer, dictionary in dictionaries.items():
            note = summary[str(layer)]
            found += _latents(layer, dictionary, latent_stats[layer], scores[layer], options, note)
        _save_live(latent_stats, options, out)
    if not found:
        raise NothingSelectedError(
            "decompose found no direction. As components of the difference: tuning changed nothing at any of `layers` "
            "(at the lowest it cannot, with tune.trained_blocks = 'above'; take a deeper one, or decompose.pcs = "
            "'independent'). By contrast: prompts of different answers differ no more than by chance (more rows: "
            "collect.n_rows). As latents: none that is alive has a score (train the dictionary on more text)"
        )
    ordered = _with_extents(found, reader, stats, latent_stats, out)
    ordered.save(out)
    result = {"n_directions": len(ordered), "layers": summary}
    write_json(out / "summary.json", result)
    return result


def _components(
    reader: ShardReader,
    stats: CollectStats,
    collected: Path,
    tokenizer: Any,
    rows: Sequence[TaskRow],
    options: DecomposeOptions,
    summary: dict[str, Any],
) -> list[tuple[Direction, Tensor]]:
    """Components of every layer. A layer that tuning left as it was has none of the difference."""
    found: list[tuple[Direction, Tensor]] = []
    documents = [] if options.pcs == "difference" else read_documents(collected / "documents.jsonl.gz")
    task = [number for number, document in enumerate(documents) if document.kind != "generic"]
    labels = Labels.of(rows) if options.pcs == "contrast" else None
    prompts = {} if labels is None else _prompts_by_layer(reader, documents, tokenizer, rows)
    for layer in reader.layers:
        note = summary[str(layer)]
        if options.pcs == "difference":
            pca = stats.differences[layer].pca(options.n_pcs)
            note["pcs_explain"] = float(pca.explained_N.sum())
            own = _as_pcs(layer, pca.vectors_ND, pca.explained_N, "explained-variance")
        elif labels is not None:
            contrasts = _contrasts(prompts[layer], labels, options)
            note |= {"n_kinds": contrasts.n_kinds, "n_tested": contrasts.n_tested}
            own = _as_pcs(layer, contrasts.vectors_CD, contrasts.explained_C, "contrast")
        else:
            ica = independent_components(read_task_text(reader, layer, task), options.n_pcs, seed=options.seed)
            note["ica"] = {"n_tokens": ica.n_tokens, "n_iterations": ica.n_iterations, "converged": ica.converged}
            own = _as_pcs(layer, ica.vectors_CD, ica.kurtosis_C, "kurtosis")
        note["n_pcs"] = len(own)
        found += own
    return found


def _prompts_by_layer(
    reader: ShardReader, documents: Sequence[Document], tokenizer: Any, rows: Sequence[TaskRow]
) -> dict[int, PromptReader]:
    """The prompts of the training rows among the documents."""
    number_by_id = {row.id: number for number, row in enumerate(rows)}
    row_by_document = {n: number_by_id[d.id] for n, d in enumerate(documents) if d.kind == "train"}
    n_prompt_R = [encoded.n_prompt for encoded in encode_rows(tokenizer, rows)]
    return {layer: PromptReader(reader, layer, row_by_document, n_prompt_R) for layer in reader.layers}


def _contrasts(prompts: PromptReader, labels: Labels, options: DecomposeOptions) -> Contrasts:
    """Contrast components of a layer."""
    activations = CovarianceFitter(prompts.reader.d_model)
    for acts_ND in prompts.reader.in_order(prompts.layer, ROWS):
        activations.update(acts_ND)
    sizes = {"n_kinds": options.n_kinds, "n_components": options.n_pcs, "seed": options.seed}
    return contrast_components(prompts, labels, activations.covariance_DD, **sizes)


def _as_pcs(layer: int, vectors_ND: Tensor, strength_N: Tensor, rank_by: str) -> list[tuple[Direction, Tensor]]:
    return [
        (Direction(f"L{layer}.pc{i}", layer, "pca", i, float(strength_N[i]), rank_by), vector_D)
        for i, vector_D in enumerate(vectors_ND)
    ]


def dictionary_place(spec: str, layer: int, out: Path) -> str:
    """Where a layer's dictionary lies: the decompose folder if it was trained there, else as the user named it."""
    return str(out / "sae" / f"L{layer}") if spec == "train" else spec


def _dictionary(
    reader: ShardReader, stats: CollectStats, layer: int, options: DecomposeOptions, out: Path, progress: Progress
) -> Dictionary:
    place = dictionary_place(options.sae, layer, out)
    if options.sae == "train" and not Path(place).is_dir():
        mean_D = stats.mining_mean[layer]
        train_dictionary(reader, layer, mean_D, options=options, folder=Path(place), progress=progress)
    return load_dictionary(place, layer, width=reader.d_model)


def _attributed(tokenizer: Any, rows: Sequence[TaskRow], options: DecomposeOptions) -> list[Encoded]:
    """The training rows as attribution reads them.

    Raises:
        DataError: cut as asked, no row has a token of its answer left.
    """
    encoded = encode_rows(tokenizer, rows, options.attribution_max_tokens)
    kept = [row for row in encoded if row.n_prompt < len(row.input_ids)]
    if not kept:
        raise DataError("decompose.attribution_max_tokens cuts every training row inside its prompt; raise it")
    return kept


def _rank(
    dictionaries: Mapping[int, Dictionary],
    models: ModelPair,
    tokenizer: Any,
    train: Sequence[Encoded],
    compared: Sequence[Encoded],
    collect_options: CollectOptions,
    options: DecomposeOptions,
    stats: CollectStats,
    progress: Progress,
    *,
    scratch: Path,
) -> dict[int, dict[str, Tensor]]:
    """Scores (S,) of every latent, by layer and ranking."""
    scores: dict[int, dict[str, Tensor]] = {layer: {} for layer in dictionaries}
    common = {"tokens_per_batch": options.tokens_per_batch, "pad_id": tokenizer.pad_token_id or 0}
    if "attribution" in options.rankings:
        with models.base() if options.attribution_model == "base" else models.tuned() as model:
            placed = {layer: d.to(device_of(model)) for layer, d in dictionaries.items()}
            for layer, score_S in attribution(model, train, placed, **common, progress=progress).items():
                scores[layer]["attribution"] = score_S
    wanted = [name for name in options.rankings if name != "attribution"]
    if wanted:
        rankers = {layer: DifferenceRanker(d, stats.mining_mean[layer]) for layer, d in dictionaries.items()}
        with progress.task("latents of tuned minus base", len(compared), "rows") as advance:
            for n_rows, paired in paired_batches(
                models, compared, list(dictionaries), positions=collect_options.positions, scratch=scratch, **common
            ):
                for layer, (base_ND, tuned_ND) in paired.items():
                    rankers[layer].update(base_ND, tuned_ND)
                advance(n_rows)
        for layer, ranker in rankers.items():
            scores[layer].update((name, score_S) for name, score_S in ranker.scores().items() if name in wanted)
    return scores


def _latents(
    layer: int,
    dictionary: Dictionary,
    latent_stats: LatentStats,
    scores: Mapping[str, Tensor],
    options: DecomposeOptions,
    note: dict[str, Any],
) -> list[tuple[Direction, Tensor]]:
    """The shortlist as directions; dead and always-on latents are left out and counted."""
    dead_S, always_on_S = latent_stats.dead_S(), latent_stats.always_on_S(options.always_on_share)
    chosen: list[Candidate] = shortlist(scores, ~dead_S & ~always_on_S, options.n_candidates)
    note["n_latents"] = dictionary.d_sae
    note["n_dead"], note["n_always_on"] = int(dead_S.sum()), int(always_on_S.sum())
    note["explained_variance"] = latent_stats.explained_variance
    note["n_by_ranking"] = {name: sum(name in c.rank_by.split("+") for c in chosen) for name in scores}
    note["n_candidates"] = len(chosen)
    directions_SD = dictionary.directions_SD.cpu()
    return [
        (Direction(f"L{layer}.latent{c.index}", layer, "sae", c.index, c.strength, c.rank_by), directions_SD[c.index])
        for c in chosen
    ]


def _save_live(latent_stats: Mapping[int, LatentStats], options: DecomposeOptions, out: Path) -> None:
    """What a control of random live latents is drawn from."""
    live = {f"L{i}": ~s.dead_S() & ~s.always_on_S(options.always_on_share) for i, s in latent_stats.items()}
    with replacing(out / "live.safetensors") as path:
        save_file(live, path)


@torch.no_grad()
def _with_extents(
    found: Sequence[tuple[Direction, Tensor]],
    reader: ShardReader,
    stats: CollectStats,
    latent_stats: Mapping[int, LatentStats],
    out: Path,
) -> DirectionSet:
    """One pass over the stored activations: each direction's variance, lowest and highest projection."""
    directions, vectors, low, high = [], [], [], []
    covariances: dict[str, Tensor] = {}
    for layer in reader.layers:
        own = [(direction, vector_D) for direction, vector_D in found if direction.layer == layer]
        if not own:
            continue
        vectors_ND = torch.stack([vector_D for _, vector_D in own]).float()
        low_N, high_N, activations = linear_extents(reader, layer, vectors_ND, stats.generic_mean[layer])
        covariance_DD = activations.covariance_DD.float()
        covariances[f"L{layer}"] = covariance_DD
        variance_N = ((vectors_ND @ covariance_DD) * vectors_ND).sum(dim=1)
        for i, (direction, _) in enumerate(own):
            if direction.source == "sae":
                low_N[i], high_N[i] = 0.0, latent_stats[layer].peak_S[direction.index]
            directions.append(replace(direction, variance=float(variance_N[i])))
        vectors.append(vectors_ND)
        low.append(low_N)
        high.append(high_N)
    save_extents(out, torch.cat(low), torch.cat(high))
    with replacing(out / "covariances.safetensors") as path:
        save_file(covariances, path)
    return DirectionSet(tuple(directions), torch.cat(vectors))


def linear_extents(
    reader: ShardReader, layer: int, vectors_ND: Tensor, mean_D: Tensor
) -> tuple[Tensor, Tensor, CovarianceFitter]:
    """Lowest and highest projection (N,) on each vector, and the activations' covariance, in one pass."""
    low_N, high_N = torch.full((len(vectors_ND),), torch.inf), torch.full((len(vectors_ND),), -torch.inf)
    activations = CovarianceFitter(reader.d_model)
    for acts_ND in reader.in_order(layer, ROWS):
        projections = (acts_ND - mean_D) @ vectors_ND.T
        low_N, high_N = torch.minimum(low_N, projections.amin(0)), torch.maximum(high_N, projections.amax(0))
        activations.update(acts_ND)
    return low_N, high_N, activations


def save_extents(folder: Path, low_N: Tensor, high_N: Tensor) -> None:
    """Write what `load_extents` reads, in the order of directions.jsonl."""
    with replacing(folder / "extents.safetensors") as path:
        save_file({"low_N": low_N, "high_N": high_N}, path)


def load_extents(folder: Path) -> tuple[Tensor, Tensor]:
    """Lowest and highest projection (N,) of each direction in a decompose folder."""
    tensors = load_file(folder / "extents.safetensors")
    return tensors["low_N"], tensors["high_N"]


def load_covariances(folder: Path) -> dict[int, Tensor]:
    """(D, D) covariance of the base model's activations on the mining texts, by layer, from a decompose folder."""
    return {int(name[1:]): tensor for name, tensor in load_file(folder / "covariances.safetensors").items()}


def live_latents(folder: Path) -> dict[int, list[int]]:
    """Numbers of the latents that are neither dead nor always on, by layer; empty without a dictionary."""
    path = folder / "live.safetensors"
    if not path.is_file():
        return {}
    return {int(name[1:]): live_S.nonzero()[:, 0].tolist() for name, live_S in load_file(path).items()}


def open_dictionary(folder: Path, options: DecomposeOptions, layer: int, *, width: int) -> Dictionary:
    """The dictionary that a decompose folder's latents of one layer come from."""
    return load_dictionary(dictionary_place(options.sae, layer, folder), layer, width=width)


def load_dictionaries(folder: Path, options: DecomposeOptions, *, width: int) -> dict[int, Dictionary]:
    """The dictionaries of a decompose folder by layer; empty if latents were no source."""
    return {layer: open_dictionary(folder, options, layer, width=width) for layer in sorted(live_latents(folder))}


def latents_as_directions(folder: Path, options: DecomposeOptions, ids: Sequence[str], *, width: int) -> DirectionSet:
    """Latents by id (`L14.latent7`) with their vectors, whether or not they are candidates."""
    layer_and_index = {i: [int(number) for number in i.removeprefix("L").split(".latent")] for i in ids}
    vectors: list[Tensor] = []
    directions: list[Direction] = []
    for layer in sorted({layer for layer, _ in layer_and_index.values()}):
        unit_SD = open_dictionary(folder, options, layer, width=width).directions_SD
        own = [(i, index) for i, (own_layer, index) in layer_and_index.items() if own_layer == layer]
        vectors += [unit_SD[index] for _, index in own]
        directions += [Direction(i, layer, "random", index, 0.0, "drawn") for i, index in own]
    return DirectionSet(tuple(directions), torch.stack(vectors))
