"""Inputs that go wrong, made kind by kind, with the exit code that each must end with.

`python -m tests.cli.hostile` writes their table into docs/failure_modes.md.
"""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.cli.tools import MODEL, ROWS, write_rows
from tests.paths import ROOT

from sftloss.cli.app import SCHEMAS
from sftloss.config import Option, options_of

USAGE, DATA, MODEL_CODE = 2, 3, 4
_SHOWN_BY = "`tests/cli/test_hostile.py::test_every_input_that_goes_wrong_ends_with_a_sentence`"
HUGE = 2**63
GOOD = json.dumps(ROWS[0]) + "\n"


@dataclass(frozen=True)
class Case:
    """A command line, made in a folder of its own, and the exit codes that are right.

    Attributes:
        name: Of the case, within its kind.
        words: The command line, from the folder that `make` filled.
        codes: Exit codes that are right.
    """

    name: str
    words: Callable[[Path], list[object]]
    codes: tuple[int, ...]


@dataclass(frozen=True)
class Kind:
    """A kind of input that goes wrong.

    Attributes:
        name: What goes wrong.
        example: One of the cases, in words.
        happens: What the command does about it.
        cases: All of them.
    """

    name: str
    example: str
    happens: str
    cases: Callable[[], Iterator[Case]]


_RAW: dict[str, bytes] = {
    "empty.jsonl": b"",
    "blank.jsonl": b"\n\n \n",
    "bom.jsonl": b"\xef\xbb\xbf",
    "utf16.jsonl": GOOD.encode("utf-16"),
    "latin1.jsonl": '{"prompt": "caf\u00e9", "response": "x"}\n'.encode("latin-1"),
    "nul.jsonl": b"\0" * 200,
    "random.jsonl": bytes(range(256)) * 8,
    "word.jsonl": b"hello\n",
    "number.jsonl": b"7\n8\n",
    "null.jsonl": b"null\n",
    "true.json": b"true",
    "list.jsonl": b"[1, 2]\n",
    "cut.jsonl": GOOD.encode()[:40],
    "array-cut.json": b'[{"prompt": "a", "response":',
    "array-of-numbers.json": b"[1, 2, 3]",
    "array-empty.json": b"[]",
    "object-empty.json": b"{}",
    "deep.json": b"[" * 5000,
    "deep.jsonl": b'{"a":' * 5000 + b"1" + b"}" * 5000,
    "digits.jsonl": b'{"prompt": ' + b"9" * 6000 + b', "response": "x"}\n',
    "nan.jsonl": b'{"prompt": NaN, "response": Infinity}\n',
    "surrogate.jsonl": b'{"prompt": "\\ud800", "response": "\\udfff"}\n',
    "unknown-columns.jsonl": b'{"a": 1, "b": 2}\n' * 3,
    "messages-number.jsonl": b'{"messages": 7}\n',
    "messages-text.jsonl": b'{"messages": "hello"}\n',
    "messages-empty.jsonl": b'{"messages": []}\n',
    "messages-null.jsonl": b'{"messages": null}\n',
    "messages-of-numbers.jsonl": b'{"messages": [1, 2]}\n',
    "messages-of-lists.jsonl": b'{"messages": [[1], [2]]}\n',
    "role-unknown.jsonl": b'{"messages": [{"role": "wizard", "content": "x"}]}\n',
    "role-number.jsonl": b'{"messages": [{"role": 3, "content": "x"}]}\n',
    "role-null.jsonl": b'{"messages": [{"role": null, "content": "x"}]}\n',
    "content-number.jsonl": b'{"messages": [{"role": "assistant", "content": 3}]}\n',
    "content-object.jsonl": b'{"messages": [{"role": "assistant", "content": {"a": 1}}]}\n',
    "content-missing.jsonl": b'{"messages": [{"role": "assistant"}]}\n',
    "user-only.jsonl": b'{"messages": [{"role": "user", "content": "x"}]}\n',
    "response-null.jsonl": b'{"prompt": "x", "response": null}\n',
    "response-number.jsonl": b'{"prompt": "x", "response": 7}\n',
    "response-list.jsonl": b'{"prompt": "x", "response": ["a"]}\n',
    "response-object.jsonl": b'{"prompt": "x", "response": {"a": [1]}}\n',
    "response-empty.jsonl": b'{"prompt": "x", "response": ""}\n',
    "sharegpt-broken.jsonl": b'{"conversations": [{"from": "gpt"}]}\n',
    "alpaca-broken.jsonl": b'{"instruction": 1, "input": 2, "output": 3}\n',
    "text-number.jsonl": b'{"text": 5}\n',
    "tokens-empty.jsonl": b'{"input_ids": []}\n',
    "tokens-text.jsonl": b'{"input_ids": "abc"}\n',
    "tokens-floats.jsonl": b'{"input_ids": [1.5, 2.5, 3.5]}\n',
    "tokens-null.jsonl": b'{"input_ids": [1, null, 3]}\n',
    "tokens-nested.jsonl": b'{"input_ids": [[1, 2], [3]]}\n',
    "tokens-negative.jsonl": b'{"input_ids": [-5, -6, -7]}\n',
    "tokens-huge.jsonl": json.dumps({"input_ids": [5, HUGE, 7]}).encode(),
    "tokens-huger.jsonl": json.dumps({"input_ids": [5, HUGE * 16, 7]}).encode(),
    "tokens-outside.jsonl": b'{"input_ids": [5, 100000, 7]}\n' * 3,
    "labels-short.jsonl": b'{"input_ids": [5, 6, 7], "labels": [5]}\n',
    "labels-huge.jsonl": json.dumps({"input_ids": [5, 6, 7], "labels": [5, 6, HUGE]}).encode(),
    "labels-text.jsonl": b'{"input_ids": [5, 6, 7], "labels": "abc"}\n',
    "labels-ignored.jsonl": b'{"input_ids": [5, 6, 7], "labels": [-100, -100, -100]}\n',
    "weights-text.jsonl": b'{"input_ids": [5, 6, 7], "weights": ["a", "b", "c"]}\n',
    "weights-nan.jsonl": b'{"input_ids": [5, 6, 7], "weights": [NaN, 1, 1]}\n',
    "weight-negative.jsonl": b'{"prompt": "x", "response": "y", "weight": -1}\n',
    "weight-text.jsonl": b'{"prompt": "x", "response": "y", "weight": "heavy"}\n',
    "not-gzip.jsonl.gz": b"not gzip",
    "cut.jsonl.gz": gzip.compress(GOOD.encode() * 50, mtime=0)[:60],
    "crc.jsonl.gz": gzip.compress(b"x", mtime=0)[:-8] + b"\0" * 8,
    "not-parquet.parquet": b"PAR1nothing",
    "empty.parquet": b"",
    "cut.parquet": b"PAR1" + b"\0" * 100 + b"PAR1",
    "unknown.xyz": b"what is this",
    "picture.png": b"\x89PNG\r\n\x1a\n" + b"\0" * 50,
    "pickle.pkl": b"\x80\x04.",
    "zip.zip": b"PK\x03\x04" + b"\0" * 50,
    "html.json": b"<!doctype html><p>not found",
}


