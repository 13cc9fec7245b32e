"""A loss bound to one model: its own forward pass, with the loss computed from hidden states instead of logits.

The model runs its own forward with two changes: it keeps no logits, and its loss function answers zero. So whatever
the family adds to its loss (router losses, say) is left standing alone, and ours is added to it.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from sftloss.errors import ModelError
from sftloss.loss import weighted_loss
from sftloss.statistics import Plan
from sftloss.statistics.probe import Objective
from sftloss.training.batch.exact import hold, release
from sftloss.training.batch.tokens import BATCH_KEYS, read_tokens
from sftloss.training.head.head import HeadForm, last_hidden, no_logits, prove_head, unwrap
from sftloss.training.head.sharded import local_hidden
from sftloss.training.loss import Loss, as_loss
from sftloss.training.passes import Pass
from sftloss.training.step import Step, contribution, step_total
from sftloss.training.watch.rows import refuse_outside
from sftloss.training.watch.spikes import SpikeWatch
from sftloss.training.watch.tally import Tally

_OURS = (*BATCH_KEYS, "output_logits", "num_items_in_batch", "shift_labels")
_MARK = "_sftloss_attachment"
_PLAN = Plan(fields=("entropy",))


class Attachment:
    """A loss at work in a model.

    Attributes:
        model: The transformers model itself, inside all wrappers.
        loss: The loss.
        form: The head's scale and softcap.
        spikes: Raises at a loss that is not finite and tells of one far above those before it, on this rank.
        tallies: Sums over the tokens trained ("train") and evaluated ("eval") since they were last read.
        observers: Functions called with what each forward pass with labels has seen.
        task_names: What the log calls the batch's tasks, where the loss's own factors do not name them.
    """

    def __init__(self, model: Any, loss: Loss, form: HeadForm, outer: nn.Module | None = None) -> None:
        self.model, self.loss, self.form, self._outer = model, loss, form, outer
        self._hook: Any = None
        self.tallies = {"train": Tally(), "eval": Tally()}
        self.spikes = SpikeWatch()
        self.observers: list[Callable[[Pass], None]] = []
        loss.task_factor.bind(model, loss.extras)
        self.task_names: tuple[str, ...] = ()
        self.is_active = True
        self._before = vars(model).get("forward")
        self._hold_before_sharding()

    def step(self, micro_batches: Sequence[Mapping[str, Any]], *, group: Any = None) -> Step:
        """The normalizer of an optimizer step; see :func:`step_total`."""
        self._hold_before_sharding()
        copies = self.form.copies if group is None else 1
        return step_total(self.loss, micro_batches, device=_device(self.model), group=group, copies=copies)

    def metrics(self, which: str = "train", *, is_global: bool = True, group: Any = None) -> dict[str, float]:
        """Cross-entropy, entropy, accuracy, loss and shares since the last call, on all ranks; see `Tally.read`."""
        names = self.task_names or self.loss.task_factor.names
        tally = self.tallies[which]
        return tally.read(device=_device(self.model), is_global=is_global, group=group, task_names=names)

    def state_dict(self) -> dict[str, Tensor]:
        """What this rank remembers of the passes since the last log line; with it a resumed run logs what it would."""
        sums, spikes = self.tallies["train"].state(), torch.tensor(self.spikes.state(), dtype=torch.float64)
        return {"spikes": spikes} if sums is None else {"spikes": spikes, "sums": sums}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a `state_dict`."""
        sums = state.get("sums")
        self.tallies["train"].restore(None if sums is None else sums.to(_device(self.model)))
        self.spikes.restore(state["spikes"].tolist())

    def detach(self) -> None:
        """Give the model its own forward back. What others wrapped around ours meanwhile stays, and ours passes on."""
        self.is_active = False
        if self._hook is not None:
            self._hook.remove()
        forward = vars(self.model).get("forward")
        if getattr(forward, "__func__", None) is self._forward:
            if self._before is None:
                del self.model.forward
            else:
                self.model.forward = self._before
        if vars(self.model).get(_MARK) is self:
            delattr(self.model, _MARK)

    def _hold_before_sharding(self) -> None:
        """FSDP2 rounds what its outermost module is given, in a hook; from now on ours comes before it."""
        if self._hook is None and isinstance(self._outer, FSDPModule):
            names = (*BATCH_KEYS, *self.loss.extras)
            self._hook = self._outer.register_forward_pre_hook(
                lambda _module, args, kwargs: (args, hold(kwargs, names)), prepend=True, with_kwargs=True
            )

    def own_forward(self, model: Any) -> Callable[..., Any]:
        """The forward the model had, bound to `model` (a deep copy is not the model we were attached to)."""
        before = self._before
        function = type(model).forward if before is None else getattr(before, "__func__", None)
        return before if function is None else types.MethodType(function, model)

    def bind(self) -> None:
        """Put the new forward in place, on this instance only."""
        attachment, own = self, type(self.model).forward
        signature = _own_signature(self.model)
        names = list(signature.parameters)

        def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
            given = release({**dict(zip(names, args, strict=False)), **kwargs})
            has_labels = given.get("labels") is not None or given.get("shift_labels") is not None
            if not (has_labels and attachment.is_active):
                return attachment.own_forward(self)(**_without(given, (*BATCH_KEYS, "output_logits")))
            return attachment.run(self, given)

        self._forward = functools.wraps(own)(forward)
        # the Trainer keeps the columns of a data set that stand in this signature
        forward.__signature__ = _signature(signature, self.loss)  # type: ignore[attr-defined]
        self.model.forward = types.MethodType(forward, self.model)
        setattr(self.model, _MARK, self)

    def run(self, model: Any, given: dict[str, Any]) -> Any:
        """One forward pass with labels."""
        wants_logits = given.get("output_logits")
        if wants_logits is None:
            wants_logits = not model.training
        wants_tuple = given.pop("return_dict", None) is False
        inputs = _without(given, (*_OURS, *self.loss.extras))
        inputs["labels"] = given["labels"] if given.get("labels") is not None else given["shift_labels"]
        # a cache, even an empty one, makes transformers drop the block-diagonal mask of packed rows
        inputs = {"use_cache": False, **inputs, "return_dict": True}
        if not wants_logits:
            inputs["logits_to_keep"] = no_logits(inputs["labels"].device, self.form.mesh is not None)
        outputs, hidden = self._own_pass(model, inputs)
        hidden = local_hidden(hidden)
        loss = self._loss(model, hidden, given, outputs.loss)
        kept = {name: value for name, value in outputs.items() if wants_logits or name != "logits"}
        outputs = type(outputs)(**{**kept, "loss": loss})
        return outputs.to_tuple() if wants_tuple else outputs

    def _own_pass(self, model: Any, inputs: dict[str, Any]) -> tuple[Any, Tensor]:
        """The model's outputs, whose loss is only what it adds to the token loss, and its last hidden states."""
        before = vars(model).get("_loss_function")
        called: list[bool] = []

        def zero(*args: Any, **kwargs: Any) -> Tensor:
            called.append(True)
            like = hidden[0]
            return torch.zeros((), device=like.device, dtype=torch.promote_types(like.dtype, torch.float32))

        with last_hidden(model) as hidden:
            model._loss_function = zero
            try:
                outputs = self.own_forward(model)(**inputs)
            finally:
                if before is None:
                    del model._loss_function
                else:
                    model._loss_function = before
        if not called or len(hidden) != 1:
            raise ModelError(
                f"attach: {type(model).__name__} does not compute its loss with its loss_function from its decoder's "
                "output, so the loss cannot be replaced in it; compute sftloss.weighted_loss in your own loop."
            )
        return outputs, hidden[0]

    def _loss(self, model: Any, hidden: Tensor, given: Mapping[str, Any], rest: Tensor) -> Tensor:
        loss, tokens = self.loss, read_tokens(self.loss, given)
        if hidden.shape[:2].numel() != tokens.targets.numel():
            raise ValueError(
                f"sftloss: the decoder gave {tuple(hidden.shape[:2])} positions for labels of "
                f"{tokens.targets.numel() // tokens.columns, tokens.columns}."
            )
        states, head = self.form.read(model, hidden.flatten(0, 1))
        refuse_outside(tokens, given.get("row_ids"), head.vocab)
        device = head.weight.device
        step, own_total = self._step_of(given, tokens)
        coefficients = step.coefficients(tokens).to(device)
        extras = {name: value.to(device) for name, value in tokens.extras.items()}
        value, stats = weighted_loss(
            states,
            head,
            tokens.targets.to(device),
            coefficients,
            loss.function,
            extras=extras,
            plan=_PLAN,
        )
        seen = Pass(model.training, stats, tokens, coefficients.detach(), value.detach(), given, loss.function)
        if loss.task_factor.is_repeating:
            loss.task_factor.observe(seen)
            return value
        is_spike = loss.is_checked and self.spikes.look(seen)
        total = step.total.to(device) if step.total.dim() == 0 and own_total else None
        self.tallies["train" if model.training else "eval"].add(seen, total, is_spike)
        loss.task_factor.observe(seen)
        for observe in self.observers:
            observe(seen)
        return value * step.ranks + rest.to(device) / step.micro_batches

    def _step_of(self, given: Mapping[str, Any], tokens: Any) -> tuple[Step, bool]:
        """The step this pass belongs to, and whether totals of several passes may be added up."""
        loss, items = self.loss, given.get("num_items_in_batch")
        adds_up = isinstance(loss.normalizer, str)
        if isinstance(items, Step):
            return items, False
        if items is None:
            factors = loss.task_factor.outside_of_a_step(self.model.training)
            return Step(contribution(loss, tokens, factors), factors), adds_up
        if not loss.counts_tokens or any(given.get(name) is not None for name in ("token_weights", "example_weights")):
            raise ValueError(
                f"sftloss: num_items_in_batch counts labels, but this loss is normalized by {loss.normalizer!r} of its "
                "own weights; pass num_items_in_batch=attachment.step(micro_batches), or make the Trainer with "
                "sftloss.training.with_loss(Trainer, loss)."
            )
        return Step(torch.as_tensor(items, dtype=torch.float64)), False


