"""Task weighting as one module: names, sums over micro-batches and ranks, bounds, checkpoint, report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn

from sftloss.ranks import sum_over_ranks, world_size
from sftloss.tasks import checkpoint
from sftloss.tasks.choice import checked_names, chosen_strategy
from sftloss.tasks.gradients.conflicts import Conflicts
from sftloss.tasks.report import step_info, task_statistics, warn_of_forgotten_step
from sftloss.tasks.rules import Rules, bounded
from sftloss.tasks.strategies import EXTRA, Observation, State, Strategy
from sftloss.tasks.strategies.pieces import written
from sftloss.tasks.sums import checked_means, flat_tokens, sums_of_means, task_sums, zero_nonfinite
from sftloss.weights import group_coefficients, group_normalizers

_FORGOTTEN = 256  # passes without a call of step() after which it has probably been forgotten


class MultiTaskLoss(nn.Module):
    r"""Weighted sum of task losses, :math:`L = \sum_k w_k L_k`, with weights that follow a strategy.

    The weights of a step come from the steps before it, so a forward pass waits for no device and no rank::

        tasks = MultiTaskLoss(["qa", "summaries"], "uncertainty")
        for micro_batches in data:
            totals = tasks.totals((weights, ids) for ... in micro_batches)      # of the whole step, all ranks
            for ... in micro_batches:
                loss, info = tasks(token_losses, ids, weights, totals=totals)   # or tasks({"qa": loss, ...})
                loss.backward()
            optimizer.step()
            tasks.step()                                                        # new weights

    With a fused loss, ask for :meth:`coefficients` before the pass and :meth:`observe` its token losses after it.

    Args:
        task_names: One name a task, in any order, none twice.
        weighting_strategy: A name as for :func:`strategy_named`, weights by task name (fixed), or a strategy.
        temperature: Of a strategy given by name that has one; None is its default.
        update_freq: None: weights change when :meth:`step` is called. A number n: every n-th forward pass in training
            begins with a step of its own, for loops of one pass an optimizer step; every rank must then call it alike.
        rules: Bounds and the rest, see :class:`Rules`.

    Gradient:
        :math:`\partial L / \partial L_k = w_k` exactly: weights are detached.

    Example:
        >>> tasks = MultiTaskLoss(["qa", "summaries"], "gls")
        >>> _ = tasks({"qa": torch.tensor(1.0), "summaries": torch.tensor(3.0)})
        >>> tasks.step()
        >>> tasks.weights
        tensor([1.5000, 0.5000], dtype=torch.float64)
    """

    weights: Tensor
    steps: Tensor
    pending_sums: Tensor
    pending_counts: Tensor
    observations: Tensor
    weight_seen: Tensor
    last_step: Tensor
    history: Tensor
    extra_sums: Tensor
    extra_counts: Tensor

    def __init__(
        self,
        task_names: Sequence[str],
        weighting_strategy: str | Mapping[str, float] | Strategy = "uncertainty",
        temperature: float | None = None,
        update_freq: int | None = None,
        *,
        rules: Rules | None = None,
    ) -> None:
        super().__init__()
        self.task_names = checked_names(task_names)
        self.strategy = chosen_strategy(weighting_strategy, self.task_names, temperature)
        if update_freq is not None and update_freq < 1:
            raise ValueError(f"MultiTaskLoss: update_freq must be >= 1 or None, got {update_freq}.")
        self.update_freq, self.rules = update_freq, rules or Rules()
        self.process_group: dist.ProcessGroup | None = None
        self.conflicts = Conflicts(self.task_names, self.rules.window)
        self.passes = self.extra_passes = 0
        count = len(self.task_names)
        for name, value in checkpoint.first_buffers(count, self.rules.window).items():
            self.register_buffer(name, value)
        self._state_keys = tuple(self.strategy.init(count))
        for key, value in self.strategy.init(count).items():
            self.register_buffer(f"state_{key}", value)

    @property
    def state(self) -> State:
        """The strategy's state."""
        return {key: getattr(self, f"state_{key}") for key in self._state_keys}

    def forward(
        self,
        losses: Mapping[str, Tensor] | Float[Tensor, "*tokens"],
        task_ids: Int[Tensor, "*tokens"] | None = None,
        weights: Float[Tensor, "*tokens"] | None = None,
        *,
        totals: Float[Tensor, " tasks"] | None = None,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Return the weighted loss and its parts.

        Args:
            losses: Mean losses by task name, scalars, absent tasks left out; or one loss a token.
            task_ids: Of each token, or of each row of ``(rows, columns)`` losses; indices into ``task_names``,
                negative for none. With token losses only.
            weights: Weight u of each token, 1 if not given. With token losses only.
            totals: Of the whole optimizer step (:meth:`totals`); None takes this micro-batch's own, which is another
                loss if the step has several.

        Returns:
            The loss, and a dict of detached values: ``individual_losses`` and ``weighted_losses`` by task (None where
            a dict of losses has no such task, NaN where no token has), ``task_weights`` and ``total_loss``.

        Raises:
            ValueError: If a name is unknown, shapes do not agree or arguments of the two forms are mixed.
        """
        if self.training and self.update_freq is not None and self.passes >= self.update_freq:
            self.step()
        if isinstance(losses, Mapping):
            if task_ids is not None or weights is not None or totals is not None:
                raise ValueError("MultiTaskLoss: task_ids, weights and totals go with token losses, not with a dict.")
            return self._of_means(losses)
        if task_ids is None:
            raise ValueError("MultiTaskLoss: token losses need task_ids.")
        flat, ids, u = flat_tokens(losses, task_ids, weights)
        coefficients = self.coefficients(u, ids, totals)
        terms = torch.where(coefficients != 0, flat, 0)
        total = (self._kept(terms, ids) * coefficients.to(flat.dtype)).sum()
        sums, counts = self._add(flat, ids, u)
        means = torch.where(counts > 0, sums / counts.clamp(min=1e-300), torch.nan)
        return total, step_info(self, dict(zip(self.task_names, means, strict=True)), total)

    def _of_means(self, losses: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
        checked_means(losses, self.task_names)
        total = self._weighted(losses)
        if self.training and losses:
            self._collect(*sums_of_means(losses, self.task_names, self.weights))
        return total, step_info(self, {name: loss.detach() for name, loss in losses.items()}, total)

    def _weighted(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Sum losses that may differ in device and dtype: on the first one's device, in float32 or better."""
        total: Tensor | None = None
        for name, loss in losses.items():
            exact = self._kept(loss if loss.dtype == torch.float64 else loss.float())
            term = exact * self.weights[self.task_names.index(name)].to(exact)
            total = term if total is None else total + term.to(total.device)
        # nothing present: a zero that backward accepts, so that ranks with a task do not wait for this one
        return torch.zeros((), device=self.weights.device, requires_grad=True) * 1 if total is None else total

    def coefficients(
        self,
        weights: Float[Tensor, " tokens"],
        task_ids: Int[Tensor, " tokens"],
        totals: Float[Tensor, " tasks"] | None = None,
    ) -> Float[Tensor, " tokens"]:
        r"""Coefficients :math:`c_i = w_g u_i / Z_g` before the pass, for :func:`sftloss.weighted_loss`.

        Their dot product with the token losses is what :meth:`forward` returns.

        Args:
            weights: Weight u of each token, ``(tokens,)``.
            task_ids: Of each token, ``(tokens,)``; negative for none, which has coefficient 0.
            totals: As in :meth:`forward`.
        """
        z = group_normalizers(weights, task_ids, count=len(self.task_names)) if totals is None else totals
        if self.rules.base == "token_mean":
            z = z.sum()
        factors = self.weights.to(weights.device)
        coefficients = group_coefficients(weights, task_ids, z.to(weights.device), factors)
        ranks = world_size(self.process_group) if totals is not None and self.rules.averaged else 1
        return coefficients if ranks == 1 else coefficients * ranks

    def totals(self, micro_batches: Iterable[tuple[Tensor, Tensor]]) -> Float[Tensor, " tasks"]:
        """Return each task's weight in the whole optimizer step, over all ranks, from ``(weights, task_ids)`` pairs.

        Every rank must call it: it contains one collective of K numbers.
        """
        totals = torch.zeros_like(self.weights)
        for weights, ids in micro_batches:
            _, flat, u = flat_tokens(weights, ids, weights)
            totals = totals + group_normalizers(u, flat, count=len(self.task_names)).to(totals.device)
        return sum_over_ranks(totals, self.process_group)

    def observe(
        self, token_losses: Float[Tensor, " tokens"], task_ids: Int[Tensor, " tokens"], weights: Tensor | None = None
    ) -> None:
        """Add a micro-batch's token losses to the step's sums; :meth:`forward` does so itself, in training."""
        self._add(*flat_tokens(token_losses, task_ids, weights))

    @torch.no_grad()
    def observe_extra(
        self,
        losses: Mapping[str, Tensor] | Float[Tensor, "*tokens"],
        task_ids: Int[Tensor, "*tokens"] | None = None,
        weights: Float[Tensor, "*tokens"] | None = None,
    ) -> None:
        """Add the losses of an extra forward pass, for famo, coba or doremi; ``EXTRA`` has which losses.

        Call it before :meth:`step`, in training mode or not, with losses in either form of :meth:`forward`. famo and
        doremi need it in every step, coba whenever there are new validation losses.

        Raises:
            ValueError: If the strategy does not use them, or the losses are not as in :meth:`forward`.
        """
        if self.strategy.needs not in EXTRA:
            raise ValueError(f"MultiTaskLoss.observe_extra: {self.strategy.name} needs no extra forward pass.")
        if isinstance(losses, Mapping):
            sums, counts = sums_of_means(losses, self.task_names, self.weights)
        elif task_ids is None:
            raise ValueError("MultiTaskLoss.observe_extra: token losses need task_ids.")
        else:
            flat, ids, u = flat_tokens(losses, task_ids, weights)
            sums, counts = task_sums(flat, ids, count=len(self.task_names), weights=u)
        self.extra_sums = self.extra_sums + sums.to(self.extra_sums)
        self.extra_counts = self.extra_counts + counts.to(self.extra_counts)
        self.extra_passes += 1

    @torch.no_grad()
    def step(self, gramian: Float[Tensor, "tasks tasks"] | None = None) -> None:
        """End an optimizer step: sums over the ranks, the strategy's update, the next weights.

        Args:
            gramian: Inner products of the tasks' gradients, for a strategy that needs them, and under any for
                :attr:`conflicts`; the same on all ranks.

        Raises:
            FloatingPointError: If a task's loss is not finite and ``on_nonfinite="raise"``; nothing is updated then.
            ValueError: If the strategy needs a Gramian or an extra pass that there was none of.
        """
        losses, counts, extra = self._summed()
        if self.rules.on_nonfinite == "raise":
            bad = ((counts > 0) & ~torch.isfinite(losses)).tolist()
            if any(bad):
                named = ", ".join(name for name, is_bad in zip(self.task_names, bad, strict=True) if is_bad)
                raise FloatingPointError(
                    f"MultiTaskLoss.step: the loss of {named} is not finite; look for the batch, or leave the task out "
                    'of such steps with Rules(on_nonfinite="skip_task").'
                )
        observation = Observation(losses, counts, gramian, extra)
        if gramian is not None:
            self.conflicts.update(gramian, observation.present)
        for key, value in self.strategy.update(self.state, observation).items():
            setattr(self, f"state_{key}", value)
        self._remember(observation)
        self.weights = self._next_weights()

    def _summed(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return mean losses, their counts and the extra pass's means over all ranks, by one collective."""
        names = ["pending_sums", "pending_counts"]
        if self.strategy.needs in EXTRA:
            names += ["extra_sums", "extra_counts"]
        totals = sum_over_ranks(torch.stack([getattr(self, name) for name in names]), self.process_group)
        means = torch.where(totals[1::2] > 0, totals[0::2] / totals[1::2].clamp(min=1e-300), torch.nan)
        # without extra losses in a step with losses the strategy raises; a step without any leaves it as it was
        has_extra = len(names) == 4 and (self.extra_passes > 0 or self.passes == 0)
        for name in names:
            setattr(self, name, torch.zeros_like(totals[0]))
        self.passes = self.extra_passes = 0
        return means[0], totals[1], means[1] if has_extra else None

    def _next_weights(self) -> Tensor:
        weights = self.strategy.weights(self.state).to(self.weights)
        if self.strategy.adaptive and self.rules.bounds is not None:
            weights = bounded(weights, self.state["seen"] > 0, self.rules.bounds)
        return torch.where(self.steps < self.rules.warmup_steps, torch.ones_like(weights), weights)

    def _remember(self, observation: Observation) -> None:
        there = observation.counts > 0
        history = written(self.history, self.observations, observation.losses)
        self.history = torch.where(there[:, None], history, self.history)
        self.observations = self.observations + there
        self.weight_seen = self.weight_seen + observation.counts
        self.steps = self.steps + 1
        self.last_step = torch.where(there, self.steps, self.last_step)

    def get_task_statistics(self) -> dict[str, dict[str, Any]]:
        """Return statistics of each task as plain numbers. This is the one call that waits for the device.

        Returns:
            By task: ``current_loss``, ``average_loss``, ``loss_std`` over the window, ``loss_trend``, ``trend_slope``
            and ``trend_p`` (see :func:`trend`), ``weight``, ``token_share``, ``effective_share`` (of weight times
            tokens), ``num_updates`` and ``steps_since_seen``. None where a task was never seen.
        """
        return task_statistics(self)

    def _kept(self, losses: Tensor, ids: Tensor | None = None) -> Tensor:
        is_skipping = self.rules.on_nonfinite == "skip_task"
        return zero_nonfinite(losses, ids, count=len(self.task_names)) if is_skipping else losses

    @torch.no_grad()
    def _add(self, losses: Tensor, ids: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        sums, counts = task_sums(losses, ids, count=len(self.task_names), weights=weights)
        if self.training:
            self._collect(sums, counts)
        return sums, counts

    def _collect(self, sums: Tensor, counts: Tensor) -> None:
        self.pending_sums = self.pending_sums + sums.to(self.pending_sums)
        self.pending_counts = self.pending_counts + counts.to(self.pending_counts)
        self.passes += 1
        if self.passes == _FORGOTTEN and self.update_freq is None:
            warn_of_forgotten_step(self.passes, stacklevel=5)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MultiTaskLoss:
        """Move to the model's device but not to its dtype: counts and sums in bfloat16 would stop growing."""
        device = fn(torch.zeros(1, device=self.weights.device)).device
        super()._apply(lambda tensor: checkpoint.on_device(tensor, device), recurse)
        return self

    def get_extra_state(self) -> dict[str, Any]:
        """Return names and strategy, so that a checkpoint is read by name."""
        passes = {"passes": self.passes, "extra_passes": self.extra_passes}
        return {"task_names": list(self.task_names), "strategy": self.strategy.name, **passes}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the number of passes; names were used while the buffers were read."""
        self.passes, self.extra_passes = int(state["passes"]), int(state["extra_passes"])

    def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, unexpected, errors) -> None:  # type: ignore[no-untyped-def]
        state_dict = checkpoint.by_name(self, state_dict, prefix, missing, unexpected, errors)
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)

    def extra_repr(self) -> str:
        return f"{', '.join(self.task_names)}; {self.strategy.name}"
