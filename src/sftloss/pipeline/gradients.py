"""Gradients of a subset of the examples, for `sftloss analyze --signal`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sftloss.errors import ConfigError, mention
from sftloss.pipeline.run import Run
from sftloss.words import percent

if TYPE_CHECKING:
    from sftloss.analysis.signal.frames import SignalStudy
    from sftloss.analysis.signal.gradients import MeasuredGradients
    from sftloss.data import Batch, Example
    from sftloss.finetune.checkpoint import SavedAdam
    from sftloss.training import Attachment, Loss

NORMS, SHARES = "gradients-norms.jsonl", "gradients-shares.jsonl"
"""The files beside the table: what a run measured before it was killed is read again."""

_MOST_GROUPS = 8  # tasks or languages whose gradients are compared; each takes the memory of the trained weights
_ROUGH = 0.05  # of the sum of the shares
_UPDATES = {"sgd": "plain gradient descent", "adam": "Adam's first step", "checkpoint": "the checkpoint's Adam"}
_RAISES = "momentum points elsewhere: the checkpoint's next step raises the loss, and shares of a decrease do not exist"


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
        adam: The optimizer whose update is measured, in place of the one that the study names.
    """

    model: Any
    tokenizer: Any
    examples: Iterable[Example]
    objectives: Mapping[str, Callable[..., Any]]
    lay: Callable[[Batch], Batch]
    run: Run
    table: Path
    adam: SavedAdam | None = None
    _picked: dict[int, Example] = field(default_factory=dict, init=False)

    def measure(self, study: SignalStudy) -> MeasuredGradients:
        """Norms of the subset under each loss, and in additive mode shares and cosines of the trained one.

        The model is given back as it was.
        """
        import torch

        from sftloss.analysis.signal.gradients import MeasuredGradients
        from sftloss.training.gradients.per_example import attached, refuse_sharded

        chosen = _subset(study)
        was_training = self.model.training
        self.model.eval()
        refuse_sharded(self.model)
        try:
            with attached(self.model, self._loss(study.objective, study)) as attachment, torch.enable_grad():
                if study.options.signal != "additive":
                    return MeasuredGradients(*self._norms(attachment, study, chosen, {}))
                return self._with_shares(attachment, study, chosen)
        finally:
            self.model.train(was_training)

    def _loss(self, name: str, study: SignalStudy) -> Loss:
        """The sum over the tokens of one objective; the normalization comes as a weight of each example."""
        from sftloss.training import Loss

        roles = None if study.options.role_weights is None else dict(study.options.role_weights)
        return Loss(self.objectives[name], roles=roles, normalizer=1.0, is_checked=False)

    def _batches(self, chosen: Iterable[int], cell_of: Mapping[int, Any]) -> Iterator[tuple[Batch, list[int]]]:
        """Batches of examples of one cell and of similar length, with their numbers in the data and with progress."""
        from sftloss.data import batches
        from sftloss.data.tokenizer import pad_id_of

        numbers = sorted(set(chosen))
        if missing := set(numbers) - self._picked.keys():  # they are few, and reading all of the data takes time
            self._picked.update((n, example) for n, example in enumerate(self.examples) if n in missing)
        number_of = {id(self._picked[number]): number for number in numbers}
        done, total = 0, sum(self._picked[number].input_ids.numel() for number in numbers)
        pad_id, size = pad_id_of(self.tokenizer), self.run.tokens_per_batch
        for cell in dict.fromkeys(map(cell_of.get, numbers)):
            examples = [self._picked[number] for number in numbers if cell_of.get(number) == cell]
            for batch in batches(examples, pad_id=pad_id, tokens_per_batch=size):
                yield self.lay(batch), [number_of[id(example)] for example in batch.examples]
                done += sum(example.input_ids.numel() for example in batch.examples)
                if self.run.progress is not None:
                    self.run.progress(done, total)

    def _norms(
        self, attachment: Attachment, study: SignalStudy, chosen: list[int], sums: Mapping[str, _Sums]
    ) -> tuple[Any, str]:
        """A frame with the norm of each example under each loss; each batch is written as soon as it is done.

        The same passes add up the gradients of the losses in `sums`.
        """
        import polars as pl

        from sftloss.training.gradients.per_example import example_gradients, question_of

        file = _Lines(self.table / NORMS, {"roles": study.options.role_weights})
        known = {(entry["loss"], int(entry["example"])): entry for entry in file.entries}
        factor = study.factor(study.options.normalization)
        for name in study.objectives:
            loss, total = self._loss(name, study), sums.get(name)
            missing = [number for number in chosen if (name, number) not in known]
            inputs = self._inputs(missing if total is None else chosen, study, {} if total is None else total.cell_of)
            for batch, numbers in inputs:
                question, new = question_of(attachment, batch, loss), {n for n in numbers if (name, n) not in known}
                measured, gradient = example_gradients(
                    attachment, question, has_loop=bool(new), has_whole=total is not None
                )
                norms = measured.norms.cpu().numpy() / factor[np.searchsorted(study.ids, numbers)]
                coverage = str(measured.coverage)
                entries = [
                    {"loss": name, "example": number, "norm": norm, "coverage": coverage}
                    for number, norm in zip(numbers, norms.tolist(), strict=True)
                    if number in new
                ]
                file.add(entries)
                known |= {(name, int(entry["example"])): entry for entry in entries}
                if total is not None:
                    total.add(gradient, numbers[0])
            if total is not None:
                total.finish(is_held=name == study.objective)
        columns = {f"norm:{name}": [known[name, number]["norm"] for number in chosen] for name in study.objectives}
        return pl.DataFrame({"example": chosen, **columns}), known[study.objective, chosen[-1]]["coverage"]

    def _with_shares(self, attachment: Attachment, study: SignalStudy, chosen: list[int]) -> MeasuredGradients:
        """Norms, shares of the update under the trained normalization, and cosines between groups."""
        import polars as pl

        from sftloss.analysis.signal.gradients import Cosines, MeasuredGradients
        from sftloss.training.gradients.direction import update_of
        from sftloss.training.gradients.shares import finite_step

        optimizer, normalization = study.options.optimizer, study.options.normalization.name
        rest = {"objective": study.objective, "roles": study.options.role_weights, "examples": chosen}
        file = _Lines(self.table / SHARES, {**rest, "normalization": normalization, "optimizer": optimizer})
        whole = next((entry for entry in file.entries if "decrease" in entry), None)
        products = {int(entry["example"]): entry for entry in file.entries if "products" in entry}
        missing = [number for number in chosen if number not in products]
        sums: dict[str, _Sums] = {}
        if whole is None or missing:  # the same batches where only shares are missing, so that no bit differs
            sums = {study.objective: _Sums(_groups(study, chosen))}
        if whole is None:
            sums |= {name: _Sums({}) for name in study.objectives if name != study.objective}
        examples, coverage = self._norms(attachment, study, chosen, sums)
        if sums:
            trained = sums[study.objective]
            coefficients = study.factor(study.options.normalization) * study.size
            mass = float(coefficients[np.searchsorted(study.ids, chosen)].sum())
            adam = self.adam
            moved_by = (optimizer,) if adam is None else (adam.optimizer, adam.scale(trained.size, mass))
            update = update_of(self.model, trained.whole, *moved_by)
            if update.decrease < 0:
                raise ConfigError(_RAISES, option="optimizer", cure=f"take {mention('optimizer', 'sgd')}")
            if whole is None:
                sizes = {name: one.size for name, one in sums.items()}
                whole = {"decrease": update.decrease, "cosines": trained.cosines, "norms": sizes}
                file.add([whole])
            step = finite_step(self.model, update, mass)
            for entries in self._products(attachment, study, missing, update.direction, step):
                file.add(entries)
                products |= {int(entry["example"]): entry for entry in entries}
        assert whole is not None
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
            f"Shares of an update by {_UPDATES[optimizer]} under {study.current}, by {methods}. Their sum differs by "
            f"{percent(error)} from what the gradient itself gives."
        )
        if error > _ROUGH:
            how += " The shares are rough; --dtype float32 or float64 computes them better."
        by_example = tokens.group_by("example").agg(pl.col("share").sum())
        cosines = [Cosines(name, tuple(names), tuple(map(tuple, values))) for name, names, values in whole["cosines"]]
        examples = examples.join(by_example, on="example", how="left")
        return MeasuredGradients(examples, coverage, how, whole["norms"], tuple(cosines), tokens)

    def _products(
        self,
        attachment: Attachment,
        study: SignalStudy,
        chosen: list[int],
        direction: Mapping[str, Any],
        step: float,
    ) -> Iterator[list[dict[str, Any]]]:
        """By batch, for each example <g_t, u> of its trained tokens and their places."""
        from sftloss.training.gradients.per_example import question_of
        from sftloss.training.gradients.shares import token_slopes

        loss = self._loss(study.objective, study)
        for batch, numbers in self._inputs(chosen, study, {}):
            question = question_of(attachment, batch, loss)
            slopes, method = token_slopes(attachment, question, direction, step, is_fast=True)
            positions = batch["position_ids"].reshape(-1) + 1  # of the token that is predicted there
            entries = []
            for index, number in enumerate(numbers):
                mine = (question.layout.examples == index) & (question.coefficients != 0)
                parts = (slopes * question.coefficients)[mine].tolist()
                entries.append(
                    {"example": number, "positions": positions[mine].tolist(), "products": parts, "method": method}
                )
            yield entries

    def _inputs(
        self, chosen: list[int], study: SignalStudy, cell_of: Mapping[int, Any]
    ) -> Iterator[tuple[dict[str, Any], list[int]]]:
        """Batches as the model takes them, weighted by the trained normalization."""
        import torch

        factor = study.factor(study.options.normalization)
        for batch, numbers in self._batches(chosen, cell_of):
            weights = torch.from_numpy(factor[np.searchsorted(study.ids, numbers)])[:, None]
            inputs = inputs_by_role(batch, study)
            of_rows = inputs.get("example_weights", torch.ones_like(batch.weights))
            yield {**inputs, "example_weights": of_rows * weights}, numbers