def _data() -> Iterator[Case]:
    # whatever a row or a file is, `inspect` reports it, and ends with 3 where nothing can be trained on
    lines = {
        "inspect": ["inspect", "-m", MODEL],
        "lengths": ["lengths"],
        "analyze": ["analyze", "-m", MODEL, "-o", "out"],
        "train": ["train", "-m", MODEL, "--dry-run"],
    }
    for name, raw in _RAW.items():
        for verb, words in lines.items():
            yield Case(f"{verb}-{name}", partial(_data_words, words, name, raw), (0, DATA))


def _data_words(words: list[object], name: str, raw: bytes, place: Path) -> list[object]:
    (place / name).write_bytes(raw)
    return [*words, "-d", place / name]


def _paths() -> Iterator[Case]:
    for verb in ("inspect", "lengths", "analyze", "train"):
        words: list[object] = [
            verb,
            *(["-m", MODEL] if verb != "lengths" else []),
            *(["--dry-run"] if verb == "train" else []),
        ]
        yield Case(f"{verb}-missing", lambda p, w=words: [*w, "-d", p / "none.jsonl"], (DATA,))
        yield Case(f"{verb}-empty-folder", lambda p, w=words: [*w, "-d", p], (DATA,))
        yield Case(f"{verb}-folder-missing", lambda p, w=words: [*w, "-d", p / "a" / "b"], (DATA,))
        yield Case(f"{verb}-too-long-a-name", lambda p, w=words: [*w, "-d", p / ("x" * 300)], (DATA,))
        yield Case(f"{verb}-nul-in-name", lambda p, w=words: [*w, "-d", "a\0b"], (USAGE, DATA))
        yield Case(f"{verb}-null-device", lambda p, w=words: [*w, "-d", "/dev/null"], (DATA,))
        yield Case(f"{verb}-link-to-itself", partial(_loop, words), (DATA,))


