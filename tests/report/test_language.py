"""Reports in Chinese: every sentence has an entry of the catalogue, and every entry a sentence."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from tests.analysis.tables import make_table, random_examples
from tests.analysis.test_gradients import study_of, token_shares
from tests.analysis.test_inspect import CLEAN, tokenizer_of
from tests.experiments.made import PLAN, results, said
from tests.paths import ROOT
from tests.test_planted_inspect import MASK

from sftloss import findings
from sftloss.document import Command, Document, Finding, Section, Table
from sftloss.report import Report, from_json, render_comparison, render_html
from sftloss.report.language import Catalogue, catalogue, in_language, texts_of, translated

SOURCE = ROOT / "src" / "sftloss"
# modules that write sentences of reports; of others only single words and headings come into one
WRITERS = ("analysis/shared/*", "analysis/signal/**/*", "analysis/lengths/*", "analysis/mask/*", "experiments/pages/*",
           "experiments/verdicts/*", "pipeline/curve", "pipeline/side_by_side", "data/account", "data/reasons",
           "data/overlap", "data/formats/*", "data/read/json_rows", "data/rendering/render",
           "data/rendering/cures", "data/rendering/adaptations",
           "report/terminal", "report/markdown", "report/format")  # fmt: skip
RAISES = re.compile(r"Error$|^mention$")  # what is raised stays English, but for the refusal of a row
SENTENCES = {"lead", "headlines", "sentence", "why", "fix", "title", "description", "help", "note", "notes"}
A_NUMBER = r"[+-]?\d[\d.,]*(?: %)?"
IN_ERRORS = ("none has a trained token", "trained answers are cut off", "give other held-out rows, or hold out")
NO_SENTENCES = re.compile(r"[`\\]|^dict\[|^unexpected end of data$|^Once upon")  # code, and texts of a docs page


@cache
def reports() -> dict[str, Document]:
    """A report of each command, with as many findings as fit into it, by name."""
    from sftloss.analysis import AnalysisOptions, describe_signal
    from sftloss.analysis.signal.gradients import Cosines
    from sftloss.analysis.signal.sections.gradient import gradient_section
    from sftloss.experiments.pages.describe import experiment_document
    from sftloss.pipeline import inspect, lengths, training_curve
    from sftloss.pipeline.side_by_side import side_by_side
    from sftloss.weights import micro_batch_mean, normalization

    made = {path.stem: from_json(path.read_text(encoding="utf-8")) for path in (ROOT / "studies").glob("*.json")}
    table, losses = make_table(random_examples(120)), ("cross_entropy", "focal(gamma=2)")
    made["analyze"] = describe_signal(table, AnalysisOptions(policy="per-example"))
    ways = (normalization("example-mean"), normalization(0.7), micro_batch_mean(4))
    hard = make_table(random_examples(80, easy_answers=False), objectives=losses)
    question = AnalysisOptions(normalization=ways[0], normalizations=ways, level="S0", policy="per-task")
    made["analyze, other options"] = describe_signal(hard, question)
    cosines = tuple(Cosines(of, ("a", "b", "c"), ((1.0, -0.3, 0.1),) * 3) for of in ("task", "language", "source"))
    parts = np.where(np.arange(120) % 4, 2.0, -1.0) / 150
    study = study_of(shares=lambda count: parts, cosines=cosines, tokens=token_shares(parts))
    made["gradient"] = Document("Training", (), (), (gradient_section(study, lambda ids: ["x"] * len(ids)),))
    rows = [*CLEAN[:9], *MASK.values()]
    made["inspect"] = inspect(rows, tokenizer_of()).document
    numbers = [{"prompt": f"a {i % 7}", "response": "word " * (1 + i % 9)} for i in range(60)]
    made["lengths"] = lengths(numbers).document
    judged = results(0.3)
    answers = {arm: said(arm) for arm in judged.arms}
    made["compare"] = experiment_document(PLAN, judged, answers)
    made["compare, no difference"] = experiment_document(PLAN, results(0.0), answers)
    lines = [{"step": i, "loss": 2.0 / i, "cross_entropy": 1.9 / i, "eval_loss": 2.1 / i} for i in (1, 2)]
    made["train"] = training_curve(lines, {"recipe": {"loss": "dft"}, "command": "sftloss train"}).document
    pair = (made["analyze"], made["analyze, other options"])
    made["report"] = side_by_side(pair, ("base", "tuned"), (None, None))
    every = [Finding(rule.id, rule.severity, "", rule.why, rule.cure) for rule in findings.every_rule()]
    made["rules"] = Document("Training", (), tuple(every), ())
    return made


def lacks_entry(place: str, text: str) -> bool:
    """Whether a text of a report is one of ours without a translation: names, options and numbers need none."""
    if catalogue("zh").translated(text) is not None or not re.search("[A-Za-z]{2}", text):
        return False
    if place == "TokenStrip.title":  # the place of a row, perhaps with words of ours behind it
        return False
    if place.rpartition(".")[2] in SENTENCES:
        return " " in text and not text.startswith("--")
    # elsewhere a text may be a name or a list of names, which has no two words side by side
    return bool(re.search(r"\b[a-z]{2,} [a-z]{2,}\b", text)) and not re.search(r"^--|[/=]|\.jsonl|sftloss \w", text)


def test_every_text_of_a_report_has_an_entry():
    texts = {(name, text.place, text.text) for name, report in reports().items() for text in texts_of(report)}
    missing = sorted(one for one in texts if lacks_entry(*one[1:]))
    assert not missing, _add(missing)


# What may stay in Latin letters: options with their value, commands, code, files, what another program wrote, and words
# of the field that Chinese has none for. Names of objectives, strategies, tasks and roles are single words, and only
# words side by side are looked for.
STAYS = re.compile(
    r"--[\w-]+( [\w.=+-]+)?|sftloss \w+(-\w+)*|\S*[_(=/\\{}<>]\S*|\S+\.[a-z]+|'[^']*'|"
    r"(?<![A-Za-z])(tokens?|nats|logits?)(?![a-z])"
)


def _english_in(text: str) -> list[str]:
    """Words of English side by side in a text of a Chinese report."""
    return re.findall(r"[A-Za-z][a-z'-]+(?: [A-Za-z][a-z'-]+)+", STAYS.sub("·", text))


def test_a_report_in_chinese_has_no_two_english_words_side_by_side():
    left = set()
    for name, report in reports().items():
        chinese = in_language(report, "zh")
        texts = [(text.place, text.text) for text in texts_of(chinese)]
        if name in ("lengths", "compare", "train", "report"):  # what the renderers add; these four show no data
            texts += [("Markdown", line) for line in Report(chinese).to_markdown().splitlines()]
        left.update((name, place, run, text) for place, text in texts for run in _english_in(text))
    assert not left, _add(sorted(left))


@pytest.mark.parametrize("text", ["图（generated over reference）", "prompt weight 0.1 +0.00208 nats"])
def test_english_words_side_by_side_are_seen(text):
    assert _english_in(text) and not _english_in("用--normalization token-mean：dft + 0.1 * kl_anchor、每token nats")


def _add(texts: list[tuple[str, ...]]) -> str:
    return "\n".join(["add entries to src/sftloss/report/language/zh.json for:", *(" | ".join(one) for one in texts)])


def _literals(path: Path) -> Iterator[str]:
    """Texts in the code of a module: no docstrings, nothing that is raised, no title of a rule."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    left_out: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            left_out.add(node.value)
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and _name(node.exc) == "BadRow":
            continue
        elif isinstance(node, ast.Raise) or (isinstance(node, ast.Call) and RAISES.search(_name(node))):
            left_out.update(ast.walk(node))
        elif isinstance(node, ast.Call) and _name(node) == "Rule":
            left_out.update(part for argument in node.args[2:3] for part in ast.walk(argument))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in left_out:
            yield node.value


