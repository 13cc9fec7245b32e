"""Which trained weights of a model the hooks can follow, and which they cannot."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from sftloss.decoder.head import acting_adapters, active_copy, is_lora
from sftloss.training.gradients.layers import is_embedding, is_linear, is_norm
from sftloss.words import percent


@dataclass(frozen=True)
class Coverage:
    """What became of each trained parameter.

    Attributes:
        covered: Number of weights whose gradient is in the norms.
        trained: Number of all weights that are trained.
        uncovered: Names of parameters that the hooks cannot follow.
        looped: Number of weights whose gradients came from one backward pass an example.
        reason: Why such a loop was run for them; empty where the hooks were enough.
    """

    covered: int
    trained: int
    uncovered: tuple[str, ...] = ()
    looped: int = 0
    reason: str = ""

    @property
    def share(self) -> float:
        """Covered over trained weights."""
        return self.covered / self.trained if self.trained else 1.0

    def __str__(self) -> str:
        text = f"{self.covered:,} of {self.trained:,} trained weights ({percent(self.share)})"
        loop = f"{self.looped:,} of them by one backward pass an example, because {self.reason}"
        return f"{text}; {loop}" if self.reason else text


@dataclass
class Followed:
    """The trained parameters of a model, sorted by what gives their gradient.

    Attributes:
        layers: By layer, the names of its trained parameters by their key.
        peers: By layer, all layers that share its parameters, itself first where it is alone.
        head: Names of the trained parameters by tensor of the head: ``"weight"``, ``"bias"``, ``"low_rank"``.
        tied: The embedding that shares the head's weight, or None.
        uncovered: Names of the other parameters.
        sizes: Number of weights by name of the parameter.
    """

    layers: dict[nn.Module, dict[str, str]] = field(default_factory=dict)
    peers: dict[nn.Module, list[nn.Module]] = field(default_factory=dict)
    head: dict[str, list[str]] = field(default_factory=dict)
    tied: nn.Module | None = None
    uncovered: list[str] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)

    @property
    def has_positions(self) -> bool:
        """Whether more than one table of rows is trained, one of them for positions."""
        return sum(is_embedding(module) for module in self.layers) > 1

    def coverage(self, reason: str = "") -> Coverage:
        """Coverage of a pass; with a reason, a loop covered what the hooks did not."""
        trained = sum(self.sizes.values())
        rest = sum(self.sizes[name] for name in self.uncovered)
        if reason:
            return Coverage(trained, trained, tuple(self.uncovered), rest, reason)
        return Coverage(trained - rest, trained, tuple(self.uncovered))

    def leave_out(self, names: Iterable[str]) -> None:
        """Follow these parameters no longer, nor the others of layers that are computed together with theirs."""
        dropped = set(names)
        if self.tied is not None and dropped & {*self.head.get("weight", ()), *self.layers[self.tied].values()}:
            dropped |= {*self.head.get("weight", ()), *self.layers[self.tied].values()}
            self.tied = None
        self.head = {key: kept for key, mine in self.head.items() if (kept := [n for n in mine if n not in dropped])}
        for module, names_by_key in list(self.layers.items()):
            left = {key: name for key, name in names_by_key.items() if name not in dropped}
            if left:
                self.layers[module] = left
            else:
                del self.layers[module], self.peers[module]
        self.peers = {module: [one for one in peers if one in self.layers] for module, peers in self.peers.items()}
        self.uncovered += [name for name in self.sizes if name in dropped and name not in self.uncovered]


def followed(model: nn.Module, head_layer: Any) -> Followed:
    """Sort the trained parameters of a model."""
    trained = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    out = Followed(sizes={name: p.numel() for name, p in model.named_parameters() if p.requires_grad})
    users: dict[int, list[tuple[nn.Module, str]]] = {key: [] for key in trained}
    for module in model.modules():
        for key, p in module._parameters.items():
            if p is not None and id(p) in trained:
                users[id(p)].append((module, key))
    head = _head_tensors(head_layer)
    for number, name in trained.items():
        others = [(module, key) for module, key in users[number] if (id(module), key) not in head]
        mine = [head[id(module), key] for module, key in users[number] if (id(module), key) in head]
        is_tied = bool(mine and others)
        can_be_tied = len(others) == 1 and is_embedding(others[0][0]) and out.tied is None
        is_known = bool(mine or others) and all(_is_known(module, key) for module, key in others)
        if not is_known or (is_tied and not can_be_tied):
            out.uncovered.append(name)
            continue
        for tensor in mine:
            out.head.setdefault(tensor, []).append(name)
        for module, key in others:
            out.layers.setdefault(module, {})[key] = name
        out.tied = others[0][0] if is_tied else out.tied
    _find_peers(out)
    return out


def group_of(name: str) -> str:
    """Layer group of a parameter: its name up to the first number, or without its last part.

    Example:
        >>> group_of("transformer.h.0.attn.c_attn.weight"), group_of("transformer.wte.weight")
        ('transformer.h.0', 'transformer.wte')
    """
    numbered = re.match(r"(.*?\.\d+)\.", name)
    return numbered[1] if numbered else name.rpartition(".")[0] or name


def _head_tensors(layer: Any) -> Mapping[tuple[int, str], str]:
    """Module and key of each parameter that the fused head reads, and the tensor of the head it belongs to."""
    if is_lora(layer):
        adapters = acting_adapters(layer)
        base = layer.get_base_layer()
        low_rank = {(id(layer.lora_B[name]), "weight"): "low_rank" for name in adapters}
        return {(id(base), "weight"): "weight", (id(base), "bias"): "bias", **low_rank}
    copy = active_copy(layer)
    return {(id(copy), "weight"): "weight", (id(copy), "bias"): "bias"}


def _is_known(module: nn.Module, key: str) -> bool:
    if is_embedding(module):
        return key == "weight"
    return (is_linear(module) or is_norm(module)) and key in ("weight", "bias")


def _find_peers(out: Followed) -> None:
    """Group layers that share all their parameters; those that share some are not covered."""
    signature = {module: tuple(sorted(names.items())) for module, names in out.layers.items()}
    owners: dict[str, set[Any]] = {}
    for module, names in signature.items():
        for _, name in names:
            owners.setdefault(name, set()).add((type(module), names))
    for module, names in signature.items():
        if any(len(owners[name]) > 1 for _, name in names):
            out.uncovered += [name for _, name in names if name not in out.uncovered]
            del out.layers[module]
        else:
            out.peers[module] = [other for other in out.layers if signature[other] == names]
