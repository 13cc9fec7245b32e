"""Demonstrations that train a small model: length normalization and task weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sftloss.logits.length import LengthNormalizedLoss
from sftloss.logits.words import Demonstration, Statement, TableRow, shown
from sftloss.tasks import MultiTaskLoss, TaskGradients

_ALPHAS = (0.0, 0.5, 1.0)
_SHORTEST, _LONGEST, _COPIES, _LENGTH_STEPS = 2, 15, 4, 150
_END, _WORDS = 0, 8

_TASKS = ("qa", "summarization", "translation", "classification")
_STRATEGIES = ("static", "uncertainty", "difficulty_adaptive", "gradient_balance", "performance_based")
_NUMBERS, _TASK_STEPS, _NOISE = 12, 150, 0.2


def analyze_length_normalization_effects(*, seed: int = 0, verbose: bool = True, lang: str = "en") -> Demonstration:
    r"""Train a small model under the length exponents 0, 0.5 and 1, and measure how long its answers become.

    The answers have 2 to 15 tokens, each length equally often. In one data set all answers share a prompt. In the
    other the prompt fixes the length.

    Args:
        seed: Seed of the answers and of the model.
        verbose: Whether to print the result.
        lang: Language of the text, ``"en"`` or ``"zh"``.

    Returns:
        Table ``mean_lengths``, one row per exponent: the predicted mean length
        :math:`\sum T^{1-\alpha} / \sum T^{-\alpha}`, the mean length the model learned, and the same where the prompt
        fixes the length.
    """
    rows: list[TableRow] = []
    lengths = torch.arange(_SHORTEST, _LONGEST + 1, dtype=torch.float64)
    for alpha in _ALPHAS:
        predicted = (lengths ** (1 - alpha)).sum() / (lengths**-alpha).sum()
        learned, fixed = (_learned_length(alpha, prompt_fixes_length=fixes, seed=seed) for fixes in (False, True))
        rows.append(
            {
                "alpha": alpha,
                "predicted": float(predicted),
                "learned": learned,
                "learned_prompt_fixes_length": fixed,
            }
        )
    none, half, full = (row["learned"] for row in rows)
    fixed_lengths = [row["learned_prompt_fixes_length"] for row in rows]
    statements = (
        Statement("division_shortens", {"none": none, "half": half, "full": full}),
        Statement("lengths_predict"),
        Statement("prompt_fixes", {"low": min(fixed_lengths), "high": max(fixed_lengths)}),
    )
    return shown(
        Demonstration("analyze_length_normalization_effects", {"mean_lengths": rows}, statements), verbose, lang
    )


class _NextToken(nn.Module):
    """Logits of the next token ``(prompts, positions, words)`` from the prompt and the position."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.prompt, self.position = nn.Embedding(_LONGEST + 1, width), nn.Embedding(_LONGEST, width)
        self.hidden, self.head = nn.Linear(width, width), nn.Linear(width, _WORDS)

    def forward(self, prompts: Tensor) -> Tensor:
        read = torch.tanh(self.prompt(prompts)[:, None] + self.position.weight)
        logits: Tensor = self.head(torch.tanh(self.hidden(read)))
        return logits


def _learned_length(alpha: float, *, prompt_fixes_length: bool, seed: int) -> float:
    """Train on all answers at once, and return the mean length of the answers that the model then writes."""
    with _seeded(seed):
        lengths = torch.arange(_SHORTEST, _LONGEST + 1).repeat(_COPIES)
        positions = torch.arange(_LONGEST)
        targets = torch.randint(1, _WORDS, (len(lengths), _LONGEST))
        targets[positions == lengths[:, None] - 1] = _END
        targets[positions >= lengths[:, None]] = -100
        prompts = lengths if prompt_fixes_length else torch.zeros_like(lengths)
        model, loss = _NextToken(), LengthNormalizedLoss(alpha, normalizer="weights")
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, _LENGTH_STEPS)
        for _ in range(_LENGTH_STEPS):
            optimizer.zero_grad()
            loss(model(prompts), targets).backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        ends = model(torch.unique(prompts)).softmax(dim=-1)[..., _END].double()
    # P(length > t) is the product of not ending up to t, and the mean length is the sum of these over t >= 0
    return float(1 + (1 - ends).cumprod(dim=1)[:, :-1].sum(dim=1).mean())


