"""A loss at work in one model: its forward pass, its steps, its sums for the log."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from sftloss.decoder.decoder import probe_ids
from sftloss.decoder.head import (
    NAN_CURE,
    acting_adapters,
    evaluating,
    is_lora,
    is_partitioned,
    is_whole,
    local_hidden,
    proved_form,
    read_head,
)
from sftloss.decoder.loading import first_line
from sftloss.decoder.port import HeadForm, ModelPass, ModelPort
from sftloss.errors import ModelError
from sftloss.loss import weighted_loss
from sftloss.statistics import Head, Plan
from sftloss.training.batch.exact import Hold, release
from sftloss.training.batch.sequences import with_sequence_values
from sftloss.training.batch.tokens import BATCH_KEYS, read_tokens
from sftloss.training.loss import Loss
from sftloss.training.passes import Pass, Tokens, Trained
from sftloss.training.step import Step, contribution, step_total
from sftloss.training.watch.rows import refuse_outside
from sftloss.training.watch.spikes import SpikeWatch
from sftloss.training.watch.sums import TokenSums

MARK = "_sftloss_attachment"
"""Name under which a model holds its attachment."""

_OURS = (*BATCH_KEYS, "output_logits", "num_items_in_batch", "shift_labels")


class Opened(NamedTuple):
    """A forward pass up to the head: what the model returned, the tokens, and the two factors of the logits."""

    done: ModelPass
    tokens: Tokens
    states: Tensor
    head: Head


class Attachment:
    """A loss at work in a model. A deep copy of the model has an attachment of its own, and both can be pickled.

    Attributes:
        model: The model itself, inside all wrappers.
        loss: The loss.
        port: The access to the model's hidden states and head.
        form: The head's scale and softcap.
        spikes: Raises at a loss that is not finite, warns of one far above those before it, on this rank.
        sums: Sums over the tokens trained ("train") and evaluated ("eval") since they were last read.
        observers: Functions called with each forward pass with labels.
    """

    def __init__(self, model: Any, loss: Loss, port: ModelPort, outside: Sequence[nn.Module]) -> None:
        self.model, self.loss, self.port, self.form = model, loss, port, HeadForm()
        self.sums = {"train": TokenSums(), "eval": TokenSums()}
        self.spikes = SpikeWatch(loss.task_factor.names)
        self.observers: list[Callable[[Pass], None]] = []
        self.is_active, self._is_proving = True, False
        self._proved: HeadForm | None = None
        self._lock = threading.RLock()
        self._outside, self._hook = tuple(outside), None  # type: tuple[nn.Module, ...], Any
        loss.task_factor.bind(model, port, loss.extras)
        self._disconnect = port.connect(model)
        self._before = vars(model).get("forward")
        model.forward = self._forward = AttachedForward(self)
        setattr(model, MARK, self)
        self._hold_before_sharding()

    def step(self, micro_batches: Sequence[Mapping[str, Any]], *, group: Any = None) -> Step:
        """The normalizer of an optimizer step; see :func:`step_total`."""
        self._hold_before_sharding()
        copies = self.form.copies if group is None else 1
        return step_total(self.loss, micro_batches, device=self._device(), group=group, copies=copies)

    def metrics(self, which: str = "train", *, is_global: bool = True, group: Any = None) -> dict[str, float]:
        """Cross-entropy, entropy, accuracy, loss and shares since the last call; see :meth:`TokenSums.read`."""
        names = self.loss.task_factor.names
        with self._lock:
            return self.sums[which].read(device=self._device(), is_global=is_global, group=group, task_names=names)

    def state_dict(self) -> dict[str, Tensor]:
        """What this rank has summed since the last log line; with it a resumed run logs what it would have logged."""
        sums, spikes = self.sums["train"].state(), torch.tensor(self.spikes.state(), dtype=torch.float64)
        return {"spikes": spikes} if sums is None else {"spikes": spikes, "sums": sums}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a `state_dict`."""
        sums = state.get("sums")
        self.sums["train"].restore(None if sums is None else sums.to(self._device()))
        self.spikes.restore(state["spikes"].tolist())

    def detach(self) -> None:
        """Give the model its own forward back. What others wrapped around ours stays, and ours then passes calls on."""
        if not self.is_active:
            return
        self.is_active = False
        self._disconnect()
        if self._hook is not None:
            self._hook.remove()
        if vars(self.model).get("forward") is self._forward:
            delattr(self.model, self._forward.place)
            if self._before is None:
                del self.model.forward
            else:
                self.model.forward = self._before
        if vars(self.model).get(MARK) is self:
            delattr(self.model, MARK)

    def prove(self, outer: nn.Module) -> None:
        """Check on eight tokens that hidden states and head give the model's own logits, and read the head's form.

        Sharded weights are whole only inside a forward pass of the outermost module, so that is run; every rank calls.

        Raises:
            ModelError: If no declared form gives them, or the model does not run.
        """
        model, name = self.model, type(self.model).__name__
        try:
            layer: Any = self.port.head_layer(model)
        except ModelError as error:
            raise ModelError(str(error)) from None
        acting_adapters(layer)
        is_spread = isinstance(getattr(layer, "weight", None), DTensor) or is_partitioned(model)
        reason = "its head's weight is packed, quantised or sharded"
        if is_spread or is_lora(layer) or is_whole(layer):
            ids = probe_ids(self.port.vocabulary(model)).view(2, 4).to(self.port.input_device(model))
            self._is_proving, self._proved = True, None
            try:
                with evaluating(outer):
                    (outer if is_spread else model)(ids, labels=ids)
            except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
                raise ModelError(f"{name} does not run on eight tokens: {first_line(error)}") from error
            finally:
                self._is_proving = False
                for module in outer.modules():
                    if isinstance(module, FSDPModule):
                        module.reshard()  # no backward pass will
            reason = "its logits are not the declared function of hidden states and head weight"
        if self._proved is None:
            raise ModelError(
                f"the loss of {name} cannot be fused with its head: {reason}",
                cure="attach to the model as loaded, with a head in a floating type, before anything shards it",
            )
        self.form = self._proved

    def own_forward(self) -> Callable[..., Any]:
        """The forward that the model had before."""
        # not forward.__get__(model), of which torch.compile would make model.forward, which is ours
        own: Callable[..., Any] = MethodType(type(self.model).forward, self.model)
        return own if self._before is None else self._before

    def run(self, batch: dict[str, Any]) -> Any:
        """One forward pass with labels."""
        keep_logits = batch.get("output_logits")
        if keep_logits is None:
            keep_logits = not self.model.training
        if self._is_proving:
            return self._prove(self._inputs(batch, self.loss))
        done, tokens, states, head = self.open(batch, self.loss, keep_logits=bool(keep_logits))
        step = self.step_of(batch, tokens, self.loss)
        value = self._loss(states, head, tokens, step, batch)
        if done.added_loss is not None and not self.loss.task_factor.is_repeating:
            value = value + done.added_loss.to(value.device) / step.micro_batches
        return self.port.result(done, value, batch)

    def open(self, batch: Mapping[str, Any], loss: Loss, *, keep_logits: bool = False) -> Opened:
        """Run the model up to its head, and read the tokens of a loss."""
        inputs = self._inputs(batch, loss)
        done = self.port.run(self.model, self.own_forward(), inputs, self.form, keep_logits)
        tokens, hidden = read_tokens(loss, batch), local_hidden(done.hidden)
        if hidden.shape[:2].numel() != tokens.targets.numel():
            raise ValueError(
                f"sftloss: the decoder gave {tuple(hidden.shape[:2])} positions for labels of "
                f"{tokens.targets.numel() // tokens.columns, tokens.columns}."
            )
        states, head = read_head(self.port.head_layer(self.model), hidden.flatten(0, 1), self.form)
        refuse_outside(tokens, batch.get("row_ids"), head.vocab)
        return Opened(done, with_sequence_values(loss, tokens, states, head), states, head)

    def _inputs(self, batch: Mapping[str, Any], loss: Loss) -> dict[str, Any]:
        """What the model itself takes of a batch, and its labels."""
        inputs = _without(batch, (*_OURS, *loss.extras))
        return inputs | {name: batch[name] for name in ("labels", "shift_labels") if batch.get(name) is not None}

    def _prove(self, inputs: Mapping[str, Any]) -> Any:
        done = self.port.run(self.model, self.own_forward(), inputs, self.form, True)
        assert done.logits is not None
        own = done.logits.full_tensor() if isinstance(done.logits, DTensor) else done.logits
        if bool(own.isnan().any()):
            raise ModelError(f"{type(self.model).__name__} gives NaN as logits", cure=NAN_CURE)
        layer, hidden = self.port.head_layer(self.model), local_hidden(done.hidden).flatten(0, 1)
        self._proved = proved_form(layer, self.port.head_forms(self.model), hidden, own.flatten(0, 1))
        return done.logits

    def _loss(self, states: Tensor, head: Head, tokens: Tokens, step: Step, batch: Mapping[str, Any]) -> Tensor:
        loss, device, is_training = self.loss, head.weight.device, self.model.training
        coefficients = step.coefficients(tokens).to(device)
        extras = {name: value.to(device) for name, value in tokens.extras.items()}
        targets, plan = tokens.targets.to(device), _plan(loss, tokens, batch.get("trained_tokens"))
        value, stats = weighted_loss(states, head, targets, coefficients, loss.function, extras=extras, plan=plan)
        seen = Pass(is_training, stats, tokens, coefficients.detach(), value.detach(), batch, loss.function)
        with self._lock:
            if loss.task_factor.is_repeating:
                loss.task_factor.observe(seen)
                return value
            is_spike = loss.is_checked and self.spikes.look(seen)
            # passes with a normalizer of their own can be added up; parts of a step cannot
            adds_up = batch.get("num_items_in_batch") is None and isinstance(loss.normalizer, str)
            total = step.total.to(device) if adds_up and step.total.dim() == 0 else None
            self.sums["train" if is_training else "eval"].add(seen, total, is_spike)
            loss.task_factor.observe(seen)
            for observe in self.observers:
                observe(seen)
        return value * step.ranks

    def step_of(self, batch: Mapping[str, Any], tokens: Tokens, loss: Loss) -> Step:
        """The step a pass belongs to; its own where the batch names none."""
        items = batch.get("num_items_in_batch")
        if isinstance(items, Step):
            if (items.factors is not None) != loss.task_factor.is_weighting:
                raise ValueError(
                    "sftloss: num_items_in_batch is the step of a loss with other task factors; count it with this "
                    "model's own attachment.step(micro_batches)."
                )
            return items
        if items is None:
            factors = loss.task_factor.outside_of_a_step(self.model.training)
            return Step(contribution(loss, tokens, factors), factors)
        if not loss.counts_tokens or any(batch.get(name) is not None for name in ("token_weights", "example_weights")):
            raise ValueError(
                f"sftloss: num_items_in_batch counts labels, but this loss is normalized by {loss.normalizer!r} of its "
                "own weights; pass num_items_in_batch=attachment.step(micro_batches), or make the Trainer with "
                "sftloss.training.with_loss(Trainer, loss)."
            )
        return Step(torch.as_tensor(items, dtype=torch.float64))

    def _hold_before_sharding(self) -> None:
        """FSDP2 rounds what its outermost module is given, in a hook; from now on ours comes before it."""
        outermost = next((module for module in self._outside if isinstance(module, FSDPModule)), None)
        if self._hook is None and outermost is not None:
            hold = Hold((*BATCH_KEYS, *self.loss.extras))
            self._hook = outermost.register_forward_pre_hook(hold, prepend=True, with_kwargs=True)

    def _device(self) -> torch.device:
        return next(self.port.head_layer(self.model).parameters()).device

    def __getstate__(self) -> dict[str, Any]:
        if self.form.mesh is not None:
            raise TypeError("sftloss: an attachment to a tensor-parallel model cannot be copied or pickled; detach it.")
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.RLock())


