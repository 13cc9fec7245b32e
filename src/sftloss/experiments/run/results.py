"""The result of a trial, in memory and on disk. Equal trainings give equal bytes."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sftloss.analysis.lengths.forecast import LengthRange
from sftloss.document import Command, Finding
from sftloss.errors import ConfigError, DataError, SftlossError, mention
from sftloss.experiments.experiment import Arm, Experiment, Trial, digest_of
from sftloss.experiments.metrics import Bin, Metric, read_metric
from sftloss.files import write_atomic

RESULT, ANSWERS, TOKENS, SHARED = "result.json", "answers.jsonl", "tokens.safetensors", "experiment.json"
RATES = "rates"
_CONTENT = re.compile(r"^(\w+?)(?:_\d+)?_content$")  # of a file: the option that names it
"""Folder of the losses by which the learning rate of each arm was chosen."""
_AGAIN = "remove its folder to train this arm again"


@dataclass(frozen=True)
class RowGroups:
    """Task, language and prompt of each held-out row, ``(rows,)`` each; the same for every arm.

    Attributes:
        task, language: Names, empty where the data has none.
        prompt: Code of the prompt. Rows with one prompt are resampled together.
    """

    task: tuple[str, ...]
    language: tuple[str, ...]
    prompt: tuple[int, ...]


class Point(NamedTuple):
    """One point of a learning curve.

    Attributes:
        step: Optimizer steps done.
        nll: Mean loss of held-out tokens, nats.
        tasks: Metrics of the task weighting at that step (:meth:`sftloss.training.TaskWeighting.metrics`); empty where
            tasks are not weighted.
        lengths: Mean tokens of the answers to each traced row, by ``"seen greedy"``, ``"seen sampled"``,
            ``"unseen greedy"`` and ``"unseen sampled"``; empty where no lengths are traced.
    """

    step: int
    nll: float
    tasks: Mapping[str, float] = {}
    lengths: Mapping[str, list[float]] = {}


@dataclass(frozen=True)
class TokenScores:
    """Scores of each held-out token, in the order of the rows; the same tokens for every arm.

    Attributes:
        example: Row of the token, int32 ``(tokens,)``, as the others are.
        nll: Loss of the token, nats, float32.
        is_top1: Whether the token is a most probable one, bool.
    """

    example: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    nll: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    is_top1: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))


@dataclass(frozen=True)
class ArmResult:
    """A finished training and its evaluation.

    Attributes:
        trial: Arm and seed.
        digest: Digest of what the arms share.
        steps: Optimizer steps.
        tokens, trained_tokens: Tokens of all training passes without padding, and those of them that had a weight.
        metrics: Metrics by name, with every row's part, so that differences can be paired.
        curve: Held-out loss during training.
        reliability: Confidence against accuracy, bins with about equally many tokens.
        lengths: Tokens of each sampled (or else greedy) answer, the end included, ``(rows, answers)``.
        reference_lengths: Tokens of the held-out rows' own answers, ``(rows,)``.
        groups: Task, language and prompt of the held-out rows.
        forgetting: Metrics on the rows of another kind; empty where there are none.
        forecasts: Predicted answer lengths by task; the empty name is all rows.
        versions: Versions of the packages that decide the numbers.
        is_sampled: Whether lengths, repetition and the like are of sampled answers.
        end_reliability: Probability of the end against its frequency, by position in the answer.
        scores: Scores of each held-out token; in a file of its own.
        row_findings: Findings about the rows of the training file.
        learning_rate: The peak learning rate.
        tuning: Held-out loss with each learning rate that was tried; empty where one was given.
        train_rows, train_prompts: Rows to train on, and their different prompts.
        parameters, trained_parameters: Numbers of the model, and those of them that are trained.
        traced: Task, language and prompt of the rows in :attr:`Point.lengths`, ``"seen"`` and ``"unseen"``.
    """

    trial: Trial
    digest: str
    steps: int
    tokens: int
    trained_tokens: int
    metrics: Mapping[str, Metric]
    curve: tuple[Point, ...]
    reliability: tuple[Bin, ...]
    lengths: tuple[tuple[int, ...], ...]
    reference_lengths: tuple[int, ...]
    groups: RowGroups
    forgetting: Mapping[str, Metric] = field(default_factory=dict)
    forecasts: Mapping[str, LengthRange] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    is_sampled: bool = True
    end_reliability: tuple[Bin, ...] = ()
    scores: TokenScores = field(default_factory=TokenScores)
    row_findings: tuple[Finding, ...] = ()
    learning_rate: float = 0.0
    tuning: Mapping[str, float] = field(default_factory=dict)
    train_rows: int = 0
    train_prompts: int = 0
    parameters: int = 0
    trained_parameters: int = 0
    traced: Mapping[str, RowGroups] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """A held-out prompt, its reference and the answers of one arm; `score` is the task checker's, None without one."""

    prompt: str
    reference: str
    greedy: str
    samples: tuple[str, ...] = ()
    score: float | None = None


def trial_folder(folder: Path, trial: Trial) -> Path:
    """Folder of one trial."""
    return folder / "arms" / trial.name