def _loop(words: list[object], place: Path) -> list[object]:
    (place / "loop.jsonl").symlink_to(place / "loop.jsonl")
    return [*words, "-d", place / "loop.jsonl"]


_YAML: dict[str, str] = {
    "control": "data: a\x07b\n",
    "control-key": "da\x01ta: a\n",
    "escape": "data: \x1b[31m\n",
    "tab": "data:\n\t- a\n",
    "unclosed": "data: [a, b\n",
    "quote": 'data: "a\n',
    "list": "- a\n- b\n",
    "text": "hello\n",
    "number": "7\n",
    "unknown-key": "dta: a\n",
    "twice": "data: a\ndata: b\n",
    "tag": "data: !!python/object/apply:os.system [ls]\n",
    "tag-bool": "quiet: !!bool maybe\n",
    "tag-int": "seed: !!int x\n",
    "anchor": "data: *nowhere\n",
    "bomb": "a: &a [1]\n" + "".join(f"b{i}: [*a, *a]\n" for i in range(30)),
    "merge": "<<: 7\n",
    "deep": "data: " + "[" * 100 + "]" * 100 + "\n",
    "documents": "data: a\n---\ndata: b\n",
    "date": "data: 2020-01-01\n",
    "null": "data:\n",
    "nested": "data: {a: {b: c}}\n",
    "key-list": "? [a, b]\n: c\n",
    "seed-text": "seed: x\n",
    "seed-float": "seed: 1.5\n",
    "seed-negative": "seed: -1\n",
    "seed-infinite": "seed: .inf\n",
    "bool": "quiet: maybe\n",
    "choice": "unit: metres\n",
    "columns-list": "columns: [a]\n",
    "columns-number": "columns: {prompt: [1]}\n",
    "percent": "%YAML 9.9\n---\na: b\n",
    "binary": "data: !!binary '@@@'\n",
    "set": "data: !!set {a, b}\n",
}


def _yaml() -> Iterator[Case]:
    for name, text in _YAML.items():
        yield Case(name, partial(_yaml_words, text), (USAGE, DATA) if name in ("date", "escape") else (USAGE,))
    yield Case("not-utf8", partial(_yaml_bytes, b"data: \xff\xfe\n"), (USAGE,))
    yield Case("nul", partial(_yaml_bytes, b"data: a\0b\n"), (USAGE,))
    yield Case("large", partial(_yaml_bytes, b"#" * 1_100_000), (USAGE,))
    yield Case("folder", lambda p: ["lengths", "-c", p], (USAGE,))
    yield Case("missing", lambda p: ["lengths", "-c", p / "c.yaml"], (USAGE,))


def _yaml_words(text: str, place: Path) -> list[object]:
    return _yaml_bytes(text.encode(), place)


def _yaml_bytes(raw: bytes, place: Path) -> list[object]:
    (place / "c.yaml").write_bytes(raw)
    return ["lengths", "-c", place / "c.yaml"]


def _flags() -> Iterator[Case]:
    """Of every option of every verb, the values that its type, its choices and its minimum exclude."""
    for verb, schema in SCHEMAS.items():
        for one in options_of(schema):
            if not one.flag.is_positional:
                for value in _wrong(one):
                    yield Case(f"{verb}-{one.key}-{value[:12]}", partial(_flag_words, verb, one.key, value), (USAGE,))


def _wrong(one: Option) -> Iterator[str]:
    if one.base in (int, float):
        yield "many"
        yield "nan"
        if one.flag.minimum is not None:
            yield str(one.flag.minimum - 1)
    if one.flag.choices:
        yield "neither"
    if one.base is dict:
        yield "=,="
        yield "a=1,a=2"


