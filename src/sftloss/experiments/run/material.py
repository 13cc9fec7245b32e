"""What all arms of a seed share: the rows as tokens, and the model that they start from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch

from sftloss.analysis.lengths.collect import lengths_of
from sftloss.analysis.lengths.forecast import LengthRange, forecasts_by_task
from sftloss.data import Example, Examples, Record, encoding_of, read_records
from sftloss.data.account import ROW_RULES
from sftloss.data.demo import demo_tokenizer
from sftloss.data.overlap import overlap_findings
from sftloss.data.tasks import MULTITASK, study_rows
from sftloss.data.tokenizer import load_tokenizer, pad_id_of
from sftloss.document import Finding
from sftloss.errors import ConfigError
from sftloss.experiments.experiment import Experiment
from sftloss.experiments.run.results import RowGroups
from sftloss.finetune import Recipe
from sftloss.finetune.fine_tune import data_of, loss_of
from sftloss.finetune.rows import Collator, DataSet, hold_out
from sftloss.finetune.setup import loaded
from sftloss.objectives import stored_extras_of
from sftloss.pipeline.question import read_objectives
from sftloss.reference import open_references
from sftloss.rules import findings_of
from sftloss.training.batch.tokens import read_tokens
from sftloss.weights import normalization

TRAIN_ROWS, EVAL_ROWS = 2000, 240
_AT_ONCE = 64
_TUNING_SHARE = 0.1  # of the training rows of a file


@dataclass(frozen=True)
class EncodedRows:
    """Records and the examples made from them, in the same order, and findings about the rows of their file."""

    records: tuple[Record, ...]
    examples: tuple[Example, ...]
    findings: tuple[Finding, ...] = ()

    def groups(self) -> RowGroups:
        """Task, language and prompt of each row; rows with the same tokens before the last answer share a prompt."""
        codes: dict[int, int] = {}
        prompts = [(e.prompts[-1] if e.prompts else 0) or -1 - i for i, e in enumerate(self.examples)]
        return RowGroups(
            tuple(e.task or "" for e in self.examples),
            tuple(e.language or "" for e in self.examples),
            tuple(codes.setdefault(prompt, len(codes)) for prompt in prompts),
        )

    def pick(self, chosen: Iterable[int]) -> EncodedRows:
        """The rows with these indices."""
        at = list(chosen)
        return replace(self, records=tuple(self.records[i] for i in at), examples=tuple(self.examples[i] for i in at))


class Material(NamedTuple):
    """Rows to train on, rows that judge the arms, and rows of another kind (None where not asked for)."""

    train: EncodedRows
    held_out: EncodedRows
    forget: EncodedRows | None


def material(experiment: Experiment, tokenizer: Any) -> Material:
    """Read, encode and split the rows. Generated held-out rows have no wrong answers.

    Raises:
        ConfigError: If there is no such generated task, or a share to hold out leaves one part empty.
        DataError: If most rows of a file cannot be used.
    """
    recipe, held_out = experiment.recipe, None
    if experiment.is_generated:
        train = _generated(experiment, "train", recipe.max_examples or TRAIN_ROWS, tokenizer)
    else:
        train = _from_file(experiment, recipe.data, recipe.max_examples, tokenizer)
    _check_references(experiment, tokenizer, train)
    if recipe.eval_data is not None:
        held_out = _from_file(experiment, recipe.eval_data, experiment.eval_rows, tokenizer)
    elif recipe.eval_share:
        train, held_out = _split(train, recipe)
        held_out = held_out.pick(range(len(held_out.examples))[: experiment.eval_rows])
    else:
        held_out = _generated(experiment, "test", experiment.eval_rows or EVAL_ROWS, tokenizer)
    if not experiment.is_generated and not recipe.eval_share:
        leaked = overlap_findings(train.examples, held_out.examples)
        train = replace(train, findings=(*train.findings, *leaked))
    forget = experiment.forget_data
    return Material(
        train, held_out, None if forget is None else _from_file(experiment, forget, experiment.forget_rows, tokenizer)
    )


def _check_references(experiment: Experiment, tokenizer: Any, rows: EncodedRows) -> None:
    """Refuse stored values of a reference model that do not fit the rows, before the first arm is trained."""
    recipe = experiment.recipe
    has_reference = bool(recipe.reference)
    losses = read_objectives(experiment.losses or (recipe.loss,), has_reference=has_reference, trains=True)
    names = stored_extras_of(*losses.values())
    if recipe.reference and names:
        open_references(recipe.reference, tokenizer, encoding_of(recipe)).check(rows.examples, names)


def second_draw(experiment: Experiment, tokenizer: Any, known: EncodedRows) -> EncodedRows:
    """Generated training rows drawn with another seed, without noise.

    Of a task that has questions not in `known`, only those are kept.
    """
    other = replace(experiment, data_seed=experiment.data_seed + 1, noise=0.0)
    drawn = _generated(other, "train", EVAL_ROWS, tokenizer)
    prompts = {e.prompts for e in known.examples}
    is_new = [e.prompts not in prompts for e in drawn.examples]
    with_new = {e.task for e, new in zip(drawn.examples, is_new, strict=True) if new}
    return drawn.pick(i for i, e in enumerate(drawn.examples) if is_new[i] or e.task not in with_new)


def tuning_rows(experiment: Experiment, tokenizer: Any, known: EncodedRows) -> tuple[EncodedRows, EncodedRows]:
    """Rows to train on and rows to judge by while a learning rate is chosen. The second judge no arm.

    Of generated data they are a second draw of training questions; of a file, one training row in ten.
    """
    if experiment.is_generated:
        return known, second_draw(experiment, tokenizer, known)
    return _split(
        known, replace(experiment.recipe, eval_data=None, eval_share=_TUNING_SHARE, seed=experiment.recipe.seed + 1)
    )


def traced_rows(rows: Material, count: int) -> dict[str, EncodedRows]:
    """Rows whose answers are measured during training, the first `count` of each task.

    ``"seen"`` are training rows; ``"unseen"`` are held-out rows with prompts that training does not have.
    """
    trained = {example.prompts for example in rows.train.examples}
    held_out = rows.held_out.pick(i for i, e in enumerate(rows.held_out.examples) if e.prompts not in trained)
    parts = {"seen": rows.train, "unseen": held_out}
    chosen: dict[str, EncodedRows] = {}
    for name, part in parts.items():
        of_task: Counter[str | None] = Counter()
        picked = []
        for i, example in enumerate(part.examples):
            if of_task[example.task] < count:
                of_task[example.task] += 1
                picked.append(i)
        if picked:
            chosen[name] = part.pick(picked)
    return chosen


def _split(rows: EncodedRows, recipe: Recipe) -> tuple[EncodedRows, EncodedRows]:
    """The rows trained on, and the share held out: the same for every seed of an arm."""
    whole = DataSet.of(rows.examples, "rows")
    place = {id(example): i for i, example in enumerate(rows.examples)}
    train, held_out = (rows.pick(place[id(e)] for e in part.examples)
                       for part in hold_out(whole, recipe.eval_share, recipe.seed))  # fmt: skip
    return train, held_out


def _generated(experiment: Experiment, split: str, count: int, tokenizer: Any) -> EncodedRows:
    tasks = MULTITASK if experiment.data_tasks == ("multitask",) else experiment.data_tasks or None
    noise = experiment.noise if split == "train" else 0.0
    try:
        rows = study_rows(experiment.data_seed, count, split=split, noise=noise, tasks=tasks)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return replace(_encoded(rows, experiment.recipe, tokenizer), findings=())


def _from_file(experiment: Experiment, source: str, limit: int | None, tokenizer: Any) -> EncodedRows:
    recipe = experiment.recipe
    records = read_records(
        source, format=recipe.format, columns=recipe.columns or None, on_error=recipe.on_error, limit=limit
    )
    return _encoded(records, recipe, tokenizer)


def _encoded(records: Iterable[Record], recipe: Recipe, tokenizer: Any) -> EncodedRows:
    examples = Examples(records, tokenizer, **encoding_of(recipe))
    pairs = list(examples.pairs())
    findings = findings_of(ROW_RULES, examples.account)
    return EncodedRows(tuple(record for record, _ in pairs), tuple(example for _, example in pairs), findings)


def forecasts(rows: EncodedRows, recipe: Recipe) -> dict[str, LengthRange]:
    """Range of the mean answer length under the recipe's normalization, by task; the empty name is all rows.

    It is the forecast of `sftloss lengths`, with T read as training reads it: whatever the recipe's roles weight.
    """
    lengths = lengths_of(rows.examples, _sizes(rows, recipe))
    return forecasts_by_task(lengths, normalization(recipe.normalization))


def _sizes(rows: EncodedRows, recipe: Recipe) -> Iterator[float]:
    """T of each row: the sum of its token weights in training before it is divided by the length."""
    # T is of each example, packed or not, and whatever the objective reads
    plain = replace(recipe, loss="cross_entropy", normalization="token-mean", packing=False)
    data, collate, loss = data_of(plain, None, rows.examples)[0], Collator(0), loss_of(plain)
    for begin in range(0, len(data), _AT_ONCE):
        inputs = collate([data[i] for i in range(begin, min(begin + _AT_ONCE, len(data)))])
        inputs.pop("example_weights", None)  # the weights of whole rows, which T leaves out
        yield from read_tokens(loss, inputs).weights.view(inputs["segments"].shape).sum(1).tolist()


def start(experiment: Experiment, seed: int) -> tuple[Any, Any]:
    """The model and the tokenizer from which every arm of a seed starts; adapters are added later.

    Raises:
        ModelError: If one cannot be loaded.
    """
    recipe = experiment.recipe
    if not experiment.is_scratch:
        return loaded(recipe)
    tokenizer = demo_tokenizer() if recipe.tokenizer is None else load_tokenizer(recipe.tokenizer)
    return _llama(experiment, tokenizer, seed), tokenizer


def _llama(experiment: Experiment, tokenizer: Any, seed: int) -> Any:
    """A small Llama with tied embeddings whose weights depend on the seed alone."""
    from transformers import LlamaConfig, LlamaForCausalLM

    width = experiment.width
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=3 * width,
        num_hidden_layers=experiment.layers, num_attention_heads=experiment.heads,
        num_key_value_heads=experiment.heads, max_position_embeddings=2048, tie_word_embeddings=True,
        initializer_range=0.8 * width**-0.5,  # at 0.02 a model this narrow does not learn to copy
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=pad_id_of(tokenizer),
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)
