"""Factors of languages, tasks or sources from their sizes, for `group_weights` and for fixed task factors.

Each function returns one factor a group. Together they leave the total weight of the data as it was, so the learning
rate keeps its meaning. A group's factor times its size is its share of the loss.
"""

from __future__ import annotations

from collections.abc import Mapping

from sftloss.errors import check_range


def temperature_factors(sizes: Mapping[str, float], *, temperature: float) -> dict[str, float]:
    r"""Factors under which the shares of the loss are those of temperature sampling.

    .. math:: s_g = n_g^{1/T} / \sum_h n_h^{1/T}

    Args:
        sizes: Number of trained tokens (or of whatever is balanced) by group, ``> 0``.
        temperature: The T above, ``>= 1``: 1 changes nothing, a large one gives every group the same share.

    Returns:
        Factor by group.

    Raises:
        ValueError: If a size is not above 0, or `temperature` is below 1.

    Example:
        >>> temperature_factors({"en": 900, "de": 100}, temperature=2)
        {'en': 0.8333333333333334, 'de': 2.5}

    Source:
        Conneau et al., *Unsupervised Cross-lingual Representation Learning at Scale*, 2019 (arXiv:1911.02116), with
        1 / T there called alpha. fairseq's ``--sampling-temperature`` is T.
    """
    check_range("temperature_factors", temperature=(temperature, ">= 1"))
    return _of_shares(sizes, {name: size ** (1 / temperature) for name, size in sizes.items()})


def unimax_factors(sizes: Mapping[str, float], *, epochs: float, budget: float | None = None) -> dict[str, float]:
    """Factors under which every group has the same share of a budget, but none more than so many times its size.

    Args:
        sizes: Number of trained tokens by group, ``> 0``.
        epochs: How often a group may be repeated at most, ``> 0``. It bounds what a small group may weigh.
        budget: Number of tokens to train on; by default the sum of the sizes.

    Returns:
        Factor by group.

    Raises:
        ValueError: If a size, `epochs` or `budget` is not above 0.

    Example:
        >>> unimax_factors({"en": 900, "de": 90, "sw": 10}, epochs=4)
        {'en': 0.6666666666666666, 'de': 4.0, 'sw': 4.0}

    Source:
        Chung et al., *UniMax: Fairer and More Effective Language Sampling for Large-Scale Multilingual Pretraining*,
        2023, algorithm 1 (arXiv:2304.09151). There it samples; here it weights what is there.
    """
    left = sum(sizes.values()) if budget is None else budget
    check_range("unimax_factors", epochs=(epochs, "> 0"), budget=(left, "> 0"))
    taken: dict[str, float] = {}
    for name in sorted(sizes, key=lambda name: (sizes[name], name)):
        taken[name] = min(left / (len(sizes) - len(taken)), epochs * sizes[name])
        left -= taken[name]
    return _of_shares(sizes, taken)


def byte_factors(tokens: Mapping[str, float], text_bytes: Mapping[str, float]) -> dict[str, float]:
    """Factors under which a group's share of the loss is its share of the bytes instead of the tokens.

    A tokenizer cuts some languages into several times as many tokens as others for the same text. Their tokens then
    weigh as much more in a token mean.

    Args:
        tokens: Number of trained tokens by group, ``> 0``.
        text_bytes: Bytes of UTF-8 of the same text by group, ``> 0``.

    Returns:
        Factor by group.

    Raises:
        ValueError: If a number is not above 0, or the groups differ.

    Example:
        >>> byte_factors({"en": 100, "my": 300}, {"en": 400, "my": 400})
        {'en': 2.0, 'my': 0.6666666666666666}

    Source:
        Petrov et al., *Language Model Tokenizers Introduce Unfairness Between Languages*, 2023 (arXiv:2305.15425),
        shows the effect; the factors are ours.
    """
    return _of_shares(tokens, text_bytes)


def _of_shares(sizes: Mapping[str, float], shares: Mapping[str, float]) -> dict[str, float]:
    """The factors that turn shares by size into these, which need not sum to 1."""
    if sizes.keys() != shares.keys():
        raise ValueError(f"factors: the groups differ, {', '.join(sizes)} and {', '.join(shares)}.")
    if not sizes or not all(0 < number < float("inf") for number in (*sizes.values(), *shares.values())):
        raise ValueError("factors: give at least one group; every size must be above 0 and finite.")
    rate = sum(sizes.values()) / sum(shares.values())
    return {name: rate * shares[name] / size for name, size in sizes.items()}