def _flag_words(verb: str, key: str, value: str, place: Path) -> list[object]:
    data = write_rows(place / "rows.jsonl")
    known: dict[str, list[object]] = {
        "analyze": ["-m", MODEL, "-d", data], "train": ["-m", MODEL, "-d", data, "--dry-run"],
        "inspect": ["-m", MODEL, "-d", data], "lengths": ["-d", data], "reference": ["-m", MODEL, "-d", data],
    }  # fmt: skip
    return [verb, *known.get(verb, []), f"--{key}", value]


def _places() -> Iterator[Case]:
    def rows(place: Path) -> Path:
        return write_rows(place / "d.jsonl")

    def linked(place: Path, is_hard: bool) -> Path:
        (place / "link.json").hardlink_to(rows(place)) if is_hard else (place / "link.json").symlink_to(rows(place))
        return place / "link.json"

    for verb in ("lengths", "inspect", "analyze"):
        words: list[object] = [verb, *(["-m", MODEL] if verb != "lengths" else []), "--overwrite"]
        of = partial(_with_output, words)
        yield Case(f"{verb}-json-is-data", partial(of, lambda p: ["-d", rows(p), "--json", p / "d.jsonl"]), (USAGE,))
        yield Case(
            f"{verb}-markdown-is-data", partial(of, lambda p: ["-d", rows(p), "--markdown", p / "d.jsonl"]), (USAGE,)
        )
        yield Case(
            f"{verb}-dots", partial(of, lambda p: ["-d", rows(p), "--json", p / "x" / ".." / "d.jsonl"]), (USAGE,)
        )
        yield Case(
            f"{verb}-json-is-markdown",
            partial(of, lambda p: ["-d", rows(p), "--json", p / "o", "--markdown", p / "o"]),
            (USAGE,),
        )
        yield Case(
            f"{verb}-symbolic", partial(of, lambda p: ["-d", p / "d.jsonl", "--json", linked(p, False)]), (USAGE,)
        )
        yield Case(f"{verb}-hard", partial(of, lambda p: ["-d", p / "d.jsonl", "--json", linked(p, True)]), (USAGE,))
        yield Case(
            f"{verb}-json-in-data", partial(of, lambda p: ["-d", rows(p).parent, "--json", p / "d.jsonl"]), (USAGE,)
        )
        yield Case(
            f"{verb}-json-is-page",
            partial(of, lambda p: ["-d", rows(p), "--json", p / "out" / "report.json"]),
            (USAGE,),
        )
        yield Case(
            f"{verb}-folder-missing", partial(of, lambda p: ["-d", rows(p), "--json", p / "a" / "o.json"]), (USAGE,)
        )
        yield Case(f"{verb}-json-is-folder", partial(of, lambda p: ["-d", rows(p), "--json", p]), (USAGE,))
        yield Case(f"{verb}-json-is-device", partial(of, lambda p: ["-d", rows(p), "--json", "/dev/null"]), (USAGE,))
        yield Case(f"{verb}-output-is-file", lambda p, w=words: [*w, "-d", rows(p), "-o", p / "d.jsonl"], (USAGE,))
        yield Case(f"{verb}-data-is-config", partial(_config_is_output, verb), (USAGE,))
    yield Case("analyze-data-in-table", _data_in_table, (USAGE,))
    two = partial(_reports, "{}", "{}")
    yield Case("report-is-a-run", lambda p: [*two(p), "-o", p, "--overwrite"], (USAGE,))
    yield Case("report-json-is-a-run", lambda p: [*two(p), "--json", p / "report.json", "--overwrite"], (USAGE,))
    yield Case("report-folder-missing", lambda p: [*two(p), "--json", p / "x" / "o.json"], (USAGE,))
    for name, text in {"cut": "{", "list": "[]", "old": '{"schema_version": 0}', "empty": "", "number": "7"}.items():
        yield Case(f"report-{name}", partial(_reports, text, "{}"), (DATA,))
    yield Case(
        "compare-json-is-data", lambda p: ["compare", "-d", rows(p), "--json", p / "d.jsonl", "-o", p / "out"], (USAGE,)
    )
    yield Case("compare-data-in-arms", _compare_its_arms, (USAGE,))
    yield Case(
        "compare-forget-is-page", lambda p: ["compare", "--forget-data", rows(p), "--markdown", p / "d.jsonl"], (USAGE,)
    )
    yield Case("demo-json-is-page", lambda p: ["demo", "-o", p, "--json", p / "report.json"], (USAGE,))
    yield Case("demo-json-in-table", lambda p: ["demo", "-o", p, "--json", p / "table" / "x.json"], (USAGE,))
    for model in ("model", "checkpoints/checkpoint-5"):
        yield Case(f"train-{model}", partial(_train_into_its_model, model), (USAGE,))
    yield Case("train-history-is-data", _train_on_its_history, (USAGE,))


