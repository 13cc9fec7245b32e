"""How the arms were trained and judged, from the experiment and its results alone."""

from __future__ import annotations

from sftloss.document import Cell, Column, Section, Table
from sftloss.experiments.experiment import Experiment
from sftloss.experiments.verdicts.comparisons import Results
from sftloss.models import DESCRIPTIONS
from sftloss.words import counted, listed, number, percent

METHOD, LEARNING_RATE = "method", "learning rate"
"""Id of the section and its table; the row about the learning rate."""

_NOTES = (
    "Arms with the same seed start from the same weights and are trained on the same rows in the same order, so on "
    "the same number of tokens. Only the loss, the normalization or a weighting differs, and the learning rate where "
    "it was chosen for each arm.",
    "Differences are paired by seed and example. Their standard error comes from a two-way analysis of variance in "
    "which seeds and examples (rows with one prompt together) are both drawn at random, each with its own Student "
    "quantile, and corrected for skewed differences of examples. It holds for seeds and examples like these, not for "
    "other models, data or training lengths. Where few examples decide a difference, it says so.",
    "All comparisons of all measures share one error rate (Bonferroni), and a verdict is an interval that excludes "
    "zero. Tables of groups and of further metrics are not part of this and get no verdicts.",
)


def comparison_method(experiment: Experiment, results: Results) -> Section:
    """Model, data, optimizer, learning rate, schedule, batch, decoding, seeds, what was tuned, and the budget."""
    recipe, norm = experiment.recipe, experiment.recipe.max_grad_norm
    clipping = f"gradients clipped to a norm of {norm:g}" if norm else "gradients not clipped"
    decided = "the order of the rows" + (" and the initial weights" if experiment.is_scratch else "")
    rows: tuple[tuple[str, str], ...] = (
        ("model", f"{model_words(experiment)}; {_parameters(results)}"),
        ("adapters", _adapters(experiment)),
        ("data", _data(experiment, results)),
        ("held-out data", _held_out(results)),
        ("optimizer", f"{recipe.optimizer}, weight decay {recipe.weight_decay:g}, {clipping}"),
        (LEARNING_RATE, _rate(experiment, results)),
        ("schedule", f"{recipe.schedule}, warmup over {_warmup(recipe.warmup)}"),
        ("batch", _batch(experiment)),
        ("budget", _budget(experiment, results)),
        ("decoding", _decoding(experiment)),
        ("seeds", f"{', '.join(map(str, results.seeds))}; each decides {decided}"),
        ("tuned", "the learning rate of each arm, nothing else" if experiment.learning_rates else "nothing"),
    )
    table = Table(METHOD, "Training and judging", (Column("what", "what"), Column("value", "value")), rows)
    tables = (table, *_rates_table(experiment, results))
    return Section(METHOD, "Method", "What was trained, what was held equal, and what an interval means.",
                   tables=tables, notes=_NOTES)  # fmt: skip


def model_words(experiment: Experiment) -> str:
    """The model in words."""
    if not experiment.is_scratch:
        return DESCRIPTIONS.get(experiment.recipe.model, experiment.recipe.model)
    return f"Llama from scratch, {counted(experiment.layers, 'layer')} of width {experiment.width:,}"


def data_words(experiment: Experiment) -> str:
    """The training data in words, with the share of wrong answers."""
    noise = f", {percent(experiment.noise)} of the answers wrong on purpose" if experiment.noise else ""
    tasks = f" ({', '.join(experiment.data_tasks)})" if experiment.data_tasks else ""
    return f"{'generated tasks' + tasks if experiment.is_generated else experiment.recipe.data}{noise}"


def span(values: set[int]) -> str:
    """A whole number, or the lowest and the highest of several."""
    low, high = min(values), max(values)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _parameters(results: Results) -> str:
    first = results.first
    if first.trained_parameters == first.parameters:
        return f"{first.parameters:,} parameters, all trained"
    return f"{first.trained_parameters:,} of {first.parameters:,} parameters trained"


