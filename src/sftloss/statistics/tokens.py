"""What every loss is made of: a few numbers for each token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

DIFFERENTIABLE = (
    "target_logprob",
    "logsumexp",
    "entropy",
    "mean_logprob",
    "collision",
    "other_logprob",
)
DETACHED = ("off_target_sq", "is_top1", "max_logprob")
FIELDS = DIFFERENTIABLE + DETACHED


@dataclass(frozen=True)
class TokenStats:
    r"""Statistics of the next-token distribution p, one value a token, in nats.

    ================== =========================================== ==============
    field              value                                       gradient in z
    ================== =========================================== ==============
    ``target_logprob`` :math:`\log p_y`                            yes
    ``logsumexp``      :math:`\log \sum_j e^{z_j}`                 yes
    ``entropy``        :math:`-\sum_j p_j \log p_j`                yes
    ``mean_logprob``   mean of :math:`\log p_j` over finite logits yes
    ``collision``      :math:`\sum_j p_j^2`                        yes
    ``other_logprob``  :math:`\log(1 - p_y)`, exact near p = 1     yes
    ``off_target_sq``  :math:`\sum_{j \ne y} p_j^2`                no
    ``is_top1``        whether no other token has a larger logit   no
    ``max_logprob``    :math:`\max_j \log p_j`                     no
    ================== =========================================== ==============

    Attributes:
        fields: The computed statistics by name, each of shape ``(tokens,)``.
        vocab_size: Number of finite logits of a row: an int, or a tensor that broadcasts over the tokens.
        extras: A caller's own tensors, first axis ``tokens`` (a reference model's log-probability,
            say), sliced together with the tokens.
    """

    fields: Mapping[str, Tensor]
    vocab_size: int | Tensor = 0
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Tensor:
        if name.startswith("__") or name not in FIELDS:
            raise AttributeError(f"TokenStats has no statistic {name!r}; it knows {', '.join(FIELDS)}.")
        try:
            return self.fields[name]
        except KeyError:
            have = ", ".join(self.fields)
            raise AttributeError(
                f"TokenStats: {name!r} was not computed (only {have}); ask for it with fields=, "
                "of weighted_loss with plan=Plan(fields=(...))."
            ) from None
