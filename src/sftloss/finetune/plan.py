"""A run before it runs: counts of rows and steps, and memory from the shapes alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import ceil
from typing import Any

import torch

from sftloss.data import Example
from sftloss.data.tokenizer import characters, load_tokenizer
from sftloss.decoder.loading import as_model_error, check_layers, with_fast_dtype
from sftloss.document import TokenStrip
from sftloss.finetune.recipe import Recipe
from sftloss.finetune.rows import DataSet, check_marks, check_vocabulary, rows_accounts
from sftloss.finetune.setup import check_packages, computes_on, dtype_of, model_name, with_adapters
from sftloss.finetune.task_weights import weighted
from sftloss.models import model_folder
from sftloss.roles import ROLES

# values an optimizer holds for each parameter it trains; those not named hold two, as Adam does
_OPTIMIZER_VALUES = {"sgd": 0, "adafactor": 0.01, "rmsprop": 1, "adagrad": 1, "lion_32bit": 1}


@dataclass(frozen=True)
class TrainingPlan:
    """A run before it runs.

    Attributes:
        counts: ``examples``, ``rows``, ``tokens``, ``trained_tokens``, ``truncated``, ``refused``, ``held_out``,
            ``rows_per_step``, ``steps``, ``longest``.
        accounts: What became of the rows of each source, as :func:`sftloss.finetune.rows.rows_account` has it.
        tasks: By task, where tasks are weighted: ``examples`` and ``trained_tokens``.
        memory: Bytes on each process by what holds them; ``logits_not_held`` is what a loss from logits would hold on
            top. Activations are a rule of thumb, everything else is counted.
        first: The first example, to show what is trained.
        tokenizer: Its tokenizer.
    """

    counts: Mapping[str, int]
    memory: Mapping[str, int]
    first: Example
    tokenizer: Any
    accounts: Sequence[Mapping[str, Any]] = ()
    tasks: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Bytes held at once on each process, logits apart."""
        return sum(size for name, size in self.memory.items() if name != "logits_not_held")


def plan(recipe: Recipe, *, ranks: int = 1) -> TrainingPlan:
    """Read the data and the model's shape, not its weights, and return what the run would do.

    Args:
        recipe: The run.
        ranks: Processes that will share it; each holds the whole model.

    Raises:
        ConfigError: If the recipe cannot be used.
        DataError: If no row can be trained on.
        ModelError: If the model's configuration or tokenizer cannot be read.

    Example:
        >>> plan(Recipe(model="demo", data="demo")).counts["steps"]
        75
    """
    from sftloss.finetune.fine_tune import data_of, loss_of, references_of

    check_packages(recipe)
    loss = loss_of(recipe)
    model, tokenizer = _outline(recipe)
    data, held_out = data_of(recipe, tokenizer)
    check_vocabulary(model.config, data, held_out)
    check_marks(loss, data, held_out)
    references_of(recipe, loss, tokenizer, data, held_out)
    weighted(loss, recipe, data)
    batches = ceil(len(data) / (recipe.batch_size * ranks))
    counts = {
        **data.counts(),
        "refused": sum(data.refused.values()),
        "held_out": 0 if held_out is None else len(held_out.examples),
        "longest": _longest(data),
        "rows_per_step": recipe.batch_size * recipe.grad_accum * ranks,
        "steps": recipe.max_steps or ceil(recipe.epochs * max(ceil(batches / recipe.grad_accum), 1)),
    }
    tasks = {name: {"examples": 0, "trained_tokens": 0} for name in data.names("task") if recipe.tasks is not None}
    for example in data.examples if tasks else ():
        tasks[example.task or ""]["examples"] += 1
        tasks[example.task or ""]["trained_tokens"] += int((example.weights != 0).sum())
    memory = _memory(recipe, model, data)
    return TrainingPlan(counts, memory, data.examples[0], tokenizer, rows_accounts(data, held_out), tasks)


def strip_of(example: Example, tokenizer: Any) -> TokenStrip:
    """An example piece by piece, each with its weight as a part of the largest; a split character is one piece."""
    largest = float(example.weights.abs().max()) or 1.0
    shades = [float(weight) / largest for weight in example.weights.abs().tolist()]
    pieces: list[tuple[str, str, float]] = []
    kinds = zip(example.input_ids.tolist(), example.roles.tolist(), shades, strict=True)
    for (role, shade), part in groupby(kinds, key=lambda kind: kind[1:]):
        texts = characters([token for token, _, _ in part], tokenizer)
        pieces += [(text, ROLES[role], shade) for _, text in texts]
    shown, roles, values = zip(*pieces, strict=True)
    return TokenStrip(str(example.origin), ("weight",), shown, roles, (values,))


def _outline(recipe: Recipe) -> tuple[Any, Any]:
    """The model without its numbers, and the tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    name, revision = model_name(recipe), recipe.revision
    with as_model_error("model", name):
        config = AutoConfig.from_pretrained(model_folder(name), revision=revision)
        check_layers(config, model_folder(name))
        dtype = dtype_of(recipe)
        dtype = dtype if isinstance(dtype, torch.dtype) else getattr(config, "dtype", None) or torch.float32
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
            if recipe.dtype == "auto":
                model = with_fast_dtype(model, computes_on(recipe))
            if recipe.lora is not None:
                model = with_adapters(model, recipe.lora, recipe.seed)
        return model, load_tokenizer(recipe.tokenizer or name, revision=revision)


def _memory(recipe: Recipe, model: Any, data: DataSet) -> dict[str, int]:
    parameters = list(model.parameters())
    trained = sum(p.numel() * p.element_size() for p in parameters if p.requires_grad)
    config, tokens = model.config.get_text_config(), recipe.batch_size * _longest(data)
    width = 2 if recipe.autocast or parameters[0].element_size() == 2 else parameters[0].element_size()
    return {
        "parameters": sum(p.numel() * p.element_size() for p in parameters),
        "gradients": trained,
        "optimizer": round(_OPTIMIZER_VALUES.get(recipe.optimizer, 2) * trained),
        "activations": _activations(config, tokens, width, recipe.gradient_checkpointing),
        # in the compute type, in float32, and their gradient in each
        "logits_not_held": tokens * int(config.vocab_size) * (width + 4) * 2,
    }


def _activations(config: Any, tokens: int, width: int, is_checkpointed: bool) -> int:
    """A layer keeps about 18 values a token and hidden unit and 4 a unit of its MLP, attention fused.

    Measured on the resident size of small Llama models in float32, which this was within a third of; with everything
    computed twice a layer's inputs are kept, and the whole of one layer.
    """
    layers, hidden = int(config.num_hidden_layers), int(config.hidden_size)
    layer = 18 * hidden + 4 * int(getattr(config, "intermediate_size", None) or 4 * hidden)
    return tokens * width * (layers * hidden + layer if is_checkpointed else layers * layer)


def _longest(data: DataSet) -> int:
    return max(sum(len(data.examples[i].input_ids) for i in row) for row in data.rows)
