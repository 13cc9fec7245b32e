"""Runs in this process and in their own: `from tests.finetune.runs import here, start, finish`."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.paths import ROOT

SCRIPT = str(Path(__file__).with_name("one_run.py"))
# dropout, so that a run is only repeated if its random numbers are
FIELDS: dict[str, Any] = {
    "model": "demo",
    "data": "demo",
    "max_examples": 60,
    "batch_size": 4,
    "grad_accum": 2,
    "epochs": 2.0,
    "learning_rate": 1e-3,
    "save_every": 3,
    "logging_every": 2,
    "eval_share": 0.2,
    "eval_every": 4,
    "keep": None,
    "device": "cpu",
}


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "HF_HUB_OFFLINE": "1"}


def start(output: Path, *, ranks: int = 1, config: Path | None = None, **fields: Any) -> subprocess.Popen[str]:
    """A run as a process; under torchrun with several ranks, or by `accelerate launch` with a file of its own."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    given = environment()
    if config is not None:
        launcher = ["-m", "accelerate.commands.launch", "--config_file", str(config), "--num_processes", str(ranks)]
        launcher += ["--main_process_port", "0"]  # any free one
        is_deepspeed = "DEEPSPEED" in config.read_text()  # which Accelerate passes by where it is told of a CPU
        given |= {"DS_ACCELERATOR": "cpu"} if is_deepspeed else {"ACCELERATE_USE_CPU": "true"}
    told = json.dumps({**FIELDS, "output": str(output), **fields})
    return subprocess.Popen(
        [sys.executable, *launcher, SCRIPT, told],
        env=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def here(output: Path | None, **fields: Any) -> Any:
    """The same run in this process."""
    from tests.finetune.one_run import run

    return run({**FIELDS, "output": None if output is None else str(output), **fields})


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    out, _ = process.communicate(timeout=240)
    assert process.returncode == code, out[-3000:]
    return out


PLANTED: dict[str, Any] = {"batch_size": 1, "epochs": 1.0, "learning_rate": 1e-4, "seed": 10, "logging_every": 30}
"""With these the absurd row of `write_planted` comes in step 28, after enough others to know it by."""


def write_planted(path: Path) -> Path:
    """Forty rows that the demo model knows, and line 41."""
    from sftloss.data.demo import demo_records

    known = [record.messages for record in demo_records(count=240) if record.task == "copy"][:40]
    rows = [{"prompt": asked.content, "completion": told.content} for asked, told in known]
    rows.append({"prompt": "copy: red", "completion": "Zq#9@!~ xWv%%7 " * 4})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def weights_digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()


CLOCKS = ("runtime", "samples_per_second", "steps_per_second")
"""What may differ between two equal runs in ``history.jsonl``: the values of these keys, behind a prefix. The command,
the time and the checkpoint that a run continued from differ in ``train.json``; nothing else does."""


def history(folder: Path) -> list[str]:
    """Every line of the log as it stands in the file, the values that a clock decides replaced by 0."""
    lines = (folder / "history.jsonl").read_text("utf-8").splitlines()
    return [re.sub(rf'("\w*_(?:{"|".join(CLOCKS)})"): [-+0-9.e]+', r"\1: 0", line) for line in lines]


def entries(folder: Path) -> list[dict[str, Any]]:
    """The lines of :func:`history` as mappings."""
    return [json.loads(line) for line in history(folder)]


def facts_but_for_clock_and_command(folder: Path) -> dict[str, Any]:
    """``train.json`` without what :data:`CLOCKS` names as its differences."""
    facts = json.loads((folder / "train.json").read_text("utf-8"))
    recipe = {k: v for k, v in facts["recipe"].items() if k not in ("output", "resume", "resume_from", "overwrite")}
    return {**facts, "recipe": recipe, "command": "", "seconds": 0, "resumed_from": None}
