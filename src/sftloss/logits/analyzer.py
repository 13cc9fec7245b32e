"""Losses and gradients of sequences as a function of length; one sequence is one observation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sftloss.logits.summary import ANCHORS, MECHANICAL, assess, by_length, mean, printed, std
from sftloss.objectives import cross_entropy, focal, label_smoothing
from sftloss.statistics import IGNORED, TokenStats, from_logits
from sftloss.weights import length_weights, position_weights

if TYPE_CHECKING:
    from sftloss.numbers import Estimate


_TOGETHER = 8  # sequences of a batch


@dataclass(frozen=True)
class _Loss:
    """An objective, and a function from ones and segments ``(tokens,)`` to the weights of a sequence's tokens."""

    objective: Callable[[TokenStats], Tensor]
    weights: Callable[[Tensor, Tensor], Tensor] = partial(length_weights, alpha=0.0)
    is_sum: bool = True


class LossFunctionAnalyzer:
    """Relate the losses and gradients of sequences to their lengths; one sequence is one observation.

    Args:
        vocab_size: Number of real vocabulary entries, where the logits have padding columns after them. None uses
            every column.
        gamma: Exponent of the focal loss.
        smoothing: Weight of the uniform distribution in the smoothed cross-entropy.
        ramp: Weights of the first and the last token in the position-weighted cross-entropy, scaled to mean 1.
        resamples: Number of bootstrap resamples for each 95 % interval.
        seed: Seed of the resampling.

    Example:
        >>> from sftloss.logits import generate_test_data
        >>> sequences, logits = generate_test_data(vocab_size=50, num_samples=40)
        >>> result = LossFunctionAnalyzer().analyze_length_bias(sequences, logits)
        >>> result["bias_assessment"]
        'neutral'
    """

    def __init__(
        self,
        vocab_size: int | None = None,
        *,
        gamma: float = 2.0,
        smoothing: float = 0.1,
        ramp: tuple[float, float] = (0.5, 1.0),
        resamples: int = 1000,
        seed: int = 0,
    ) -> None:
        self.vocab_size = vocab_size
        self._resamples, self._seed = resamples, seed
        self.losses = {
            "standard_ce": _Loss(cross_entropy),
            "length_normalized_ce": _Loss(cross_entropy, partial(length_weights, alpha=1.0), is_sum=False),
            "focal_loss": _Loss(partial(focal, gamma=gamma)),
            "label_smoothing_ce": _Loss(partial(label_smoothing, epsilon=smoothing)),
            "weighted_ce": _Loss(cross_entropy, partial(position_weights, start=ramp[0], end=ramp[1])),
        }

    def analyze_length_bias(
        self, sequences: Sequence[Tensor], logits: Sequence[Tensor], *, verbose: bool = False
    ) -> dict[str, Any]:
        """Relate the cross-entropy of a sequence, summed and per token, to its length.

        Args:
            sequences: Token ids, one ``(n,)`` tensor per sequence; ``-100`` is no target.
            logits: ``(n, vocab)`` each, **not shifted**: row t predicts token t + 1.
            verbose: Whether to print the :func:`length_summary` of the result.

        Returns:
            ``length_stats``
                By length T: ``count``, and ``mean`` and ``std`` (None for one sequence) of ``total_loss`` and
                ``mean_loss``. T counts the targets, so ``mean_loss`` is the length-normalized loss.
            ``elasticity``
                Of ``total_loss`` and ``mean_loss``: ``value``, ``low``, ``high``, ``n``, ``reason``.
            ``correlations``, ``spearman``
                Pearson and rank correlation of both: ``r``, ``p``, ``n``, ``reason``. Secondary, see ``note``.
            ``bias_assessment``
                Of the *per-token* loss: ``neutral``, ``long_harder``, ``short_harder``, ``inconclusive`` or
                ``insufficient``.
            ``per_example``, ``excluded``
                The value of each sequence; the number of sequences without a target.

        Raises:
            ValueError: If the two lists, or a sequence and its logits, differ in length.
        """
        from sftloss.numbers import pearson, spearman

        rows, excluded = self._rows("analyze_length_bias", sequences, logits)
        lengths = torch.tensor([float(targets.numel()) for _, targets in rows], dtype=torch.float64)
        total = torch.tensor([float(self._token_ce(z, y).sum()) for z, y in rows], dtype=torch.float64)
        both = {"total_loss": total, "mean_loss": total / lengths}
        elasticities = {name: self._elasticity(values, lengths) for name, values in both.items()}
        result = {
            "length_stats": by_length(lengths, both),
            "elasticity": {name: estimate.plain() for name, estimate in elasticities.items()},
            "correlations": {name: pearson(lengths, values).plain() for name, values in both.items()},
            "spearman": {name: spearman(lengths, values).plain() for name, values in both.items()},
            "bias_assessment": assess(elasticities["mean_loss"], lengths),
            "per_example": {"length": lengths.tolist(), **{name: values.tolist() for name, values in both.items()}},
            "excluded": excluded,
            "note": MECHANICAL,
        }
        return printed(result, verbose)

    def analyze_gradient_magnitude_bias(
        self, sequences: Sequence[Tensor], model: nn.Module, *, train_mode: bool = False, verbose: bool = False
    ) -> dict[str, Any]:
        r"""Relate the norm of a sequence's parameter gradient to its length.

        The loss is :math:`\sum_t \ell_t`; the gradient of the mean loss is 1/T of its own. Models of transformers take
        one backward pass for several sequences (:func:`sftloss.per_example_gradients`), others one for each.
        The norm of that falls about as :math:`T^{-1/2}`, because nearly independent token gradients cancel in
        the average. This is no bias. No ``.grad`` changes, and every module's training flag is restored.

        Args:
            sequences: Token ids, one ``(n,)`` tensor per sequence; ``-100`` is no target.
            model: Called as ``model(ids)`` with ids ``(1, n)``. It returns logits ``(1, n, vocab)``, not shifted: as
                a tensor, as the first item of a tuple, or as ``.logits``.
            train_mode: Whether to run in training mode, with dropout. The default is evaluation mode.
            verbose: Whether to print the :func:`length_summary` of the result.

        Returns:
            ``per_example``
                ``length``, ``loss`` (per token), ``grad_norm_sum`` and ``grad_norm_mean`` (of the summed and of the
                mean loss).
            ``elasticity``, ``spearman``
                Of both norms, in the length.
            ``length_stats``
                By length T: ``count``, and mean and std of the loss and of both norms.
            ``excluded``, ``normalization``
                The number of sequences without a target; the loss that each norm belongs to.

        Raises:
            ValueError: If no parameter requires a gradient, or the model does not return such logits.
        """
        from sftloss.numbers import spearman

        parameters = [p for p in model.parameters() if p.requires_grad]
        if not parameters:
            raise ValueError("analyze_gradient_magnitude_bias: no parameter of the model requires a gradient.")
        modes = {module: module.training for module in model.modules()}
        model.train(train_mode)
        try:
            device = parameters[0].device
            kept = [one.to(device) for one in sequences if bool((one[1:] != IGNORED).any())]
            table = self._gradients_together(model, kept)
            if table is None:
                table = [self._gradient_of(model, parameters, one) for one in kept]
        finally:
            for module, was_training in modes.items():
                module.training = was_training
        lengths, loss, norm = torch.tensor(table, dtype=torch.float64).reshape(-1, 3).unbind(dim=1)
        norms = {"grad_norm_sum": norm, "grad_norm_mean": norm / lengths}
        columns = {"loss": loss, **norms}
        result = {
            "per_example": {"length": lengths.tolist(), **{name: c.tolist() for name, c in columns.items()}},
            "elasticity": {name: self._elasticity(c, lengths).plain() for name, c in norms.items()},
            "spearman": {name: spearman(lengths, c).plain() for name, c in norms.items()},
            "length_stats": by_length(lengths, columns),
            "excluded": len(sequences) - len(table),
            "normalization": "grad_norm_sum: of the loss summed over targets; grad_norm_mean: of its mean, over T.",
            "note": ANCHORS,
        }
        return printed(result, verbose)

    def compare_loss_functions(
        self, sequences: Sequence[Tensor], logits: Sequence[Tensor], *, verbose: bool = False
    ) -> dict[str, dict[str, Any]]:
        r"""Compare five losses: their values, and how their training signal depends on the length.

        Values of different losses are on different scales, so a lower value does not mean a better loss. Compare
        ``signal_elasticity`` instead: the elasticity in T of :math:`\sum_t \lVert \partial L / \partial z_t \rVert_1`,
        the size of a sequence's gradient in the logits.

        Args:
            sequences: As for :meth:`analyze_length_bias`.
            logits: As for :meth:`analyze_length_bias`.
            verbose: Whether to print the :func:`length_summary` of the result.

        Returns:
            For each loss (``standard_ce``, ``length_normalized_ce``, ``focal_loss``, ``label_smoothing_ce``,
            ``weighted_ce``): ``total_loss``, ``mean_loss`` and ``std_loss`` over sequences; ``is_sum``;
            ``elasticity`` of the loss; ``signal_elasticity``. Secondary (see ``note``) are Pearson's
            ``length_bias_correlation`` with ``bias_p_value``, and ``normalized_bias_correlation`` of the loss per
            token (a loss that is a mean already is not divided again).

        Raises:
            ValueError: As :meth:`analyze_length_bias`.
        """
        rows, _ = self._rows("compare_loss_functions", sequences, logits)
        lengths = torch.tensor([float(targets.numel()) for _, targets in rows], dtype=torch.float64)
        pairs = [self._values_and_signals(z, targets) for z, targets in rows]
        values, signals = torch.tensor(pairs, dtype=torch.float64).reshape(-1, len(self.losses), 2).unbind(dim=2)
        result = {
            name: self._described(loss, values[:, column], signals[:, column], lengths)
            for column, (name, loss) in enumerate(self.losses.items())
        }
        return printed(result, verbose)

    def _described(self, loss: _Loss, values: Tensor, signals: Tensor, lengths: Tensor) -> dict[str, Any]:
        from sftloss.numbers import pearson

        plain = pearson(lengths, values).plain()
        per_token = pearson(lengths, values / lengths if loss.is_sum else values).plain()
        return {
            "total_loss": float(values.sum()),
            "mean_loss": mean(values),
            "std_loss": std(values),
            "is_sum": loss.is_sum,
            "elasticity": self._elasticity(values, lengths).plain(),
            "signal_elasticity": self._elasticity(signals, lengths).plain(),
            "length_bias_correlation": plain["r"],
            "bias_p_value": plain["p"],
            "normalized_bias_correlation": per_token["r"],
            "reason": plain["reason"] or per_token["reason"],
            "note": MECHANICAL if loss.is_sum else "",
        }

    def _elasticity(self, amounts: Tensor, lengths: Tensor) -> Estimate:
        from sftloss.numbers import elasticity

        return elasticity(lengths, amounts, replicates=self._resamples, seed=self._seed)

    def _rows(
        self, name: str, sequences: Sequence[Tensor], logits: Sequence[Tensor]
    ) -> tuple[list[tuple[Tensor, Tensor]], int]:
        """Return aligned logits and targets of each sequence, and the number of sequences without a target."""
        if len(sequences) != len(logits):
            raise ValueError(
                f"{name}: got {len(sequences)} sequences and {len(logits)} logits; their numbers must agree."
            )
        rows = []
        for index, (sequence, z) in enumerate(zip(sequences, logits, strict=True)):
            if sequence.dim() != 1 or z.dim() != 2 or len(z) != len(sequence):
                raise ValueError(
                    f"{name}: sequence {index} must be (n,) and its logits (n, vocab), not shifted; got "
                    f"{tuple(sequence.shape)} and {tuple(z.shape)}."
                )
            targets = sequence[1:].to(z.device)
            kept = targets != IGNORED
            if bool(kept.any()):
                rows.append((z[:-1, : self.vocab_size][kept].detach(), targets[kept]))
        return rows, len(sequences) - len(rows)

    def _token_ce(self, logits: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(from_logits(logits, targets, fields=("target_logprob",)))

    def _values_and_signals(self, logits: Tensor, targets: Tensor) -> list[tuple[float, float]]:
        """Return each loss of one sequence, and the L1 norm of its gradient in the logits."""
        with torch.enable_grad():
            z = logits.float().requires_grad_()
            stats = from_logits(z, targets, fields=("target_logprob", "other_logprob", "mean_logprob"))
            pairs = []
            ones, segments = torch.ones(targets.numel(), device=z.device), torch.zeros_like(targets)
            for loss in self.losses.values():
                value = (loss.weights(ones, segments) * loss.objective(stats)).sum()
                (slope,) = torch.autograd.grad(value, z, retain_graph=True)
                pairs.append((float(value.detach()), float(slope.abs().sum(dtype=torch.float64))))
        return pairs

    def _gradients_together(
        self, model: nn.Module, sequences: Sequence[Tensor]
    ) -> list[tuple[float, float, float]] | None:
        """Return :meth:`_gradient_of` of every sequence, from batches; None for a model that no loss is attached to."""
        from sftloss.errors import ModelError
        from sftloss.training import Loss, per_example_gradients

        if self.vocab_size is not None or not hasattr(model, "get_output_embeddings"):
            return None
        table = []
        for start in range(0, len(sequences), _TOGETHER):
            part = sequences[start : start + _TOGETHER]
            lengths = torch.tensor([one.numel() for one in part], device=part[0].device)
            labels = nn.utils.rnn.pad_sequence(list(part), batch_first=True, padding_value=IGNORED)
            mask = torch.arange(labels.shape[1], device=labels.device)[None] < lengths[:, None]
            batch = {"input_ids": labels.clamp(min=0), "labels": labels, "attention_mask": mask.long()}
            try:
                gradients = per_example_gradients(model, batch, Loss(normalizer=1.0))
            except ModelError:
                return None
            counts = (labels[:, 1:] != IGNORED).sum(1).double()
            losses = gradients.losses.to(counts) / counts
            table += list(zip(counts.tolist(), losses.tolist(), gradients.norms.tolist(), strict=True))
        return table

    def _gradient_of(
        self, model: nn.Module, parameters: list[nn.Parameter], sequence: Tensor
    ) -> tuple[float, float, float]:
        """Return length, loss per token, and gradient norm of the summed loss of one sequence."""
        targets = sequence[1:]
        with torch.enable_grad():
            logits = _logits_of(model(sequence.clamp(min=0)[None]), sequence.numel())
            losses = self._token_ce(logits[:-1, : self.vocab_size], targets)
            slopes = torch.autograd.grad(losses.sum(), parameters, allow_unused=True)
        squares = [slope.double().square().sum() for slope in slopes if slope is not None]
        count = int((targets != IGNORED).sum())
        return float(count), float(losses.detach().sum()) / count, float(torch.stack(squares).sum().sqrt())


def _logits_of(output: Any, tokens: int) -> Tensor:
    logits = getattr(output, "logits", output)
    if isinstance(logits, tuple | list):
        logits = logits[0]
    if isinstance(logits, Tensor) and logits.dim() == 3 and logits.shape[:2] == (1, tokens):
        return logits[0]
    got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    raise ValueError(
        f"analyze_gradient_magnitude_bias: the model must return logits (1, {tokens}, vocab), alone, first in a tuple "
        f"or as .logits; got {got}."
    )