def _name(call: ast.Call) -> str:
    return getattr(call.func, "id", getattr(call.func, "attr", ""))


def _is_in(piece: str, texts: str, parts: int = 3) -> bool:
    """Whether `texts` hold a piece, whole or in a few parts one after the other."""
    piece = piece.strip(" .,;:()[]{}'")
    if not piece or piece in texts or piece[0].lower() + piece[1:] in texts:
        return True
    ends = [match.start() for match in re.finditer(" ", piece)][::-1]
    return parts > 1 and any(
        piece[:end].strip(" .,;:()") in texts and _is_in(piece[end:], texts, parts - 1) for end in ends
    )


def _english() -> Iterator[str]:
    """The English of each entry, with holes as a mark, in each of its forms."""
    for english in catalogue("zh").entries:
        forms = [""]
        for part in re.split(r"((?<!\{)\{\w+\}(?!\})|\[[^\[\]{}]*\|[^\[\]{}]*\]|\(s\))", english):
            choices = (
                part[1:-1].split("|") if part[:1] == "[" and "|" in part else ["", "s"] if part == "(s)" else [part]
            )
            forms = [form + ("\0" if part[:1] == "{" else choice) for form in forms for choice in choices]
        yield from forms


def test_every_sentence_in_the_code_of_reports_has_an_entry():
    """Also those of findings that no report of the tests has."""
    texts = re.sub(A_NUMBER, "\0", "\1".join(_english()))
    missing = []
    for path in (path for pattern in WRITERS for path in sorted(SOURCE.glob(f"{pattern}.py"))):
        for text in _literals(path):
            is_sentence = len(re.findall(r"[A-Za-z][A-Za-z'-]+", text)) > 3 and not text.isidentifier()
            if not is_sentence or NO_SENTENCES.search(text) or text.startswith(IN_ERRORS):
                continue
            if not all(_is_in(piece, texts) for piece in re.split(rf"(?<=[.!?]) |{A_NUMBER}|\{{\}}|<\|.*\|>", text)):
                missing.append((path.name, text))
    assert not missing, _add(missing)


