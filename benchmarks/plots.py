"""Cost of a step as tokens and vocabulary grow: processor time and peak memory, as a JSON record and a picture.

    OMP_NUM_THREADS=1 python -m benchmarks.plots     # 6 minutes; writes benchmarks/results/growth_cpu.{json,svg}

Each point is a process of its own, in a random order: one step to warm up, then one measured, both forward and
backward. Memory is beyond the inputs and the returned gradients, as in `benchmarks.engine`. A cost linear in N is a
straight line through the origin; a memory constant in N is a level one.
"""

from __future__ import annotations

import argparse
import random
import time
from dataclasses import astuple
from pathlib import Path
from typing import Any

from benchmarks.common import in_fresh_process, print_table, provenance, write_json
from benchmarks.engine import Setting, contender, peak_mib, problem

WIDTH = 128
SWEEPS = {
    "tokens": [Setting(tokens, WIDTH, 32000) for tokens in (1024, 2048, 4096, 8192, 16384)],
    "vocab": [Setting(2048, WIDTH, vocab) for vocab in (8000, 16000, 32000, 64000, 128000)],
}
MODES = ("one_pass", "two_pass", "plain")
PLAIN_FITS = 2**28  # logits that the plain formula may be asked for: 1 GiB, held three times


def seconds_here(name: str, setting: Setting) -> float:
    run = contender(name, problem(setting))
    run()
    start = time.process_time()
    run()
    return time.process_time() - start


def measure() -> dict[str, list[dict[str, Any]]]:
    """Return the points of each sweep, measured in a random order."""
    points = [
        (axis, setting, name)
        for axis, settings in SWEEPS.items()
        for setting in settings
        for name in MODES
        if name != "plain" or setting.tokens * setting.vocab <= PLAIN_FITS
    ]
    figures = {}
    for axis, setting, name in random.Random(0).sample(points, len(points)):
        seconds = in_fresh_process("plots", f"seconds_here({name!r}, {setting!r})")
        figures[axis, setting, name] = {"seconds": round(seconds, 3), "mib": round(peak_mib(name, setting), 1)}
    sweeps: dict[str, list[dict[str, Any]]] = {axis: [] for axis in SWEEPS}
    for axis, setting, name in points:
        point = {axis: getattr(setting, axis), "mode": name, **figures[axis, setting, name]}
        sweeps[axis].append(point)
    for axis, line in sweeps.items():
        rows = {f"{p[axis]} {p['mode']}": {"seconds": p["seconds"], "MiB": p["mib"]} for p in line}
        print_table(f"Cost over {axis}", rows)
    return sweeps


def draw(sweeps: dict[str, list[dict[str, Any]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams |= {"svg.hashsalt": "sftloss", "svg.fonttype": "none", "font.size": 9}
    labels = {"seconds": "processor seconds", "mib": "MiB beyond gradients"}
    figure, grid = plt.subplots(2, 2, figsize=(8, 5.5), layout="constrained")
    for row, (axis, points) in zip(grid, sweeps.items(), strict=True):
        for place, (key, label) in zip(row, labels.items(), strict=True):
            for name in MODES:
                line = [(p[axis] / 1000, p[key]) for p in points if p["mode"] == name]
                place.plot(*zip(*line, strict=True), marker="o", markersize=3, label=name)
            place.set(xlabel=f"{axis}, thousands", ylabel=label, xlim=(0, None))
            if key == "seconds":
                place.set_ylim(0, None)
            else:  # plain's is up to 40 times ours: on an even scale ours would lie on the axis
                place.set_yscale("log")
    grid[0, 0].legend()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/growth_cpu"), help="without its ending")
    args = parser.parse_args()
    origin, sweeps = provenance("plots"), measure()
    settings = {axis: [astuple(setting)[:3] for setting in line] for axis, line in SWEEPS.items()}
    write_json(args.output.with_suffix(".json"), {**origin, "settings": settings, "points": sweeps})
    draw(sweeps, args.output.with_suffix(".svg"))


if __name__ == "__main__":
    main()
