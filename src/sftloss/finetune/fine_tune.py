"""One run from a recipe to a trained model."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sftloss.data import encoding_of
from sftloss.data.overlap import overlap_findings, refuse_leak
from sftloss.data.tokenizer import pad_id_of
from sftloss.errors import ConfigError, DataError, mention
from sftloss.files import write_atomic
from sftloss.finetune.checkpoint import agree, checkpoints, chosen_checkpoint, verify
from sftloss.finetune.folder import folder_of
from sftloss.finetune.outcome import Interrupted, Outcome, identity, model_card, model_facts
from sftloss.finetune.recipe import Recipe
from sftloss.finetune.rows import Collator, DataSet, check_marks, check_vocabulary, hold_out, pack, read, rows_accounts
from sftloss.finetune.setup import check_packages, model_and_tokenizer, training_arguments
from sftloss.finetune.task_weights import read_choice, reads_stored, weighted
from sftloss.finetune.trainer import Work, trainer_class
from sftloss.finetune.watch import Groups
from sftloss.models import without_collecting
from sftloss.objectives import objective as read_objective
from sftloss.objectives import stored_extras_of, with_known_extras
from sftloss.objectives.terms import losses_of_logits
from sftloss.ranks import launched_as
from sftloss.reference import References, open_references
from sftloss.training import Loss, attachment_of
from sftloss.training.batch.made import made_of
from sftloss.training.tasks.weighting import REFERENCE
from sftloss.training.watch.sums import filter_warning
from sftloss.version import package_versions

_LOG = logging.getLogger("sftloss.finetune")
_PACKAGES = ("sftloss", "python", "torch", "transformers", "accelerate", "tokenizers", "peft")


def fine_tune(
    recipe: Recipe,
    *,
    model: Any = None,
    tokenizer: Any = None,
    rows: Iterable[Any] | None = None,
    eval_rows: Iterable[Any] | None = None,
    callbacks: Sequence[Any] = (),
    on_rows: Callable[[list[dict[str, Any]]], None] | None = None,
) -> Outcome:
    """Fine-tune a causal language model on a data file under any loss, with the HF Trainer.

    Args:
        recipe: The run.
        model: A model in memory in place of the recipe's; it is trained in place.
        tokenizer: Its tokenizer.
        rows: Rows in place of the recipe's data: mappings in any usual format, or `sftloss.data.Example`.
        eval_rows: Held-out rows in place of the recipe's.
        callbacks: Callbacks of the Trainer.
        on_rows: Called before training with what became of the rows of each source, as `train.json` has it.

    Returns:
        The trained model, what was logged and the last evaluation.

    Raises:
        ConfigError: If the recipe cannot be used, the output folder is taken, or a checkpoint does not fit.
        DataError: If no row can be trained on, or a row's loss is not finite.
        ModelError: If the model cannot be loaded or the loss cannot be attached to it.
        Interrupted: On SIGINT or SIGTERM, after a checkpoint was saved.

    Example:
        >>> outcome = fine_tune(Recipe(model="demo", data="demo", loss="dft", max_steps=20))   # doctest: +SKIP
        >>> outcome.history[-1]["train_loss"]                                                  # doctest: +SKIP
    """
    loss = loss_of(recipe)
    check_packages(recipe)
    started = time.monotonic()
    with folder_of(recipe, launched_as().rank) as folder:
        resume = recipe.resume and folder.stays
        checkpoint = chosen_checkpoint(folder.checkpoints, resume=resume, resume_from=recipe.resume_from)
        model, tokenizer = model_and_tokenizer(recipe, model, tokenizer)
        data, held_out = data_of(recipe, tokenizer, rows, eval_rows)
        check_vocabulary(model.config, data, held_out)
        check_marks(loss, data, held_out)
        references = references_of(recipe, loss, tokenizer, data, held_out)
        if on_rows is not None:
            on_rows(rows_accounts(data, held_out))
        loss = weighted(loss, recipe, data)
        groups = () if held_out is None else tuple(Groups(loss, held_out.examples, of) for of in ("task", "language"))
        work = Work(recipe, loss, data, held_out, folder, groups, references)
        trainer = _trainer(work, model, tokenizer, checkpoint, callbacks)
        work.facts = identity(recipe, data, held_out, trainer.args.world_size)
        if checkpoint is not None:
            agree(checkpoint, work.facts)
        if recipe.overwrite and folder.stays and trainer.args.should_save:
            folder.clear()
        trainer.accelerator.wait_for_everyone()
        _train(trainer, work, checkpoint)
        if recipe.keep_best:
            _take_best(trainer, work)
        if held_out is not None and work.evaluated != trainer.state.global_step:
            _evaluate_once(trainer)
        return _finish(trainer, work, checkpoint, time.monotonic() - started)


def loss_of(recipe: Recipe) -> Loss:
    """The recipe's loss as a value.

    Raises:
        ConfigError: If it cannot be read.
    """
    if recipe.tasks is not None:
        read_choice(recipe.tasks)  # its weights are made when the data has named the tasks
    shared = {name: getattr(recipe, name) for name in ("normalization", "roles", "normalizer", "tolerance")}
    try:
        objective = with_known_extras(read_objective(recipe.loss), has_reference=bool(recipe.reference), trains=True)
        loss = Loss(objective, **shared)
    except (TypeError, ValueError) as error:
        problem = str(error).removeprefix("objective: ").removeprefix("Loss: ")
        named = re.match(r"(?:Loss: (?:a )?)?(\w+)", str(error))  # "Loss: roles takes ...", "normalization: ..."
        option = named[1] if named and named[1] in shared else "loss"
        raise ConfigError(re.sub(rf"^{option}:? ", "", problem), option=option) from None
    if recipe.watch_gradients and losses_of_logits(objective):
        problem = f"{objective} is computed of whole logits, and the gradient of each example is not"
        raise ConfigError(problem, option="watch_gradients", cure="leave it out")
    return loss


def data_of(recipe: Recipe, tokenizer: Any, rows: Any = None, eval_rows: Any = None) -> tuple[DataSet, DataSet | None]:
    """What is trained on, packed where asked, and what is held out."""
    if rows is None and not recipe.data:
        raise ConfigError("missing", option="data", cure="name a file, or pass rows")
    data = read(recipe, recipe.data if rows is None else rows, tokenizer)
    held_out = None
    if eval_rows is not None or recipe.eval_data is not None:
        held_out = read(recipe, recipe.eval_data if eval_rows is None else eval_rows, tokenizer)
        refuse_leak(overlap_findings(data.examples, held_out.examples))
    elif recipe.eval_share:
        data, held_out = hold_out(data, recipe.eval_share, recipe.seed)
    elif recipe.keep_best:
        raise ConfigError(
            "no rows are held out", option="keep_best", cure=f"give {mention('eval_share')} or {mention('eval_data')}"
        )
    return (pack(data, recipe.max_length) if recipe.packing and recipe.max_length else data), held_out


def references_of(
    recipe: Recipe, loss: Loss, tokenizer: Any, data: DataSet, held_out: DataSet | None
) -> References | None:
    """The reference models' values that the loss reads, there for every row; None where it reads none.

    Raises:
        ConfigError: If they do not fit the run, or other tensors that the loss reads cannot be made.
        DataError: If a row has none, or a file is damaged.
    """
    made_of(loss.function, tokenizer)  # what cannot be made is refused before anything is computed
    names = stored_extras_of(loss.function) or ((REFERENCE,) if reads_stored(recipe) else ())
    if not recipe.reference or not names:
        return None
    references = open_references(recipe.reference, tokenizer, encoding_of(recipe))
    references.check([*data.examples, *(() if held_out is None else held_out.examples)], names)
    return references


@without_collecting()
def _trainer(work: Work, model: Any, tokenizer: Any, checkpoint: Path | None, callbacks: Sequence[Any]) -> Any:
    from transformers import PrinterCallback

    from sftloss.finetune.callbacks import RunCallback

    recipe, has_eval, made = work.recipe, work.held_out is not None, made_of(work.loss.function, tokenizer)
    root = str(work.folder.root)
    trainer = trainer_class(work)(
        model=model,
        args=training_arguments(recipe, root, has_eval=has_eval, is_new=checkpoint is None),
        train_dataset=work.data,
        eval_dataset=work.held_out,
        data_collator=Collator(
            pad_id_of(tokenizer),
            recipe.packing,
            work.data.names("task"),
            work.references,
            tuple(name for name in work.loss.extras if name not in made.names),
            made,
        ),
        processing_class=tokenizer,
        callbacks=[RunCallback(work), *callbacks],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _train(trainer: Any, work: Work, checkpoint: Path | None) -> None:
    try:
        with work.stop.listening():
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except FloatingPointError as error:
        saved = next(iter(checkpoints(work.folder.checkpoints)), None)
        hint = "" if saved is None else f" {saved} is the newest checkpoint."
        raise DataError(f"{error}{hint}") from error
    if work.stop.signal:
        saved = next(iter(checkpoints(work.folder.checkpoints)), None)
        raise Interrupted(trainer.state.global_step, work.stop.signal, saved)


def _take_best(trainer: Any, work: Work) -> None:
    """Put the weights of the best checkpoint into the model; its evaluation is then the run's."""
    if work.best.step != trainer.state.global_step:
        checkpoint = work.folder.checkpoints / f"checkpoint-{work.best.step}"
        verify(checkpoint)
        trainer.state.best_model_checkpoint = str(checkpoint)
        trainer._load_best_model()  # also where FSDP or DeepSpeed holds the weights
    work.metrics, work.evaluated = dict(work.best.metrics), trainer.state.global_step


