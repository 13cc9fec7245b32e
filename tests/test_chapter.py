"""The page that maps the chapter to `sftloss.logits`: complete, importable, and its numbers come from running code."""

from __future__ import annotations

import inspect
import re

import pytest
from tests.paths import ROOT

from sftloss import logits

# every class and function that the chapter defines, with its parameters
CHAPTER = {
    "AdaptiveLengthLoss": ["target_length", "length_penalty", "base_loss", "kwargs"],
    "FocalLoss": ["alpha", "gamma", "ignore_index", "reduction"],
    "InstructionResponseLoss": ["instruction_weight", "response_weight", "length_normalize", "alpha"],
    "LengthNormalizedLoss": ["alpha", "ignore_index", "reduction", "label_smoothing"],
    "LossFunctionAnalyzer": ["vocab_size"],
    "LossFunctionAnalyzer.analyze_gradient_magnitude_bias": ["self", "sequences", "model"],
    "LossFunctionAnalyzer.analyze_length_bias": ["self", "sequences", "logits"],
    "LossFunctionAnalyzer.compare_loss_functions": ["self", "sequences", "logits"],
    "MultiTaskLoss": ["task_names", "weighting_strategy", "temperature", "update_freq"],
    "MultiTaskLoss.get_task_statistics": ["self"],
    "analyze_length_normalization_effects": [],
    "compare_focal_vs_standard_loss": [],
    "comprehensive_loss_analysis": [],
    "demonstrate_multitask_loss": [],
    "generate_test_data": ["vocab_size", "num_samples"],
    "test_instruction_response_loss": [],
}
PAGES = {
    "en": (ROOT / "docs" / "chapter.md").read_text(encoding="utf-8"),
    "zh": (ROOT / "docs" / "chapter.zh.md").read_text(encoding="utf-8"),
}
BLOCK = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```", re.S)
BLOCKS = [(lang, *found) for lang, page in PAGES.items() for found in BLOCK.findall(page)]
every_page = pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)


def rows(page: str) -> list[list[str]]:
    """The cells of the rows of the page's tables, without their heads."""
    lines = re.findall(r"^\| .*$(?!\n\|-)", page, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]


def numbers(text: str) -> list[str]:
    """Numbers with digits after the point."""
    return re.findall(r"\d+\.\d+(?:e[+-]\d+)?", text)


@pytest.mark.parametrize("name", CHAPTER)
def test_every_class_and_function_of_the_chapter_is_here_with_its_parameters(name):
    found = logits
    for part in name.split("."):
        found = getattr(found, part)
    assert name.split(".")[0] in logits.__all__
    parameters = inspect.signature(found).parameters
    positional = [name for name, parameter in parameters.items() if parameter.kind is not parameter.KEYWORD_ONLY]
    assert positional[: len(CHAPTER[name])] == CHAPTER[name]


@every_page
@pytest.mark.parametrize("name", [name for name in CHAPTER if "." not in name])
def test_every_class_and_function_of_the_chapter_is_on_the_page(page, name):
    mapped = {cells[0]: cells for cells in rows(page)}
    assert f"`{name}`" in mapped and f"`{name}`" in mapped[f"`{name}`"][1] and mapped[f"`{name}`"][2]


@every_page
def test_every_method_of_the_analyzer_is_on_the_page(page):
    text = "".join(cells[0] for cells in rows(page))
    for name in CHAPTER:
        if name.startswith("LossFunctionAnalyzer."):
            assert f"`.{name.split('.')[1]}`" in text


@pytest.mark.parametrize(("lang", "code", "text"), BLOCKS, ids=[f"{lang}-{i}" for i, (lang, *_) in enumerate(BLOCKS)])
def test_every_example_runs_and_prints_what_the_page_shows(lang, code, text, capsys):
    exec(compile(code, f"chapter.{lang}", "exec"), {})
    assert capsys.readouterr().out.strip() == text.strip()


@every_page
def test_every_example_is_run(page):
    assert len(BLOCK.findall(page)) == page.count("```python") == page.count("```text") >= 8


@every_page
def test_every_number_of_the_table_is_printed_by_an_example(page):
    printed = {number for _, text in BLOCK.findall(page) for number in numbers(text)}
    quoted = {number for cells in rows(page) for number in numbers(cells[2])}
    assert len(quoted) >= 20
    assert quoted <= printed


def test_both_pages_show_the_same_examples_and_numbers():
    english, chinese = ({code for code, _ in BLOCK.findall(page)} for page in PAGES.values())
    assert {code.replace('(lang="zh")', "()") for code in chinese} <= english
    both = [
        sorted((re.findall(r"`([^`]+)`", cells[0]), sorted(numbers(cells[2]))) for cells in rows(page))
        for page in PAGES.values()
    ]
    assert both[0] == both[1]


def test_the_tutorial_is_named_on_its_page_only():
    """Public docstrings explain themselves."""
    sources = (ROOT / "src" / "sftloss" / "logits").glob("*.py")
    assert not [path.name for path in sources if "tutorial" in path.read_text(encoding="utf-8").lower()]
