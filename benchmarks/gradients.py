"""The cost of the gradient norm of each example, beside one ordinary training step.

The contenders are our one backward pass, a loop of backward passes over rows cut to their own length, ``torch.func``'s
``vmap`` over ``grad``, Opacus' ghost clipping and TorchJD's autogram (the last two where they are installed).

    OMP_NUM_THREADS=1 python -m benchmarks.gradients                       # 128, 512 and 2048 tokens, equal and ragged
    OMP_NUM_THREADS=1 python -m benchmarks.gradients --lengths 128 --untied
    OMP_NUM_THREADS=1 python -m benchmarks.gradients --watch               # what `--watch-gradients` adds to a training

A step is the model's own forward pass with its loss, and backward; no optimizer. Errors are relative to a loop in
float64. Contenders take turns, each round in another order, and a ratio is between runs of the same round. It is of the
processor's time: another load on the machine hardly changes it.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import print_table, provenance, ratios, timed, write_json
from sftloss import attach, detach, per_example_gradients
from sftloss.training.watch.gradients import GradientWatch

TOKENS = 4096  # of a batch, at most
GOAL = 1.1


@dataclass(frozen=True)
class Case:
    """A model and a batch whose rows are padded at the right; all tokens are trained."""

    model: Any
    batch: dict[str, Tensor]
    lengths: list[int]

    @property
    def count(self) -> int:
        return sum(length - 1 for length in self.lengths)

    def own_loss(self, model: Any) -> Tensor:
        return model(**self.batch).loss

    def row_losses(self, model: Any) -> Tensor:
        """Each row's part of the batch's loss; right padding needs no mask under causal attention."""
        ids = self.batch["input_ids"]
        positions = torch.arange(ids.shape[1]).expand(ids.shape)  # one row for all would have no gradient by row
        logits = model(input_ids=ids, position_ids=positions, use_cache=False).logits[:, :-1]
        targets = self.batch["labels"][:, 1:]
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return losses.view(targets.shape).sum(1) / self.count


def case(length: int, *, is_ragged: bool, is_tied: bool) -> Case:
    """The same for every contender."""
    import transformers

    torch.manual_seed(0)
    rows = max(2, min(16, TOKENS // (2 * length)))
    lengths = torch.linspace(length / 8, length, rows).long().tolist() if is_ragged else [length] * rows
    config = transformers.GPT2Config(
        n_layer=6, n_embd=256, n_head=8, vocab_size=8000, n_positions=2048, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
        tie_word_embeddings=is_tied, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config)
    ids = torch.randint(0, 8000, (rows, length))
    mask = (torch.arange(length)[None] < torch.tensor(lengths)[:, None]).long()
    labels = torch.where(mask == 1, ids, -100)
    return Case(model, {"input_ids": ids, "labels": labels, "attention_mask": mask}, lengths)


def step(given: Case) -> None:
    given.own_loss(given.model).backward()
    given.model.zero_grad()


def loop(given: Case, model: Any = None) -> Tensor:
    """One backward pass a row, cut to its length."""
    model, norms = model or given.model, []
    parameters = [p for p in model.parameters() if p.requires_grad]
    for i, length in enumerate(given.lengths):
        ids = given.batch["input_ids"][i : i + 1, :length]
        loss = model(input_ids=ids, labels=ids).loss * (length - 1) / given.count
        gradients = torch.autograd.grad(loss, parameters)
        norms.append(torch.stack([g.double().square().sum() for g in gradients]).sum().sqrt())
    return torch.stack(norms)


def ours(given: Case) -> Tensor:
    return per_example_gradients(given.model, given.batch).norms


def vmap_of(given: Case) -> Callable[[], Tensor]:
    """Gradients of four rows at a time; their attention must be the eager one."""
    model = copy.deepcopy(given.model)
    model.config._attn_implementation = "eager"
    weights = {name: p.detach() for name, p in model.named_parameters()}

    def row_loss(weights: dict[str, Tensor], ids: Tensor, labels: Tensor) -> Tensor:
        positions = torch.arange(len(ids))[None]
        arguments = {"input_ids": ids[None], "position_ids": positions, "use_cache": False}
        logits = torch.func.functional_call(model, weights, (), arguments, tie_weights=True).logits[0, :-1]
        losses = torch.nn.functional.cross_entropy(logits, labels[1:], reduction="none")
        return losses.sum() / given.count

    def norms(weights: dict[str, Tensor], ids: Tensor, labels: Tensor) -> Tensor:
        gradients = torch.func.grad(row_loss)(weights, ids, labels)
        return torch.stack([g.square().sum() for g in gradients.values()]).sum().sqrt()

    run = torch.func.vmap(norms, in_dims=(None, 0, 0), chunk_size=4)
    return lambda: run(weights, given.batch["input_ids"], given.batch["labels"])


def opacus_of(given: Case) -> Callable[[], Tensor]:
    from opacus.grad_sample import GradSampleModuleFastGradientClipping

    model = copy.deepcopy(given.model).train()
    rows, columns = given.batch["input_ids"].shape
    positions = torch.arange(columns).repeat(rows, 1)
    wrapped = GradSampleModuleFastGradientClipping(
        model, use_ghost_clipping=True, loss_reduction="sum", max_grad_norm=1.0
    )

    def run() -> Tensor:
        logits = wrapped(input_ids=given.batch["input_ids"], position_ids=positions, use_cache=False).logits[:, :-1]
        targets = given.batch["labels"][:, 1:].flatten()
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets, reduction="none")
        (losses.sum() / given.count).backward()
        norms = wrapped.get_norm_sample()
        wrapped.zero_grad()
        return norms

    return run


def autogram_of(given: Case) -> Callable[[], Tensor]:
    from torchjd.autogram import Engine

    model = copy.deepcopy(given.model)
    engine = Engine(model, batch_dim=0)
    return lambda: engine.compute_gramian(given.row_losses(model)).diagonal().sqrt()


PEERS: dict[str, Callable[[Case], Callable[[], Tensor]]] = {
    "loop": lambda given: lambda: loop(given),
    "vmap": vmap_of,
    "opacus": opacus_of,
    "autogram": autogram_of,
}


def measured(given: Case, rounds: int, peers: list[str]) -> dict[str, Any]:
    """Ratio of each contender to the step, and its error."""
    truth = loop(given, copy.deepcopy(given.model).double())
    fused = Case(copy.deepcopy(given.model), given.batch, given.lengths)
    attach(fused.model, "cross_entropy")
    fused.model.train()
    contenders = {"step": lambda: step(given), "fused step": lambda: step(fused), "ours": lambda: ours(fused)}
    error = float(((ours(fused) - truth) / truth).abs().max())
    seconds = timed(contenders, rounds)
    base = seconds["step"]["processor"]
    rows: dict[str, Any] = {"step": {"over the step": [1.0, 1.0, 1.0]}}
    for name in ("fused step", "ours"):
        rows[name] = {"over the step": ratios(seconds[name]["processor"], base)}
    rows["ours"]["error"] = error
    for name in peers:
        try:
            run = PEERS[name](given)
            error = float(((run().detach().double() - truth) / truth).abs().max())
            seconds = timed({"step": lambda: step(given), name: run}, max(2, rounds // 3))
        except Exception as failure:  # a peer that cannot do this model is a result
            rows[name] = {"failed": f"{type(failure).__name__}: {str(failure).strip().splitlines()[0][:90]}"}
            continue
        base = seconds["step"]["processor"]
        rows[name] = {"over the step": ratios(seconds[name]["processor"], base), "error": error}
    detach(fused.model)
    return rows


def watched(given: Case, rounds: int) -> dict[str, Any]:
    """Ratio of a look of `--watch-gradients` to an optimizer step of one micro-batch, and its share of a training."""
    model = copy.deepcopy(given.model).train()
    attachment, optimizer = attach(model, "cross_entropy"), torch.optim.AdamW(model.parameters(), lr=1e-5)
    watch, steps = GradientWatch(every=1), itertools.count()

    def train() -> None:
        model(**given.batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    seconds = timed({"step": train, "look": lambda: watch.look(attachment, given.batch, next(steps))}, rounds)
    over = ratios(seconds["look"]["processor"], seconds["step"]["processor"])
    every = GradientWatch().every
    return {"look": {"over the step": over, f"every {every} steps": [round(one / every, 4) for one in over]}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512, 2048])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--untied", action="store_true", help="a head with a weight of its own")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--watch", action="store_true", help="the cost of watching gradients in a training, alone")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    record: dict[str, Any] = {**provenance("gradients", "transformers"), "goal": GOAL, "tables": {}}
    for length in options.lengths:
        for is_ragged in (False, True):
            given = case(length, is_ragged=is_ragged, is_tied=not options.untied)
            shape = f"{len(given.lengths)} rows of {'up to ' * is_ragged}{length} tokens"
            rows = watched(given, options.rounds) if options.watch else measured(given, options.rounds, options.peers)
            print_table(shape, rows)
            record["tables"][shape] = rows
            write_json(options.json, record)


if __name__ == "__main__":
    main()
