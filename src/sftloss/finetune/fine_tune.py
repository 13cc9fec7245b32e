"""One run from a recipe to a trained model."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sftloss.data.tokenizer import pad_id_of
from sftloss.errors import ConfigError, DataError, mention
from sftloss.finetune.arguments import arguments, check_trackers
from sftloss.finetune.loop.groups import Groups
from sftloss.finetune.loop.trainer import Work, trainer_class
from sftloss.finetune.model import model_and_tokenizer
from sftloss.finetune.output.checkpoint import agree, checkpoints, chosen, verify
from sftloss.finetune.output.files import write_json, write_lines
from sftloss.finetune.output.folder import folder_of
from sftloss.finetune.output.outcome import Interrupted, Outcome
from sftloss.finetune.output.provenance import data_facts, identity, model_facts, versions
from sftloss.finetune.recipe import Recipe
from sftloss.finetune.rows import Collator, DataSet, hold_out, pack, read
from sftloss.finetune.task_weights import read_choice, task_facts, weighted
from sftloss.ranks import launched_as
from sftloss.training import Loss, attachment_of


def fine_tune(
    recipe: Recipe,
    *,
    model: Any = None,
    tokenizer: Any = None,
    rows: Iterable[Any] | None = None,
    eval_rows: Iterable[Any] | None = None,
    callbacks: Sequence[Any] = (),
) -> Outcome:
    """Fine-tune a causal language model on a data file under any loss, with the HF Trainer.

    Args:
        recipe: The run.
        model: A model in memory in place of the recipe's; it is trained in place.
        tokenizer: Its tokenizer.
        rows: Rows in place of the recipe's data: mappings in any usual format, or `sftloss.data.Example`.
        eval_rows: Held-out rows in place of the recipe's.
        callbacks: Callbacks of the Trainer.

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
    check_trackers(recipe.report_to)
    started = time.monotonic()
    with folder_of(recipe, launched_as().rank) as folder:
        resume = recipe.resume and folder.stays
        checkpoint = chosen(folder.checkpoints, resume=resume, resume_from=recipe.resume_from)
        model, tokenizer = model_and_tokenizer(recipe, model, tokenizer)
        data, held_out = data_of(recipe, tokenizer, rows, eval_rows)
        loss = weighted(loss, recipe, data)
        work = Work(recipe, loss, data, held_out, folder, groups=groups_of(loss, held_out))
        work.keeps["spikes"] = work.spikes
        if recipe.keep_best:
            work.keeps["best"] = work.best
        trainer = _trainer(work, (model, tokenizer), checkpoint, callbacks)
        _begin(trainer, work, checkpoint)
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
    try:
        return Loss(recipe.loss, normalization=recipe.normalization, roles=recipe.roles, normalizer=recipe.normalizer)
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error), option="loss") from None


def data_of(recipe: Recipe, tokenizer: Any, rows: Any = None, eval_rows: Any = None) -> tuple[DataSet, DataSet | None]:
    """What is trained on, packed where asked, and what is held out."""
    if rows is None and not recipe.data:
        raise ConfigError("missing", option="data", cure="name a file, or pass rows")
    data = read(recipe, recipe.data if rows is None else rows, tokenizer)
    held_out = None
    if eval_rows is not None or recipe.eval_data is not None:
        held_out = read(recipe, recipe.eval_data if eval_rows is None else eval_rows, tokenizer)
    elif recipe.eval_share:
        data, held_out = hold_out(data, recipe.eval_share, recipe.seed)
    elif recipe.keep_best:
        raise ConfigError(
            "no rows are held out", option="keep_best", cure=f"give {mention('eval_share')} or {mention('eval_data')}"
        )
    return (pack(data, recipe.max_length) if recipe.packing and recipe.max_length else data), held_out


def groups_of(loss: Loss, held_out: DataSet | None) -> tuple[Groups, ...]:
    """Watchers of the evaluation, by task and by language."""
    return () if held_out is None else tuple(Groups(loss, held_out.examples, of) for of in ("task", "language"))


