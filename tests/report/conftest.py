"""Documents for the report's tests: one calm and plausible, one with every record and every hostile string."""

from __future__ import annotations

import math

import pytest

from sftloss.document import Chart, Column, Document, Finding, Interval, Section, Series, Table, TokenStrip

SCRIPT = "</script><img src=x onerror=alert(1)>"
HOSTILE = (
    SCRIPT,
    "{{7*7}} {% raw %}",
    "javascript:alert(1)",
    'line\u2028separator" onload="x',
    "\x1b[31mred\x1b[0m\x1b]8;;http://e.x\x07link\x1b]8;;\x07",
    "مرحبا بالعالم \u202eevil",
    "长度归一化改变了模型学到的长度",
    "w" * 400,
    "$x^2$ | `code` & <b>bold</b> @someone [l](http://e.x) ![i](http://e.x/p.png)",
    "lone \ud800 surrogate \x00 null",
)


def _strip(title: str, tokens: tuple[str, ...], roles: tuple[str, ...]) -> TokenStrip:
    n = len(tokens)
    loss = tuple(abs(math.sin(1.7 * i)) if roles[i] == "response" else 0.0 for i in range(n))
    weight = tuple(1.0 if role == "response" else 0.0 for role in roles)
    signal = tuple(value * value for value in loss)
    return TokenStrip(title, ("loss", "weight", "signal"), tokens, roles, (loss, weight, signal))


def _charts(name: str) -> tuple[Chart, ...]:
    steps = tuple(i / 20 for i in range(21))
    deciles = tuple(str(i) for i in range(1, 11))
    curve = Series(f"{name} per-example mean", steps, tuple(x**0.55 for x in steps))
    banded = Series(
        f"{name} token mean",
        steps,
        tuple(x**1.6 for x in steps),
        low=tuple(max(0.0, x**1.6 - 0.05) for x in steps),
        high=tuple(min(1.0, x**1.6 + 0.05) for x in steps),
    )
    equal = Series("equal share", steps, steps, is_reference=True)
    share = tuple(0.02 * i for i in range(1, 11))
    spread = {"low": tuple(s - 0.01 for s in share[::-1]), "high": tuple(s + 0.01 for s in share[::-1])}
    signal = Series("signal", deciles, share[::-1], **spread)
    low, high = (0.8, 0.9, -0.4), (1.4, 1.7, 0.1)
    names = ("yes/no questions", "long list of random words, copied", f"{name}")
    return (
        Chart("concentration", "line", "Who receives the signal", "examples, shortest first", "cumulative share",
              (equal, banded, curve), "The per-example mean gives the shortest half of the examples 68% of the signal.",
              format_x="percent", format_y="percent"),
        Chart("deciles", "bar", "Tokens and signal by length decile", "length decile", "share",
              (Series("tokens", deciles, share), signal, Series("equal", deciles, (0.1,) * 10, is_reference=True)),
              "The longest decile holds 20% of tokens, 2% of signal.", scale_x="category", format_y="percent"),
        Chart("elasticity", "point", "Elasticity of signal on length", "loss", "elasticity",
              (Series("slope", names, (1.17, 1.3, -0.2), low=low, high=high),
               Series("proportional", names, (1.0, 1.0, 1.0), is_reference=True)),
              "1 is proportional to tokens, 0 equal for every example.", scale_x="category"),
        Chart("tasks", "bar", "Signal by task", "task", "share of signal",
              (Series("token mean", names, (0.2, 0.7, 0.1)), Series("example mean", names, (0.6, 0.3, None))),
              "Three tasks.", scale_x="category", format_y="percent"),
        Chart("spectrum", "line", "Loss over length", "tokens", "loss, nats",
              (Series("mean", (1.0, 10.0, 100.0, 1000.0), (4.0, 2.0, None, 0.5)),), "Falls.",
              scale_x="log", scale_y="log"),
    )  # fmt: skip