def _with_output(words: list[object], rest: Callable[[Path], list[object]], place: Path) -> list[object]:
    return [*words, *rest(place), "-o", place / "out"]


def _config_is_output(verb: str, place: Path) -> list[object]:
    (place / "c.yaml").write_text(f"data: {write_rows(place / 'd.jsonl')}\nmodel: {MODEL}\noverwrite: true\n")
    return [verb, "-c", place / "c.yaml", "--json", place / "c.yaml", "-o", place / "out"]


def _data_in_table(place: Path) -> list[object]:
    (place / "table").mkdir()
    return ["analyze", "-m", MODEL, "-d", write_rows(place / "table" / "d.jsonl"), "-o", place, "--overwrite"]


def _reports(first: str, second: str, place: Path) -> list[object]:
    (place / "report.json").write_text(first)
    (place / "b.json").write_text(second)
    return ["report", place / "report.json", place / "b.json"]


def _compare_its_arms(place: Path) -> list[object]:
    (place / "arms").mkdir()
    return ["compare", "-d", write_rows(place / "arms" / "d.jsonl"), "-o", place]


def _train_into_its_model(name: str, place: Path) -> list[object]:
    shutil.copytree(MODEL, place / "run" / name)
    return ["train", "-m", place / "run" / name, "-d", "demo", "-o", place / "run", "--overwrite"]


def _train_on_its_history(place: Path) -> list[object]:
    (place / "run").mkdir()
    data = write_rows(place / "run" / "history.jsonl")
    return ["train", "-m", "demo", "-d", data, "-o", place / "run", "--overwrite"]


_CONFIG: dict[str, dict[str, Any]] = {
    "layers-million": {"num_hidden_layers": 10**6},
    "layers-more": {"num_hidden_layers": 9},
    "layers-fewer": {"num_hidden_layers": 1},
    "layers-text": {"num_hidden_layers": "two"},
    "layers-none": {"num_hidden_layers": 0},
    "hidden": {"hidden_size": 10**9},
    "hidden-negative": {"hidden_size": -1},
    "heads": {"num_attention_heads": 7},
    "heads-zero": {"num_attention_heads": 0},
    "vocabulary": {"vocab_size": 10**7},
    "vocabulary-text": {"vocab_size": "all"},
    "type-unknown": {"model_type": "nothing"},
    "type-null": {"model_type": None},
    "encoder": {"model_type": "bert"},
    "dtype": {"dtype": "float3"},
    "activation": {"hidden_act": "none"},
    "auto-map": {"model_type": "own", "auto_map": {"AutoConfig": "own.Own"}},
}
_FILES: dict[str, dict[str, bytes | None]] = {
    "config-missing": {"config.json": None},
    "config-empty": {"config.json": b""},
    "config-list": {"config.json": b"[]"},
    "config-cut": {"config.json": b'{"model_type": "lla'},
    "weights-missing": {"model.safetensors": None},
    "weights-empty": {"model.safetensors": b""},
    "weights-cut": {"model.safetensors": b"\xff" * 100},
    "weights-header": {"model.safetensors": b"\x02\0\0\0\0\0\0\0{}"},
    "weights-pickled": {"model.safetensors": None, "pytorch_model.bin": b"\x80\x04."},
    "index-pickled": {
        "model.safetensors.index.json": b'{"weight_map": {"a": "pytorch_model.bin"}}',
        "pytorch_model.bin": b"\x80\x04.",
    },
    "index-outside": {"model.safetensors.index.json": b'{"weight_map": {"a": "../a.safetensors"}}'},
    "index-damaged": {"model.safetensors.index.json": b"[]"},
}
_TOKENIZER: dict[str, dict[str, bytes | None]] = {
    "tokenizer-missing": {"tokenizer.json": None},
    "tokenizer-empty": {"tokenizer.json": b""},
    "tokenizer-list": {"tokenizer.json": b"[]"},
    "tokenizer-object": {"tokenizer.json": b"{}"},
    "tokenizer-null": {"tokenizer.json": b'{"model": null}'},
    "tokenizer-config-cut": {"tokenizer_config.json": b"{"},
    "tokenizer-config-list": {"tokenizer_config.json": b"[]"},
    "template-syntax": {"chat_template.jinja": b"{% for"},
    "template-raises": {"chat_template.jinja": b"{{ raise_exception('no') }}"},
    "template-undefined": {"chat_template.jinja": b"{{ nothing.at.all }}"},
}


