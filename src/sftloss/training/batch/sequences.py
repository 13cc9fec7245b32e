"""Values of whole sequences that some objectives read, computed before the loss."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from sftloss.statistics import IGNORED, Head, token_statistics
from sftloss.training.loss import Loss
from sftloss.training.passes import Tokens
from sftloss.weights.sequences import sequence_values_read


def with_sequence_values(loss: Loss, tokens: Tokens, states: Tensor, head: Head) -> Tokens:
    """Return the tokens with the values of whole sequences that the loss reads among their extras.

    They need the log-probability of every trained token before the loss of the first, so the head is multiplied once
    more, without gradient. Most losses read none, and nothing is computed.

    Raises:
        ValueError: If ranks hold slices of the sequences.
    """
    if not loss.sequence_values:
        return tokens
    if tokens.shares is not None:
        raise ValueError(
            f"sftloss: {loss.objective} compares whole sequences, and this rank holds slices of them; train it without "
            "context or sequence parallelism."
        )
    targets = torch.where(tokens.weights != 0, tokens.targets, IGNORED).to(states.device)
    with torch.no_grad():
        stats = token_statistics(states.detach(), head, targets, fields=("target_logprob",))
    names, logprob = loss.sequence_values, stats.target_logprob
    values = sequence_values_read(names, logprob, tokens.extras, tokens.segments, tokens.weights)
    return replace(tokens, extras={**tokens.extras, **values})