def _evaluate_once(trainer: Any) -> None:
    """Evaluate, in place of the evaluation that a run killed after its last one has in its log."""
    lines, step = trainer.state.log_history, trainer.state.global_step
    earlier = [i for i, line in enumerate(lines) if "eval_loss" in line and line["step"] == step]
    trainer.evaluate()
    if earlier:
        lines = trainer.state.log_history
        lines[earlier[0]] = lines.pop()


def _finish(trainer: Any, work: Work, checkpoint: Path | None, seconds: float) -> Outcome:
    """Give the model its own forward back, and write what is to stay: weights first, the facts last."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    attachment, history = attachment_of(model), tuple(trainer.state.log_history)
    # in the lines of the log, and since the last of them
    rest = {} if attachment is None else attachment.metrics("train")
    if warning := filter_warning(rest, work.recipe.tolerance):
        _LOG.warning("%s", warning)
    counted = [*history, rest]
    facts = {
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "tokens": {name: round(sum(one.get(f"{name}_tokens", 0.0) for one in counted)) for name in ("seen", "trained")},
        "filter": _filter_facts(counted),
        "resumed_from": None if checkpoint is None else checkpoint.name,
        "ranks": trainer.args.world_size,
        "best": {"step": work.best.step, "loss": work.best.loss} if work.recipe.keep_best else None,
        "metrics": work.metrics,
        "tasks": work.loss.task_factor.facts(),
        "model": model_facts(model),
        "rows": rows_accounts(work.data, work.held_out),
        "data": work.data.facts(),
        "held_out": None if work.held_out is None else work.held_out.facts(),
        "recipe": work.recipe.plain(),
        "command": work.recipe.command,
        "versions": package_versions(*_PACKAGES),
        "seconds": round(seconds, 3),
    }
    if work.folder.stays:
        trainer.save_trained()
        if trainer.args.should_save:
            write_atomic(work.folder.unfinished / "README.md", model_card(facts))
            work.folder.finish(history, facts)
        trainer.accelerator.wait_for_everyone()
    if attachment is not None:
        attachment.detach()
    place = work.folder.root if work.folder.stays else None
    return Outcome(place, model.eval(), history, work.metrics, trainer.state.global_step, facts)


def _filter_facts(log: Sequence[Mapping[str, Any]]) -> dict[str, float] | None:
    """What gradient filtering left out, means over the trained tokens of the lines of the log; None without it."""
    lines = [line for line in log if "filter_error" in line]
    tokens = sum(line["trained_tokens"] for line in lines)
    names = ("kept", "dropped", "error")
    if not tokens:
        return None
    return {name: sum(line[f"filter_{name}"] * line["trained_tokens"] for line in lines) / tokens for name in names}
