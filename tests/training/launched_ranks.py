"""Run by `accelerate launch`: a Trainer's epoch on several ranks beside one process; writes JSON on rank 0."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from typing import Any

import torch
import transformers
from tests.launching import conclude
from tests.training.cases import model_of
from tests.training.rank_steps import LOSS, plain, trained, trainer_windows

from sftloss.training import attach, with_loss


def shard_on_the_processor() -> None:
    """Accelerate shards on accelerators alone and on a CPU silently copies; its own wrapping works there too."""
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    made = AcceleratorState.__init__

    def init(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
        made(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP  # read anew by every other state

    AcceleratorState.__init__ = init


class MeanOfMeans(transformers.Trainer):
    """The negative control: each micro-batch divided by its own weights, on each rank."""

    loss_is_scaled_for_ga = False

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return model(**inputs).loss


def main(out: str) -> None:
    warnings.filterwarnings("ignore")
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        shard_on_the_processor()
    with tempfile.TemporaryDirectory() as folder:
        ours, is_sharded = trained(with_loss(transformers.Trainer, LOSS), model_of(), folder)
        model = model_of()
        attach(model, LOSS)
        theirs, _ = trained(MeanOfMeans, model, folder)
    truths = [plain(torch.float64, rows) for rows in trainer_windows()]
    results = {
        "is_sharded": sorted(is_sharded),
        "errors": [found.errors(truth) for found, truth in zip(ours, truths, strict=True)],
        "mean of means": [found.errors(truth) for found, truth in zip(theirs, truths, strict=True)],
    }
    conclude(results, out)


if __name__ == "__main__":
    main(sys.argv[1])
