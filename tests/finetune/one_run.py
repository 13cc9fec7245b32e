"""One run of a recipe given as JSON; `kill_at` ends the process there as `kill -9` does."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import torch
from transformers import TrainerCallback

from sftloss.data.demo import demo_model, demo_tokenizer
from sftloss.finetune import Interrupted, Lora, Outcome, Recipe, fine_tune


class Signals(TrainerCallback):
    """Sends this process a signal within a step."""

    def __init__(self, step: int | None, number: int) -> None:
        self.step, self.number = step, number

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), self.number)


def run(given: dict[str, Any]) -> Outcome:
    """The demo model with dropout, so that a run is only repeated if its random numbers are."""
    kill_at, number = given.pop("kill_at", None), given.pop("signal", signal.SIGKILL)
    if given.pop("is_deaf", False):  # a negative control: no rank hears of the others' task losses
        import sftloss.tasks.multi_task as module

        module.sum_over_ranks = lambda values, group=None: values
    if given.get("lora"):
        given["lora"] = Lora(**given["lora"])
    model = demo_model().to(torch.float64 if given.get("dtype") == "float64" else torch.float32)
    dropout = given.pop("dropout", 0.1)
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = dropout
    signals = Signals(kill_at, number)
    return fine_tune(Recipe(**given), model=model, tokenizer=demo_tokenizer(), callbacks=[signals])


def main() -> int:
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        from tests.training.launched_ranks import shard_on_the_processor

        shard_on_the_processor()
    if os.environ.get("ACCELERATE_USE_DEEPSPEED") == "true":
        from tests.training.zero_ranks import join_on_the_processor

        import sftloss.finetune.setup as module

        join_on_the_processor()
        module._is_cpu = lambda device: False
    try:
        outcome = run(json.loads(sys.argv[1]))
    except Interrupted as stop:
        print(stop)
        return 128 + stop.signal
    shards = (
        " in shards"
        if any(hasattr(p, "full_tensor") or hasattr(p, "ds_id") for p in outcome.model.parameters())
        else ""
    )
    print(f"world {outcome.facts['ranks']}{shards}\n", end="", flush=True)  # one write: two ranks share the stream
    if outcome.facts["ranks"] > 1:
        os._exit(0)  # gloo's threads may drop a tensor while the interpreter closes, which aborts the process
    return 0


if __name__ == "__main__":
    sys.exit(main())
