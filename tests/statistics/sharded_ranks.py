"""Run by torchrun: a head in shards beside the whole one, which every rank can compute by itself; JSON on rank 0."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from tests.launching import conclude
from tests.objectives.rows import ENGINE_ROWS
from tests.statistics.test_engine import everything, make_head, make_tokens, reference
from tests.statistics.test_further import candidate_ids, everything_further
from tests.statistics.test_further import reference as further_reference
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard as Rows
from torch.distributed.tensor import distribute_tensor

from sftloss.loss import weighted_loss
from sftloss.statistics import FIELDS, Head, Plan, Shard, from_logits, measure_tokens, token_statistics

PLANS = {"one pass": Plan("one_pass", tokens=3), "two passes": Plan("two_pass", tokens=4, columns=3)}
KINDS = ("plain", "bias", "padded", "scale", "softcap", "low_rank_and_all")
UPSTREAM = -1.7  # ones would hide a factor applied twice


def edges(vocab: int) -> list[int]:
    """Unequal shards, one of a single row."""
    world = dist.get_world_size()
    return [0, 1, vocab] if world == 2 else [0, 5, 6, 13, vocab]


def cut(head: Head, how: str) -> tuple[Head, list[torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]:
    """This rank's head, its leaves, and the rows of a whole gradient that are its own."""
    vocab, rank = head.weight.shape[0], dist.get_rank()
    parts = {name: p for name in ("weight", "bias", "low_rank") if (p := getattr(head, name)) is not None}
    if how == "DTensor":
        mesh = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("tp",))
        own = {name: distribute_tensor(p.detach(), mesh, [Rows(0)]).requires_grad_() for name, p in parts.items()}
        shard = Shard.of(own["weight"])
        mine = slice(shard.start, shard.start + own["weight"].to_local().shape[0])
    else:
        mine = slice(*edges(vocab)[rank : rank + 2])
        shard = Shard(mine.start, vocab, dist.group.WORLD)
        own = {name: p.detach()[mine].clone().requires_grad_() for name, p in parts.items()}
    return replace(head, **own, shard=shard), list(own.values()), lambda whole: whole[mine]


def error(got: Any, true: torch.Tensor) -> float:
    got = got.to_local() if hasattr(got, "to_local") else got
    worst = (got - true).detach().abs().max() / true.detach().abs().max().clamp(min=1e-30)
    return float(worst.nan_to_num(nan=float("inf")))


def law(kind: str, plan: Plan, how: str, objective: Any = everything) -> float:
    head, (hidden, targets, c) = make_head(kind), make_tokens()
    wanted = reference(hidden, head, targets, c, objective)
    parameters = [p for p in (hidden, head.weight, head.bias, head.low_rank) if p is not None]
    true = torch.autograd.grad(wanted * UPSTREAM, parameters)
    part, leaves, mine = cut(head, how)
    again = hidden.detach().clone().requires_grad_()
    loss, _ = weighted_loss(again, part, targets, c, objective, plan=plan)
    got = torch.autograd.grad(loss * UPSTREAM, [again, *leaves])
    expected = [true[0], *(mine(t) for t in true[1:])]
    return max([error(loss, wanted), *(error(g, t) for g, t in zip(got, expected, strict=True))])


def further(plan: Plan) -> float:
    """The statistics that take a number or candidates."""
    head, (hidden, targets, c) = make_head("softcap"), make_tokens()
    extras = {"candidate_ids": candidate_ids(targets)}
    c[3] = 0
    wanted = further_reference(hidden, head, targets, c, extras)
    true = torch.autograd.grad(wanted * UPSTREAM, (hidden, head.weight))
    part, leaves, mine = cut(head, "group")
    loss, _ = weighted_loss(hidden, part, targets, c, everything_further, extras=extras, plan=plan)
    got = torch.autograd.grad(loss * UPSTREAM, (hidden, leaves[0]))
    return max(error(loss, wanted), error(got[0], true[0]), error(got[1], mine(true[1])))


def statistics() -> float:
    head, (hidden, targets, _) = make_head("padded"), make_tokens()
    true = from_logits(head.logits(hidden), targets)
    got = token_statistics(hidden, cut(head, "group")[0], targets, plan=PLANS["two passes"])
    return max(error(getattr(got, name).double(), getattr(true, name).double()) for name in FIELDS)