def test_every_entry_is_of_a_sentence_in_the_code():
    """What nothing writes any more goes."""
    texts = [text for path in SOURCE.rglob("*.py") if "objectives" not in path.parts for text in _literals(path)]
    texts += [path.read_text(encoding="utf-8") for path in (SOURCE / "report" / "templates").glob("*.html")]
    texts += [Path(json.decoder.__file__).read_text(encoding="utf-8").lower()]  # why a row is not JSON
    code = re.sub(A_NUMBER, "\0", "\1".join(texts))
    stale = [
        english
        for english in catalogue("zh").entries
        if not all(
            _is_in(piece, code)
            for piece in re.split(rf"(?<!\{{)\{{\w+\}}(?!\}})|\[[^\[\]{{}}]*\|[^\[\]{{}}]*\]|\(s\)|{A_NUMBER}", english)
        )
    ]
    assert not stale, "\n".join(["remove from src/sftloss/report/language/zh.json:", *stale])


def test_translations_have_the_holes_of_their_sentences():
    hole = re.compile(r"(?<!\{)\{(\w+)\}(?!\})")
    for english, other in catalogue("zh").entries.items():
        assert set(hole.findall(other)) <= set(hole.findall(english)), english
        assert "  " not in other and not re.search("[\u3400-\u9fff][,;!?]", other), english


@pytest.mark.parametrize("path", sorted((SOURCE / "report" / "templates").glob("*.html")), ids=lambda path: path.stem)
def test_fixed_texts_of_a_page_have_entries(path):
    texts = re.findall(r"""_\(["']([^"']*)["']""", path.read_text(encoding="utf-8"))
    missing = [text for text in texts if lacks_entry("lead", text.replace("{:,}", "3").replace("{}", "3"))]
    assert [text for text in missing if text not in ("Chart: ", "Tokens of ")] == []


