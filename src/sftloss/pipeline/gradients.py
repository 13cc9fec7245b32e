"""Gradients of a subset of the examples, for `sftloss analyze --signal`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sftloss.pipeline.run import Run

if TYPE_CHECKING:
    from sftloss.analysis.signal.frames import SignalStudy
    from sftloss.analysis.signal.gradients import Cosines, MeasuredGradients
    from sftloss.data import Batch, Example
    from sftloss.training import Attachment, Loss

NORMS = "gradients-norms.jsonl"
"""The file of norms beside the table: what a run computed before it was killed is read again."""

_MOST_GROUPS = 8  # tasks or languages whose gradients are compared; each takes the memory of the trained weights


@dataclass(frozen=True)
class GradientSource:
    """What gradients are measured of.

    Attributes:
        model, tokenizer: As loaded.
        examples: The examples of the table, in its order.
        objective: The trained objective.
        lay: Adds to a batch what the objective reads of reference models.
        run: How much at a time.
        table: The folder of the table.
    """

    model: Any
    tokenizer: Any
    examples: Iterable[Example]
    objective: Callable[..., Any]
    lay: Callable[[Batch], Batch]
    run: Run
    table: Path
    _picked: dict[int, Example] = field(default_factory=dict, init=False)

    def measure(self, study: SignalStudy) -> MeasuredGradients:
        """Norms of the subset, and in additive mode shares and cosines; the model is given back as it was."""
        import polars as pl

        from sftloss.analysis.signal.gradients import MeasuredGradients
        from sftloss.training import Loss
        from sftloss.training.gradients.per_example import attached

        chosen = _subset(study)
        roles = None if study.options.role_weights is None else dict(study.options.role_weights)
        loss = Loss(self.objective, roles=roles, normalizer=1.0, is_checked=False)
        was_training = self.model.training
        self.model.eval()
        try:
            with attached(self.model, loss) as attachment:
                norms, coverage = self._norms(chosen, study)
                examples = pl.DataFrame({"example": list(norms), "norm": list(norms.values())})
                if study.options.signal != "additive":
                    return MeasuredGradients(examples, coverage)
                return self._with_shares(attachment, loss, study, examples, coverage)
        finally:
            self.model.train(was_training)

    def _batches(self, chosen: Iterable[int]) -> Iterator[tuple[Batch, list[int]]]:
        """Batches of some examples, with their numbers in the data."""
        from sftloss.data import batches
        from sftloss.data.tokenizer import pad_id_of

        numbers = sorted(set(chosen))
        if missing := set(numbers) - self._picked.keys():  # they are few, and reading all of the data takes time
            self._picked.update((n, example) for n, example in enumerate(self.examples) if n in missing)
        number_of = {id(self._picked[number]): number for number in numbers}
        examples = [self._picked[number] for number in numbers]
        for batch in batches(examples, pad_id=pad_id_of(self.tokenizer), tokens_per_batch=self.run.tokens_per_batch):
            yield self.lay(batch), [number_of[id(example)] for example in batch.examples]

    def _norms(self, chosen: list[int], study: SignalStudy) -> tuple[dict[int, float], str]:
        """Norm by example, from the file where it has them; each batch is written as soon as it is done."""
        from sftloss.training import per_example_gradients

        head = {"objective": study.objective, "roles": study.options.role_weights}
        path = self.table / NORMS
        known, coverage = _read_norms(path, head)
        missing = [number for number in chosen if number not in known]
        with path.open("a", encoding="utf-8") as file:
            done = 0
            for batch, numbers in self._batches(missing):
                gradients = per_example_gradients(self.model, inputs_by_role(batch, study))
                coverage = str(gradients.coverage)
                for number, norm in zip(numbers, gradients.norms.tolist(), strict=True):
                    known[number] = norm
                    file.write(json.dumps({"example": number, "norm": norm, "coverage": coverage}) + "\n")
                file.flush()
                done += batch.input_ids.numel()
                if self.run.progress is not None:
                    self.run.progress(done, None)
        return {number: known[number] for number in chosen}, coverage

    def _with_shares(
        self, attachment: Attachment, loss: Loss, study: SignalStudy, examples: Any, coverage: str
    ) -> MeasuredGradients:
        """Add shares of the update under the trained normalization, and cosines between groups."""
        import polars as pl

        from sftloss.analysis.signal.gradients import MeasuredGradients
        from sftloss.training.gradients.per_example import question_of
        from sftloss.training.gradients.shares import Direction, gradient_of, inner_product, shares_along

        chosen = examples["example"].to_list()
        inputs = partial(self._inputs, study=study)
        whole: Mapping[str, Any] = {}
        cosines: list[Cosines] = []
        for column in ("task", "language"):
            compared = self._cosines(attachment, loss, study, column, chosen)
            if compared is not None:
                cosines.append(compared[0])
                whole = compared[1]
        whole = whole or gradient_of(attachment, (one for one, _ in inputs(chosen)), loss)
        questions, numbers = [], []
        for batch, names in inputs(chosen):
            questions.append(question_of(attachment, batch, loss))
            numbers += names
        shares = shares_along(attachment, questions, Direction(whole, whole))
        parts = [float(value) for part in shares.examples for value in part]
        frame = examples.join(pl.DataFrame({"example": numbers, "share": parts}), on="example", how="left")
        how = (
            f"Shares of an update by plain gradient descent under {study.current}, by {shares.method}; their sum is "
            f"within {shares.error:.1e} of the gradient's own."
        )
        return MeasuredGradients(frame, coverage, how, inner_product(whole, whole) ** 0.5, tuple(cosines))

    def _cosines(
        self, attachment: Attachment, loss: Loss, study: SignalStudy, column: str, chosen: list[int]
    ) -> tuple[Cosines, Mapping[str, Any]] | None:
        """Cosines between the groups of a column, and the sum of their gradients; None for one group, or too many."""
        from sftloss.analysis.signal.gradients import Cosines
        from sftloss.training.gradients.cosines import group_cosines

        codes, names = study.codes(column)
        groups = {
            name: [one for one in chosen if names[codes[np.searchsorted(study.ids, one)]] == name] for name in names
        }
        groups = {name: mine for name, mine in groups.items() if mine}
        if not 1 < len(groups) <= _MOST_GROUPS:
            return None
        batches = {name: (one for one, _ in self._inputs(mine, study=study)) for name, mine in groups.items()}
        labels, values, whole = group_cosines(attachment, batches, loss)
        return Cosines(column, tuple(labels), tuple(map(tuple, values.tolist()))), whole

    def _inputs(self, chosen: list[int], *, study: SignalStudy) -> Iterator[tuple[dict[str, Any], list[int]]]:
        """Batches as the model takes them, weighted by the trained normalization."""
        import torch

        factor = study.factor(study.options.normalization)
        for batch, numbers in self._batches(chosen):
            weights = torch.from_numpy(factor[np.searchsorted(study.ids, numbers)])
            yield {**inputs_by_role(batch, study), "example_weights": weights}, numbers


def inputs_by_role(batch: Batch, study: SignalStudy) -> dict[str, Any]:
    """A batch for the model; weights by role, where the options give some, replace the data's."""
    from sftloss.training import inputs_of

    inputs = inputs_of(batch)
    if study.options.role_weights is not None:
        del inputs["token_weights"]
    return inputs


def _subset(study: SignalStudy) -> list[int]:
    """Numbers of trained examples, spread evenly over the data."""
    trained = study.ids[study.size > 0]
    count = min(len(trained), study.options.signal_examples)
    places = np.linspace(0, len(trained) - 1, count).round().astype(np.int64)
    return [int(one) for one in trained[np.unique(places)]]


def _read_norms(path: Path, head: Mapping[str, Any]) -> tuple[dict[int, float], str]:
    """Norms and coverage of an earlier run of the same loss; the file begins anew if there is none.

    A killed run may have left the beginning of a line.
    """
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    norms: dict[int, float] = {}
    coverage = ""
    if text.partition("\n")[0] != json.dumps(head):
        path.write_text(json.dumps(head) + "\n", encoding="utf-8")
        return norms, coverage
    for line in text.splitlines()[1:]:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        norms[int(entry["example"])] = float(entry["norm"])
        coverage = str(entry["coverage"])
    if not text.endswith("\n"):
        path.write_text(f"{text}\n", encoding="utf-8")
    return norms, coverage
