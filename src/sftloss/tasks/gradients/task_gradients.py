"""Each task's gradient of chosen weights, from one backward pass of the loss over all tasks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn

from sftloss.ranks import reduce_over_ranks, world_size
from sftloss.tasks.gradients.layer_capture import Layers, capturing, layers_of


class TaskGradients:
    r"""Gradients of each task in chosen weights, added up over the micro-batches of an optimizer step.

    Every token belongs to one task, so one backward pass holds all tasks' gradients of a linear map:
    :math:`\sum_{t \in k} \delta_t a_t^\top`, and of an embedding or a norm over the last
    axis. Nothing is run K times, and ``.grad`` is as it would be. ::

        gradients = TaskGradients(model, tasks=4, parameters=[p for p in model.parameters() if p.requires_grad])
        for ... in micro_batches:
            with gradients.capture(task_ids):                    # of each row, or of each token
                loss, _ = weighted(token_losses, ids, weights, totals=totals)
                loss.backward()
        weighted.step(gradients.gramian(weighted.weights))       # weights of the next step
        # or of this step: gradients.apply(upgrad().weights_of_step(gradients.gramian(), totals > 0))
        gradients.zero()

    Args:
        model: The model, unwrapped or wrapped.
        tasks: Number of tasks K.
        parameters: The weights to follow, LoRA's say; None for all that are trained. Held K times, in float32 (float64
            for float64 weights).
        layerwise: For full fine-tuning: hold only the Gramian, and K times the gradients of one layer for a moment.
            Then a step is one pass, and `apply` has nothing to use: run backward twice, or let the weights act in the
            next step.
        group: Of the ranks that share the batch.

    Raises:
        ValueError: If there is nothing to follow.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        tasks: int,
        parameters: Iterable[nn.Parameter] | None = None,
        layerwise: bool = False,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        chosen = [p for p in (model.parameters() if parameters is None else parameters) if p.requires_grad]
        if tasks < 1 or not chosen:
            raise ValueError(f"TaskGradients: nothing to follow, {tasks} tasks and {len(chosen)} trained parameters.")
        self.model, self.tasks, self.parameters, self.group = model, tasks, chosen, group
        # one more row for tokens of no task, which has to stay 0
        self.buffers = [
            p.new_zeros(tasks + 1, *p.shape, dtype=torch.promote_types(p.dtype, torch.float32))
            for p in ([] if layerwise else chosen)
        ]
        self._layers = _LayerGramians(tasks, group) if layerwise else None
        self._verified = self._averaged = False
        self._followed: Layers | None = None

    @contextmanager
    def capture(self, task_ids: Int[Tensor, "*tokens"], *, is_packed: bool = False) -> Iterator[None]:
        """Follow one forward and backward pass, gradient checkpointing included.

        The first pass is verified: the tasks' gradients must add up to autograd's gradient.

        Args:
            task_ids: Of each row ``(rows,)``, or of each token ``(rows, columns)``, prompt tokens too, since they
                learn through attention; negative for padding, whose gradient must be 0.
            is_packed: Declares that rows hold several sequences *and* attention keeps them apart. Without isolation
                tokens of one task learn from another's loss, and no split of the gradient exists.

        Raises:
            ValueError: If a followed weight is of another layer than ``nn.Linear``, ``nn.Embedding`` or a norm over
                the last axis, is shared, or the model mixes rows; if a row has several tasks undeclared, or shapes do
                not agree; if gradients do not add up (a fused kernel passes the module by).
        """
        if self._followed is None:
            self._followed = layers_of(self.model, self.parameters)
        ids = task_ids.detach().cpu().clamp(min=-1)
        if ids.numel() and int(ids.max()) >= self.tasks:
            raise ValueError(f"TaskGradients: task {int(ids.max())} is out of range, there are {self.tasks} tasks.")
        if ids.dim() > 1 and not is_packed:
            shown = torch.where(ids < 0, ids.amax(1, keepdim=True), ids)
            if bool((shown != shown[:, :1]).any()):
                raise ValueError(
                    "TaskGradients: a row holds several tasks; if its sequences are packed and attention keeps them "
                    "apart, say is_packed=True."
                )
        if self._layers is not None:
            self._layers.begin()
        take = self._add_part if self._layers is None else self._layers.take
        with capturing(self._followed, take, ids, verify=not self._verified):
            yield
        self._verified = True

    def _add_part(self, i: int, parts: Iterable[tuple[int, Tensor]]) -> None:
        for task, part in parts:
            self.buffers[i][task] += part

    def add(self, losses: Mapping[int, Tensor]) -> None:
        """Add gradients by one backward pass a task: K times the cost, and right for any weight and any graph.

        Args:
            losses: Scalar loss by task index, before the backward pass; absent tasks left out. ``.grad`` stays as is.

        Raises:
            ValueError: If gradients are not held.
        """
        if self._layers is not None:
            raise ValueError("TaskGradients.add: layerwise holds no gradients; leave it out.")
        for task, loss in losses.items():
            gradients = torch.autograd.grad(loss, self.parameters, retain_graph=True, allow_unused=True)
            for buffer, gradient in zip(self.buffers, gradients, strict=True):
                if gradient is not None:
                    buffer[task] += gradient

    def gramian(self, weights: Float[Tensor, " tasks"] | None = None) -> Float[Tensor, "tasks tasks"]:
        """Return inner products of the tasks' gradients over all ranks, float64; rows of absent tasks are 0.

        The gradients are averaged over the ranks first (one all-reduce of K gradients, once): Gramians of ranks do not
        add up to that of the sum. Every rank gets the same bits.

        Args:
            weights: Those that the loss of the pass was weighted with, to be divided out; None if with none.

        Raises:
            ValueError: If tokens of no task have a gradient.
        """
        if self._layers is None and not self._averaged:
            for buffer in self.buffers:
                reduce_over_ranks(buffer, "mean", self.group)
            self._averaged = True
        parts = [_rows_gramian(buffer) for buffer in self.buffers] if self._layers is None else [self._layers.total()]
        whole = torch.stack(parts).sum(0)
        if bool(whole[self.tasks, self.tasks] > 0):
            raise ValueError("TaskGradients: tokens with a negative task id have a gradient; give each its task.")
        gramian = whole[: self.tasks, : self.tasks].contiguous()
        if weights is not None:
            inverse = torch.where(weights != 0, 1 / weights, 0).to(gramian)
            gramian = gramian * torch.outer(inverse, inverse)
        if world_size(self.group) > 1:
            first = dist.get_global_rank(self.group, 0) if self.group is not None else 0
            dist.broadcast(gramian, src=first, group=self.group)
        return gramian

    def apply(self, weights: Float[Tensor, " tasks"]) -> None:
        """Turn ``.grad`` of the unweighted pass into that of the weighted one: add the sum of ``(w_k - 1) g_k``.

        Call :meth:`gramian` before, which averages over ranks as the gradients have been.

        Raises:
            ValueError: If gradients are not held.
        """
        if self._layers is not None:
            raise ValueError(
                "TaskGradients.apply: layerwise holds no gradients; run a backward pass of the weighted loss."
            )
        for p, buffer in zip(self.parameters, self.buffers, strict=True):
            extra = torch.tensordot((weights - 1).to(buffer), buffer[: self.tasks], dims=1).to(p.dtype)
            p.grad = extra if p.grad is None else p.grad + extra

    def zero(self) -> None:
        """Forget the step."""
        for buffer in self.buffers:
            buffer.zero_()
        if self._layers is not None:
            self._layers = _LayerGramians(self.tasks, self.group)
        self._averaged = False


