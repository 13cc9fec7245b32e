"""The cost of task weights in a training step of adapters.

The contenders are a plain step, a loss-only strategy, task gradients from one backward pass, and TorchJD's three ways
to the same gradients.

    python -m benchmarks.multitask                                 # 4 tasks
    python -m benchmarks.multitask --tasks 8 --rounds 20

A step is forward, token losses, backward and SGD on LoRA adapters of every linear layer; each row has one task. All
contenders with task gradients use the weights of UPGrad and must agree on the gradient. Floating-point operations are
counted by `torch.utils.flop_counter` (products of matrices), time is that of the process. The contenders take turns,
each round in another order, and a ratio is between steps of the same round.
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import print_table, provenance, ratios, timed, write_json
from sftloss.tasks import MultiTaskLoss, TaskGradients
from sftloss.tasks.strategies import upgrad

Step = Callable[[], None]


@dataclass(frozen=True)
class Case:
    """A model with adapters and one batch; of each row, its task."""

    model: Any
    trained: list[torch.nn.Parameter]
    ids: Tensor
    targets: Tensor
    tasks: Tensor
    count: int

    def token_losses(self) -> Tensor:
        logits = self.model(input_ids=self.ids).logits
        return F.cross_entropy(logits.flatten(0, 1), self.targets.flatten(), reduction="none").view_as(self.targets)

    def means(self, losses: Tensor) -> list[Tensor]:
        return [losses[self.tasks == k].mean() for k in range(self.count)]


def case(options: argparse.Namespace) -> Case:
    """The same for every contender."""
    import peft
    import transformers

    torch.manual_seed(0)
    width = options.width
    sizes = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": options.layers}
    heads = {"num_attention_heads": width // 64, "num_key_value_heads": width // 64}
    # eager: vmap, on which TorchJD may run, has no rule for the fused attention of the CPU
    config = transformers.LlamaConfig(vocab_size=options.vocab, attn_implementation="eager", **sizes, **heads)
    adapters = peft.LoraConfig(r=options.rank, target_modules="all-linear", init_lora_weights=False)
    model = peft.get_peft_model(transformers.LlamaForCausalLM(config), adapters)
    ids = torch.randint(3, options.vocab, (options.rows, options.columns + 1))
    tasks = torch.arange(options.rows) % options.tasks
    trained = [p for p in model.parameters() if p.requires_grad]
    return Case(model, trained, ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), tasks, options.tasks)


def plain(case: Case) -> Step:
    return lambda: case.token_losses().mean().backward()


def loss_only(case: Case, strategy: str = "uncertainty") -> Step:
    weighted = MultiTaskLoss([str(k) for k in range(case.count)], strategy)

    def step() -> None:
        weighted(case.token_losses(), case.tasks)[0].backward()
        weighted.step()

    return step


def one_pass(case: Case) -> Step:
    weighted = MultiTaskLoss([str(k) for k in range(case.count)], "static")
    gradients = TaskGradients(case.model, tasks=case.count, parameters=case.trained)
    present = torch.ones(case.count, dtype=torch.bool)

    def step() -> None:
        with gradients.capture(case.tasks):
            weighted(case.token_losses(), case.tasks)[0].backward()
        gramian = gradients.gramian()
        gradients.apply(upgrad().weights_of_step(gramian, present))
        weighted.step(gramian)
        gradients.zero()

    return step


def autojac(case: Case) -> Step:
    from torchjd.aggregation import UPGrad
    from torchjd.autojac import backward, jac_to_grad

    def step() -> None:
        backward(case.means(case.token_losses()), inputs=case.trained, parallel_chunk_size=1)
        jac_to_grad(case.trained, UPGrad())

    return step


def mtl_backward(case: Case) -> Step:
    """Features are the last hidden states; the adapter of the one head that all tasks share is then a task's own."""
    from torchjd.aggregation import UPGrad
    from torchjd.autojac import jac_to_grad, mtl_backward

    head = {id(p) for p in case.model.get_base_model().lm_head.parameters()}
    shared = [p for p in case.trained if id(p) not in head]

    def step() -> None:
        hidden = case.model.get_base_model().model(input_ids=case.ids).last_hidden_state
        logits = case.model.get_base_model().lm_head(hidden)
        flat = F.cross_entropy(logits.flatten(0, 1), case.targets.flatten(), reduction="none")
        losses = case.means(flat.view_as(case.targets))
        mtl_backward(losses, hidden, shared_params=shared, retain_graph=True, parallel_chunk_size=1)
        jac_to_grad(shared, UPGrad())

    return step


