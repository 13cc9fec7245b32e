"""Random sequences and logits, and both analyses of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sftloss.logits.analyzer import LossFunctionAnalyzer


def generate_test_data(
    vocab_size: int = 1000, num_samples: int = 100, *, seed: int = 0, confidence: float = 0.0
) -> tuple[list[Tensor], list[Tensor]]:
    """Return random sequences of 10 to 100 tokens and logits for them, the same at every call.

    Args:
        vocab_size: Number of vocabulary entries.
        num_samples: Number of sequences.
        seed: Seed of a separate generator; the global random state does not change.
        confidence: Number added to the logit of each true next token. 0 gives pure noise, which shows nothing about a
            loss. 8 is closer to a trained model.

    Returns:
        Token ids, ``(n,)`` each, and logits, ``(n, vocab_size)`` each, not shifted: row t predicts token t + 1.

    Example:
        >>> sequences, logits = generate_test_data(vocab_size=5, num_samples=2)
        >>> [tuple(z.shape)[1] for z in logits]
        [5, 5]
    """
    generator = torch.Generator().manual_seed(seed)
    sequences, logits = [], []
    for _ in range(num_samples):
        length = int(torch.randint(10, 101, (), generator=generator))
        sequence = torch.randint(0, vocab_size, (length,), generator=generator)
        z = torch.randn(length, vocab_size, generator=generator)
        z[torch.arange(length - 1), sequence[1:]] += confidence
        sequences.append(sequence)
        logits.append(z)
    return sequences, logits


def comprehensive_loss_analysis(
    *, num_samples: int = 100, confidence: float = 0.0, seed: int = 0, verbose: bool = False
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Both analyses of :func:`generate_test_data`: the length analysis and the comparison. No recommendation.

    The tutorial recommends the loss least correlated with length, which is always the one divided by length.
    """
    sequences, logits = generate_test_data(num_samples=num_samples, seed=seed, confidence=confidence)
    analyzer = LossFunctionAnalyzer(seed=seed)
    lengths = analyzer.analyze_length_bias(sequences, logits, verbose=verbose)
    return lengths, analyzer.compare_loss_functions(sequences, logits, verbose=verbose)
