"""Attach a loss to one model, and detach it."""

from __future__ import annotations

from torch import nn

from sftloss.decoder.port import ModelPort
from sftloss.decoder.ports import port_of, unwrapped
from sftloss.errors import ModelError, mention
from sftloss.statistics import Objective
from sftloss.training.attachment import MARK, Attachment
from sftloss.training.loss import Loss, as_loss


def attach(model: nn.Module, loss: Loss | str | Objective, *, port: ModelPort | None = None) -> Attachment:
    """Train a model with a loss: from now on ``model(..., labels=labels).loss`` is that loss, and holds no logits.

    The forward of this one instance changes, reversibly; no class and nothing global does. Without labels, and so in
    generation, it is the model's own. In training mode logits are left out; in evaluation mode, and with
    ``output_logits=True``, they are there as before.

    Args:
        model: A causal language model of transformers, or of a class with a port; alone, or as DDP, FSDP2, PEFT or
            torch.compile return it.
        loss: The loss, or just its objective.
        port: The access to a model that is not one of transformers; by default the port of its class.

    Returns:
        The attachment; its `step` counts the normalizer of an optimizer step, `detach` ends it.

    Raises:
        ModelError: If the head's product is not the model's own logits (an adapter other than LoRA on the head, a
            packed weight), the model already has a loss attached, is wrapped in `nn.DataParallel`, or is on MPS.

    Example:
        >>> attachment = attach(model, "cross_entropy + 1e-4 * z_loss")        # doctest: +SKIP
        >>> step = attachment.step(micro_batches)                              # doctest: +SKIP
        >>> for batch in micro_batches:                                        # doctest: +SKIP
        ...     model(**batch, num_items_in_batch=step).loss.backward()
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"attach: model must be a torch module, got {type(model).__name__}. Load it first.")
    chain = unwrapped(model)
    base = chain[-1]
    if vars(base).get(MARK) is not None:
        raise ModelError("this model has a loss attached already", cure="detach it first")
    if any(p.device.type == "mps" for p in base.parameters()):
        problem = "a loss cannot be attached on mps: weights and sums are float64, which it does not have"
        raise ModelError(problem, cure=f"train with {mention('device', 'cpu')}")
    for module in model.modules():
        if module is not base and getattr(vars(module).get("forward"), "__self__", None) is base:
            problem = f"{type(module).__name__} keeps the model's own forward pass and would not call the loss"
            raise ModelError(problem, cure="attach the loss to the model before it is wrapped")
    outside = [module for module in chain[:-1] if hasattr(module, "get_base_model")]
    attachment = Attachment(base, as_loss(loss), port or port_of(base), [*outside, base])
    try:
        attachment.prove(model)
    except BaseException:
        attachment.detach()
        raise
    return attachment


def detach(model: nn.Module) -> None:
    """Give a model its own loss back.

    Raises:
        ModelError: If no loss is attached.
    """
    attachment = attachment_of(model)
    if attachment is None:
        raise ModelError("this model has no loss attached")
    attachment.detach()


def attachment_of(model: nn.Module) -> Attachment | None:
    """The loss at work in a model, or None."""
    return vars(unwrapped(model)[-1]).get(MARK)