def _models() -> Iterator[Case]:
    data = [ROWS[0]] * 2

    def words(verb: str, change: Callable[[Path], None], place: Path) -> list[object]:
        shutil.copytree(MODEL, place / "m")
        change(place / "m")
        rest: list[object] = ["-o", place / "out"] if verb == "analyze" else ["--dry-run"] if verb == "train" else []
        return [verb, "-m", place / "m", "-d", write_rows(place / "d.jsonl", data), *rest]

    for name, fields in _CONFIG.items():
        for verb in ("analyze", "train"):
            codes = (
                (0, MODEL_CODE) if verb == "train" or name in ("vocabulary", "dtype", "type-null") else (MODEL_CODE,)
            )
            yield Case(f"{verb}-{name}", partial(words, verb, partial(_set_config, fields)), codes)
    for name, files in _FILES.items():
        yield Case(f"analyze-{name}", partial(words, "analyze", partial(_set_files, files)), (MODEL_CODE,))
    for name, files in _TOKENIZER.items():
        for verb in ("inspect", "lengths", "analyze", "train"):
            codes = (0, DATA, MODEL_CODE)
            yield Case(f"{verb}-{name}", partial(words, verb, partial(_set_files, files)), codes)


def _set_config(fields: dict[str, Any], folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **fields}))


def _set_files(files: dict[str, bytes | None], folder: Path) -> None:
    for name, raw in files.items():
        (folder / name).unlink(missing_ok=True)
        if raw is not None:
            (folder / name).write_bytes(raw)


def _tables() -> Iterator[Case]:
    """A measured table that was edited by hand, and the run that continues from it."""
    for file in ("manifest.json", "parts-00000.json"):
        for name, raw in {"empty": b"", "list": b"[]", "object": b"{}", "cut": b'{"sch', "nul": b"\0", "number": b"7",
                          "format": b'{"format": 9, "files": {}}'}.items():  # fmt: skip
            yield Case(f"{file}-{name}", partial(_table_words, file, raw), (USAGE, DATA))


def _table_words(file: str, raw: bytes, place: Path) -> list[object]:
    from tests.cli.tools import run

    words: list[object] = ["analyze", "-m", MODEL, "-d", write_rows(place / "d.jsonl"), "-o", place / "out"]
    assert run(*words).exit_code == 0
    (place / "out" / "table" / file).write_bytes(raw)
    return [*words, "--resume"]


KINDS = (
    Kind("a data file that is damaged, or of another kind", "`cut.jsonl.gz`: a gzip file that was cut off",
         "exit 3, with the file and the reason; `inspect` reports rows of which some can be used", _data),
    Kind("a path that leads nowhere", "`-d none.jsonl`", "exit 3, with the path", _paths),
    Kind("a YAML file that cannot be read as options", "`data: a\\x07b`: a control character",
         "exit 2, with the file and line", _yaml),
    Kind("an option with a value that it does not take", "`--seed many`", "exit 2, with the option", _flags),
    Kind("an output that is an input, a part of one, or another output", "`lengths -d X --json X --overwrite`",
         "exit 2 before anything is read; nothing is written", _places),
    Kind("a model or tokenizer that is damaged", "`config.json` with a million layers",
         "exit 4, with the file or weight; the model is not built", _models),
    Kind("an earlier result that was edited", "an empty `manifest.json` in `table/`, then `--resume`",
         "exit 2 or 3, with the file", _tables),
)  # fmt: skip


def page_region() -> str:
    """The table of the page, from the kinds."""
    rows = [(kind.name, kind.example, kind.happens, _SHOWN_BY) for kind in KINDS]
    lines = [("what goes wrong", "example", "what happens", "shown by"), *rows]
    head, *body = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, "|---|---|---|---|", *body])


if __name__ == "__main__":
    from sftloss.docstrings import write_regions

    write_regions(ROOT / "docs" / "failure_modes.md", {"hostile": page_region()})
