"""`inspect` and `analyze` give the same account of the same rows: counts, tokens by role, findings."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
from tests.paths import REAL_DATA
from tests.pipeline.accounts import TEMPLATES, differences, smallest_model, tokenizer_with

from sftloss.data.demo import demo_model, demo_tokenizer
from sftloss.data.formats.format import FORMATS

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


_tokenizer, _model = cache(demo_tokenizer), cache(demo_model)


@pytest.mark.parametrize("name", [*FILES, "labels of users", "labels without an end", "labels of no template"])
def test_inspect_and_analyze_agree(name: str) -> None:
    rows = FILES.get(name) or token_rows(_tokenizer(), name)
    assert differences(rows, _tokenizer(), _model(), max_length=48) == []


def test_they_agree_on_every_format() -> None:
    """One row of each format, and rows that are refused for several reasons, in one file of mixed formats."""
    rows = [dict(one.example) for one in FORMATS.values() if one.name != "preference"]
    rows += [{"messages": []}, {"prompt": "a", "response": "b", "label": False}, {"input_ids": [1, 10**6]}, {"x": 1}]
    assert differences(rows, _tokenizer(), _model(), max_length=48) == []
    preferences = [{"prompt": "a", "chosen": "b b", "rejected": "c"}, {"chosen": CHAT, "rejected": CHAT[:1]}]
    assert differences(preferences, _tokenizer(), _model(), format="preference") == []


def test_they_agree_on_every_kind_of_file(tmp_path: Path) -> None:
    nested = [{"id": i, "turn": {"q": [f"copy: fig {i}"], "a": "fig red " * (i + 1)}} for i in range(3)]
    columns = {"prompt": "turn.q[0]", "response": "turn.a"}
    (tmp_path / "n.jsonl").write_text("\n".join(map(json.dumps, nested)))
    (tmp_path / "a.json").write_text(json.dumps(nested))
    (tmp_path / "c.csv").write_text('\ufeffprompt,response\n"copy: ""red"", fig","red\nfig"\na,\n')
    (tmp_path / "t.tsv").write_text("prompt\tresponse\ncopy: red\tred\n")
    for name in ("n.jsonl", "a.json"):
        assert differences(tmp_path / name, _tokenizer(), _model(), columns=columns, max_length=24) == []
    for name in ("c.csv", "t.tsv"):
        assert differences(tmp_path / name, _tokenizer(), _model()) == []
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list([{"messages": CHAT}, {"messages": FILES["tools"][0]["messages"]}])
    rows.to_parquet(tmp_path / "rows.parquet")
    rows.save_to_disk(tmp_path / "arrow")
    for name in ("rows.parquet", "arrow"):
        assert differences(tmp_path / name, _tokenizer(), _model()) == []


@pytest.mark.slow
@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("path", sorted(REAL_DATA.glob("*.json*")), ids=lambda path: path.name)
def test_they_agree_on_whole_files_of_real_data(path: Path, template: str | None) -> None:
    tokenizer = tokenizer_with(template)
    assert differences(path, tokenizer, smallest_model(tokenizer), max_length=1024) == []