def _table(name: str) -> Table:
    columns = (
        Column("task", "Task"),
        Column("examples", "Examples", "integer"),
        Column("tokens", "Tokens", "percent", help="share of supervised tokens"),
        Column("signal", "Signal", "percent"),
        Column("ratio", "Signal / tokens", "ratio"),
        Column("loss", "Mean loss", "nats"),
        Column("beta", "Elasticity", "number"),
    )
    rows = (
        (f"yes/no {name}", 812, 0.034, 0.358, 10.53, 0.0123, 1.17),
        ("list", 1204, 0.553, 0.023, 0.0416, 2.5, math.nan),
        ("copy", 99, 0.321, None, math.inf, 1e-7, True),
    )
    return Table("tasks", "Signal by task", columns, rows, note="Shares sum to 100%.")


def _findings(name: str) -> tuple[Finding, ...]:
    why = "At its optimum the model learns the reweighted length distribution, not the one in the data."
    return (
        Finding("DATA004", "info", f"12 rows were skipped {name}", "They have no response.", rows=("a.jsonl:3", name)),
        Finding("NORM002", "warning", "Per-example mean teaches answers 29% shorter than the data's.", why,
                fix="sftloss analyze --loss token_mean --data train.jsonl", value=0.713, unit="ratio",
                interval=Interval(0.688, 0.741)),
        Finding("MASK003", "error", f"The end-of-turn token is never trained in 41.2% of the examples. {name}",
                "A model that never sees the end learns not to stop.", fix=f"train_on_eos: turn\n# {name}", value=0.412,
                unit="percent", interval=Interval(0.391, 0.433), rows=tuple(f"train.jsonl:{i}" for i in range(1, 11))),
    )  # fmt: skip


def build(names: tuple[str, ...]) -> Document:
    """A document with every kind of record, `names` strewn over all its texts."""
    first = names[0]
    tokens = (
        "<|user|>",
        "Is",
        " 7",
        " prime",
        "?",
        "\n",
        "<|assistant|>",
        "Yes",
        ",",
        " it",
        " is",
        ".",
        "</s>",
        *names,
    )
    roles = ("prompt",) * 7 + ("response",) * (len(tokens) - 7)
    body = tuple(
        Section(f"part-{i}", f"Where the signal goes {name[:60]}", f"Short examples get ten times their share. {name}",
                level=("S0", "S1", "S2")[i % 3], charts=_charts(name), tables=(_table(name),),
                strips=(_strip(f"Example {name[:40]}", tokens, roles),), notes=(f"A note. {name}",))
        for i, name in enumerate(names)
    )  # fmt: skip
    empty = Section("empty", "Nothing measured", "No rows.", tables=(Table("none", "Empty", (Column("a", "A"),), ()),),
                    charts=(Chart("void", "line", "Empty", "x", "y", (Series("s", (), ()),), "No data."),))  # fmt: skip
    return Document(
        title=f"Signal report {first[:50]}",
        headlines=(
            "Yes/no questions are 3% of the tokens and 36% of the update under the per-example mean.",
            "Predicted answer length: 8.4 tokens with the token mean, 6.0 with the per-example mean (data 8.5).",
            f"The end-of-turn token is never trained in 41% of the examples. {first}",
        ),
        findings=_findings(first),
        sections=(*body, empty),
        facts=(
            ("Model", "tiny-gpt (0.8 M)"),
            ("Data", f"train.jsonl {first[:30]}"),
            ("Examples", "2,115"),
            ("Loss", "cross_entropy"),
        ),
        provenance=(("Command", f"sftloss analyze --data {first}"), ("Versions", "torch 2.13"), ("Seed", "0")),
    )


@pytest.fixture(scope="session")
def hostile() -> Document:
    return build(HOSTILE)


@pytest.fixture(scope="session")
def calm() -> Document:
    return build(("english", "其他"))
