"""A fine-tuning run as plain values: model, data, loss, training and output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sftloss.errors import ConfigError, mention

_CHOICES = {
    "on_error": ("report", "skip", "raise"),
    "schedule": ("linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"),
    "dtype": ("auto", "float32", "bfloat16", "float16", "float64"),
    "autocast": (None, "bfloat16", "float16"),
    "device": ("auto", "cpu", "cuda", "mps"),
}
_LEAST = {
    0: ("learning_rate", "epochs", "weight_decay", "max_grad_norm", "warmup", "eval_share", "seed"),
    1: ("batch_size", "grad_accum", "save_every", "logging_every", "max_steps", "eval_every", "eval_batch_size", "keep",
        "max_examples", "watch_gradients"),
    2: ("max_length",),
}  # fmt: skip

# what may differ between a run and the run that goes on from it: where results go, how often, what is shown
_MANNER = ("output", "overwrite", "resume", "resume_from", "report_to", "run_name", "logging_every", "save_every",
           "watch_gradients")  # fmt: skip
_FREE = (*_MANNER, "keep", "eval_every", "eval_batch_size", "device", "command")


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters in place of the weights themselves; the rest of the model is frozen.

    Attributes:
        r: Rank.
        alpha: Scale of the update, which is ``alpha / r`` times the product; None is ``2 * r``.
        dropout: Share of the adapter's inputs dropped while training.
        targets: Names of the layers, as ``("q_proj", "v_proj")``; empty for every linear layer but the head.
    """

    r: int = 16
    alpha: float | None = None
    dropout: float = 0.0
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.r < 1 or not 0 <= self.dropout < 1:
            problem = f"must be at least 1 with a dropout from 0 to 1, got {self.r} and {self.dropout}"
            raise ConfigError(problem, option="lora_r")


