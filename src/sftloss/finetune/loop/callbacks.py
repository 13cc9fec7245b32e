"""What happens at the Trainer's events: log lines written, a wish to stop heard."""

from __future__ import annotations

from typing import Any

from sftloss.finetune.loop.trainer import Work
from sftloss.finetune.output.files import line, write_lines


def run_callback(work: Work) -> Any:
    """One callback for a run."""
    from transformers import TrainerCallback

    class RunCallback(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if work.folder.stays and state.is_world_process_zero:
                # lines after the checkpoint are of the run that was killed; a last line may be cut off
                write_lines(work.folder.history, state.log_history)

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if work.order is not None:  # not every wrapper that skips rows hands the epoch on
                work.order.set_epoch(int(state.epoch or 0))

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            work.spikes.step = state.global_step + 1

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if work.stop.agreed(args.device):
                control.should_training_stop = True
                control.should_save = work.folder.stays
            if state.global_step >= state.max_steps:  # the last line of the log may have been before
                self._write(state, work.spikes.take())

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            told = state.log_history.pop()
            # the count is of all ranks, so they agree on whether to gather
            self._write(state, [*(work.spikes.take() if "spikes" in logs else ()), told])

        def _write(self, state: Any, told: list[dict[str, Any]]) -> None:
            state.log_history += told
            if work.folder.stays and state.is_world_process_zero:
                with open(work.folder.history, "a", encoding="utf-8") as file:
                    file.write("".join(map(line, told)))

    return RunCallback()