def claim(folder: Path, experiment: Experiment) -> str:
    """Make `folder` the experiment's, or check that it is; returns the digest.

    Raises:
        ConfigError: If it holds results of another experiment; the message names the fields that differ.
    """
    shared, file = experiment.shared(), folder / SHARED
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps(shared, sort_keys=True, indent=1) + "\n")
        return digest_of(shared)
    try:
        there: dict[str, Any] = dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise ConfigError(
            f"{file} is not the record of an experiment", cure=f"choose another {mention('output')}"
        ) from None
    different = sorted(name for name in {*there, *shared} if there.get(name) != shared.get(name))
    if different:
        names = dict.fromkeys(_CONTENT.sub(r"\1", name) for name in different)
        raise ConfigError(
            f"{folder} holds another experiment ({', '.join(map(mention, names))} differ), and arms can be "
            "compared only where everything else is equal",
            cure=f"choose another {mention('output')}",
        )
    return digest_of(shared)


@contextmanager
def claimed(folder: Path, experiment: Experiment) -> Iterator[str]:
    """As :func:`claim`; a folder that is new stays free where an error comes before a result or a checkpoint."""
    is_new = not (folder / SHARED).exists()
    digest = claim(folder, experiment)
    try:
        yield digest
    except SftlossError:
        files = [path for part in ("arms", RATES) for path in folder.glob(f"{part}/**/*.*") if path.is_file()]
        unfinished = {trial_folder(folder, trial) / "checkpoints" for trial in experiment.trials()}
        if is_new and all(unfinished & {*path.parents} and "checkpoint-" not in str(path) for path in files):
            for place in unfinished:
                shutil.rmtree(place, ignore_errors=True)
            (folder / SHARED).unlink(missing_ok=True)
        raise


def save(folder: Path, result: ArmResult, answers: Iterable[Answer]) -> None:
    """Write a trial. `result.json` is written last, so a trial that has it is complete."""
    from safetensors.numpy import save as scores_file

    place = trial_folder(folder, result.trial)
    place.mkdir(parents=True, exist_ok=True)
    scores = {name: np.ascontiguousarray(value) for name, value in vars(result.scores).items()}
    write_atomic(place / TOKENS, scores_file(scores))
    write_atomic(place / ANSWERS, "".join(_json(answer) + "\n" for answer in answers))
    write_atomic(place / RESULT, _json({k: v for k, v in vars(result).items() if k != "scores"}) + "\n")


def load(folder: Path, trial: Trial, digest: str) -> ArmResult | None:
    """The finished trial; None where it is not finished.

    Raises:
        DataError: If a file is damaged, or is of another experiment.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    file = trial_folder(folder, trial) / RESULT
    if not file.exists():
        return None
    try:
        result = _read(json.loads(file.read_text(encoding="utf-8")))
        result = replace(result, scores=TokenScores(**load_file(file.with_name(TOKENS))))
    except (ValueError, KeyError, TypeError, FileNotFoundError, SafetensorError) as error:
        raise DataError(f"{file} cannot be read ({type(error).__name__})", cure=_AGAIN) from None
    if result.trial != trial or result.digest != digest:
        raise DataError(f"{file} is of another experiment", cure=_AGAIN)
    return result


def read_answers(folder: Path, trial: Trial) -> tuple[Answer, ...]:
    """The answers of a trial, in the order of the held-out rows."""
    text = (trial_folder(folder, trial) / ANSWERS).read_text(encoding="utf-8")
    rows = (json.loads(line) for line in text.split("\n") if line)
    return tuple(Answer(**{**row, "samples": tuple(row["samples"])}) for row in rows)


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)


def _plain(value: Any) -> Any:
    """Arrays as lists, records as mappings; whole numbers without their ".0", which is half the bytes of counts."""
    if isinstance(value, Command):
        return str(value)
    if not isinstance(value, np.ndarray):
        return dict(vars(value))
    return list(value) if value.ndim > 1 else [int(v) if v == int(v) else v for v in value.astype(float).tolist()]


def _read(values: dict[str, Any]) -> ArmResult:
    read: dict[str, Callable[[Any], Any]] = {
        "trial": lambda trial: Trial(Arm(**trial["arm"]), trial["seed"]),
        "groups": _groups,
        "traced": lambda parts: {name: _groups(columns) for name, columns in parts.items()},
        "lengths": lambda rows: tuple(map(tuple, rows)),
        "reference_lengths": tuple,
        "curve": lambda points: tuple(Point(*point) for point in points),
        "row_findings": lambda all: tuple(Finding(**{**one, "rows": tuple(one["rows"])}) for one in all),
        "forecasts": lambda tasks: {name: LengthRange(**one) for name, one in tasks.items()},
        **dict.fromkeys(("metrics", "forgetting"), lambda all: {key: read_metric(one) for key, one in all.items()}),
        **dict.fromkeys(("reliability", "end_reliability"), lambda bins: tuple(Bin(*one) for one in bins)),
    }
    return ArmResult(**{name: read[name](value) if name in read else value for name, value in values.items()})


def _groups(columns: Mapping[str, Any]) -> RowGroups:
    return RowGroups(**{name: tuple(column) for name, column in columns.items()})