def measured() -> float:
    both = {"ce": lambda s: -s.target_logprob, "everything": everything}
    worst = 0.0
    for kind, objectives in ((kind, chosen) for kind in KINDS for chosen in (both, {"ce": both["ce"]})):
        head, (hidden, targets, _) = make_head(kind), make_tokens()
        _, true = measure_tokens(hidden, head, targets, objectives)
        _, got = measure_tokens(hidden, cut(head, "group")[0], targets, objectives, plan=Plan(tokens=4))
        for name in objectives:
            worst = max(worst, *(error(vars(got[name])[f], vars(true[name])[f]) for f in ("loss", "l1", "l2")))
    return worst


def far_apart() -> float:
    """Logits of one shard 400 nats above the others': float32 would overflow at 89 if m were not merged."""
    head, (hidden, targets, c) = make_head("bias"), make_tokens()
    bias = head.bias.detach().clone()  # type: ignore[union-attr]
    bias[-3:] += 400.0
    whole = Head(head.weight.detach().float().requires_grad_(), bias.float().requires_grad_())
    h = hidden.detach().float().requires_grad_()
    true = torch.autograd.grad(reference(h, whole, targets, c.float(), everything), [h, whole.weight])
    part, leaves, mine = cut(whole, "group")
    got = torch.autograd.grad(weighted_loss(h, part, targets, c.float(), everything)[0], [h, leaves[0]])
    return max(error(got[0], true[0]), error(got[1], mine(true[1])))


def filtered(mode: str) -> dict[str, float]:
    """A head of 3000 columns in two or more shards, filtered: errors over the tolerance, and of the sums of dz."""
    generator = torch.Generator().manual_seed(0)
    weight, hidden = (torch.randn(n, 24, dtype=torch.float64, generator=generator) for n in (3000, 300))
    weight, hidden = 2 * weight, hidden.requires_grad_()
    weight[:, 0] = 1.0
    targets, c = (hidden @ weight.t()).argmax(1), torch.full((300,), 1 / 300, dtype=torch.float64)
    rank, rows = dist.get_rank(), 3000 // dist.get_world_size()
    gradients, plan, report = {}, Plan(mode, tokens=150, tolerance=0.01), None  # type: ignore[arg-type]
    for part in (slice(0, 3000), slice(rank * rows, (rank + 1) * rows)):
        is_whole = part.stop - part.start == 3000
        own = weight[part].clone().requires_grad_()
        head = Head(own, shard=None if is_whole else Shard(part.start, 3000, dist.group.WORLD))
        loss, stats = weighted_loss(hidden, head, targets, c, plan=replace(plan, tolerance=0.0) if is_whole else plan)
        gradients[is_whole], report = torch.autograd.grad(loss, (hidden, own)), stats.filtered
    (whole, d_weight), (ours, d_own) = gradients[True], gradients[False]
    pairs = ((ours, whole), (d_own, d_weight[rank * rows : (rank + 1) * rows]))
    assert report is not None
    return {
        "over the tolerance": max(float((a - b).norm() / b.norm()) for a, b in pairs) / 0.01,
        "mass": float((ours - whole)[:, 0].abs().max() / whole.abs().max()),
        "kept": report.kept,
        "reported": report.error,
    }


def not_summed() -> float:
    """The negative control: every rank takes its shard for a head of its own."""
    head, (hidden, targets, c) = make_head("plain"), make_tokens()
    true = torch.autograd.grad(reference(hidden, head, targets, c, everything), hidden)[0]
    part, leaves, _ = cut(head, "DTensor")
    local = targets - part.start
    local = torch.where((local >= 0) & (local < part.weight.shape[0]), local, -100)
    got = torch.autograd.grad(weighted_loss(hidden, Head(part.weight), local, c, everything)[0], hidden)[0]
    return error(got, true)


