"""Random logits, and demonstrations on them: length, gradient norms, focal loss, instruction and response."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sftloss.logits.analyzer import LossFunctionAnalyzer
from sftloss.logits.focal import FocalLoss
from sftloss.logits.instruction import InstructionResponseLoss
from sftloss.logits.words import Demonstration, Statement, TableRow, shown

_CONFIDENCES = (5.0, 7.5, 10.0)  # of a third of the sequences each: target probabilities of about 0.1, 0.5 and 0.9
_LENGTHS = ((10, 20), (30, 10), (20, 40))  # tokens of instruction and of response
_WEIGHTS = ((0.1, 1.0), (0.5, 1.0), (1.0, 0.5))  # of instruction and of response


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
    *, num_samples: int = 100, confidence: float = 0.0, seed: int = 0, verbose: bool = True, lang: str = "en"
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Run the length analysis and the loss comparison of the analyzer on :func:`generate_test_data`.

    It recommends no loss: the loss least correlated with length is always the one divided by length.

    Args:
        num_samples: Number of sequences.
        confidence: As for :func:`generate_test_data`.
        seed: Seed of the data and of the intervals.
        verbose: Whether to print both results.
        lang: Language of the text, ``"en"`` or ``"zh"``.

    Returns:
        The results of :meth:`LossFunctionAnalyzer.analyze_length_bias` and
        :meth:`LossFunctionAnalyzer.compare_loss_functions`.
    """
    sequences, logits = generate_test_data(num_samples=num_samples, seed=seed, confidence=confidence)
    analyzer = LossFunctionAnalyzer(seed=seed)
    lengths, losses = (
        analyzer.analyze_length_bias(sequences, logits),
        analyzer.compare_loss_functions(sequences, logits),
    )
    kinds = {"summed": "total_loss", "per_token": "mean_loss"}
    tables = {
        "length_bias": [{"loss": kind, **_interval(lengths["elasticity"][name])} for kind, name in kinds.items()],
        "loss_comparison": [
            {"loss": name, "mean_loss": row["mean_loss"], **_interval(row["signal_elasticity"])}
            for name, row in losses.items()
        ],
    }
    verdict = Statement("verdict", {"verdict": lengths["bias_assessment"]})
    statements = (Statement("sum_is_mechanical"), verdict, Statement("signal_anchors"))
    shown(Demonstration("comprehensive_loss_analysis", tables, statements), verbose, lang)
    return lengths, losses


def demonstrate_gradient_magnitude(
    *, num_samples: int = 100, seed: int = 0, verbose: bool = True, lang: str = "en"
) -> Demonstration:
    """Run :meth:`LossFunctionAnalyzer.analyze_gradient_magnitude_bias` on a small untrained model.

    Returns:
        Table ``gradient_norms``: for the summed and the mean loss the elasticity of the norm in length.
    """
    vocab_size = 64
    sequences, _ = generate_test_data(vocab_size, num_samples, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Embedding(vocab_size, 16), nn.Linear(16, vocab_size))
    elasticity = LossFunctionAnalyzer(seed=seed).analyze_gradient_magnitude_bias(sequences, model)["elasticity"]
    of_sum, of_mean = elasticity["grad_norm_sum"], elasticity["grad_norm_mean"]
    rows = [{"norm": name, **_interval(one)} for name, one in elasticity.items()]
    statement = Statement("norms_are_arithmetic", {"of_sum": of_sum["value"], "of_mean": of_mean["value"]})
    return shown(Demonstration("demonstrate_gradient_magnitude", {"gradient_norms": rows}, (statement,)), verbose, lang)


def compare_focal_vs_standard_loss(
    *, num_samples: int = 60, gamma: float = 2.0, seed: int = 0, verbose: bool = True, lang: str = "en"
) -> Demonstration:
    """Compare focal loss with cross-entropy on tokens of high, medium and low confidence.

    Args:
        num_samples: Number of sequences, a third of them with easy, medium and hard targets each.
        gamma: Exponent of the focal loss, ``> 0``.
        seed: Seed of the data.
        verbose: Whether to print the result.
        lang: Language of the text, ``"en"`` or ``"zh"``.

    Returns:
        Table ``by_confidence``, one row per group: number of tokens, mean target probability, mean of both losses,
        ratio of the losses and of the gradients (L1 norm in the logits), and the group's share of all gradients.
    """
    p, ce, focal, ce_signal, focal_signal = _focal_columns(num_samples, gamma, seed)
    groups = {"high_confidence": p > 0.7, "medium_confidence": (p > 0.3) & (p <= 0.7), "low_confidence": p <= 0.3}
    rows: list[TableRow] = [
        {
            "confidence": name,
            "count": int(group.sum()),
            "mean_p": float(p[group].mean()),
            "ce": float(ce[group].mean()),
            "focal": float(focal[group].mean()),
            "value_ratio": float(focal[group].sum() / ce[group].sum()),
            "gradient_ratio": float(focal_signal[group].sum() / ce_signal[group].sum()),
            "ce_share": float(ce_signal[group].sum() / ce_signal.sum()),
            "focal_share": float(focal_signal[group].sum() / focal_signal.sum()),
        }
        for name, group in groups.items()
    ]
    easy, hard = rows[0], rows[-1]
    statements = (
        Statement(
            "easy_fade",
            {"gamma": gamma, "ratio": easy["value_ratio"], "before": easy["ce_share"], "after": easy["focal_share"]},
        ),
        Statement("hard_grow", {"ratio": hard["value_ratio"], "gradient": hard["gradient_ratio"]}),
    )
    return shown(Demonstration("compare_focal_vs_standard_loss", {"by_confidence": rows}, statements), verbose, lang)