def demonstrate_multitask_loss(*, seed: int = 0, verbose: bool = True, lang: str = "en") -> Demonstration:
    """Train a small model on four tasks under fixed weights and under four strategies of :class:`MultiTaskLoss`.

    Each task asks for another function of two numbers: the first of them (qa), the larger (summarization), their sum
    (translation), and which is larger, with a fifth of the answers wrong (classification). All runs start from the
    same model and see the same batches.

    Args:
        seed: Seed of the model and of the batches.
        verbose: Whether to print the result.
        lang: Language of the text, ``"en"`` or ``"zh"``.

    Returns:
        Tables ``task_weights`` and ``held_out_losses``, one row per strategy: the weights after the last step, and the
        losses on data that was not trained on, in nats.
    """
    weights: list[TableRow] = []
    losses: list[TableRow] = []
    for strategy in _STRATEGIES:
        final_weights, final_losses = _trained_on_tasks(strategy, seed)
        weights.append({"strategy": strategy, **final_weights})
        losses.append({"strategy": strategy, **final_losses})
    by_strategy = {row["strategy"]: row for row in losses}
    equal, adaptive = by_strategy["static"], by_strategy["difficulty_adaptive"]
    easy, hard = (choose(_TASKS, key=lambda task: equal[task]) for choose in (min, max))
    of_hard = {name: by_strategy[name][hard] for name in ("uncertainty", "gradient_balance")}
    tasks = {"easy": easy, "hard": hard}
    helped = {"helped": adaptive[hard], "paid": adaptive[easy], "equal": equal[easy]}
    statements = (
        Statement("weights_move"),
        Statement("small_loss_wins", {**tasks, **of_hard, "equal": equal[hard]}),
        Statement("hard_task_wins", {**tasks, **helped}),
        Statement("one_run"),
    )
    tables = {"task_weights": weights, "held_out_losses": losses}
    return shown(Demonstration("demonstrate_multitask_loss", tables, statements), verbose, lang)


def _trained_on_tasks(strategy: str, seed: int) -> tuple[dict[str, float], dict[str, float]]:
    """Train under a strategy, and return the last weights and the held-out losses by task."""
    with _seeded(seed):
        model = nn.Sequential(
            nn.EmbeddingBag(2 * _NUMBERS + len(_TASKS), 64, mode="sum"),
            nn.Tanh(),
            nn.Linear(64, 64),
            nn.Tanh(),
            nn.Linear(64, _NUMBERS),
        )
        optimizer, weighting = torch.optim.Adam(model.parameters(), lr=5e-3), MultiTaskLoss(_TASKS, strategy)
        needs_gradients = strategy == "gradient_balance"
        gradients = TaskGradients(model, tasks=len(_TASKS))
        for _ in range(_TASK_STEPS):
            losses = {task: _task_loss(model, task, rows=32) for task in _TASKS}
            if needs_gradients:
                gradients.add(dict(enumerate(losses.values())))
            total, _ = weighting(losses)
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            weighting.step(gradients.gramian() if needs_gradients else None)
            gradients.zero()
    with _seeded(seed + 1), torch.no_grad():
        held_out = {task: float(_task_loss(model, task, rows=4000)) for task in _TASKS}
    return dict(zip(_TASKS, weighting.weights.tolist(), strict=True)), held_out


def _task_loss(model: nn.Module, task: str, *, rows: int) -> Tensor:
    """Mean cross-entropy of a new batch of a task."""
    a, b = torch.randint(_NUMBERS, (2, rows))
    larger = (a < b) ^ (torch.rand(rows) < _NOISE)
    answers = dict(zip(_TASKS, (a, torch.maximum(a, b), (a + b) % _NUMBERS, larger.long()), strict=True))
    name = torch.full_like(a, 2 * _NUMBERS + _TASKS.index(task))
    return cross_entropy(model(torch.stack([a, b + _NUMBERS, name], dim=1)), answers[task])


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global generator, and restore its state afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