def drawn() -> float:
    """Drawn sizes, unequal edges and masks; the draw is the same on every rank."""
    worst, world = 0.0, dist.get_world_size()
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)

        def pick(low: int, high: int, g: torch.Generator = generator) -> int:
            return int(torch.randint(low, high, (), generator=g))

        vocab, tokens = pick(world, 40), pick(1, 20)
        inner = torch.randperm(vocab - 1, generator=generator)[: world - 1].sort().values + 1
        bounds = [0, *inner.tolist(), vocab]
        mine = slice(*bounds[dist.get_rank() : dist.get_rank() + 2])
        weight = torch.randn(vocab, 5, dtype=torch.float64, generator=generator).requires_grad_()
        hidden = torch.randn(tokens, 5, dtype=torch.float64, generator=generator).requires_grad_()
        targets = torch.randint(0, vocab, (tokens,), generator=generator)
        c = torch.randn(tokens, dtype=torch.float64, generator=generator)
        c[torch.rand(tokens, generator=generator) < (0.3 if seed < 10 else 1.0)] = 0.0  # the last two: no token trained
        true = torch.autograd.grad(reference(hidden, Head(weight), targets, c, everything), [hidden, weight])
        part = weight.detach()[mine].clone().requires_grad_()
        plan = Plan(("one_pass", "two_pass")[seed % 2], tokens=pick(1, 9), columns=pick(1, 9))
        loss, _ = weighted_loss(hidden, Head(part, shard=Shard(mine.start, vocab)), targets, c, everything, plan=plan)
        got = torch.autograd.grad(loss, [hidden, part])
        if bool((c != 0).any()):
            worst = max(worst, error(got[0], true[0]), float((got[1] - true[1][mine]).abs().max()))
        else:
            worst = max(worst, float(got[0].abs().max()), float(got[1].abs().max()))
    return worst


@contextmanager
def counted(calls: list[str]) -> Iterator[None]:
    """Write down every collective."""
    names = ("all_reduce", "all_gather_into_tensor", "all_gather", "reduce_scatter_tensor", "broadcast")
    before = {name: getattr(dist, name) for name in names}

    def watched(name: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: (calls.append(name), before[name](*args, **kwargs))[1]

    for name in names:
        setattr(dist, name, watched(name))
    try:
        yield
    finally:
        for name in names:
            setattr(dist, name, before[name])


def collectives(kind: str, plan: Plan, is_frozen: bool = False) -> list[str]:
    """Eleven tokens, nine of them trained."""
    head, (hidden, targets, c) = make_head(kind), make_tokens()
    part, _, _ = cut(head, "group")
    calls: list[str] = []
    with counted(calls):
        h = hidden.detach().requires_grad_(not is_frozen)
        weighted_loss(h, part, targets, c, everything, plan=plan)[0].backward()
    return calls


def same_tokens() -> str:
    """Ranks that were given different batches are told so."""
    head, (hidden, targets, c) = make_head("plain"), make_tokens()
    targets = targets.clone()
    targets[0] = dist.get_rank()
    try:
        weighted_loss(hidden, cut(head, "group")[0], targets, c)
    except ValueError as error:
        return str(error)
    return ""


def main(out: str) -> None:
    dist.init_process_group("gloo")
    results: dict[str, Any] = {}
    cases: dict[str, Callable[[], float]] = {
        f"{kind}, {plan}, {how}": lambda kind=kind, plan=plan, how=how: law(kind, PLANS[plan], how)  # type: ignore[misc]
        for kind in KINDS
        for plan in PLANS
        for how in ("DTensor", "group")
    }
    for name, function in ENGINE_ROWS.items():
        cases[f"{name}, one pass"] = lambda f=function: law("bias", PLANS["one pass"], "group", f)  # type: ignore[misc]
        cases[f"{name}, two passes"] = lambda f=function: law("bias", PLANS["two passes"], "group", f)  # type: ignore[misc]
    cases |= {f"further, {name}": partial(further, plan) for name, plan in PLANS.items()}
    cases |= {"statistics": statistics, "measured": measured, "drawn": drawn}
    cases |= {"far apart": far_apart, "not summed": not_summed}
    for name, case in cases.items():
        worst = torch.tensor(case(), dtype=torch.float64)
        dist.all_reduce(worst, op=dist.ReduceOp.MAX)
        results[name] = float(worst)
    results["collectives"] = {
        "one pass": collectives("plain", Plan("one_pass", tokens=3)),
        "one pass, padded": collectives("padded", Plan("one_pass", tokens=3)),
        "one pass, body frozen": collectives("plain", Plan("one_pass", tokens=3), is_frozen=True),
        "two passes": collectives("plain", Plan("two_pass", tokens=3, columns=2)),
    }
    results["same tokens"] = same_tokens()
    results["filtered"] = {mode: filtered(mode) for mode in ("one_pass", "two_pass")}
    conclude(results, out)


if __name__ == "__main__":
    main(sys.argv[1])
