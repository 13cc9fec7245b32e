"""Run by torchrun: models and sequences cut over ranks beside one process; prints JSON on rank 0."""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from tests.launching import conclude
from tests.training.cases import chunks, gradients, relative_error
from tests.training.cases import model_of as tiny_model_of
from tests.training.rank_steps import ROWS, Found, pad, run, trained, whole
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from sftloss.errors import ModelError
from sftloss.training import Loss, TaskFactors, attach, step_total, weigh_batch, with_loss

LOSS = Loss("cross_entropy + 0.1 * z_loss", normalization="sqrt")
model_of = partial(tiny_model_of, num_key_value_heads=4)  # heads that four ranks can share


def truth(family: str = "llama", loss: Loss = LOSS, **overrides: Any) -> Found:
    """One process, one batch."""
    model = model_of(family, **overrides)
    attach(model, loss)
    value = model(**pad(ROWS)).loss
    value.backward()
    return Found(float(value.detach()), gradients(model))


def steps(model: Any, loss: Loss, rows: Any = ROWS, size: int = 3) -> Found:
    """One optimizer step in micro-batches."""
    value = run(model, attach(model, loss), [pad(part) for part in chunks(rows, size)])
    return Found(value, whole(model))


def loaded(family: str) -> Any:
    """A saved model as transformers shards it over all ranks."""
    from torch.distributed.tensor import DTensor
    from transformers import AutoModelForCausalLM

    folder = [tempfile.mkdtemp()]
    dist.broadcast_object_list(folder)
    model_of(family).save_pretrained(folder[0])  # which only the first rank does
    dist.barrier()
    model = AutoModelForCausalLM.from_pretrained(folder[0], dtype=torch.float64, tp_plan="auto").train()
    assert isinstance(model.get_output_embeddings().weight, DTensor)
    return model


def tensor_parallel(family: str, loss: Loss = LOSS) -> tuple[float, float]:
    """As transformers shards it: the head by rows, 61 of them over the ranks."""
    model = loaded(family)
    return steps(model, loss).errors(truth(family, loss))


def trainer() -> tuple[float, float]:
    """The HF Trainer on a model that transformers sharded; Accelerate checks for accelerators, which is passed by."""
    import transformers
    from accelerate.parallelism_config import ParallelismConfig

    class Whole(with_loss(transformers.Trainer, LOSS)):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            assert self.get_tp_size() == dist.get_world_size()

    ParallelismConfig._validate_accelerator = lambda self, accelerator: None
    sizes = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    (found,), _ = trained(Whole, loaded("llama"), tempfile.mkdtemp(), ROWS, **sizes)
    return found.errors(truth())


def torchs_plan() -> tuple[float, float]:
    """torch's own ColwiseParallel, whose logits stay in shards."""
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    model = model_of()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("tp",))
    parallelize_module(model, mesh, {"lm_head": ColwiseParallel()})
    return steps(model, LOSS).errors(truth())


def own_logits() -> float:
    """Evaluation and `output_logits` still give the model's own."""
    model = loaded("llama")
    attach(model, LOSS)
    expected = model_of()(**{k: v for k, v in pad(ROWS).items() if k in ("input_ids", "attention_mask")}).logits
    shown = model(**pad(ROWS), output_logits=True).logits
    assert model(**pad(ROWS)).get("logits") is None
    return float((shown - expected).detach().abs().max())


def copies_forgotten() -> float:
    """A negative control: tensor-parallel ranks taken for data-parallel ones, under a normalizer that is a number."""
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    loss = Loss(normalizer=50.0)
    model = model_of()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("tp",))
    parallelize_module(model, mesh, {"lm_head": ColwiseParallel()})
    attachment = attach(model, loss)
    attachment.form = type(attachment.form)(mesh=attachment.form.mesh)
    step = step_total(loss, [pad(ROWS)])
    model(**pad(ROWS), num_items_in_batch=step).loss.backward()
    return relative_error(whole(model), truth(loss=loss).gradients)


