"""Studies of a pretrained model on data of the user: SmolLM2-135M-Instruct with LoRA, within an hour on two cores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from sftloss.data import read_records
from sftloss.errors import ConfigError, mention
from sftloss.experiments.experiment import Experiment
from sftloss.experiments.studies import Claim, Study
from sftloss.finetune import Lora, Recipe
from sftloss.models import SMOLLM2

_RECIPE = Recipe(
    model=SMOLLM2, data="any", eval_share=0.1, max_examples=900, max_length=128, lora=Lora(8), batch_size=4,
    max_steps=30, learning_rate=2e-4, schedule="cosine", warmup=0.1,
    dtype="float32",  # bfloat16, the checkpoint's, takes nearly twice as long on a processor
)  # fmt: skip
_BASE = Experiment(_RECIPE, eval_rows=32, samples=2, max_new_tokens=96, seeds=(0, 1, 2))
# as many trainings as an hour allows; from three arms on a verdict needs four seeds
_FOUR = replace(_BASE, seeds=(0, 1, 2, 3), points=2, eval_rows=24, max_new_tokens=64, learning_rates=(1e-4, 4e-4))
_RATES = "The learning rate of each arm is chosen on training rows that judge no arm."

_ALL = (
    Study(
        "length",
        "What normalization by length does to a pretrained chat model",
        "Does averaging each example first shorten what a pretrained model writes, and by as much as `sftloss lengths` "
        "predicts? SmolLM2-135M-Instruct is trained with LoRA. Answers to training prompts and to new ones are "
        "measured during training, sampled and greedy.",
        replace(
            _BASE, recipe=replace(_RECIPE, max_steps=100), normalizations=("token-mean", "example-mean"), points=2,
            length_rows=8,
        ),
        Claim("averaging each example first makes answers shorter", "answer length", "lower"),
    ),
    Study(
        "objectives",
        "Objectives on a pretrained chat model",
        "SmolLM2-135M-Instruct is trained with LoRA under eight objectives for equal steps and tokens. Held-out loss, "
        "calibration, diversity of samples and, with a second file, forgetting are compared with cross-entropy. The "
        "learning rate of each objective is chosen on training rows that judge no arm.",
        replace(
            _FOUR,
            recipe=replace(_RECIPE, max_steps=24),
            losses=(
                "cross_entropy", "dft", "eaft", "gce", "infosft", "gem", "focal(gamma=2)", "label_smoothing",
            ),
            points=1,
            forget_rows=24,
        ),
    ),
    Study(
        "forgetting",
        "Anchors against forgetting at equal learning",
        "Does a KL anchor, or ASFT (`dft + 0.05 * kl_anchor`), move a pretrained model less on data of another kind "
        "than cross-entropy does, where it learns as much? SmolLM2-135M-Instruct is trained with LoRA for equal steps "
        "and tokens. " + _RATES
        + " An anchor has helped where the drift on the second file is smaller and no verdict says that the held-out "
        "loss is larger. Values of the untrained model come from `sftloss reference --top-k 20`.",
        replace(
            _FOUR,
            losses=(
                "cross_entropy", "cross_entropy + 0.1 * kl_anchor", "cross_entropy + 0.5 * kl_anchor",
                "dft + 0.05 * kl_anchor",
            ),
            forget_rows=24,
            samples=0,
        ),
        Claim("an anchor lowers the drift", "drift on the second data file", "lower"),
    ),
    Study(
        "diversity",
        "Quality against diversity of samples",
        "Do GEM and an entropy bonus keep samples of one prompt different, and does that cost held-out loss or right "
        "answers? SmolLM2-135M-Instruct is trained with LoRA. Eight answers to each held-out prompt are sampled at "
        "temperature 1; with data whose answers can be checked, pass@8 is judged too. " + _RATES,
        replace(
            _FOUR, losses=("cross_entropy", "gem", "cross_entropy + 0.1 * entropy_bonus"), samples=8, eval_rows=16,
            also_judged=("distinct_2", "pass_at_8"),
        ),
        Claim("these losses make samples more different", "different word pairs", "higher"),
    ),
    Study(
        "languages",
        "How languages share a training",
        "What does each language gain where languages count by their tokens (`unweighted`), all the same (`static`), "
        "or by their bytes? SmolLM2-135M-Instruct, an English model, is trained with LoRA on rows that name their "
        "language as task, such as English and Chinese ones. The weights by bytes are those of this file. " + _RATES,
        replace(_FOUR, tasks=("none", "static"), samples=0),
    ),
    Study(
        "rewards",
        "Answers marked as wrong: left out, pushed down, or trained with a negative sign",
        "Is it better to leave wrong answers out (`unlikelihood(alpha=0)`), to lower their probability "
        "(`unlikelihood`), or to train them with a negative weight (`cross_entropy`)? SmolLM2-135M-Instruct is trained "
        "with LoRA on rows of which some are marked `is_negative`; rows of another file, all right, judge. The "
        "normalizer is the number of tokens, for weights below zero cancel in a sum. " + _RATES,
        replace(
            _FOUR, losses=("unlikelihood(alpha=0)", "unlikelihood", "cross_entropy"), samples=0,
            recipe=replace(_FOUR.recipe, normalizer="tokens"),
        ),
        Claim("using wrong answers lowers the held-out loss", "held-out loss per token", "lower"),
    ),
    Study(
        "hallucination",
        "Losses that are said to make a model invent less",
        "Do EAFT, a token for not knowing (IDK) and unlikelihood of repeated words change right answers, calibration "
        "and, with a second file, forgetting? SmolLM2-135M-Instruct is trained with LoRA. Its unused token "
        "<file_sep> stands for not knowing. " + _RATES,
        replace(
            _FOUR,
            losses=("cross_entropy", "eaft", "idk(token='file_sep')", "unlikelihood_context"),
            forget_rows=24,
            samples=0,
        ),
        Claim("these losses lower the token Brier score", "token Brier score", "lower"),
    ),
)  # fmt: skip
PRETRAINED = {one.name: one for one in _ALL}
"""The studies by name, before they have data."""


def pretrained_study(
    name: str,
    data: str,
    forget_data: str | None = None,
    *,
    eval_data: str | None = None,
    reference: Sequence[str] = (),
) -> Study:
    """The study of SmolLM2 with this name, on rows of a file; its results are called ``smollm2-NAME``.

    Args:
        name: A key of ``PRETRAINED``.
        data: Rows to train on; one in ten judges the arms, unless `eval_data` is given.
        forget_data: Rows of another kind, on which forgetting is measured.
        eval_data: Rows that judge the arms.
        reference: Folders that ``sftloss reference`` wrote, for ``"forgetting"``.

    Raises:
        ConfigError: If there is no such study, it lacks something, or the data name no languages.

    Example:
        >>> pretrained_study("length", "train.jsonl").experiment.recipe.lora.r
        8
    """
    if name not in PRETRAINED:
        raise ConfigError(
            f"there is no study {name!r} of {SMOLLM2}", cure=f"with {SMOLLM2} there are {', '.join(PRETRAINED)}"
        )
    if name == "forgetting" and not (forget_data and reference):
        cure = "give both; the second holds the 20 likeliest tokens of the untrained model, made by sftloss reference"
        raise ConfigError(f"forgetting needs {mention('forget_data')} and {mention('reference')}", cure=cure)
    if name == "rewards" and eval_data is None:
        raise ConfigError("rewards needs rows without wrong answers to judge by", option="eval_data")
    study = PRETRAINED[name]
    recipe = replace(study.experiment.recipe, data=data, reference=tuple(reference))
    if eval_data is not None:
        recipe = replace(recipe, eval_data=eval_data, eval_share=0.0)
    experiment = replace(study.experiment, recipe=recipe, forget_data=forget_data)
    if name == "languages":
        experiment = replace(experiment, tasks=(*experiment.tasks, _weights_by_bytes(data, recipe.max_examples)))
    given = {"--forget-data": forget_data, "--eval-data": eval_data}
    options = [*given.items(), *(("--reference", folder) for folder in reference)]
    command = ((name, ""), ("--model", SMOLLM2), ("--data", data), *((k, v) for k, v in options if v))
    return replace(study, name=f"{SMOLLM2}-{name}", experiment=experiment, command=command)


def _weights_by_bytes(data: str, limit: int | None) -> str:
    """Fixed weights of the tasks' mean losses in proportion to the bytes of their answers, 1 on average.

    Raises:
        ConfigError: If fewer than two tasks are named.
    """
    sizes: Counter[str] = Counter()
    for record in read_records(data, limit=limit):
        answers = [m.content for m in record.messages or () if m.role == "assistant"] or [record.text or ""]
        if record.task is not None:
            sizes[record.task] += sum(len(answer.encode()) for answer in answers)
    if len(sizes) < 2:
        cure = "give rows a field task that names their language"
        raise ConfigError(
            f"{data} names {len(sizes)} languages as tasks, and two are compared", option="data", cure=cure
        )
    mean = sum(sizes.values()) / len(sizes)
    return f"static({', '.join(f'{task}={size / mean:.3f}' for task, size in sorted(sizes.items()))})"