@dataclass(frozen=True)
class Recipe:
    """A fine-tuning run. Every field is a plain value, so a recipe is also a YAML file and a JSON object.

    Attributes:
        model: A directory that `save_pretrained` wrote, a name on the hub, ``"demo"`` for the model in this package, or
            ``"smollm2"`` for SmolLM2-135M-Instruct without a hub.
        tokenizer: Where the tokenizer is, if not with the model.
        revision: Branch, tag or commit of a model on the hub.
        data: A data file, a folder of them, a hub data set, or ``"demo"`` for generated examples.
        eval_data: Held-out data, in the same forms.
        eval_share: Share of `data` to hold out in place of `eval_data`, by seed; rows with equal prompts stay together.
        columns, format, on_error: How the data is read, as in :func:`sftloss.data.read_records`.
        max_examples: Number of examples to read, from the start.
        max_length, truncate, template, chat_template_kwargs, think_weight, thinking: How rows become tokens, as
            in :class:`sftloss.data.Encoding`.
        packing: Whether examples share rows of `max_length` tokens, kept apart by their positions.
        loss: An objective, ``"cross_entropy + 1e-4 * z_loss"``.
        reference: One or several folders of values of reference models that the objective reads, as written by
            ``sftloss reference``.
        normalization, roles, normalizer, tolerance: As in :class:`sftloss.training.Loss`.
        tasks: Strategy that weights the tasks named in the data, ``"uncertainty"``, ``"dwa(temperature=2)"``,
            ``"static(qa=2, code=0.5)"``, each also with ``base``, ``low``, ``high``, ``warmup_steps``, ``window`` and
            ``on_nonfinite`` of :class:`sftloss.tasks.Rules`, and ``conflicts=true`` or ``layerwise=true`` of
            :class:`sftloss.training.TaskWeighting`; None weights no task.
        batch_size, grad_accum: Rows of a micro-batch on each process, and micro-batches of an optimizer step.
        learning_rate, schedule, warmup: The peak learning rate, its schedule, and the number of steps before the peak
            (below 1 a share of all steps).
        epochs, max_steps: Number of passes through the data, or of optimizer steps in its place.
        weight_decay, max_grad_norm: Weight decay of the optimizer, and the norm to which gradients are clipped (0 turns
            clipping off).
        optimizer: A value of `transformers.TrainingArguments.optim`.
        seed: Seed of the row order, the held-out rows, new adapters and dropout.
        dtype: Dtype of the parameters. ``"auto"`` is float32 where all are trained (bfloat16 loses updates
            smaller than 0.4% of a weight). Where they are frozen under adapters it is the checkpoint's own, but also
            float32 on a processor that computes faster in it.
        autocast: Dtype for automatic mixed precision, ``"bfloat16"`` or ``"float16"``; None computes in `dtype`.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` (or ``"gpu"``) or ``"mps"``; each process of a launcher has its own.
        gradient_checkpointing: Whether activations are computed again in the backward pass, to save memory.
        lora: Adapters, or None to train every parameter.
        eval_every, save_every, logging_every: Optimizer steps between evaluations (None: one before and one after
            training), between checkpoints and between log lines.
        watch_gradients: Optimizer steps between two looks at the gradient norms of a micro-batch's examples, which are
            logged by task, length and role; None is none.
        eval_batch_size: Rows of an evaluation batch; None is `batch_size`.
        keep: Number of newest checkpoints to keep; None keeps all.
        keep_best: Save a checkpoint with every evaluation (in place of `save_every`), keep the one with the lowest
            held-out loss beside the newest, and end with it.
        report_to: Trackers, by their names in transformers: ``"tensorboard"``, ``"wandb"``, ``"trackio"``.
        run_name: Name of the run in the trackers.
        output: Folder of the results; None keeps no results on disk.
        overwrite: Replace an earlier run in that folder, when this run has ended.
        resume: Continue from the newest checkpoint in that folder, or start where there is none.
        resume_from: Continue from this checkpoint, as ``"checkpoint-200"``.
        command: The command line that asks for this run, for its provenance.

    Raises:
        ConfigError: If a value is none of those allowed, or two contradict each other.

    Example:
        >>> Recipe(model="demo", data="demo", loss="dft", max_steps=20).normalizer
        'weights'
    """

    model: str = ""
    tokenizer: str | None = None
    revision: str | None = None
    data: str = ""
    eval_data: str | None = None
    eval_share: float = 0.0
    columns: Mapping[str, str] | None = None
    format: str | None = None
    on_error: str = "report"
    max_examples: int | None = None
    max_length: int | None = None
    truncate: str = "end"
    template: str | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    think_weight: float | None = None
    thinking: str = "keep"
    packing: bool = False
    loss: str = "cross_entropy"
    reference: str | tuple[str, ...] = ()
    normalization: str | float = "token-mean"
    roles: Mapping[str, float] | None = None
    normalizer: str | float = "weights"
    tolerance: float = 0.0
    tasks: str | None = None
    batch_size: int = 8
    grad_accum: int = 1
    learning_rate: float = 2e-5
    schedule: str = "linear"
    warmup: float = 0.03
    epochs: float = 1.0
    max_steps: int | None = None
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    optimizer: str = "adamw_torch"
    seed: int = 0
    dtype: str = "auto"
    autocast: str | None = None
    device: str = "auto"
    gradient_checkpointing: bool = False
    lora: Lora | None = None
    eval_every: int | None = None
    save_every: int = 500
    logging_every: int = 10
    watch_gradients: int | None = None
    eval_batch_size: int | None = None
    keep: int | None = 2
    keep_best: bool = False
    report_to: tuple[str, ...] = ()
    run_name: str | None = None
    output: str | None = None
    overwrite: bool = False
    resume: bool = False
    resume_from: str | None = None
    command: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.reference, str):
            object.__setattr__(self, "reference", (self.reference,))
        if self.device == "gpu":
            object.__setattr__(self, "device", "cuda")
        for name, allowed in _CHOICES.items():
            if (value := getattr(self, name)) not in allowed:
                raise ConfigError(f"must be one of {', '.join(map(str, allowed))}, got {value!r}", option=name)
        for least, names in _LEAST.items():
            for name in names:
                value = getattr(self, name)
                if value is not None and not least <= value < float("inf"):
                    raise ConfigError(f"must be at least {least}, got {value}", option=name)
        if not 0 <= self.tolerance < 1:
            raise ConfigError(f"must be at least 0 and below 1, got {self.tolerance}", option="tolerance")
        if not self.eval_share < 1:
            raise ConfigError(f"must be a share of the data below 1, got {self.eval_share:g}", option="eval_share")
        if self.eval_share and self.eval_data is not None:
            raise ConfigError(f"{mention('eval_share')} and {mention('eval_data')} exclude each other", cure="give one")
        if self.packing and self.max_length is None:
            raise ConfigError(f"{mention('packing')} needs {mention('max_length')}, the tokens of a packed row")
        if self.keep_best and (self.eval_every is None or self.output is None):
            problem = f"{mention('keep_best')} chooses among evaluated checkpoints"
            raise ConfigError(problem, cure=f"give {mention('eval_every')} and {mention('output')}")
        if self.overwrite and (self.resume or self.resume_from):
            problem = f"{mention('overwrite')} starts over and {mention('resume')} continues"
            raise ConfigError(problem, cure="choose one")

    def plain(self) -> dict[str, Any]:
        """Every field in the types of JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def identity(self) -> dict[str, Any]:
        """The fields that decide what the trained weights are: a run goes on only from a checkpoint that agrees."""
        return {name: value for name, value in self.plain().items() if name not in _FREE}