def test_a_text_without_an_entry_stays_whole():
    entries = {
        "{n} row(s)": "{n}行",
        "The {what} has {n2}.": "{what}有{n2}。",
        "data": "数据",
        "{NAME} is {name}.": "{NAME}是{name}。",
    }
    rows = Catalogue(entries)
    assert rows.translated("The data has 3.") == "数据有3。"
    assert rows.translated("The data has 3. The data has 4.") == "数据有3。数据有4。"
    assert rows.translated("The model has 3.") is None
    assert rows.translated("The data has 3. The model has 3.") is None
    assert rows.translated("x y is dft.") == "x y是dft。"
    assert rows.translated("x is what no entry has at all.") is None


def test_a_quoted_text_may_hold_anything():
    assert translated("the row is 'it's a. B'; write one object a row", "zh") == "该行为'it's a. B'；请每行写一个对象"
    many = "-".join(40 * ["'a. B'"])  # in a time that does not double with each
    unknown = f"the row is {many}. No entry has this"
    assert translated(unknown, "zh") == unknown


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("1,200 steps", "1,200步"),
        ("1 step", "1步"),
        ("less than 0.1 % of the tokens are trained.", "不到0.1 %的token参与训练。"),
        ("The task '问答' has 2 of 3 rows.", "The task '问答' has 2 of 3 rows."),
        ("The source '问答'", "来源“问答”"),
        ("look at it: sftloss analyze --model x", "look at it: sftloss analyze --model x"),
    ],
)  # fmt: skip
def test_numbers_names_and_commands_stay(english, chinese):
    assert translated(english, "zh") == chinese


def test_codes_keys_numbers_and_data_stay():
    english = reports()["analyze"]
    chinese = in_language(english, "zh")
    assert chinese.language == "zh" and in_language(chinese, "en") == in_language(chinese, "zh") == chinese
    for one, other in zip(english.sections, chinese.sections, strict=True):
        assert one.id == other.id and [table.id for table in one.tables] == [table.id for table in other.tables]
        for table, same in zip(one.tables, other.tables, strict=True):
            numbers = [[cell for cell in row if not isinstance(cell, str)] for row in table.rows]
            assert numbers == [[cell for cell in row if not isinstance(cell, str)] for row in same.rows]
            assert [column.key for column in table.columns] == [column.key for column in same.columns]
        assert [strip.tokens for strip in one.strips] == [strip.tokens for strip in other.strips]
    assert from_json(Report(chinese).to_json()) == from_json(Report(chinese).to_json())


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("Text in Han script", "汉字文本"),
        ("Answers: Han script 94 %, mixed scripts 2.5 %, en 1 %.", "回答：汉字 94 %、混合文字 2.5 %、en 1 %。"),
        ("60 of the first 60", "前60行中的60行"),
        ("x.jinja, with generation tags", "x.jinja，含generation标记"),
        (
            "prompt weight 0.1 +0.002 nats; prompt weight 1 +0.088 nats",
            "提示权重0.1 +0.002 nats；提示权重1 +0.088 nats",
        ),
        ("Answer length (generated over reference)", "回答长度（生成与参考之比）"),
        (
            "message 3 has the role 'x y'; use user, assistant, system or tool",
            "第3条消息的角色为'x y'；请使用user、assistant、system或tool",
        ),
    ],
)
def test_names_of_ours_in_a_sentence_are_chinese(english, chinese):
    assert translated(english, "zh") == chinese


def test_scripts_have_chinese_names():
    from sftloss.analysis.shared.words import label_of
    from sftloss.data.formats.language import _SCRIPTS

    for name in (*_SCRIPTS, "Other", "Mixed", "none"):
        shown = label_of("language", f"script:{name}")
        assert name == "Common" or not re.search("[A-Za-z]", translated(shown, "zh")), shown


