"""From a batch as frameworks make it to flat targets, weights and segments, for the normalizer and for the loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sftloss.data import align
from sftloss.statistics import IGNORED
from sftloss.training.loss import Loss
from sftloss.training.passes import Tokens
from sftloss.weights import length_weights, role_weights, segment_lengths
from sftloss.weights.roles import check_roles

BATCH_KEYS = (
    "token_weights",
    "example_weights",
    "roles",
    "segments",
    "tasks",
    "row_ids",
    "example_ids",
    "loss_weights",
    "sequence_shares",
    "trained_tokens",
)
"""Keys of a batch beside those the model takes; see :func:`read_tokens`."""


def read_tokens(loss: Loss, batch: Mapping[str, Any]) -> Tokens:
    """Targets, weights and segments of a batch.

    `labels` are as transformers has them: not shifted, -100 ignored; `shift_labels` are aligned already. Everything
    token by token (`token_weights`, `roles`, loss.extras) is laid out as the labels it comes with. `segments` names
    the sequence of each position (-1 is padding); without it a row is one sequence, and a row without attention mask
    whose position ids restart is several. No target crosses from one sequence to the next. A batch from
    :func:`weigh_batch`, or any slice of its columns, holds the weights already.

    Raises:
        ValueError: If a tensor is missing or its shape is not the labels'.
    """
    is_aligned = batch.get("shift_labels") is not None
    labels = batch["shift_labels"] if is_aligned else batch.get("labels")
    if labels is None:
        raise ValueError("sftloss: the batch has no labels; give labels as the model takes them, -100 where ignored.")
    if labels.dim() != 2:
        raise ValueError(f"sftloss: labels must be (rows, columns), got shape {tuple(labels.shape)}.")
    _refuse_packed_with_mask(loss, batch)
    segments = _segments(batch, labels)

    def flat(name: str, last: float) -> Tensor:
        value = _flat(batch, name, labels)
        return value if is_aligned else align(value, last)

    is_within = segments >= 0
    if not is_aligned:  # aligned labels end each sequence already
        is_within &= align(segments, -1) == segments
    targets = flat("shift_labels" if is_aligned else "labels", IGNORED)
    if batch.get("loss_weights") is not None:
        return _weighed(loss, batch, labels)
    weights, targets = _role_weights(loss, batch, torch.where(is_within, targets, IGNORED), is_within)
    if batch.get("token_weights") is not None:
        weights = weights * flat("token_weights", 0).double()
    weights = torch.where(targets != IGNORED, weights, 0.0)
    if loss.alpha:
        weights = length_weights(weights, segments, alpha=loss.alpha)
    if batch.get("example_weights") is not None:
        weights = weights * _per_token(batch["example_weights"], labels).double()
    tasks = None if batch.get("tasks") is None else _per_token(batch["tasks"], labels).long()
    groups = _groups(loss, tasks, weights)
    extras = {name: flat(name, 0) for name in loss.extras}
    roles = flat("roles", -1).long() if batch.get("roles") is not None else None
    if roles is not None:
        check_roles("sftloss", roles)
    return Tokens(targets, weights, segments, groups, extras, labels.shape[1], roles, tasks)


def weigh_batch(loss: Loss, batch: Mapping[str, Any]) -> dict[str, Any]:
    """A batch whose columns may be cut over ranks: all that depends on whole sequences stands at each token.

    Context and sequence parallelism give each rank a slice of every sequence. The last token of a slice predicts the
    first of the next, and a sequence's length lies on several ranks; so targets and weights are found here, before
    the cut. Cut the result along its columns in any way (contiguous, or balanced for causal attention) and give each
    slice to the model and to :func:`step_total`, whose group holds the ranks of a sequence too.

    Args:
        loss: The loss that will be trained.
        batch: Whole sequences, as :func:`read_tokens` takes them.

    Returns:
        The batch with `shift_labels`, `loss_weights` and `sequence_shares` instead of labels and weights, and with
        `position_ids`; what else the loss reads is aligned. All are ``(rows, columns)``.

    Example:
        >>> batch = weigh_batch(Loss(normalization="example-mean"), {"labels": torch.tensor([[-100, 1, 2]])})
        >>> batch["shift_labels"], batch["loss_weights"]
        (tensor([[   1,    2, -100]]), tensor([[0.5000, 0.5000, 0.0000]], dtype=torch.float64))
    """
    tokens = read_tokens(loss, batch)
    labels = batch["shift_labels" if batch.get("shift_labels") is not None else "labels"]
    gone = ("labels", "token_weights", "example_weights", "segments", "roles", "tasks", "trained_tokens", *loss.extras)
    out = {name: value for name, value in batch.items() if name not in gone}
    is_trained = (tokens.weights != 0).double()
    counts = segment_lengths(is_trained, tokens.segments)
    aligned = {
        "shift_labels": tokens.targets,
        "loss_weights": tokens.weights,
        "sequence_shares": is_trained / counts.clamp(min=1.0),
        "roles": tokens.roles,
        "tasks": tokens.tasks,
        **tokens.extras,
    }
    out |= {n: value.view(*labels.shape, *value.shape[1:]) for n, value in aligned.items() if value is not None}
    if out.get("position_ids") is None:
        out["position_ids"] = torch.arange(labels.shape[1], device=labels.device).expand(labels.shape)
    return out


def _weighed(loss: Loss, batch: Mapping[str, Any], labels: Tensor) -> Tokens:
    """A slice of what `weigh_batch` made."""
    if batch.get("shift_labels") is None or batch.get("sequence_shares") is None:
        raise ValueError("sftloss: loss_weights come with shift_labels and sequence_shares; use weigh_batch.")

    targets, weights, shares = (_flat(batch, n, labels) for n in ("shift_labels", "loss_weights", "sequence_shares"))
    roles, tasks = (None if batch.get(n) is None else _flat(batch, n, labels) for n in ("roles", "tasks"))
    extras = {name: _flat(batch, name, labels) for name in loss.extras}
    rows = torch.arange(labels.shape[0], device=labels.device).repeat_interleave(labels.shape[1])
    groups = _groups(loss, tasks, weights)
    return Tokens(targets, weights, rows, groups, extras, labels.shape[1], roles, tasks, shares)


def _flat(batch: Mapping[str, Any], name: str, labels: Tensor) -> Tensor:
    """A tensor of the batch that is laid out as the labels are, flat."""
    value: Tensor | None = batch.get(name)
    if value is None:
        raise ValueError(f"sftloss: the loss reads {name!r} of each token, which the batch does not hold.")
    if value.shape[:2] != labels.shape:
        raise ValueError(f"sftloss: {name} has shape {tuple(value.shape)}, labels {tuple(labels.shape)}.")
    return value.flatten(0, 1)


def _segments(batch: Mapping[str, Any], labels: Tensor) -> Int[Tensor, " tokens"]:
    """The sequence of each position, flat, different from row to row."""
    if batch.get("segments") is not None:
        names = batch["segments"].long()
        rows = torch.arange(names.shape[0], device=names.device)[:, None]
        return torch.where(names < 0, -1, names + rows * 2**32).reshape(-1)
    starts = torch.zeros_like(labels, dtype=torch.int64)
    starts[:, :1] = 1
    position_ids = batch.get("position_ids")
    if batch.get("attention_mask") is None and position_ids is not None and position_ids.dim() == 2:
        # not "position decreases": two sequences of one token each are 0, 0
        starts[:, 1:] = (position_ids[:, 1:] != position_ids[:, :-1] + 1).long()
    return starts.reshape(-1).cumsum(0) - 1


def _refuse_packed_with_mask(loss: Loss, batch: Mapping[str, Any]) -> None:
    """Refuse packed rows whose sequences attend to each other. On a device only if `is_checked`: the check waits."""
    positions, mask = batch.get("position_ids"), batch.get("attention_mask")
    if positions is None or mask is None or positions.dim() != 2 or mask.shape[1:] != positions.shape[1:]:
        return
    if not loss.is_checked and positions.device.type != "cpu":
        return
    is_real = mask != 0
    if bool(((positions[:, 1:] <= positions[:, :-1]) & is_real[:, 1:] & is_real[:, :-1]).any()):
        raise ValueError(
            "sftloss: position_ids restart within a row that has an attention_mask of ones, so its packed sequences "
            "would attend to each other; leave attention_mask out, or pad the rows instead of packing them."
        )


def _role_weights(
    loss: Loss, batch: Mapping[str, Any], targets: Tensor, is_within: Bool[Tensor, " tokens"]
) -> tuple[Tensor, Tensor]:
    """Weight by role, and the targets: where a role is trained that the labels ignore, the input is the target."""
    is_labelled = targets != IGNORED
    if loss.roles is None:
        return is_labelled.double(), targets
    if batch.get("roles") is None:
        raise ValueError(
            "sftloss: weights by role need roles in the batch: an ignored label may be a prompt, an answer that is "
            "left out or padding. Where only prompts and padding are ignored, and attention_mask marks the padding, "
            "roles = (labels != -100).long()."
        )
    if batch.get("shift_labels") is not None:
        weights = role_weights(batch["roles"].reshape(-1), loss.roles).double()
        return torch.where(is_labelled, weights, 0.0), targets
    if batch.get("input_ids") is None:
        raise ValueError("sftloss: role weights read the prompt's targets from input_ids, which the batch lacks.")
    mask = batch.get("attention_mask")
    is_real = is_within if mask is None or mask.dim() != 2 else is_within & (align(mask.reshape(-1), 0) != 0)
    roles = align(batch["roles"].reshape(-1), -1).long()
    weights = torch.where(is_real | is_labelled, role_weights(roles, loss.roles).double(), 0.0)
    from_input = align(batch["input_ids"].reshape(-1), 0)
    return weights, torch.where(is_labelled, targets, torch.where(weights != 0, from_input, IGNORED))


def _groups(loss: Loss, tasks: Tensor | None, weights: Tensor) -> Int[Tensor, " tokens"] | None:
    """Task of each token that is trained, -1 elsewhere; None where no factor multiplies by task."""
    if not loss.task_factor.is_weighting:
        return None
    if tasks is None:
        raise ValueError("sftloss: the loss has task factors, so the batch must hold tasks, one index a row.")
    return torch.where(weights != 0, tasks, -1)


def _per_token(values: Tensor, labels: Tensor) -> Tensor:
    """One value a row, or one a position (packed rows), as one a token."""
    if values.shape == labels.shape:
        return values.reshape(-1)
    if values.shape != labels.shape[:1]:
        raise ValueError(
            f"sftloss: tasks and example_weights have one value a row or a token, got shape {tuple(values.shape)} "
            f"for labels {tuple(labels.shape)}."
        )
    return values[:, None].expand(labels.shape).reshape(-1)
