"""Callbacks of the Trainer: the log as a file and as lines of text."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sftloss.files import json_lines, write_atomic
from sftloss.words import duration

if TYPE_CHECKING:
    from sftloss.finetune.trainer import Work

_SHOWN = (
    "loss", "eval_loss", "cross_entropy", "token_accuracy", "spikes", "eval_cross_entropy", "eval_token_accuracy",
    "gradient_norm", "filter_dropped", "filter_error",
)  # fmt: skip


class RunCallback(TrainerCallback):
    """Writes the history, hands epoch and step to the run, and stops it where a rank was asked to."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.work.folder.stays and state.is_world_process_zero:
            # lines after the checkpoint are of the run that was killed; its last line may be cut off
            write_atomic(self.work.folder.history, json_lines(state.log_history))

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.work.order is not None:  # not every wrapper that skips rows hands the epoch on
            self.work.order.set_epoch(int(state.epoch or 0))

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.work.spikes.step = state.global_step + 1

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.work.stop.agreed(args.device):
            control.should_training_stop = True
            control.should_save = self.work.folder.stays
        if state.global_step >= state.max_steps:  # the last line of the log may have been before
            self._write(state, self.work.spikes.take())
            control.should_log = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        last = state.log_history.pop()
        # the count is of all ranks, so they agree on whether to gather
        self._write(state, [*(self.work.spikes.take() if "spikes" in (logs or {}) else ()), last])

    def _write(self, state: TrainerState, lines: list[dict[str, Any]]) -> None:
        state.log_history += lines
        if self.work.folder.stays and state.is_world_process_zero:
            with open(self.work.folder.history, "a", encoding="utf-8") as file:
                file.write(json_lines(lines))


class LogLines(TrainerCallback):
    """One line of text for each line of the log, on rank 0: losses, tokens a second, the time left.

    Args:
        write: Called with the line.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self.write = write
        self.began = self.last = (0, 0.0)  # step and time

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.began = self.last = (state.global_step, time.monotonic())

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        values = {name: (logs or {})[name] for name in _SHOWN if name in (logs or {})}
        if values and state.is_world_process_zero:
            text = "  ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in values.items())
            self.write(f"step {state.global_step}/{state.max_steps}  {text}{self._speed(state, logs or {})}")

    def _speed(self, state: TrainerState, logs: Mapping[str, Any]) -> str:
        """Tokens a second since the last line of training, and the time that is left at the pace so far."""
        now, step = time.monotonic(), state.global_step
        if "loss" not in logs or step <= self.began[0]:
            return ""
        tokens, seconds = logs.get("seen_tokens", 0.0), now - self.last[1]
        self.last = (step, now)
        left = (state.max_steps - step) * (now - self.began[1]) / (step - self.began[0])
        speed = f"  {tokens / seconds:,.0f} tokens/s" if tokens and seconds > 0 else ""
        return f"{speed}  {duration(left)} left" if step < state.max_steps else speed
