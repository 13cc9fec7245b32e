"""Flags and YAML keys of `sftloss train`."""

from __future__ import annotations

from dataclasses import dataclass

from sftloss.config import option

_IN, _LOSS, _HOW, _WHERE, _OUT = "What to train", "The loss", "How to train", "Where it runs", "Where results go"


@dataclass(frozen=True)
class TrainOptions:
    """Flags and YAML keys of `sftloss train`; the fields of `sftloss.finetune.Recipe`."""

    model: str = option(
        "", "A directory that save_pretrained wrote, a name on the hub, or demo.", panel=_IN, required=True, short="-m"
    )
    data: str = option(
        "", "A JSON, JSON lines or Parquet file, a folder, a hub name, or demo.", panel=_IN, required=True, short="-d"
    )
    tokenizer: str | None = option(None, "Where the tokenizer is, if not with the model.", panel=_IN)
    revision: str | None = option(None, "Branch, tag or commit of a model on the hub.", panel=_IN)
    eval_data: str | None = option(None, "Held-out rows.", panel=_IN)
    eval_share: float = option(0.0, "Share of the data held out; equal prompts stay together.", panel=_IN, minimum=0)
    columns: dict[str, str] = option({}, "The data's own column names.", panel=_IN, metavar="prompt=Q,response=A")
    format: str | None = option(None, "The data's format; found out for each row if not given.", panel=_IN)
    on_error: str = option("report", "What an unusable row does.", panel=_IN, choices=("report", "skip", "raise"))
    max_examples: int | None = option(None, "Examples read, from the start; all if not given.", panel=_IN, minimum=1)
    max_length: int | None = option(None, "Tokens kept of each example.", panel=_IN, minimum=2)
    packing: bool = option(False, "Let examples share rows of --max-length tokens.", panel=_IN)
    loss: str = option(
        "cross_entropy", "An objective: dft, 'focal(gamma=2)', 'cross_entropy + 1e-4 * z_loss'.", panel=_LOSS,
        metavar="EXPR",
    )  # fmt: skip
    normalization: str = option(
        "token-mean", "How an example counts by its length: token-mean, example-mean, sqrt or an exponent.",
        panel=_LOSS, metavar="NAME|ALPHA", takes_numbers=True,
    )  # fmt: skip
    roles: dict[str, str] = option(
        {}, "Weight by role; one not named is not trained.", panel=_LOSS, metavar="prompt=0.1,response=1",
        takes_numbers=True,
    )  # fmt: skip
    normalizer: str = option(
        "weights", "What a step is divided by: weights, sequences, tokens, or a number.", panel=_LOSS,
        takes_numbers=True,
    )  # fmt: skip
    tasks: str | None = option(
        None, "Weight the tasks that the data names: uncertainty, 'dwa(temperature=2)', 'static(qa=2, code=0.5)'.",
        panel=_LOSS, metavar="STRATEGY",
    )  # fmt: skip
    batch_size: int = option(8, "Rows of a micro-batch, on each process.", panel=_HOW, minimum=1)
    grad_accum: int = option(1, "Micro-batches of an optimizer step.", panel=_HOW, minimum=1)
    learning_rate: float = option(2e-5, "The highest learning rate.", panel=_HOW, minimum=0)
    schedule: str = option(
        "linear", "Its course.", panel=_HOW,
        choices=("linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"),
    )  # fmt: skip
    warmup: float = option(0.03, "Steps of warmup; below 1 a share of all.", panel=_HOW, minimum=0)
    epochs: float = option(1.0, "Times through the data.", panel=_HOW, minimum=0)
    max_steps: int | None = option(None, "Optimizer steps, in place of --epochs.", panel=_HOW, minimum=1)
    weight_decay: float = option(0.0, "Of the optimizer.", panel=_HOW, minimum=0)
    max_grad_norm: float = option(1.0, "Gradients are clipped to it; 0 clips none.", panel=_HOW, minimum=0)
    optimizer: str = option("adamw_torch", "A name that transformers knows.", panel=_HOW)
    seed: int = option(0, "Of the rows' order, held-out rows, adapters and dropout.", panel=_HOW, minimum=0)
    lora_r: int | None = option(None, "Train low-rank adapters of this rank.", panel=_HOW, minimum=1)
    lora_alpha: float | None = option(None, "Their scale; 2 r if not given.", panel=_HOW)
    lora_dropout: float = option(0.0, "Dropout before them.", panel=_HOW, minimum=0)
    lora_targets: tuple[str, ...] = option(
        (), "Layers that get one, repeat it; every linear layer but the head if not given.", panel=_HOW
    )
    dtype: str = option(
        "auto", "Number format of the parameters; auto is float32 where all are trained.", panel=_WHERE,
        choices=("auto", "float32", "bfloat16", "float16", "float64"),
    )  # fmt: skip
    autocast: str | None = option(None, "Compute in it.", panel=_WHERE, choices=("bfloat16", "float16"))
    device: str = option("auto", "Where the model runs.", panel=_WHERE, choices=("auto", "cpu", "cuda", "mps"))
    gradient_checkpointing: bool = option(False, "Compute activations twice, keep few.", panel=_WHERE)
    eval_every: int | None = option(
        None, "Steps between evaluations; before and after if not given.", panel=_OUT, minimum=1
    )
    eval_batch_size: int | None = option(
        None, "Rows of an evaluation batch; --batch-size if not given.", panel=_OUT, minimum=1
    )
    save_every: int = option(500, "Steps between checkpoints.", panel=_OUT, minimum=1)
    logging_every: int = option(10, "Steps between log lines.", panel=_OUT, minimum=1)
    keep: int | None = option(2, "Checkpoints kept.", panel=_OUT, minimum=1)
    keep_best: bool = option(
        False, "Save with every evaluation, keep the lowest held-out loss, end with it.", panel=_OUT
    )
    report_to: tuple[str, ...] = option((), "tensorboard, wandb, trackio; repeat it.", panel=_OUT, metavar="NAME")
    run_name: str | None = option(None, "What trackers call the run.", panel=_OUT)
    output: str = option("sftloss-train", "Folder of the results.", panel=_OUT, short="-o", metavar="DIR")
    overwrite: bool = option(False, "Replace an earlier run in that folder.", panel=_OUT)
    resume: bool = option(False, "Go on from its newest checkpoint; start where there is none.", panel=_OUT)
    resume_from: str | None = option(None, "Go on from this checkpoint.", panel=_OUT, metavar="checkpoint-N")
    dry_run: bool = option(False, "Show options, first example, counts and memory; train nothing.", panel=_OUT)
    json: str | None = option(None, "Also write train.json here; '-' prints it alone.", panel=_OUT, metavar="FILE|-")