def test_conditions_are_chinese():
    from sftloss.document import Column

    table = Table("t", "T", (Column("a", "A"),), ((True,), (False,)))
    page = render_html(in_language(Document("T", (), (), (Section("s", "S", "", tables=(table,)),)), "zh"))
    assert re.findall(r"(?:是|否|yes|no)(?=\s*</)", page) == ["是", "否"]


def test_a_task_that_is_called_like_a_heading_keeps_its_name():
    page = in_language(_grouped("group"), "zh")
    assert [row[0] for row in page.sections[0].tables[0].rows] == ["answer", "（无）"]


def test_values_of_facts_that_are_the_users_stay():
    ours = (("model", "Llama from scratch, 2 layers of width 64"), ("data", "generated tasks"))
    users = (("run", "loss"), ("model", "data"), ("data", "examples"), ("template", "loss"), ("command", "answer"))
    facts = in_language(Document("Training", (), (), (), (*ours, *users)), "zh").facts
    assert [value for _, value in facts] == ["从零训练的Llama，2层，宽度64", "生成的任务", *dict(users).values()]


def test_a_run_keeps_its_name_over_its_column():
    from sftloss.document import Column

    heads = (Column("number", "number"), Column("first", "loss"), Column("second", "token mean"))
    section = Section("s", "Tasks", "", tables=(Table("differences-ratio", "Tasks", heads, ()),))
    (table,) = in_language(Document("Training", (), (), (section,)), "zh").sections[0].tables
    assert [column.label for column in table.columns[1:]] == ["loss", "token mean"]
    assert table.columns[0].label != "number"


@pytest.mark.parametrize(
    ("words", "shown"), [("Arm minus first arm.", "Arm minus first arm."), ("a share", "a share."), ("占比", "占比。")]
)
def test_the_help_of_a_column_ends_in_one_full_stop(words, shown):
    from sftloss.document import Column

    table = Table("t", "T", (Column("a", "A", help=words),), (("x",),))
    page = render_html(Document("T", (), (), (Section("s", "S", "", tables=(table,)),)))
    assert f'<p class="note narrow">A: {shown}</p>' in page


def _grouped(key: str) -> Document:
    from sftloss.document import Column

    table = Table("task", "Tasks", (Column(key, "task"),), (("answer",), ("(none)",)))
    return Document("Training", (), (), (Section("task", "Tasks", "", tables=(table,)),))


def test_a_page_in_chinese_says_so_and_has_no_english_of_ours():
    page = render_html(in_language(reports()["analyze"], "zh"))
    assert '<html lang="zh">' in page and "Noto Sans CJK SC" in page and "检查结果" in page
    assert not re.search(r"Findings|Provenance|Contents|What to do|interval|Numbers of this chart", page)
    both = [in_language(reports()[name], "zh") for name in ("analyze", "analyze, other options")]
    page = render_comparison(both, ("a", "b"), in_language(reports()["report"], "zh"))
    assert '<html lang="zh">' in page and "Comparison of" not in page


def test_a_command_keeps_its_line_and_has_a_lead_in_chinese():
    command = Command("inspect", lead="check that end tokens stand only where answers end")
    finding = Finding("A001", "info", "", "", command)
    (fix,) = (one.fix for one in in_language(Document("Training", (), (finding,), ()), "zh").findings)
    assert fix == replace(command, lead="检查结束token是否只出现在回答结束处")
    assert 'class="do">检查结束token' in render_html(in_language(Document("Training", (), (finding,), ()), "zh"))


def test_entries_are_sorted_one_a_line():
    text = (SOURCE / "report" / "language" / "zh.json").read_text(encoding="utf-8")
    entries = json.loads(text)
    assert text == json.dumps(dict(sorted(entries.items())), ensure_ascii=False, indent=0) + "\n"
