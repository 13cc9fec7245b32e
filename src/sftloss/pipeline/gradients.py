"""Gradients of a subset of the examples, for `sftloss analyze --signal`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sftloss.pipeline.run import Run

if TYPE_CHECKING:
    from sftloss.analysis.signal.frames import SignalStudy
    from sftloss.analysis.signal.gradients import MeasuredGradients
    from sftloss.data import Batch, Example
    from sftloss.training import Attachment, Loss

NORMS, SHARES = "gradients-norms.jsonl", "gradients-shares.jsonl"
"""The files beside the table: what a run measured before it was killed is read again."""

_MOST_GROUPS = 8  # tasks or languages whose gradients are compared; each takes the memory of the trained weights
_UPDATES = {"sgd": "plain gradient descent", "adam": "Adam's first step, which has no moments yet"}


@dataclass(frozen=True)
class GradientSource:
    """What gradients are measured of.

    Attributes:
        model, tokenizer: As loaded.
        examples: The examples of the table, in its order.
        objectives: The losses by name; the first is the trained one.
        lay: Adds to a batch what the objectives read of reference models.
        run: How much at a time.
        table: The folder of the table.
    """

    model: Any
    tokenizer: Any
    examples: Iterable[Example]
    objectives: Mapping[str, Callable[..., Any]]
    lay: Callable[[Batch], Batch]
    run: Run
    table: Path
    _picked: dict[int, Example] = field(default_factory=dict, init=False)

    def measure(self, study: SignalStudy) -> MeasuredGradients:
        """Norms of the subset under each loss, and in additive mode shares and cosines of the trained one.

        The model is given back as it was.
        """
        from sftloss.analysis.signal.gradients import MeasuredGradients
        from sftloss.training.gradients.per_example import attached

        chosen = _subset(study)
        was_training = self.model.training
        self.model.eval()
        try:
            with attached(self.model, self._loss(study.objective, study)) as attachment:
                examples, coverage = self._norms(chosen, study)
                if study.options.signal != "additive":
                    return MeasuredGradients(examples, coverage)
                return self._with_shares(attachment, study, chosen, MeasuredGradients(examples, coverage))
        finally:
            self.model.train(was_training)

    def _loss(self, name: str, study: SignalStudy) -> Loss:
        """The sum over the tokens of one objective; the normalization comes as a weight of each example."""
        from sftloss.training import Loss

        roles = None if study.options.role_weights is None else dict(study.options.role_weights)
        return Loss(self.objectives[name], roles=roles, normalizer=1.0, is_checked=False)

    def _batches(self, chosen: Iterable[int]) -> Iterator[tuple[Batch, list[int]]]:
        """Batches of examples of similar length, with their numbers in the data."""
        from sftloss.data import batches
        from sftloss.data.tokenizer import pad_id_of

        numbers = sorted(set(chosen))
        if missing := set(numbers) - self._picked.keys():  # they are few, and reading all of the data takes time
            self._picked.update((n, example) for n, example in enumerate(self.examples) if n in missing)
        number_of = {id(self._picked[number]): number for number in numbers}
        examples = [self._picked[number] for number in numbers]
        for batch in batches(examples, pad_id=pad_id_of(self.tokenizer), tokens_per_batch=self.run.tokens_per_batch):
            yield self.lay(batch), [number_of[id(example)] for example in batch.examples]

    def _norms(self, chosen: list[int], study: SignalStudy) -> tuple[Any, str]:
        """A frame with the norm of each example under each loss; each batch is written as soon as it is done."""
        import polars as pl

        from sftloss.training import per_example_gradients

        file = _Lines(self.table / NORMS, {"roles": study.options.role_weights})
        known = {(entry["loss"], int(entry["example"])): entry for entry in file.entries}
        for name in study.objectives:
            loss = self._loss(name, study)
            missing = [number for number in chosen if (name, number) not in known]
            for batch, numbers in self._counted(missing):
                gradients = per_example_gradients(self.model, inputs_by_role(batch, study), loss)
                coverage = str(gradients.coverage)
                entries = [
                    {"loss": name, "example": number, "norm": norm, "coverage": coverage}
                    for number, norm in zip(numbers, gradients.norms.tolist(), strict=True)
                ]
                file.add(entries)
                known |= {(name, int(entry["example"])): entry for entry in entries}
        columns = {f"norm:{name}": [known[name, number]["norm"] for number in chosen] for name in study.objectives}
        return pl.DataFrame({"example": chosen, **columns}), known[study.objective, chosen[-1]]["coverage"]

    def _counted(self, chosen: list[int]) -> Iterator[tuple[Batch, list[int]]]:
        """As :meth:`_batches`, with progress."""
        done, total = 0, 0
        for batch, numbers in self._batches(chosen):
            total = total or sum(self._picked[number].input_ids.numel() for number in chosen)
            yield batch, numbers
            done += sum(example.input_ids.numel() for example in batch.examples)
            if self.run.progress is not None:
                self.run.progress(done, total)

    def _with_shares(
        self, attachment: Attachment, study: SignalStudy, chosen: list[int], measured: MeasuredGradients
    ) -> MeasuredGradients:
        """Add shares of the update under the trained normalization, and cosines between groups."""
        import polars as pl

        from sftloss.analysis.signal.gradients import Cosines
        from sftloss.training.gradients.direction import update_of

        optimizer, normalization = study.options.optimizer, study.options.normalization.name
        rest = {"objective": study.objective, "roles": study.options.role_weights, "examples": chosen}
        file = _Lines(self.table / SHARES, {**rest, "normalization": normalization, "optimizer": optimizer})
        whole = next((entry for entry in file.entries if "decrease" in entry), None)
        products = {int(entry["example"]): entry for entry in file.entries if "products" in entry}
        missing = [number for number in chosen if number not in products]
        if whole is None or missing:
            gradient, cosines = self._whole(attachment, study, chosen)
            update = update_of(self.model, gradient, optimizer)
            if whole is None:
                sizes = self._sizes(attachment, study, chosen, gradient)
                whole = {"decrease": update.decrease, "cosines": cosines, "norms": sizes}
                file.add([whole])
            for entries in self._products(attachment, study, missing, update):
                file.add(entries)
                products |= {int(entry["example"]): entry for entry in entries}
        tokens = pl.DataFrame(
            {
                "example": [number for number in chosen for _ in products[number]["positions"]],
                "position": [place for number in chosen for place in products[number]["positions"]],
                "share": [value for number in chosen for value in products[number]["products"]],
            },
            schema={"example": pl.Int64, "position": pl.Int64, "share": pl.Float64},
        )
        total = float(tokens["share"].sum())
        tokens = tokens.with_columns(pl.col("share") / (total or float("nan")))
        methods = " and ".join(sorted({one["method"] for one in products.values()}))
        error = abs(total - whole["decrease"]) / (abs(whole["decrease"]) or 1.0)
        how = (
            f"Shares of an update by {_UPDATES[optimizer]} under {study.current}, by {methods}; their sum is within "
            f"{error:.1e} of the gradient's own."
        )
        by_example = tokens.group_by("example").agg(pl.col("share").sum())
        return replace(
            measured,
            examples=measured.examples.join(by_example, on="example", how="left"),
            tokens=tokens,
            update=how,
            wholes=whole["norms"],
            cosines=tuple(
                Cosines(column, tuple(names), tuple(map(tuple, values))) for column, names, values in whole["cosines"]
            ),
        )

    def _whole(
        self, attachment: Attachment, study: SignalStudy, chosen: list[int]
    ) -> tuple[Mapping[str, Any], list[Any]]:
        """The gradient of the subset, and cosines between the groups whose gradients it is the sum of."""
        from sftloss.training.gradients.cosines import group_cosines
        from sftloss.training.gradients.direction import gradient_of

        loss, inputs = self._loss(study.objective, study), partial(self._inputs, study=study)
        cosines: list[Any] = []
        whole: Mapping[str, Any] = {}
        for column in ("task", "language"):
            codes, names = study.codes(column)
            of = {number: names[codes[np.searchsorted(study.ids, number)]] for number in chosen}
            groups = {name: [number for number in chosen if of[number] == name] for name in names}
            groups = {name: mine for name, mine in groups.items() if mine}
            if 1 < len(groups) <= _MOST_GROUPS:
                batches = {name: (one for one, _ in inputs(mine)) for name, mine in groups.items()}
                labels, values, whole = group_cosines(attachment, batches, loss)
                cosines.append([column, labels, values.tolist()])
        return whole or gradient_of(attachment, (one for one, _ in inputs(chosen)), loss), cosines

    def _sizes(
        self, attachment: Attachment, study: SignalStudy, chosen: list[int], whole: Mapping[str, Any]
    ) -> dict[str, float]:
        """Norm of the subset's gradient under each loss; the trained one's is known."""
        from sftloss.training.gradients.direction import gradient_of, inner_product

        sizes = {}
        for name in study.objectives:
            if name != study.objective:
                batches = (one for one, _ in self._inputs(chosen, study=study))
                gradient: Mapping[str, Any] = gradient_of(attachment, batches, self._loss(name, study))
            else:
                gradient = whole
            sizes[name] = inner_product(gradient, gradient) ** 0.5
        return sizes

    def _products(
        self, attachment: Attachment, study: SignalStudy, chosen: list[int], update: Any
    ) -> Iterator[list[dict[str, Any]]]:
        """By batch, for each example <g_t, u> of its trained tokens and their places."""
        from sftloss.training.gradients.per_example import question_of
        from sftloss.training.gradients.shares import token_slopes

        loss = self._loss(study.objective, study)
        for batch, numbers in self._inputs(chosen, study=study):
            question = question_of(attachment, batch, loss)
            slopes, method = token_slopes(attachment, question, update.direction)
            positions = batch["position_ids"].reshape(-1) + 1  # of the token that is predicted there
            entries = []
            for index, number in enumerate(numbers):
                mine = (question.layout.examples == index) & (question.coefficients != 0)
                parts = (slopes * question.coefficients)[mine].tolist()
                entries.append(
                    {"example": number, "positions": positions[mine].tolist(), "products": parts, "method": method}
                )
            yield entries

    def _inputs(self, chosen: list[int], *, study: SignalStudy) -> Iterator[tuple[dict[str, Any], list[int]]]:
        """Batches as the model takes them, weighted by the trained normalization."""
        import torch

        factor = study.factor(study.options.normalization)
        for batch, numbers in self._counted(chosen):
            weights = torch.from_numpy(factor[np.searchsorted(study.ids, numbers)])[:, None]
            inputs = inputs_by_role(batch, study)
            of_rows = inputs.get("example_weights", torch.ones_like(batch.weights))
            yield {**inputs, "example_weights": of_rows * weights}, numbers


def inputs_by_role(batch: Batch, study: SignalStudy) -> dict[str, Any]:
    """A batch for the model; with weights by role, for these to multiply, all roles have weights."""
    from sftloss.roles import RESPONSE
    from sftloss.training import inputs_of

    if study.options.role_weights is None:
        return inputs_of(batch)
    weights, largest = batch.weights, batch.weights.amax(dim=1, keepdim=True)
    is_stated = (weights != 0) | (batch.roles == RESPONSE)
    return inputs_of(replace(batch, weights=weights.where(is_stated, largest)))


def _subset(study: SignalStudy) -> list[int]:
    """Numbers of trained examples, spread evenly over the data."""
    trained = study.ids[study.size > 0]
    count = min(len(trained), study.options.signal_examples)
    places = np.linspace(0, len(trained) - 1, count).round().astype(np.int64)
    return [int(one) for one in trained[np.unique(places)]]


class _Lines:
    """A file with one line of JSON for each thing that is measured, so that a killed run continues with those.

    Attributes:
        entries: The lines that were there. A file of another question begins anew, and the beginning of a line that
            a killed run left behind is passed over.
    """

    def __init__(self, path: Path, question: Mapping[str, Any]) -> None:
        self.path, self.entries = path, []  # type: Path, list[dict[str, Any]]
        head, text = json.dumps(question), path.read_text(encoding="utf-8") if path.is_file() else ""
        if text.partition("\n")[0] != head:
            path.write_text(head + "\n", encoding="utf-8")
            return
        for line in text.splitlines()[1:]:
            try:
                self.entries.append(json.loads(line))
            except ValueError:
                continue
        if not text.endswith("\n"):
            path.write_text(f"{text}\n", encoding="utf-8")

    def add(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Write some more, at once."""
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in entries)