def inputs_by_role(batch: Batch, study: SignalStudy) -> dict[str, Any]:
    """A batch for the model, without text marked as wrong; with weights by role, all roles have weights to multiply."""
    from sftloss.roles import RESPONSE
    from sftloss.training import inputs_of

    weights = batch.weights.clamp(min=0)
    if study.options.role_weights is not None:
        is_stated = (batch.weights != 0) | (batch.roles == RESPONSE)
        weights = weights.where(is_stated, weights.amax(dim=1, keepdim=True))
    return inputs_of(replace(batch, weights=weights))


def _subset(study: SignalStudy) -> list[int]:
    """Numbers of trained examples, spread evenly over the data."""
    trained = study.ids[study.size > 0]
    count = min(len(trained), study.options.signal_examples)
    places = np.linspace(0, len(trained) - 1, count).round().astype(np.int64)
    return [int(one) for one in trained[np.unique(places)]]


def _groups(study: SignalStudy, chosen: list[int]) -> dict[str, dict[int, str]]:
    """By column, the group of each example, where there are several and not too many."""
    out = {}
    for column in ("task", "language"):
        codes, names = study.codes(column)
        of = {number: names[codes[np.searchsorted(study.ids, number)]] for number in chosen}
        if 1 < len(set(of.values())) <= _MOST_GROUPS:
            out[column] = of
    return out


