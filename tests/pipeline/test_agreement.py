"""`inspect` and `analyze` report the same findings about the same rows."""

from __future__ import annotations

import pytest

from sftloss import analyze, inspect
from sftloss.analysis import AnalysisOptions
from sftloss.analysis.mask.rules import INSPECT_RULES
from sftloss.data.account import ROW_RULES
from sftloss.data.demo import demo_model, demo_tokenizer
from sftloss.pipeline import Run

CHAT = [{"role": "user", "content": "copy: red fig"}, {"role": "assistant", "content": "red fig"}]
CALL = {"type": "function", "function": {"name": "look", "arguments": {"at": "fig"}}}
TOOLS = [
    {"role": "user", "content": "copy: fig"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "fig"},
    {"role": "assistant", "content": "fig"},
]
FILES = {
    "messages": [{"messages": CHAT}, {"messages": [{"role": "system", "content": "be kind"}, *CHAT]}],
    "copies and conflicts": [{"messages": CHAT}] * 3
    + [{"messages": [CHAT[0], {"role": "assistant", "content": "no"}]}],
    "tools": [{"messages": TOOLS}, {"messages": TOOLS, "tools": [CALL]}, {"messages": CHAT}],
    "weights": [
        {"messages": [{**CHAT[0], "loss_weight": 1}, CHAT[1]]},
        {"messages": [CHAT[0], {**CHAT[1], "weight": 0}]},
    ],
    "alpaca": [{"instruction": "copy", "input": f"fig {i}", "output": "fig {{name}} " * 30} for i in range(4)],
    "preferences": [{"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a", "completion": "b"}],
    "texts": [{"text": "copy: red"}, {"text": "red fig"}],
}


def token_rows(tokenizer, kind):
    """Rows of ids and labels: what is trained is the user's words, the answer without its end, or of no template."""
    ids = list(tokenizer.apply_chat_template(CHAT)["input_ids"])
    prompt = len(tokenizer.apply_chat_template(CHAT[:1], add_generation_prompt=True)["input_ids"])
    if kind == "labels of no template":
        foreign = list(tokenizer("fig red copy fig red")["input_ids"])
        return [{"input_ids": foreign, "labels": [-100, -100, *foreign[2:]]}] * 2
    labels = {"labels of users": ids, "labels without an end": [-100] * prompt + ids[prompt:-2] + [-100] * 2}[kind]
    return [{"input_ids": ids, "labels": labels}] * 3


@pytest.mark.parametrize("name", [*FILES, "labels of users", "labels without an end", "labels of no template"])
def test_inspect_and_analyze_agree(name):
    tokenizer = demo_tokenizer()
    rows = FILES.get(name) or token_rows(tokenizer, name)
    run = Run(on_error="skip", max_length=48)
    judged = {rule.id for rule in ROW_RULES} | {rule.id for rule in INSPECT_RULES}
    reports = (
        inspect(rows, tokenizer, run=run),
        analyze(demo_model(), tokenizer, rows, question=AnalysisOptions(replicates=20), run=run),
    )
    found = [{(f.id, f.severity) for f in report.document.findings if f.id in judged} for report in reports]
    assert found[0] == found[1]