def _adapters(experiment: Experiment) -> str:
    lora = experiment.recipe.lora
    if lora is None:
        return "none"
    alpha = 2 * lora.r if lora.alpha is None else lora.alpha
    return f"LoRA of rank {lora.r}, alpha {alpha:g}, dropout {lora.dropout:g}"


def _data(experiment: Experiment, results: Results) -> str:
    first = results.first
    prompts = counted(first.train_prompts, "different prompt")
    cut = experiment.recipe.max_length
    return f"{data_words(experiment)}; {counted(first.train_rows, 'row')} with {prompts}" + (
        "" if cut is None else f", cut at {cut:,} tokens"
    )


def _held_out(results: Results) -> str:
    groups = results.first.groups
    prompts = counted(len(set(groups.prompt)), "different prompt")
    return f"{counted(len(groups.task), 'row')} with {prompts}; they judge the arms and choose nothing"


def _rate(experiment: Experiment, results: Results) -> str:
    if not experiment.learning_rates:
        rate = experiment.recipe.learning_rate
        return f"{rate:g} for all arms, not tuned; an arm whose best rate is another one is at a disadvantage"
    tried = listed([f"{rate:g}" for rate in experiment.learning_rates])
    chosen = {arm: results.of(arm)[0].learning_rate for arm in results.arms}
    if len(set(chosen.values())) == 1:
        outcome = f"{next(iter(chosen.values())):g} for every arm"
    else:
        outcome = ", ".join(f"{results.names[arm]} {rate:g}" for arm, rate in chosen.items())
    return (
        f"chosen for each arm among {tried}, by the loss per token on rows that judge no arm, with one seed of its "
        f"own: {outcome}"
    )


def _rates_table(experiment: Experiment, results: Results) -> tuple[Table, ...]:
    """Loss of each arm with each rate that was tried; nothing where none were."""
    if not experiment.learning_rates:
        return ()
    keys = [str(rate) for rate in experiment.learning_rates]
    firsts = [(arm, results.of(arm)[0]) for arm in results.arms]
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (results.names[arm], f"{one.learning_rate:g}", *(one.tuning.get(key) for key in keys)) for arm, one in firsts
    )
    columns = (Column("arm", "arm"), Column("rate", "learning rate"),
               *(Column(f"loss-{key}", f"loss with {key}", "nats") for key in keys))  # fmt: skip
    note = "Loss per token at the end of a training with a seed of its own, on rows that judge no arm."
    return (Table("learning-rates", "Learning rate of each arm", columns, rows, note),)


def _warmup(warmup: float) -> str:
    return f"{100 * warmup:g}% of the steps" if warmup < 1 else counted(int(warmup), "step")


def _batch(experiment: Experiment) -> str:
    recipe = experiment.recipe
    rows = counted(recipe.batch_size * recipe.grad_accum, "row")
    parts = f" in {counted(recipe.grad_accum, 'micro-batch', 'micro-batches')}" if recipe.grad_accum > 1 else ""
    return f"{rows} a step{parts}, {'packed' if recipe.packing else 'padded, not packed'}"


def _budget(experiment: Experiment, results: Results) -> str:
    every = results.by_trial.values()
    per_step = experiment.recipe.batch_size * experiment.recipe.grad_accum
    passes = number(results.first.steps * per_step / max(results.first.train_rows, 1))
    seen, trained = ({getattr(one, name) for one in every} for name in ("tokens", "trained_tokens"))
    tried = len(experiment.learning_rates) * len(results.arms)
    rest = f", and {tried} to choose learning rates" if tried else ""
    return (
        f"{counted(results.first.steps, 'step')} a training, {passes} passes over the rows, {span(seen)} tokens seen, "
        f"{span(trained)} of them trained; {len(results.by_trial)} trainings{rest}"
    )


def _decoding(experiment: Experiment) -> str:
    answers = "one greedy answer to each prompt"
    if experiment.samples:
        answers = (
            f"{counted(experiment.samples, 'answer')} to each prompt sampled at temperature {experiment.temperature:g} "
            "without top-k or top-p, and one greedy answer, which right answers are counted by"
        )
    return f"{answers}; at most {experiment.max_new_tokens} tokens"