class _LayerGramians:
    """The Gramian of one pass, summed over layers, so that one layer's gradients are held by task at a time.

    Each layer needs one collective, because each rank has a part of its sum.
    """

    def __init__(self, tasks: int, group: dist.ProcessGroup | None) -> None:
        self.tasks, self.group = tasks, group
        self.gramians: dict[int, Tensor] = {}
        self._passes = 0

    def begin(self) -> None:
        self._passes += 1
        if self._passes > 1:
            raise ValueError(
                "TaskGradients: layerwise takes one pass a step, because Gramians of micro-batches do not add up; call "
                "zero() after a step, and accumulate no gradients."
            )

    def take(self, i: int, parts: Iterable[tuple[int, Tensor]]) -> None:
        if i in self.gramians:
            raise ValueError("TaskGradients: layerwise cannot follow a layer that the model uses twice; leave it out.")
        gradients = list(parts)
        rows = gradients[0][1].new_zeros(self.tasks + 1, *gradients[0][1].shape)
        for task, gradient in gradients:
            rows[task] = gradient
        self.gramians[i] = _rows_gramian(reduce_over_ranks(rows, "mean", self.group))

    def total(self) -> Float[Tensor, "tasks tasks"]:
        """Return the Gramian of all layers, with a row for tokens of no task, added in one order."""
        if not self.gramians:
            return torch.zeros(self.tasks + 1, self.tasks + 1, dtype=torch.float64)
        return torch.stack([self.gramians[i] for i in sorted(self.gramians)]).sum(0)


def _rows_gramian(rows: Float[Tensor, "tasks ..."]) -> Float[Tensor, "tasks tasks"]:
    """Inner products of the rows, each taken as one vector; float64."""
    flat = rows.flatten(1).double()
    return flat @ flat.T
