"""Which device a worker gets, and what is said of one that was killed."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest
from tests.cli.tools import run as command
from tests.experiments.test_runner import TINY

from sftloss.errors import ConfigError, MachineError
from sftloss.experiments import Execution, compare
from sftloss.experiments.run import runner


@pytest.mark.parametrize(
    ("visible", "place", "expected"),
    [
        (None, "cuda:1", "1"),
        ("4,5", "cuda:0", "4"),
        ("4,5", "cuda:1", "5"),
        ("GPU-8932f937, MIG-41b3359c", "cuda:1", "MIG-41b3359c"),
        ("4,5", "cuda", "4,5"),
        ("4,5", "cpu", "4,5"),
    ],
)
def test_a_worker_sees_the_device_that_its_number_means_here(visible, place, expected):
    given = {"HOME": "/", **({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})}
    told = runner.worker_environment(place, given)
    assert told["CUDA_VISIBLE_DEVICES"] == expected and told["HOME"] == "/"


@pytest.mark.parametrize("visible", ["4", "", "4,-1,5"])
def test_a_device_beyond_those_we_see_is_refused_before_anything_is_trained(visible, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(runner.subprocess, "Popen", None)
    with pytest.raises(ConfigError, match=rf"no device cuda:1: CUDA_VISIBLE_DEVICES is '{visible}'"):
        compare(TINY, output=tmp_path, execution=Execution(devices=("cuda:1",)))


def test_a_worker_is_started_with_the_device_that_was_meant(tmp_path, monkeypatch):
    started = []

    class Stopped(Exception):
        pass

    def popen(words, env, **given):
        started.append(env["CUDA_VISIBLE_DEVICES"])
        raise Stopped

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    monkeypatch.setattr(runner.subprocess, "Popen", popen)
    with pytest.raises(Stopped):
        compare(TINY, output=tmp_path, execution=Execution(devices=("cuda:1",)))
    assert started == ["5"]


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:-1", "cpu:0", "cuda:"])
def test_a_device_that_is_none_is_refused(device):
    with pytest.raises(ConfigError, match="give cpu, cuda, cuda:N or mps"):
        Execution(devices=(device,))


def dying(tmp_path, monkeypatch, how: str) -> None:
    """From now on workers end by themselves, `how`."""
    stand_in = tmp_path / "dying"
    stand_in.write_text(f"#!/bin/sh\nread order; read run\n{how}\n")
    stand_in.chmod(0o755)
    monkeypatch.setattr(runner.sys, "executable", str(stand_in))


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_killed_worker_is_told_in_one_sentence(tmp_path, monkeypatch):
    dying(tmp_path, monkeypatch, "kill -9 $$")
    with pytest.raises(MachineError) as caught:
        compare(TINY, output=tmp_path / "out", execution=Execution(workers=2))
    assert caught.value.exit_code == 5
    assert str(caught.value) in {
        f"the training {run.name} was killed by signal 9 (SIGKILL), often because memory ran out; run the "
        "same command again, finished arms are kept."
        for run in TINY.trials()
    }


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_the_command_line_says_it_with_the_code_of_the_machine(tmp_path, monkeypatch):
    dying(tmp_path, monkeypatch, f"kill -{int(signal.SIGTERM)} $$")
    words = ("--seeds", 1, "--max-steps", 1, "--workers", 2, "-o", tmp_path / "out")
    done = command("compare", "--loss", "cross_entropy", "--loss", "dft", *words)
    assert done.exit_code == 5 and "SIGTERM" in done.stderr
    assert "internal error" not in done.stderr and "memory" not in done.stderr and done.stderr.count("\n") <= 2


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_worker_that_dies_between_two_arms_does_not_keep_the_others_waiting(tmp_path, monkeypatch):
    experiment = replace(TINY, seeds=(0, 1))
    answer = '{\\"trial\\": \\"$run\\"}'
    dying(tmp_path, monkeypatch, f'echo "{answer}"\nexit 3')
    with pytest.raises(RuntimeError, match="ended with 3"):
        compare(experiment, output=tmp_path / "out", execution=Execution(devices=("cuda",)))