def _trainer(work: Work, parts: tuple[Any, Any], checkpoint: Path | None, callbacks: Sequence[Any]) -> Any:
    from transformers import PrinterCallback

    from sftloss.finetune.loop.callbacks import RunCallback

    (model, tokenizer), recipe, pad_id = parts, work.recipe, pad_id_of(parts[1])
    has_eval = work.held_out is not None
    trainer = trainer_class(work)(
        model=model,
        args=arguments(recipe, str(work.folder.root), has_eval=has_eval, is_new=checkpoint is None),
        train_dataset=work.data,
        eval_dataset=work.held_out,
        data_collator=Collator(pad_id, recipe.packing, work.data.names("task")),
        processing_class=tokenizer,
        callbacks=[RunCallback(work), *callbacks],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _begin(trainer: Any, work: Work, checkpoint: Path | None) -> None:
    """The last moment at which nothing has been written."""
    work.facts = identity(work.recipe, work.data, work.held_out, trainer.args.world_size)
    if checkpoint is not None:
        agree(checkpoint, work.facts)
    if work.recipe.overwrite and work.folder.stays and trainer.args.should_save:
        work.folder.clear()
    trainer.accelerator.wait_for_everyone()


def _train(trainer: Any, work: Work, checkpoint: Path | None) -> None:
    try:
        with work.stop.listening():
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except FloatingPointError as error:
        saved = next(iter(checkpoints(work.folder.checkpoints)), None)
        hint = "" if saved is None else f" {saved} is the newest checkpoint."
        raise DataError(f"{error}{hint}") from error
    if trainer._initial_global_step == trainer.state.global_step:
        trainer.state.log_history.pop()  # the mean loss of no steps
    if work.stop.asked:
        saved = next(iter(checkpoints(work.folder.checkpoints)), None)
        raise Interrupted(trainer.state.global_step, work.stop.asked, saved)


def _take_best(trainer: Any, work: Work) -> None:
    """Put the weights of the best checkpoint into the model; its evaluation is then the run's."""
    if work.best.step != trainer.state.global_step:
        checkpoint = work.folder.checkpoints / f"checkpoint-{work.best.step}"
        verify(checkpoint)
        trainer.state.best_model_checkpoint = str(checkpoint)
        trainer._load_best_model()  # also where FSDP or DeepSpeed holds the weights
    work.metrics, work.evaluated = dict(work.best.metrics), trainer.state.global_step


def _evaluate_once(trainer: Any) -> None:
    """Of a run killed after its last evaluation the log has that one already."""
    last = {"eval_loss", "step"}
    told, step = trainer.state.log_history, trainer.state.global_step
    trainer.state.log_history = [line for line in told if not (last <= line.keys() and line["step"] == step)]
    trainer.evaluate()


def _finish(trainer: Any, work: Work, checkpoint: Path | None, seconds: float) -> Outcome:
    """Give the model its own forward back, and write what is to stay: weights first, the facts last."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    attachment, history = attachment_of(model), tuple(trainer.state.log_history)
    facts = {
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "tokens": _tokens(history, {} if attachment is None else attachment.metrics("train")),
        "resumed_from": None if checkpoint is None else checkpoint.name,
        "ranks": trainer.args.world_size,
        "best": {"step": work.best.step, "loss": work.best.loss} if work.recipe.keep_best else None,
        "metrics": work.metrics,
        "tasks": task_facts(work.loss),
        "model": model_facts(model),
        "data": data_facts(work.data),
        "held_out": None if work.held_out is None else data_facts(work.held_out),
        "recipe": work.recipe.plain(),
        "command": work.recipe.command,
        "versions": versions(),
        "seconds": round(seconds, 3),
    }
    if work.folder.stays:
        written = work.folder.checkpoints / ".model"
        trainer.save_model(str(written))
        if trainer.args.should_save:
            work.folder.put_model(written)
            write_lines(work.folder.history, list(history))
            write_json(work.folder.facts, facts)
        trainer.accelerator.wait_for_everyone()
    if attachment is not None:
        attachment.detach()
    place = work.folder.root if work.folder.stays else None
    return Outcome(place, model.eval(), history, work.metrics, trainer.state.global_step, facts)


def _tokens(history: Sequence[Mapping[str, Any]], rest: Mapping[str, float]) -> dict[str, int]:
    """What the passes of the whole run counted: in the lines of the log, and since the last of them."""
    told = [*history, rest]
    return {name: round(sum(one.get(f"{name}_tokens", 0.0) for one in told)) for name in ("seen", "trained")}
