"""Adaptive task weights at work in training: a MultiTaskLoss that an attached model reads and feeds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sftloss.decoder import ModelPort
from sftloss.errors import ConfigError, mention
from sftloss.ranks import sum_over_ranks, world_size
from sftloss.training.passes import Pass
from sftloss.training.state import read_state, write_state
from sftloss.training.tasks.factors import TaskFactor
from sftloss.training.tasks.reference import Reference

if TYPE_CHECKING:
    from sftloss.tasks import MultiTaskLoss, TaskGradients

FILE = "task_weights.safetensors"
"""What a checkpoint holds of it."""

_LOGGED = {
    "loss": "current_loss",
    "weight": "weight",
    "token_share": "token_share",
    "effective_share": "effective_share",
    "slope": "trend_slope",
    "gradient": "current_gradient",
}

REFERENCE = "reference_logprob"
"""What batches hold of a reference model: its log-probability of each target, laid out as the labels are."""


class TaskWeighting(TaskFactor):
    r"""Task weights that a strategy moves: :math:`c = w_g \, u / Z_g`, w of the steps before.

    The tasks' losses come from the passes that train, so nothing is run twice. Weights move once an optimizer step,
    over its whole accumulation window and all ranks. A Trainer of :func:`with_loss` moves them; in a loop of your own
    call `step` after the optimizer's step (a forgotten call is made up for when the next step is counted). ::

        loss = Loss("cross_entropy", tasks=TaskWeighting(MultiTaskLoss(["qa", "summaries"], "uncertainty")))
        trainer = with_loss(Trainer, loss)(...)              # batches hold tasks, an index a row or a token

    A strategy that reads the tasks' gradients (`gradient_balance`, `grad_norm`, `upgrad` and the other methods on the
    Gramian) gets them from the same backward pass: those of the trained linear layers, adapters included, without the
    head. In a loop of your own run forward and backward within `capture`. All weights act one step later.

    `coba` reads the losses of evaluations, `famo` runs each batch once more after the optimizer's step, without
    gradients, and `doremi` runs it through a reference model, or reads :data:`REFERENCE` where batches hold it.

    In evaluation no task is weighted, so losses before and after, and of other strategies, can be compared.

    Args:
        weighting: Names, strategy and rules. Its `base` decides what a task is divided by: ``"task_mean"`` by its own
            normalizer, ``"token_mean"`` all by one.
        conflicts: Log the cosines between the tasks' gradients, also under a strategy that does not read them.
        layerwise: Hold the gradients by task of one layer at a time, for full fine-tuning; a step is then one batch.
        reference: For `doremi`: a model of the same vocabulary, which is not trained.

    Raises:
        ConfigError: If the weighting has an `update_freq`.
    """

    def __init__(
        self, weighting: MultiTaskLoss, *, conflicts: bool = False, layerwise: bool = False, reference: Any = None
    ) -> None:
        if weighting.update_freq is not None:
            raise ConfigError("weights move once per optimizer step here", option="tasks", cure="leave update_freq out")
        self.weighting, self.is_watching, self.is_layerwise = weighting, conflicts, layerwise
        self.reference = None if reference is None else Reference(reference)
        self._model: Any = None
        self._port: Any = None
        self._gradients: TaskGradients | None = None
        self._captured = 0
        self._batches: list[Mapping[str, Any]] = []
        self.is_repeating = False

    @property
    def names(self) -> tuple[str, ...]:
        return self.weighting.task_names

    @property
    def is_mean_per_task(self) -> bool:
        return self.weighting.rules.base == "task_mean"

    @property
    def needs_gradients(self) -> bool:
        """Whether the strategy or the log reads the tasks' gradients."""
        return self.is_watching or self.weighting.strategy.needs == "gramian"

    @property
    def _reader(self) -> str:
        """What reads the gradients, for messages."""
        strategy = self.weighting.strategy
        return strategy.name if strategy.needs == "gramian" else "the watch for conflicts"

    @property
    def is_weighting(self) -> bool:
        return True

    def bind(self, model: nn.Module, port: ModelPort, extras: Sequence[str]) -> None:
        self._model, self._port, self._gradients = model, port, None
        strategy = self.weighting.strategy
        if self.needs_gradients:
            _check_attributable(model, port, self._reader)
        if self.reference is not None:
            self.reference.check(port.vocabulary(model))
        elif strategy.needs == "excess" and REFERENCE not in extras:
            raise ConfigError(
                f"{strategy.name} needs a reference model, TaskWeighting(..., reference=model), or its loss of each "
                f'token: a tensor {REFERENCE} in the batches and Loss(extras=("{REFERENCE}",))',
                option="tasks",
            )

    def check(self, arguments: Any) -> None:
        if self.needs_gradients and arguments.fp16:
            raise ConfigError(
                f"{self._reader} compares gradients of different steps, which the loss scale of fp16 changes",
                option="tasks",
                cure=f"use bf16 ({mention('autocast', 'bfloat16')})",
            )
        if self.is_layerwise and arguments.gradient_accumulation_steps > 1:
            raise ConfigError(
                "layerwise task gradients take one batch per step, because Gramians of micro-batches do not add up",
                option="tasks",
                cure=f"give {mention('grad_accum', 1)}, or hold them all with layerwise=False",
            )

    @contextmanager
    def capture(self, batch: Mapping[str, Any]) -> Iterator[None]:
        """Follow one forward and backward pass of a batch; does nothing where the strategy needs no gradients.

        Raises:
            ConfigError: If the model has been sharded since the loss was attached.
            ValueError: If the gradients cannot be separated by task; see :class:`sftloss.tasks.TaskGradients`.
        """
        if not self.needs_gradients:
            yield
            return
        if self._gradients is None:
            from sftloss.tasks import TaskGradients

            _check_attributable(self._model, self._port, self._reader)  # it may have been sharded since
            chosen, group = _followed(self._model, self._port), self.weighting.process_group
            self._gradients = TaskGradients(
                self._model, tasks=len(self.names), parameters=chosen, layerwise=self.is_layerwise, group=group
            )
        # without a mask, position ids that restart keep packed sequences apart in every attention of transformers
        is_packed = batch.get("attention_mask") is None and batch.get("position_ids") is not None
        with self._gradients.capture(batch["tasks"], is_packed=is_packed):
            yield
        self._captured += 1

    def now(self) -> Tensor:
        """The weights of the step that begins, ``(tasks,)``, float64; every rank calls.

        A step whose `step` was forgotten ends here.
        """
        if self.weighting.passes:
            self.step()
        return self.weighting.weights.detach().clone()

    def outside_of_a_step(self, is_training: bool) -> Tensor | None:
        """None in evaluation, where no task is weighted; an error in training."""
        if is_training:
            raise ValueError(
                "sftloss: task weights move once an optimizer step, so a pass needs its step; pass "
                "num_items_in_batch=attachment.step(micro_batches)."
            )
        return None

    def observe(self, seen: Pass) -> None:
        needs, tokens, device = self.weighting.strategy.needs, seen.tokens, seen.coefficients.device
        if not seen.is_training and needs != "validation":
            return
        if self.weighting.weights.device != device:
            self.weighting.to(device)
        assert tokens.groups is not None
        # a task of weight 0 has coefficients 0 and no statistics: it counts as absent
        weights = torch.where(seen.is_counted, tokens.weights.to(device), 0.0)
        values, groups = seen.objective(seen.stats).detach(), tokens.groups.to(device)
        if self.is_repeating or not seen.is_training:
            self.weighting.observe_extra(values, groups, weights)
            return
        self.weighting.observe(values, groups, weights)
        if needs == "after":
            self._batches.append(seen.batch)
        if needs == "excess":
            theirs = tokens.extras[REFERENCE].to(device) if self.reference is None else self.reference.logprob(seen)
            self.weighting.observe_extra((theirs - seen.stats.target_logprob).clamp(min=0), groups, weights)

    def end_evaluation(self) -> None:
        """Divide an evaluation's sums evenly over the ranks, so that any of them may write the checkpoint."""
        if self.weighting.strategy.needs != "validation":
            return
        weighting, group = self.weighting, self.weighting.process_group
        both = sum_over_ranks(torch.stack([weighting.extra_sums, weighting.extra_counts]), group) / world_size(group)
        weighting.extra_sums, weighting.extra_counts = both[0], both[1]

    def step(self) -> None:
        """End an optimizer step: one collective of 2K numbers, then the next weights. Every rank calls.

        Raises:
            FloatingPointError: If a task's loss is not finite and the rules say so.
            ValueError: If the strategy needs gradients by task and a pass was not captured.
        """
        if self._batches:  # run the step's tokens once more, after the optimizer has moved the weights
            self.is_repeating = True
            try:
                with torch.no_grad():
                    for batch in self._batches:
                        self._model(**batch)
            finally:
                self.is_repeating, self._batches = False, []
        if not self.needs_gradients:
            self.weighting.step()
            return
        passes, captured, self._captured = self.weighting.passes, self._captured, 0
        if self._gradients is None or captured != passes:
            raise ValueError(
                f"TaskWeighting.step: the tasks' gradients are read, and {captured} of {passes} passes were "
                "captured; run forward and backward within TaskWeighting.capture(batch)."
            )
        gramian = self._gradients.gramian(self.weighting.weights)
        self._gradients.zero()
        self.weighting.step(gramian)

    def metrics(self) -> dict[str, float]:
        """By task, for the log: ``task_loss/<name>`` of the last step it was in, ``task_weight`` of the next one,
        ``task_token_share`` and ``task_effective_share`` (of weight times tokens), and ``task_slope``, the relative
        change of its loss a step once there are enough. Where gradients are read, ``task_gradient/<name>``, its
        norm, ``task_cosine/<name>, <name>`` of each pair that met, and ``task_conflict_rate``, the share of pairs since
        the start whose cosine was negative. It waits for the device."""
        tasks = self.weighting.get_task_statistics()
        values = {f"task_{short}/{name}": tasks[name][key] for short, key in _LOGGED.items() for name in self.names}
        if self.needs_gradients:
            conflicts = self.weighting.conflicts.report()
            values |= {f"task_cosine/{names}": pair["cosine"] for names, pair in conflicts["pairs"].items()}
            values["task_conflict_rate"] = conflicts["conflict_rate"]
        return {key: value for key, value in values.items() if value is not None}

    def facts(self) -> dict[str, Any]:
        """The strategy, and by task its last weight, loss, shares and trend."""
        return {
            "strategy": self.weighting.strategy.name,
            "base": self.weighting.rules.base,
            "by_task": self.weighting.get_task_statistics(),
            "conflicts": self.weighting.conflicts.report() if self.needs_gradients else None,
        }

    def __getstate__(self) -> dict[str, Any]:
        """A copy follows the gradients of its own model, from its next pass on."""
        return {**vars(self), "_gradients": None, "_captured": 0}

    def save(self, folder: Path) -> None:
        write_state(folder / FILE, self.weighting.state_dict())

    def load(self, folder: Path) -> None:
        state = read_state(folder / FILE)
        try:
            self.weighting.load_state_dict(state)
        except (KeyError, ValueError) as error:
            raise ConfigError(f"{folder / FILE} is damaged ({error}); continue from another checkpoint.") from None
        except RuntimeError as error:
            raise ConfigError(f"{folder / FILE} does not fit this run: {' '.join(str(error).split())}") from None


def _followed(model: nn.Module, port: ModelPort) -> list[nn.Parameter]:
    """Trained weights of plain linear layers but the head, whose product is not taken by its module here."""
    head = set(port.head_layer(model).parameters())
    layers = [module for module in model.modules() if type(module) is nn.Linear]
    weights = dict.fromkeys(p for layer in layers for p in layer.parameters())
    return [p for p in weights if p.requires_grad and p not in head]


def _check_attributable(model: nn.Module, port: ModelPort, name: str) -> None:
    """Refuse a model whose gradients one backward pass cannot separate by task."""
    if port.adds_loss(model):
        why = "the router loss of this model mixes tasks; switch it off (output_router_logits=False)"
    elif any(hasattr(p, "device_mesh") for p in model.parameters()):
        why = "its weights are sharded over ranks; train with data parallel copies"
    elif not _followed(model, port):
        why = "no plain linear layer of it is trained; train adapters"
    else:
        return
    raise ConfigError(
        f"{name} needs each task's gradient: {why}, or choose a strategy that needs losses only", option="tasks"
    )
