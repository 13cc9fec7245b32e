"""Adaptive task weights at work in training: a MultiTaskLoss that an attached model reads and feeds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sftloss.errors import ConfigError
from sftloss.training._pass import Pass

if TYPE_CHECKING:
    from sftloss.tasks import MultiTaskLoss
    from sftloss.training._loss import Loss

FILE = "task_weights.safetensors"
"""What a checkpoint holds of it."""


class TaskWeighting:
    r"""Task weights that a strategy moves: :math:`c = w_g \, u / Z_g`, w of the steps before.

    The passes that train show the tasks' losses, so nothing is run twice. Weights move once an optimizer step, over
    its whole accumulation window and all ranks: with a Trainer of :func:`with_loss` by themselves, in a loop of your
    own by `step` after the optimizer's (what is forgotten is made up for when the next step is counted). ::

        loss = Loss("cross_entropy", tasks=TaskWeighting(MultiTaskLoss(["qa", "summaries"], "uncertainty")))
        trainer = with_loss(Trainer, loss)(...)              # batches hold tasks, an index a row or a token

    In evaluation no task is weighted, so losses before and after, and of other strategies, can be compared.

    Args:
        weighting: Names, strategy and rules. Its `base` says what a task is divided by: ``"task_mean"`` by its own
            normaliser, ``"token_mean"`` all by one.

    Raises:
        ConfigError: If the strategy needs what training does not show.
    """

    def __init__(self, weighting: MultiTaskLoss) -> None:
        needs = weighting.strategy.needs
        if needs not in ("losses", "gramian"):
            from sftloss.tasks.strategies import EXTRA

            raise ConfigError(
                f"tasks: {weighting.strategy.name} needs {EXTRA[needs]}, which training does not show; feed "
                "MultiTaskLoss.observe_extra in your own loop, or choose another strategy."
            )
        if weighting.update_freq is not None:
            raise ConfigError("tasks: weights move once an optimizer step here; leave update_freq out.")
        self.weighting = weighting

    @property
    def names(self) -> tuple[str, ...]:
        return self.weighting.task_names

    @property
    def is_mean_per_task(self) -> bool:
        return self.weighting.rules.base == "task_mean"

    def now(self) -> Tensor:
        """The weights of the step that begins, ``(tasks,)``, float64; every rank calls.

        A step whose end nobody told ends here.
        """
        if self.weighting.passes:
            self.step()
        return self.weighting.weights.detach().clone()

    def observe(self, loss: Loss, seen: Pass) -> None:
        """Add a training pass to its step. Nothing waits for the device."""
        if not seen.is_training:
            return
        device = seen.coefficients.device
        if self.weighting.weights.device != device:
            self.weighting.to(device)
        tokens = seen.tokens
        assert tokens.groups is not None
        # a task of weight 0 has coefficients 0 and was not looked at: it counts as absent
        weights = torch.where(seen.coefficients != 0, tokens.weights.to(device), 0.0)
        values = loss.objective(seen.stats).detach()  # type: ignore[operator]
        self.weighting.observe(values, tokens.groups.to(device), weights)

    def step(self) -> None:
        """End an optimizer step: one collective of 2K numbers, then the next weights. Every rank calls.

        Raises:
            FloatingPointError: If a task's loss is not finite and the rules say so.
        """
        self.weighting.step()

    def metrics(self) -> dict[str, float]:
        """By task, for the log: ``task_loss/<name>`` of the last step it was in, ``task_weight`` of the next one,
        ``task_token_share`` and ``task_effective_share`` (of weight times tokens), and ``task_slope``, the relative
        change of its loss a step where the trend is clear. It waits for the device."""
        named = {
            "loss": "current_loss",
            "weight": "weight",
            "token_share": "token_share",
            "effective_share": "effective_share",
            "slope": "trend_slope",
        }
        told = self.weighting.get_task_statistics()
        return {
            f"task_{short}/{name}": told[name][key]
            for short, key in named.items()
            for name in self.names
            if told[name][key] is not None
        }

    def save(self, folder: Path) -> None:
        """Write the state into a checkpoint."""
        import json

        from safetensors.torch import save_file

        state = self.weighting.state_dict()
        words = {name: value for name, value in state.items() if not isinstance(value, Tensor)}
        tensors = {name: value.cpu().contiguous() for name, value in state.items() if name not in words}
        save_file(tensors, folder / FILE, metadata={"words": json.dumps(words)})

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote.

        Raises:
            ConfigError: If the file is missing, damaged, or of other tasks or another strategy.
        """
        import json

        from safetensors import SafetensorError, safe_open

        path = folder / FILE
        if not path.is_file():
            raise ConfigError(f"{folder} lacks {FILE}, the state of the task weights; go on from another checkpoint.")
        try:
            with safe_open(path, framework="pt") as file:
                state: dict[str, Any] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                state |= json.loads((file.metadata() or {})["words"])
            self.weighting.load_state_dict(state)
        except (SafetensorError, KeyError, ValueError) as error:
            raise ConfigError(f"{path} is damaged ({error}); go on from another checkpoint.") from None
        except RuntimeError as error:
            raise ConfigError(f"{path} does not fit this run: {' '.join(str(error).split())}") from None
