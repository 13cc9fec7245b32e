"""Weight by the role of a token: prompt, response, system or tool."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sftloss.roles import ROLES


def role_weights(roles: Int[Tensor, " tokens"], by_role: Mapping[str, float]) -> Float[Tensor, " tokens"]:
    r"""Weight of each token by its role: the *token* weights of instruction tuning.

    .. math:: u_i = w_{\text{role}(i)}

    A token's weight does not depend on how long its role's part is, so prompt and response tokens stand in
    the ratio given, whatever the lengths.

    Args:
        roles: Role codes, indices into ``ROLES``; any shape, ``(tokens,)`` as a rule; -1 is padding.
        by_role: Weight of each role, dimensionless, finite. A role that is not named is not trained (0).

    Returns:
        Weights of the shape of ``roles``, float32, on its device.

    Raises:
        ValueError: If a name is not in ``ROLES`` or a weight is not finite; or, where ``roles`` lies on the CPU
            (elsewhere looking would wait for the device), if a code is out of range.

    Example:
        >>> role_weights(torch.tensor([0, 0, 1, -1]), {"prompt": 0.5, "response": 1.0})
        tensor([0.5000, 0.5000, 1.0000, 0.0000])

    Source:
        Shi et al., *Instruction Tuning With Loss Over Instructions*, 2024 (arXiv:2405.14394) for the prompt's
        tokens; Huerta-Enochian and Ko, *Instruction Fine-Tuning: Does Prompt Loss Matter?*, 2024 (arXiv:2401.13586).
    """
    table = torch.zeros(len(ROLES) + 1)
    for role, weight in by_role.items():
        if role not in ROLES:
            raise ValueError(f"role_weights: unknown role {role!r}; the roles are {', '.join(ROLES)}.")
        if not abs(float(weight)) < float("inf"):
            raise ValueError(f"role_weights: the weight of {role!r} must be finite, got {weight}.")
        table[ROLES.index(role)] = float(weight)
    check_roles("role_weights", roles)
    codes = roles.long()
    # the last entry of the table is padding's
    return table.to(roles.device)[torch.where(codes < 0, len(ROLES), codes)]


def check_roles(name: str, roles: Tensor) -> None:
    """Refuse codes on the CPU that are no role and not -1; on a device nothing is read."""
    if roles.device.type != "cpu" or not roles.numel():
        return
    for code in (int(roles.min()), int(roles.max())):
        if not -1 <= code < len(ROLES):
            codes = ", ".join(f"{i} {role}" for i, role in enumerate(ROLES))
            raise ValueError(f"{name}: role code {code} does not exist; the codes are {codes}, and -1 for padding.")
