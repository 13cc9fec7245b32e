"""Answers made ready for forecasts: which count, which prompts they share, what is resampled together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sftloss.analysis.lengths.tilt import Lengths, conflicting, sequence_weights
from sftloss.numbers import (
    Codes,
    Estimate,
    Floats,
    by_unit,
    cannot_tell,
    ratio_estimates,
    resampling_units,
    share_estimates,
)
from sftloss.numbers.bootstrap import REPLICATES
from sftloss.weights import Normalization

SHARED = 0.05  # share of answers whose prompt has other answers, below which they stand for nobody else


@dataclass(frozen=True)
class Answers:
    """The trained answers whose length is known, shape ``(answers,)``, and the examples they are in.

    Attributes:
        ids, size, output: As in `Lengths`.
        prompts: Codes from 0; an answer without a prompt has a code of its own. None where prompts are not known.
        has_prompt: Whether there is a prompt; all False where prompts are not known.
        tasks: Codes from 0; None where there are not at least two.
        units: What each answer is resampled with: all answers of examples that share their first prompt.
        sizes: T of every trained example, those whose answers are all cut off among them.
        row_weights: Weight of the whole row of each of these examples.
        example: Index into `sizes`, `row_weights` and `examples`.
        examples: Ids of the trained examples.
        cut: Number of trained answers left out because they are cut off: their length is not known.
    """

    ids: Codes
    size: Floats
    output: Floats
    prompts: Codes | None
    has_prompt: NDArray[np.bool_]
    tasks: Codes | None
    units: Codes
    sizes: Floats
    row_weights: Floats
    example: Codes
    examples: Codes
    cut: int

    def only(self, keep: NDArray[np.bool_]) -> Answers:
        """Some of the answers; their weights stay what they are among all of them."""
        return replace(
            self,
            ids=self.ids[keep],
            size=self.size[keep],
            output=self.output[keep],
            prompts=None if self.prompts is None else _codes(self.prompts[keep]),
            has_prompt=self.has_prompt[keep],
            tasks=None,
            units=self.units[keep],
            example=self.example[keep],
        )

    def weights(self, rule: Normalization) -> Floats:
        """w(T) of each answer's example, times the weight of its row."""
        return sequence_weights(self.sizes, rule)[self.example] * self.counts

    @cached_property
    def counts(self) -> Floats:
        """How often each answer counts: the weight of its row."""
        return self.row_weights[self.example]

    @cached_property
    def seen(self) -> NDArray[np.bool_]:
        """Answers to a prompt that has answers of several lengths."""
        if self.prompts is None:
            return np.zeros(len(self.ids), dtype=bool)
        return conflicting(self.output, self.prompts)

    @cached_property
    def cannot_tell(self) -> str:
        """Why the data cannot show a tilt given the prompt, or an empty string."""
        reason = cannot_tell(self.output)
        if reason:
            return reason
        if self.prompts is not None and not self.has_prompt.any():
            return "these rows are plain text, which has no prompt"
        shared = float(self.seen.mean())
        if shared == 0:
            return "no prompt has two answers of different length"
        if shared < SHARED:
            return f"only {100 * shared:.1f} % of the answers share a prompt with an answer of another length"
        return ""


def are_counted(lengths: Lengths) -> NDArray[np.bool_]:
    """Which answers count: those of trained examples, with a trained token, and not cut off."""
    trained = (lengths.size > 0) & (lengths.output > 0)
    return trained if lengths.cut is None else trained & ~lengths.cut


def ready(lengths: Lengths) -> Answers:
    """The answers that count, with what they are weighed and resampled by."""
    keep = are_counted(lengths)
    examples, first, which = np.unique(lengths.ids[lengths.size > 0], return_index=True, return_inverse=True)
    example = np.zeros(len(lengths.ids), dtype=np.int64)
    example[lengths.size > 0] = which.ravel()
    opening = None if lengths.prompts is None else lengths.prompts[lengths.size > 0][first]
    units = resampling_units(examples, opening)
    prompts = None if lengths.prompts is None else lengths.prompts[keep]
    tasks = None if lengths.tasks is None or len(np.unique(lengths.tasks)) < 2 else lengths.tasks
    sizes = lengths.size[lengths.size > 0][first]
    row_weights = lengths.row_weights
    return Answers(
        lengths.ids[keep],
        lengths.size[keep],
        lengths.output[keep],
        None if prompts is None else _codes(np.where(prompts < 0, -1 - np.arange(len(prompts)), prompts)),
        np.zeros(int(keep.sum()), dtype=bool) if prompts is None else prompts >= 0,
        None if tasks is None else _codes(tasks[keep]),
        units[example[keep]],
        sizes,
        np.ones(len(sizes)) if row_weights is None else row_weights[lengths.size > 0][first],
        example[keep],
        examples,
        int(((lengths.size > 0) & (lengths.output > 0) & ~keep).sum()),
    )


def _codes(groups: Codes) -> Codes:
    return np.unique(groups, return_inverse=True)[1].ravel()


class Resampling:
    """From two columns of answers to the ratio of their sums, with its interval; the draws are the same each time."""

    def __init__(self, units: Codes, *, replicates: int = REPLICATES, seed: int = 0) -> None:
        self._units, self._replicates, self._seed = units, replicates, seed

    def ratio(self, top: Floats, bottom: Floats) -> Estimate:
        return self._estimate(ratio_estimates, top, bottom)

    def share(self, of: NDArray[np.bool_]) -> Estimate:
        return self._estimate(share_estimates, of, np.ones(len(of)))

    def _estimate(self, method: Callable[..., list[Estimate]], top: NDArray[Any], bottom: Floats) -> Estimate:
        units, sums = by_unit(self._units, np.stack([top, bottom], axis=1))
        return method(sums[:, :1], sums[:, 1:], units, replicates=self._replicates, seed=self._seed)[0]