def autogram(case: Case) -> Step:
    from torchjd.aggregation import UPGradWeighting
    from torchjd.autogram import Engine

    engine, weighting = Engine(case.model, batch_dim=None), UPGradWeighting()

    def step() -> None:
        losses = torch.stack(case.means(case.token_losses()))
        losses.backward(weighting(engine.compute_gramian(losses)))

    return step


CONTENDERS: dict[str, Callable[[Case], Step]] = {
    "plain": plain,
    "loss-only strategy": loss_only,
    "one-pass capture + UPGrad": one_pass,
    "TorchJD autojac.backward + UPGrad": autojac,
    "TorchJD mtl_backward + UPGrad": mtl_backward,
    "TorchJD autogram + UPGrad": autogram,
}


def measured(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Operations of a step and ratios of times, by contender."""
    chosen = {name: make for name, make in CONTENDERS.items() if options.only in name or name == "plain"}
    cases = {name: case(options) for name in chosen}
    steps = {name: make(cases[name]) for name, make in chosen.items()}
    flops, gradients = {}, {}
    for name, step in steps.items():
        step()  # the first pass of a capture is verified
        zero(cases[name])
        with FlopCounterMode(display=False) as counter:
            step()
        flops[name] = counter.get_total_flops()
        gradients[name] = zero(cases[name])
    check(gradients)
    optimizers = {name: torch.optim.SGD(one.trained, lr=1e-4) for name, one in cases.items()}

    def trained(name: str) -> Step:
        def run() -> None:
            steps[name]()
            optimizers[name].step()
            optimizers[name].zero_grad()

        return run

    by_clock = timed({name: trained(name) for name in steps}, options.rounds)
    seconds = {name: values["processor"] for name, values in by_clock.items()}
    rows, table = {}, {}
    for name in steps:
        middle, smallest, largest = ratios(seconds[name], seconds["plain"])
        rows[name] = {
            "gflop": round(flops[name] / 1e9, 3),
            "flop_over_plain": round(flops[name] / flops["plain"], 4),
            "seconds_median": round(statistics.median(seconds[name]), 4),
            "time_over_plain_median": middle,
            "time_over_plain_min": smallest,
            "time_over_plain_max": largest,
        }
        over = {"operations over plain": rows[name]["flop_over_plain"], "time over plain": [middle, smallest, largest]}
        table[name] = {"GFLOP": rows[name]["gflop"], "seconds": rows[name]["seconds_median"], **over}
    print_table(f"A training step with {options.tasks} tasks, {options.rounds} rounds, processor time", table)
    return rows


def zero(case: Case) -> Tensor:
    """Return the gradient of the step and drop it."""
    gradient = torch.cat([p.grad.flatten() for p in case.trained if p.grad is not None])
    for p in case.trained:
        p.grad = None
    return gradient


def check(gradients: Mapping[str, Tensor]) -> None:
    """Check that contenders for the same gradient agree; TorchJD adds a ridge of 1e-4 of the trace, ours none."""
    names = [name for name in gradients if "UPGrad" in name and "mtl" not in name]
    for one, other in zip(names, names[1:], strict=False):
        a, b = gradients[one], gradients[other]
        assert float((a - b).norm() / b.norm()) < 1e-3, (one, other, float((a - b).norm() / b.norm()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"tasks": 4, "rows": 8, "columns": 128, "width": 512, "layers": 4, "rank": 16, "vocab": 8000,
                        "rounds": 9}.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--only", default="", help="contenders whose name holds this, beside the plain step")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning)
    origin = provenance("multitask", "transformers", "peft", "torchjd")
    shape = {name: value for name, value in vars(options).items() if isinstance(value, int)}
    write_json(options.json, {**origin, "shape": shape, "results": measured(options)})


if __name__ == "__main__":
    main()