class _Sums:
    """The gradient of the subset under one loss, and of each group of its examples.

    Attributes:
        cell_of: By example, its group in every column; a batch has examples of one cell only.
        whole: The gradient by name of the parameter.
        size: Its norm.
        cosines: For each column its name, the names of its groups, and the cosines between their gradients.
    """

    def __init__(self, groups: Mapping[str, Mapping[int, str]]) -> None:
        self.groups, self.whole, self.size = groups, {}, 0.0  # type: Any, dict[str, Any], float
        self.cell_of = {
            number: tuple(of[number] for of in groups.values()) for number in next(iter(groups.values()), {})
        }
        self.cosines: list[Any] = []
        self._by_group: dict[str, dict[str, dict[str, Any]]] = {column: {} for column in groups}

    def add(self, gradient: Mapping[str, Any], number: int) -> None:
        """Add the gradient of a batch with this example."""
        from sftloss.training.gradients.direction import add_gradient

        mine = [self._by_group[column].setdefault(of[number], {}) for column, of in self.groups.items()]
        for total in [self.whole, *mine]:
            add_gradient(total, gradient)

    def finish(self, *, is_held: bool) -> None:
        """Compute the norm and the cosines, and forget what they were computed from, except a gradient that is held."""
        from sftloss.training.gradients.cosines import cosines_between
        from sftloss.training.gradients.direction import inner_product

        self.size = inner_product(self.whole, self.whole) ** 0.5
        for column, of in self._by_group.items():
            names = sorted(of)
            self.cosines.append([column, names, cosines_between([of[name] for name in names]).tolist()])
        self._by_group, self.whole = {}, self.whole if is_held else {}


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