def fsdp_first(is_head_alone: bool, **overrides: Any) -> tuple[float, float]:
    """`fully_shard`, then attach; ranks hold different rows."""
    model = model_of(**overrides)
    for layer in [*model.model.layers, *([model.lm_head] if is_head_alone else [])]:
        fully_shard(layer)
    fully_shard(model)
    rank, world = dist.get_rank(), dist.get_world_size()
    return steps(model, LOSS, ROWS[rank::world], size=1).errors(truth(**overrides))


def mixed_precision(is_attached_first: bool, is_rounded: bool = False) -> float:
    """FSDP2 in bfloat16 casts what the model is given; beside the same where it does not. Weights are fractions.

    `is_rounded` casts weights and normalizer by hand, as FSDP2 would: the negative control.
    """

    def grads(casts: bool) -> dict[str, Tensor]:
        model = model_of(dtype=torch.float32)
        attachment = attach(model, LOSS) if is_attached_first else None
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32)
        for layer in model.model.layers:
            fully_shard(layer, mp_policy=policy)
        fully_shard(model, mp_policy=MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=casts))
        attachment = attachment or attach(model, LOSS)
        batch = pad(ROWS[dist.get_rank() :: dist.get_world_size()])
        step = attachment.step([batch])
        if casts and is_rounded:
            step.total = step.total.bfloat16()
            batch["token_weights"] = batch["token_weights"].bfloat16()
        model(**batch, num_items_in_batch=step).loss.backward()
        return whole(model)

    return relative_error(grads(True), grads(False))


def fsdp_and_tensor_parallel() -> tuple[float, float]:
    """Two by two: the head by rows over `tp`, everything over `dp`; each data-parallel rank has its own rows."""
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    model = model_of()
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
    parallelize_module(model, mesh["tp"], {"lm_head": ColwiseParallel()})
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh["dp"])
    fully_shard(model, mesh=mesh["dp"])
    return steps(model, LOSS, ROWS[mesh["dp"].get_local_rank() :: 2], size=2).errors(truth())


class _Gather(torch.autograd.Function):
    """Keys of all ranks, in the order of their positions."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor, order: Tensor) -> Tensor:
        parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, mine.contiguous())
        ctx.order, ctx.columns = order, mine.shape[2]
        return torch.cat(parts, dim=2)[:, :, order]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        whole = torch.empty_like(grads[0])
        whole[:, :, ctx.order] = grads[0]
        dist.all_reduce(whole)
        start = ctx.columns * dist.get_rank()
        return whole[:, :, start : start + ctx.columns], None


def slices(columns: int, is_balanced: bool) -> list[Tensor]:
    """The columns of each rank: in a row, or an early and a late piece (balanced for causal attention)."""
    world = dist.get_world_size()
    if not is_balanced:
        return list(torch.arange(columns).chunk(world))
    pieces = torch.arange(columns).chunk(2 * world)
    return [torch.cat([pieces[rank], pieces[-1 - rank]]) for rank in range(world)]


def gathered_attention(parts: list[Tensor]) -> None:
    """Context parallelism in its plainest form: own queries, everyone's keys."""
    from transformers import AttentionInterface, AttentionMaskInterface

    mine, order = parts[dist.get_rank()], torch.argsort(torch.cat(parts))

    def attend(module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any, scaling: float, **kwargs: Any) -> Any:
        k, v = _Gather.apply(k, order), _Gather.apply(v, order)
        repeat = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
        causal = torch.arange(k.shape[2])[None] <= mine[:, None]
        scores = (q @ k.transpose(2, 3) * scaling).masked_fill(~causal, float("-inf"))
        return (scores.softmax(-1) @ v).transpose(1, 2).contiguous(), None

    AttentionInterface.register("gathered", attend)
    AttentionMaskInterface.register("gathered", lambda *args, **kwargs: None)


LOSSES = {
    "weights": LOSS,
    "sequences": Loss(normalization="example-mean", normalizer="sequences"),
    "tasks": Loss(normalization=0.3, tasks=TaskFactors((0.7, 0.3))),
    "roles": Loss(roles={"prompt": 0.2, "response": 1.0}, normalizer="tokens"),
}


