"""`sftloss analyze` by several processes, and killed in the middle: the report is one process's, byte for byte.

Real processes over gloo on the CPU. All run with one thread, because the number of threads may change the last bit of
a matrix product.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.tools import MODEL, ROWS, write_rows
from tests.paths import ROOT

MAIN = ROOT / "tests" / "analyze_process.py"
LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK", "ROLE_RANK")


def environment(**more: object) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if name not in LAUNCHER}
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    fixed = {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "COLUMNS": "200"}
    return {**clean, **fixed, **{name: str(value) for name, value in more.items()}}


def words(data: Path, output: Path, *more: str) -> list[str]:
    small = ["--tokens-per-batch", "60", "--loss", "cross_entropy", "--loss", "focal(gamma=2)"]
    return [str(MAIN), "analyze", "-m", MODEL, "-d", str(data), "-o", str(output), *small, *more]


def one(data: Path, output: Path, *more: str, **env: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *words(data, output, *more)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment(**env))


def torchrun(world: int, data: Path, output: Path, *more: str, **env: object) -> subprocess.CompletedProcess[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    command = [*launch, *words(data, output, *more)]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment(**env))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def report_of(output: Path) -> str:
    """report.json without the line that names the output folder."""
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    kept = [entry for entry in report["provenance"] if "command" not in json.dumps(entry)]
    assert len(kept) == len(report["provenance"]) - 1
    return json.dumps({**report, "provenance": kept}, sort_keys=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    rows = [{**row, "task": ("copy", "echo")[i % 2]} for i, row in enumerate(ROWS * 12)]
    return write_rows(tmp_path_factory.mktemp("data") / "d.jsonl", rows)


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("alone") / "out"
    done = one(data, output)
    assert done.returncode == 0, done.stderr
    return output


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_report_of_several_ranks_is_one_process_s(world: int, data: Path, alone: Path, tmp_path: Path) -> None:
    done = torchrun(world, data, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    table = tmp_path / "out" / "table"
    assert sorted(p.name for p in table.glob("done-*")) == [f"done-{r:05d}-of-{world:05d}.json" for r in range(world)]
    measured = [json.loads(p.read_text())["examples"] for p in table.glob("done-*")]
    assert sum(measured) == 72 and min(measured) > 0, measured
    assert report_of(tmp_path / "out") == report_of(alone)
    assert done.stdout.count("Findings") <= 1 and done.stdout.strip()  # one rank prints
    assert done.stderr.count("wrote ") == 1


@pytest.mark.slow
def test_one_process_of_two_says_that_a_shard_is_missing(data: Path, tmp_path: Path) -> None:
    launch = {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    done = one(data, tmp_path / "out", "--rank-timeout", "3", **launch)
    assert done.returncode == 5
    assert "sftloss: rank 0 of 2: not all ranks came within 3 s, so a shard of the data is missing" in done.stderr
    assert not (tmp_path / "out" / "report.json").exists()


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_other_and_resume_ends_well(data: Path, alone: Path, tmp_path: Path) -> None:
    """Without torchrun, which would kill the survivor: the survivor notices by itself."""
    output, port = tmp_path / "out", free_port()
    launch = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    mortal = [sys.executable, *words(data, output)]
    other = subprocess.Popen(mortal, env=environment(RANK=1, DIE_AFTER_BATCHES=2, **launch))
    done = one(data, output, RANK=0, **launch)
    assert other.wait(60) == -signal.SIGKILL
    assert done.returncode == 5 and "another rank ended before its part was done" in done.stderr, done.stderr
    assert not (output / "report.json").exists()
    assert one(data, output, "--resume").returncode == 0  # by one process: the world may change
    assert report_of(output) == report_of(alone)


@pytest.mark.slow
def test_kill_9_in_the_middle_then_resume_gives_the_same_report(data: Path, alone: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    killed = one(data, output, DIE_AFTER_BATCHES=5)
    parts = sorted((output / "table").glob("examples-*.parquet"))
    assert killed.returncode == -signal.SIGKILL and 1 <= len(parts) <= 5
    assert not (output / "report.json").exists()
    before = {part: part.stat().st_mtime_ns for part in parts}
    resumed = one(data, output, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert report_of(output) == report_of(alone)
    assert {part: part.stat().st_mtime_ns for part in parts} == before  # used, not measured again


@pytest.mark.slow
def test_killed_ranks_resume_to_the_same_report(data: Path, alone: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert torchrun(2, data, output, DIE_AFTER_BATCHES=2).returncode != 0
    assert not (output / "report.json").exists() and list((output / "table").glob("examples-*.parquet"))
    done = torchrun(2, data, output, "--resume")
    assert done.returncode == 0, done.stderr
    assert report_of(output) == report_of(alone)


@pytest.mark.parametrize(
    ("said", "told"), [({"RANK": "2", "WORLD_SIZE": "2"}, "a rank is below"), ({"WORLD_SIZE": "x"}, "is not a number")]
)
def test_an_impossible_launch_is_one_sentence(said, told, monkeypatch) -> None:
    from sftloss.errors import ConfigError
    from sftloss.ranks import launched_as

    for name, value in said.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=told):
        launched_as()


def test_cuda_is_the_card_of_the_rank_and_other_devices_stay(monkeypatch) -> None:
    from sftloss.ranks import device_of_rank

    monkeypatch.setenv("LOCAL_RANK", "3")
    assert [device_of_rank(d) for d in ("cuda", "cuda:0", "cpu")] == ["cuda:3", "cuda:0", "cpu"]
    monkeypatch.delenv("LOCAL_RANK")
    assert device_of_rank("cuda") == "cuda"


def test_rank_one_makes_no_report() -> None:
    from sftloss.errors import ConfigError
    from sftloss.pipeline import Run, analyze, take_part

    with pytest.raises(ConfigError, match="call take_part"):
        analyze(None, None, [], run=Run(output="x", shard=(1, 2)))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="ranks from 1 on"):
        take_part(None, None, [], run=Run(output="x"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="meet in the output folder"):
        Run(shard=(0, 2))


def test_without_a_process_group_every_collective_is_that_of_one_process() -> None:
    import torch

    from sftloss import ranks

    values = torch.tensor([1.0, 2.0])
    assert (ranks.rank_of(), ranks.world_size(), ranks.is_distributed()) == (0, 1, False)
    assert ranks.sum_over_ranks(values) is values and ranks.reduce_over_ranks(values, "mean") is values
    assert ranks.gather_over_ranks("mine") == ["mine"]
