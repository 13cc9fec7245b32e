"""One run from a recipe to a trained model."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sftloss.errors import ConfigError
from sftloss.finetune._arguments import arguments, check_trackers
from sftloss.finetune._groups import Groups
from sftloss.finetune._model import model_and_tokenizer, pad_id_of
from sftloss.finetune._outcome import Outcome
from sftloss.finetune._recipe import Recipe
from sftloss.finetune._rows import Collator, DataSet, hold_out, pack, read
from sftloss.finetune._trainer import Work, trainer_class
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
    with _folder(recipe) as folder:
        model, tokenizer = model_and_tokenizer(recipe, model, tokenizer)
        data, held_out = data_of(recipe, tokenizer, rows, eval_rows)
        groups = () if held_out is None else tuple(Groups(loss, held_out.examples, of) for of in ("task", "language"))
        work = Work(loss, data, held_out, groups)
        trainer = _trainer(recipe, work, (model, tokenizer), (str(folder), callbacks))
        trainer.train()
        if held_out is not None:
            trainer.evaluate()
        return _outcome(recipe, trainer, work, folder)


def loss_of(recipe: Recipe) -> Loss:
    """The recipe's loss as a value.

    Raises:
        ConfigError: If it cannot be read.
    """
    try:
        return Loss(recipe.loss, alpha=recipe.alpha, roles=recipe.roles, normaliser=recipe.normaliser)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"loss: {error}") from None


def data_of(recipe: Recipe, tokenizer: Any, rows: Any = None, eval_rows: Any = None) -> tuple[DataSet, DataSet | None]:
    """What is trained on, packed where asked, and what is held out."""
    if rows is None and not recipe.data:
        raise ConfigError("fine_tune: no data; give rows= or name a file in the recipe.")
    data = read(recipe, recipe.data if rows is None else rows, tokenizer)
    held_out = None
    if eval_rows is not None or recipe.eval_data is not None:
        held_out = read(recipe, recipe.eval_data if eval_rows is None else eval_rows, tokenizer)
    elif recipe.eval_share:
        data, held_out = hold_out(data, recipe.eval_share, recipe.seed)
    return (pack(data, recipe.max_length) if recipe.packing and recipe.max_length else data), held_out


@contextmanager
def _folder(recipe: Recipe) -> Iterator[Path]:
    if recipe.output is None:
        with tempfile.TemporaryDirectory(prefix="sftloss-") as temporary:
            yield Path(temporary)
        return
    folder = Path(recipe.output).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    yield folder


def _trainer(recipe: Recipe, work: Work, parts: tuple[Any, Any], place: tuple[str, Sequence[Any]]) -> Any:
    from transformers import PrinterCallback

    (model, tokenizer), (folder, callbacks) = parts, place
    pad_id = pad_id_of(tokenizer)
    trainer = trainer_class(work)(
        model=model,
        args=arguments(recipe, folder, has_eval=work.held_out is not None, is_new=True),
        train_dataset=work.data,
        eval_dataset=work.held_out,
        data_collator=Collator(work.data.examples, pad_id, packed=recipe.packing),
        processing_class=tokenizer,
        callbacks=list(callbacks),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _outcome(recipe: Recipe, trainer: Any, work: Work, folder: Path) -> Outcome:
    model = trainer.accelerator.unwrap_model(trainer.model)
    attachment = attachment_of(model)
    if attachment is not None:
        attachment.detach()
    place = None if recipe.output is None else folder
    return Outcome(place, model.eval(), tuple(trainer.state.log_history), work.metrics, trainer.state.global_step)