def _focal_columns(num_samples: int, gamma: float, seed: int) -> tuple[Tensor, ...]:
    """Return per token: target probability, cross-entropy, focal loss, and the size of both gradients."""
    columns: list[Tensor] = []
    for part, confidence in enumerate(_CONFIDENCES):
        data = generate_test_data(num_samples=num_samples // 3, seed=seed + part, confidence=confidence)
        logits = torch.cat([z[:-1] for z in data[1]]).requires_grad_()
        targets = torch.cat([sequence[1:] for sequence in data[0]])
        losses = [FocalLoss(gamma=g, reduction="none")(logits, targets) for g in (0.0, gamma)]
        signals = [torch.autograd.grad(loss.sum(), logits)[0].abs().sum(dim=-1) for loss in losses]
        ce, focal = (loss.detach() for loss in losses)
        columns.append(torch.stack([(-ce).exp(), ce, focal, *signals]))
    return torch.cat(columns, dim=1).unbind()


def test_instruction_response_loss(*, seed: int = 0, verbose: bool = True, lang: str = "en") -> Demonstration:
    """Check :class:`InstructionResponseLoss` against PyTorch, at three pairs of lengths and three of weights.

    Returns:
        Table ``weighted_parts``, one row per case: mean loss of the instruction tokens, of the response tokens, the
        weighted loss, and the weight of one instruction token over that of one response token, under both weightings.

    Raises:
        AssertionError: If a loss differs from the token-weighted cross-entropy of PyTorch.
    """
    generator = torch.Generator().manual_seed(seed)
    rows: list[TableRow] = []
    for instruction_tokens, response_tokens in _LENGTHS:
        shape = (8, instruction_tokens + response_tokens)
        logits = torch.randn(*shape, 1000, generator=generator)
        targets = torch.randint(1000, shape, generator=generator)
        instruction = (torch.arange(shape[1]) < instruction_tokens).expand(shape)
        logits.scatter_add_(-1, targets[..., None], torch.where(instruction, 0.0, 5.0)[..., None])
        ce = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").reshape(shape)
        for of_instruction, of_response in _WEIGHTS:
            loss = InstructionResponseLoss(of_instruction, of_response)(logits, targets, instruction, ~instruction)
            weights = torch.where(instruction, of_instruction, of_response)
            torch.testing.assert_close(loss, (weights * ce).sum() / weights.sum())
            rows.append(
                {
                    "lengths": f"{instruction_tokens} / {response_tokens}",
                    "weights": f"{of_instruction:g} / {of_response:g}",
                    "instruction_loss": float(ce[instruction].mean()),
                    "response_loss": float(ce[~instruction].mean()),
                    "total": float(loss),
                    "token_ratio": _ratio("tokens", of_instruction, of_response, targets, instruction),
                    "segment_ratio": _ratio("segments", of_instruction, of_response, targets, instruction),
                }
            )
    ratios = [row["segment_ratio"] for row in rows[:: len(_WEIGHTS)]]
    statements = (
        Statement("tokens_keep_ratio", {"low": min(ratios), "high": max(ratios)}),
        Statement("scale_is_kept"),
        Statement("torch_agrees"),
    )
    return shown(Demonstration("test_instruction_response_loss", {"weighted_parts": rows}, statements), verbose, lang)


test_instruction_response_loss.__test__ = False  # type: ignore[attr-defined] # the name is no test of pytest's


def _ratio(weighting: str, of_instruction: float, of_response: float, targets: Tensor, instruction: Tensor) -> float:
    """Return the weight of the first instruction token over that of the last response token."""
    module = InstructionResponseLoss(of_instruction, of_response, weighting=weighting)
    weights = module.weights(targets, instruction, ~instruction)
    return float(weights[0, 0] / weights[0, -1])


def _interval(estimate: dict[str, Any]) -> TableRow:
    return {"elasticity": estimate["value"], "low": estimate["low"], "high": estimate["high"]}
