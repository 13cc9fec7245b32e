"""What an arm leaves on disk: the same bytes for the same training, the file that says it is finished last."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sftloss.errors import ConfigError, DataError
from sftloss.experiments.metrics import Bin, Gap, Metric, Ratio
from sftloss.experiments.plan import Arm, Plan, Run, digest_of, to_plain
from sftloss.files import write_atomic

RESULT, ANSWERS, TOKENS, PLAN = "result.json", "answers.jsonl", "tokens.safetensors", "plan.json"


@dataclass(frozen=True)
class Examples:
    """The held-out rows, the same for every arm; one entry each."""

    task: tuple[str, ...]
    language: tuple[str, ...]
    prompt: tuple[int, ...]  # code of the prompt: rows that share one are one draw


@dataclass(frozen=True)
class Point:
    """One point of a learning curve.

    Attributes:
        step: Optimizer steps done.
        nll: Mean loss of held-out tokens, nats.
        tasks: Where tasks are weighted, what :meth:`sftloss.training.TaskWeighting.metrics` says there.
    """

    step: int
    nll: float
    tasks: Mapping[str, float] = field(default_factory=dict)

    def plain(self) -> list[Any]:
        """As JSON has it."""
        return [self.step, self.nll, *([dict(self.tasks)] if self.tasks else [])]

    @staticmethod
    def read(values: Sequence[Any]) -> Point:
        """What `plain` wrote."""
        return Point(int(values[0]), float(values[1]), *values[2:])


@dataclass(frozen=True)
class Forecast:
    """What the length tilt says this normalization teaches cross-entropy, from the training rows alone.

    Attributes:
        data: Mean length of the training answers, tokens.
        within_prompt: Predicted mean where length varies only among the answers the data has to one prompt.
        whole: Predicted mean if the prompt said nothing about length: the bound of the shift.
    """

    data: float
    within_prompt: float
    whole: float


@dataclass(frozen=True)
class TokenScores:
    """What an arm says at each held-out token, in the order of the rows: the same tokens for every arm.

    Attributes:
        example: Row of each, int32 ``(tokens,)``, as the others are.
        nll: Its loss, nats, float32.
        is_top1: Whether it is a most probable token, bool.
    """

    example: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    nll: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    is_top1: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))


@dataclass(frozen=True)
class ArmResult:
    """A finished training.

    Attributes:
        run: Arm and seed.
        digest: Of the plan's shared part.
        steps: Optimizer steps.
        tokens: Tokens that the training passes were given, all but padding, each as often as it was; as they counted.
        trained_tokens: Those of them that had a weight.
        metrics: By name; every example's part is kept, so that differences can be paired.
        forgetting: The same on the second data file; empty without one.
        curve: Held-out loss during training.
        reliability: Bins of the confidence with about equally many tokens each.
        lengths: Tokens of each answer, the end included: of every sample, or of the greedy answers where none are
            sampled; ``(examples, answers)``.
        is_sampled: Whether lengths, repetition and the like are of sampled answers; else they are of greedy ones.
        reference_lengths: Of the held-out answers, ``(examples,)``.
        examples: The held-out rows.
        forecasts: By task, and under the empty name of all rows.
        versions: Of the packages that decide the numbers, ours among them.
        end_reliability: Bins of the place in the answer: how probable its end was there, and how often it came.
        scores: Token by token; in a file of its own.
    """

    run: Run
    digest: str
    steps: int
    tokens: int
    trained_tokens: int
    metrics: Mapping[str, Metric]
    curve: tuple[Point, ...]
    reliability: tuple[Bin, ...]
    lengths: tuple[tuple[int, ...], ...]
    reference_lengths: tuple[int, ...]
    examples: Examples
    forgetting: Mapping[str, Metric] = field(default_factory=dict)
    forecasts: Mapping[str, Forecast] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    is_sampled: bool = True
    end_reliability: tuple[Bin, ...] = ()
    scores: TokenScores = field(default_factory=TokenScores)


@dataclass(frozen=True)
class Answer:
    """One held-out prompt and what one arm said."""

    prompt: str
    reference: str
    greedy: str
    samples: tuple[str, ...] = ()
    score: float | None = None


def arm_folder(folder: Path, run: Run) -> Path:
    return folder / "arms" / run.name


def claim(folder: Path, plan: Plan) -> str:
    """Make `folder` the plan's, or check that it is; returns the digest.

    Raises:
        ConfigError: If it holds results of another plan; the message names what differs.
    """
    shared, file = plan.shared(), folder / PLAN
    if file.exists():
        try:
            there = json.loads(file.read_text(encoding="utf-8"))["shared"]
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f"{file} is no plan of ours; choose another --output.") from None
        different = sorted(k for k in {*there, *shared} if there.get(k) != shared.get(k))
        if different:
            raise ConfigError(
                f"{folder} holds arms of another comparison: {', '.join(different)} differ, and arms are compared "
                "only where all else is equal; choose another --output."
            )
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps({"shared": shared}, sort_keys=True, indent=1) + "\n")
    return digest_of(shared)


def save(folder: Path, result: ArmResult, answers: Sequence[Answer]) -> None:
    """Write an arm; `result.json` comes last, so an arm that has it is whole."""
    place = arm_folder(folder, result.run)
    place.mkdir(parents=True, exist_ok=True)
    _save_scores(place / TOKENS, result.scores)
    lines = (json.dumps(to_plain(answer), sort_keys=True) for answer in answers)
    write_atomic(place / ANSWERS, "".join(line + "\n" for line in lines))
    write_atomic(place / RESULT, json.dumps(_plain(result), sort_keys=True, separators=(",", ":")) + "\n")


def load(folder: Path, run: Run, digest: str) -> ArmResult | None:
    """The finished arm, or None where it is not finished.

    Raises:
        DataError: If the file there is not this arm of this plan.
    """
    file = arm_folder(folder, run) / RESULT
    if not file.exists():
        return None
    try:
        result = _read(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable(file, error) from None
    if result.run != run or result.digest != digest:
        raise DataError(f"{file} is of another comparison; remove its folder to train it anew.")
    return replace(result, scores=_load_scores(file.with_name(TOKENS)))


def _unreadable(file: Path, error: Exception) -> DataError:
    return DataError(f"{file} cannot be read ({type(error).__name__}); remove its folder to train it anew.")


def _save_scores(file: Path, scores: TokenScores) -> None:
    from safetensors.numpy import save

    write_atomic(file, save({name: np.ascontiguousarray(value) for name, value in vars(scores).items()}))


def _load_scores(file: Path) -> TokenScores:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return TokenScores(**load_file(file))
    except (SafetensorError, FileNotFoundError, TypeError) as error:
        raise _unreadable(file, error) from None


def answers(folder: Path, run: Run, limit: int | None = None) -> tuple[Answer, ...]:
    """What an arm said, in the order of the held-out rows."""
    text = (arm_folder(folder, run) / ANSWERS).read_text(encoding="utf-8")
    return tuple(_answer(json.loads(line)) for line in text.split("\n")[:limit] if line)


def _answer(values: dict[str, Any]) -> Answer:
    return Answer(**{**values, "samples": tuple(values["samples"])})


def _plain(result: ArmResult) -> dict[str, Any]:
    return {
        "arm": to_plain(result.run.arm),
        "seed": result.run.seed,
        "digest": result.digest,
        "steps": result.steps,
        "tokens": result.tokens,
        "trained_tokens": result.trained_tokens,
        "metrics": {name: _metric(m) for name, m in result.metrics.items()},
        "forgetting": {name: _metric(m) for name, m in result.forgetting.items()},
        "curve": [p.plain() for p in result.curve],
        "reliability": _bins(result.reliability),
        "end_reliability": _bins(result.end_reliability),
        "lengths": [list(row) for row in result.lengths],
        "is_sampled": result.is_sampled,
        "reference_lengths": list(result.reference_lengths),
        "examples": to_plain(result.examples),
        "forecasts": {name: to_plain(f) for name, f in result.forecasts.items()},
        "versions": dict(result.versions),
    }


def _bins(bins: Sequence[Bin]) -> list[list[float]]:
    return [[b.low, b.high, b.count, b.predicted, b.observed] for b in bins]


def _metric(metric: Metric) -> dict[str, Any]:
    if isinstance(metric, Ratio):
        return {"top": _numbers(metric.top), "bottom": _numbers(metric.bottom)}
    assert isinstance(metric, Gap)
    gap = [_numbers(row) for row in np.asarray(metric.gap)]
    return {"gap": gap, "size": _numbers(metric.size), "norm": metric.norm}


def _numbers(values: Any) -> list[float]:
    # whole numbers without their ".0": half the bytes of counts and scores
    return [int(v) if v == int(v) else v for v in np.asarray(values, dtype=np.float64).tolist()]


def _read_metric(values: Mapping[str, Any]) -> Metric:
    def array(name: str) -> Any:
        return np.asarray(values[name], dtype=np.float64)

    if "top" in values:
        return Ratio(array("top"), array("bottom"))
    return Gap(array("gap"), array("size"), "max" if values["norm"] == "max" else "sum")


def _read(values: Mapping[str, Any]) -> ArmResult:
    return ArmResult(
        run=Run(Arm(**values["arm"]), values["seed"]),
        digest=values["digest"],
        steps=values["steps"],
        tokens=values["tokens"],
        trained_tokens=values["trained_tokens"],
        metrics={name: _read_metric(m) for name, m in values["metrics"].items()},
        curve=tuple(map(Point.read, values["curve"])),
        reliability=tuple(Bin(*bin) for bin in values["reliability"]),
        lengths=tuple(map(tuple, values["lengths"])),
        reference_lengths=tuple(values["reference_lengths"]),
        examples=Examples(**{k: tuple(v) for k, v in values["examples"].items()}),
        forgetting={name: _read_metric(m) for name, m in values["forgetting"].items()},
        forecasts={name: Forecast(**f) for name, f in values["forecasts"].items()},
        versions=values["versions"],
        is_sampled=values["is_sampled"],
        end_reliability=tuple(Bin(*bin) for bin in values["end_reliability"]),
    )