def sequence_parallel(loss: Loss, is_balanced: bool = False, is_cut_first: bool = False) -> tuple[float, float]:
    """Each rank holds a slice of every sequence; `is_cut_first` shifts and weighs in the slice, and is wrong."""
    full = {k: v for k, v in pad(ROWS).items() if k not in ("attention_mask", "row_ids")}
    columns = full["input_ids"].shape[1]
    parts = slices(columns - columns % (2 * dist.get_world_size()), is_balanced)
    used = torch.cat(parts).sort().values  # every rank has equally many
    full = {k: v[:, used] if v.dim() == 2 else v for k, v in full.items()}
    alone = model_of()
    attach(alone, loss)
    value = alone(**full).loss
    value.backward()
    expected = Found(float(value.detach()), gradients(alone))

    gathered_attention(parts)
    mine = parts[dist.get_rank()]
    if is_cut_first:
        batch = {k: v[:, mine] if v.dim() == 2 else v for k, v in full.items()}
        batch["position_ids"], batch["attention_mask"] = mine.expand(len(ROWS), -1), torch.ones(len(ROWS), len(mine))
    else:
        batch = {k: v[:, mine] if v.dim() == 2 else v for k, v in weigh_batch(loss, full).items()}
    model = model_of()
    attachment = attach(model, loss)  # its eight tokens are not cut over ranks
    model.set_attn_implementation("gathered")
    got = Found(run(model, attachment, [batch]), gradients(model))
    for grad in got.gradients.values():
        dist.all_reduce(grad)
        grad /= dist.get_world_size()  # as FSDP averages
    return got.errors(expected)


def refused() -> str:
    """A head made tensor-parallel under an attached loss."""
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    model = model_of()
    attach(model, LOSS)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("tp",))
    parallelize_module(model, mesh, {"lm_head": ColwiseParallel()})
    try:
        model(**pad(ROWS), output_logits=True)
    except ModelError as error:
        return str(error)
    return ""


def main(out: str) -> None:
    warnings.filterwarnings("ignore")
    dist.init_process_group("gloo")
    cases: dict[str, Callable[[], float | tuple[float, float]]] = {
        **{f"tp {family}": partial(tensor_parallel, family) for family in ("llama", "gemma2", "cohere", "phi")},
        "tp, constant normalizer": partial(tensor_parallel, "llama", Loss(normalizer=50.0)),
        "tp, sequences": partial(tensor_parallel, "llama", LOSSES["sequences"]),
        "torch's plan": torchs_plan,
        "own logits": own_logits,
        "copies forgotten": copies_forgotten,
        "fsdp2 first": partial(fsdp_first, False),
        "fsdp2 first, head alone": partial(fsdp_first, True),
        "fsdp2 first, tied": partial(fsdp_first, False, tie_word_embeddings=True),
        "mixed precision": partial(mixed_precision, False),
        "mixed precision, attached first": partial(mixed_precision, True),
        "mixed precision, rounded": partial(mixed_precision, False, is_rounded=True),
        **({"fsdp2 and tp": fsdp_and_tensor_parallel} if dist.get_world_size() == 4 else {}),
        **{f"sequence slices, {name}": partial(sequence_parallel, loss) for name, loss in LOSSES.items()},
        "sequence slices, balanced": partial(sequence_parallel, LOSSES["sequences"], is_balanced=True),
        "sequence cut first": partial(sequence_parallel, LOSS, is_cut_first=True),
        "trainer": trainer,
    }
    results: dict[str, Any] = {"refused": refused()}
    for name, case in cases.items():
        worst = torch.tensor(case(), dtype=torch.float64).nan_to_num(nan=float("inf"))
        dist.all_reduce(worst, op=dist.ReduceOp.MAX)
        results[name] = float(worst.max())  # of the loss's error and the gradient's
    conclude(results, out)


if __name__ == "__main__":
    main(sys.argv[1])