class AttachedForward:
    """The forward pass of one model with a loss attached.

    It is a bound method as an object of its own: unlike a closure it follows its model into a deep copy and a pickle.

    Attributes:
        place: Name under which the model holds it; wrappers that outlive the attachment find it there.
    """

    def __init__(self, attachment: Attachment) -> None:
        model = attachment.model
        self.__self__, self.__name__, self.attachment = model, "forward", attachment
        self.names = tuple(own_signature(model).parameters)
        self.place = next(name for i in count() if (name := f"{MARK}_forward{i}") not in vars(model))
        setattr(model, self.place, self)

    @property
    def __func__(self) -> UnboundForward:
        """What wrappers that bind their wrapping to the model again (Accelerate's autocast) take from a method."""
        return UnboundForward(self.place)

    @property
    def __signature__(self) -> inspect.Signature:
        """The model's own parameters, then what a batch may hold for the loss.

        The Trainer keeps the columns of a data set that stand here.
        """
        own = list(own_signature(self.__self__).parameters.values())
        new = {*_OURS, *self.attachment.loss.extras} - {p.name for p in own}
        ours = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in sorted(new)]
        last = [p for p in own if p.kind == inspect.Parameter.VAR_KEYWORD]
        return inspect.Signature([*(p for p in own if p not in last), *ours, *last])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        attachment = self.attachment
        batch = release({**dict(zip(self.names, args, strict=False)), **kwargs})
        has_labels = batch.get("labels") is not None or batch.get("shift_labels") is not None
        if has_labels and attachment.is_active:
            return attachment.run(batch)
        return attachment.own_forward()(**_without(batch, (*BATCH_KEYS, "output_logits")))


@dataclass(frozen=True)
class UnboundForward:
    """The forward pass at this place of whatever model it is called with."""

    place: str

    def __call__(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        return vars(model)[self.place](*args, **kwargs)


def own_signature(model: Any) -> inspect.Signature:
    """What the forward pass of the model's class takes, whatever was wrapped around it on this instance."""
    own = inspect.signature(type(model).forward)
    return own.replace(parameters=list(own.parameters.values())[1:])


def _plan(loss: Loss, tokens: Tokens, trained: Trained | None) -> Plan:
    """The plan of a pass, with the number of trained tokens where the host has counted this very batch.

    A compiled model would be compiled again for every number.
    """
    if trained is None or loss.task_factor.is_weighting or torch.compiler.is_compiling():
        return loss.plan
    is_same = trained.shape == (tokens.targets.numel() // tokens.columns, tokens.columns)
    return replace(loss.plan, counted=trained.number) if is_same else loss.plan


def _without(batch: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in batch.items() if name not in names}