def attach(model: nn.Module, loss: Loss | str | Objective) -> Attachment:
    """Train a model with a loss: from now on ``model(..., labels=labels).loss`` is that loss, and holds no logits.

    The forward of this one instance changes, reversibly; no class and nothing global does. Without labels, and so in
    generation, it is the model's own. In training mode logits are left out; in evaluation mode, and with
    ``output_logits=True``, they are there as before.

    Args:
        model: A causal language model of transformers, or what DDP, FSDP2, PEFT or torch.compile made of it.
        loss: The loss, or just its objective.

    Returns:
        The attachment; its `step` counts the normalizer of an optimizer step, `detach` ends it.

    Raises:
        ModelError: If the head's product is not the model's own logits (an adapter other than LoRA on the head, a
            packed weight), or the model already has a loss attached.

    Example:
        >>> attachment = attach(model, "cross_entropy + 1e-4 * z_loss")        # doctest: +SKIP
        >>> step = attachment.step(micro_batches)                              # doctest: +SKIP
        >>> for batch in micro_batches:                                        # doctest: +SKIP
        ...     model(**batch, num_items_in_batch=step).loss.backward()
    """
    base = unwrap(model)
    if vars(base).get(_MARK) is not None:
        raise ModelError("attach: this model has a loss attached already; detach it first.")
    loss = as_loss(loss)
    attachment = Attachment(base, loss, prove_head(base, model), model)
    if "logits_to_keep" not in _own_signature(base).parameters:
        raise ModelError(f"attach: {type(base).__name__} has no logits_to_keep, so it cannot leave its logits out.")
    attachment.bind()
    return attachment


def detach(model: nn.Module) -> None:
    """Give a model its own loss back.

    Raises:
        ModelError: If no loss is attached.
    """
    attachment = attachment_of(model)
    if attachment is None:
        raise ModelError("detach: this model has no loss attached.")
    attachment.detach()


def attachment_of(model: nn.Module) -> Attachment | None:
    """The loss at work in a model, or None."""
    return vars(unwrap(model)).get(_MARK)


def _device(model: Any) -> torch.device:
    return model.get_output_embeddings().weight.device


def _without(given: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name not in names}


def _own_signature(model: Any) -> inspect.Signature:
    """What the family's forward takes, whatever was wrapped around it on this instance."""
    own = inspect.signature(type(model).forward)
    return own.replace(parameters=list(own.parameters.values())[1:])


def _signature(own: inspect.Signature, loss: Loss) -> inspect.Signature:
    """The model's own parameters, then what a batch may hold for the loss."""
    new = [name for name in (*_OURS, *loss.extras) if name not in own.parameters]
    ours = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in new]
    first = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    given = list(own.parameters.values())
    last = [p for p in given if p.kind == inspect.Parameter.VAR_KEYWORD]
    return own.replace(parameters=[*first, *(p for p in given if p not in last), *ours, *last])
