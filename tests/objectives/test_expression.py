"""The expression reader: what it reads, how it says no, and that it evaluates nothing."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from sftloss.objectives import OBJECTIVES, Term, cross_entropy, dft, focal, label_smoothing, objective, z_loss
from sftloss.statistics import TokenStats, from_logits


@pytest.fixture(scope="module")
def stats() -> TokenStats:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(6, 5, generator=generator, dtype=torch.float64)
    return from_logits(logits, torch.randint(0, 5, (6,), generator=generator))


NORMAL_FORMS = [
    ("cross_entropy", "cross_entropy"),
    ("  cross_entropy  ", "cross_entropy"),
    ("cross_entropy()", "cross_entropy"),
    ("cross_entropy\n  + 1e-4 * z_loss\n", "cross_entropy + 0.0001 * z_loss"),
    ("cross_entropy+0.1*entropy_bonus", "cross_entropy + 0.1 * entropy_bonus"),
    ("focal(gamma=2)", "focal(gamma=2)"),
    ("focal( gamma = +2.50 )", "focal(gamma=2.5)"),
    ("0.5*cross_entropy + 0.5*focal(gamma=2, alpha=0.25)", "0.5 * cross_entropy + 0.5 * focal(gamma=2, alpha=0.25)"),
    ("focal(alpha=0.25, gamma=2)", "focal(gamma=2, alpha=0.25)"),
    ("poly_1(epsilon=-1)", "poly_1(epsilon=-1)"),
    ("poly_1(epsilon=-0)", "poly_1(epsilon=0)"),
    ("poly_1(epsilon=--1)", "poly_1(epsilon=1)"),
    ('label_smoothing(epsilon=0.1, convention="others")', "label_smoothing(epsilon=0.1, convention='others')"),
    ("cross_entropy - dft", "cross_entropy - dft"),
    ("-dft + 2*cross_entropy", "-dft + 2 * cross_entropy"),
    ("-0.5*dft", "-0.5 * dft"),
    ("-(cross_entropy - 2*dft)", "-cross_entropy + 2 * dft"),
    ("(cross_entropy + dft) / 2", "0.5 * cross_entropy + 0.5 * dft"),
    ("2 * 3 * dft * 0.5", "3 * dft"),
    ("(1 + 1) * dft", "2 * dft"),
    ("1/4 * dft", "0.25 * dft"),
    ("cross_entropy + cross_entropy", "2 * cross_entropy"),
    ("focal(gamma=1) + focal(gamma=2)", "focal(gamma=1) + focal(gamma=2)"),
    ("cross_entropy + 0 * z_loss", "cross_entropy"),
    ("1e-20 * dft", "1e-20 * dft"),
    ("1e300 * dft", "1e+300 * dft"),
]


@pytest.mark.parametrize(("text", "normal"), NORMAL_FORMS)
def test_expression_has_a_normal_form_that_reads_back_to_itself(text: str, normal: str) -> None:
    read = objective(text)
    assert str(read) == repr(read) == normal
    assert objective(normal) == read
    assert hash(objective(normal)) == hash(read)


def test_expression_computes_what_it_says(stats: TokenStats) -> None:
    got = objective("0.5*cross_entropy - (focal(gamma=3) - 1e-4*z_loss) / 4")(stats)
    assert_close(got, 0.5 * cross_entropy(stats) - (focal(stats, gamma=3.0) - 1e-4 * z_loss(stats)) / 4)


def test_expression_passes_words_and_numbers_to_the_objective(stats: TokenStats) -> None:
    got = objective("label_smoothing(epsilon=0.3, convention='others')")(stats)
    assert_close(got, label_smoothing(stats, epsilon=0.3, convention="others"))


def test_expression_of_one_objective_is_that_objective_bit_for_bit(stats: TokenStats) -> None:
    assert torch.equal(objective("dft")(stats), dft(stats))


@pytest.mark.parametrize("word", ["[IDK]", "<|idk|>", "a:b", "不知道", "don't"])
def test_quoted_word_holds_any_printable_character(word: str) -> None:
    read = objective(f'0.5 * idk(token="{word}") + dft')
    assert dict(read.terms[0].hyper_parameters) == {"token": word}
    assert objective(str(read)) == read


def test_expression_survives_pickling() -> None:
    read = objective("0.5 * cross_entropy + focal(gamma=2)")
    assert pickle.loads(pickle.dumps(read)) == read


def test_expression_terms_are_open_to_logging(stats: TokenStats) -> None:
    read = objective("cross_entropy + 1e-4 * z_loss")
    assert read.terms == (Term(1.0, "cross_entropy"), Term(1e-4, "z_loss"))
    assert_close(sum(term(stats) for term in read.terms), read(stats))


def test_expression_with_a_hyper_parameter_differs_by_its_value() -> None:
    assert objective("focal(gamma=2)") == objective("focal(gamma=2.0)")
    assert objective("focal(gamma=2)") != objective("focal(gamma=3)")


ERRORS = [
    ("", "the expression is empty"),
    ("   \n", "the expression is empty"),
    ("focl", f"'focl' is no objective (did you mean 'focal'?); there are {len(OBJECTIVES)} (see: sftloss losses)."),
    ("xyzzy", f"'xyzzy' is no objective; there are {len(OBJECTIVES)} (see: sftloss losses)."),
    ("focal(gama=2)", "focal has no hyper-parameter 'gama' (did you mean 'gamma'?); it has: gamma, alpha."),
    ("ASFT", "'ASFT' is written dft + 0.05 * kl_anchor."),
    ("wit", "'wit' is written --preset wit, beside any loss."),
    ("instruction_modelling", "is written --preset instruction-modelling, beside any loss."),
    ("instruction-modelling", "write --preset instruction-modelling, beside any loss."),
    ("prompt-weight=0.1", "write --preset prompt-weight=0.1, beside any loss."),
    ("dft(gamma=2)", "dft has no hyper-parameter 'gamma'; it has: none."),
    ("focal(2)", "'focal(2)' gives a value without its name; write focal(gamma=...)."),
    ("dft(2)", "'dft(2)' gives a value without its name; dft has no hyper-parameters."),
    ("focal(*dft)", "'focal(*dft)' gives a value without its name; write focal(gamma=...)."),
    ("focal(**dft)", "'focal(**dft)' unpacks a mapping"),
    ("focal(gamma=2, gamma=3)", "focal is given 'gamma' twice."),
    ("focal(gamma='2')", "focal(gamma=...) takes a number, got \"'2'\"."),
    ("focal(gamma=True)", "focal(gamma=...) takes a number, got 'True'."),
    ("focal(gamma=None)", "focal(gamma=...) takes a number, got 'None'."),
    ("focal(gamma=dft)", "focal(gamma=...) takes a number, got 'dft'."),
    ("label_smoothing(convention=2)", "label_smoothing(convention=...) takes a quoted word, got '2'."),
    ("label_smoothing(convention=others)", "label_smoothing(convention=...) takes a quoted word, got 'others'."),
    ("focal(gamma=-1)", "in 'focal(gamma=-1)', focal: gamma must be finite and >= 0, got -1.0."),
    ("label_smoothing(convention='hf')", "label_smoothing: convention must be 'uniform' or 'others', got 'hf'."),
    ("cross_entropy * dft", "'cross_entropy * dft' multiplies two objectives"),
    ("1 / dft", "'1 / dft' divides by an objective; divide by a number."),
    ("dft / 0", "'dft / 0' divides by zero."),
    ("dft ** 2", "'dft ** 2' is no part of an expression of objectives."),
    ("dft % 2", "character '%' at 5 of 'dft % 2' has no meaning."),
    ("3", "'3' is a constant, with no objective to train on."),
    ("True * dft", "'True' is no part of an expression"),
    ("2j * dft", "'2j' is no part of an expression"),
    ("cross_entropy + 3", "'cross_entropy + 3' adds a constant"),
    ("dft - dft", "'dft - dft' is zero everywhere"),
    ("0 * dft", "'0 * dft' is zero everywhere"),
    ("1e999 * dft", "too large for a float"),
    ("1e200 * dft * 1e200", "too large for a float"),
    ("9" * 500 + " * dft", "too large for a float"),
    ("dft(", "'dft(' cannot be read at character"),
    ("dft dft", "'dft dft' cannot be read"),
    ("dft, focal", "'(dft, focal)' is no part of an expression"),
    ("dft if dft else dft", "is no part of an expression"),
    ("not dft", "is no part of an expression"),
    ("dft.__class__", "'dft.__class__' is no part of an expression"),
    ("dft.detach()", "does not call an objective by its name"),
    ("__import__('os')", "'__import__' is no objective"),
    ("lambda: dft", "character ':'"),
    ("cross_entropy \u2212 dft", r"character '\u2212' at 15"),
    ("idk(token='a\\n')", r"character '\\' at 13"),
    ("idk(token='[IDK)", "character '[' at 12"),
    ("idk(token='[IDK]') + dft[2]", "character '[' at 25"),
    ("idk(token='[IDK]') dft", "cannot be read at character 20: invalid syntax"),
    ("idk(token='[IDK]', gamma=2)", "idk has no hyper-parameter 'gamma'"),
    ("2 ** idk(token='[IDK]')", "idk(token='[IDK]')"),
    ("idk(token=f'{dft}')", "idk(token=...) takes a quoted word"),
    ("dft" + " " * 2000, "the expression has 2003 characters, at most 1000 are read."),
    (" + ".join(["dft"] * 80), "more than 50 deep"),
    ("-" * 500 + "dft", "more than 50 deep"),
    ("(" * 400 + "dft" + ")" * 400, "cannot be read"),
]


@pytest.mark.parametrize(("text", "message"), ERRORS, ids=[text[:30] for text, _ in ERRORS])
def test_expression_refuses_in_one_sentence_that_says_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        objective(text)
    assert str(caught.value).startswith("objective: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 320  # a long expression is not repeated whole


@pytest.mark.parametrize("wrong", [None, 3, b"dft"])
def test_expression_is_a_string_or_a_function(wrong: object) -> None:
    with pytest.raises(TypeError, match="^objective: expected an expression or a function, got"):
        objective(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [RecursionError, MemoryError])
def test_expression_too_deep_for_the_parser_is_refused_with_value_error(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which of the two the parser raises, and when, differs between versions of Python."""

    def parse(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("ast.parse", parse)
    with pytest.raises(ValueError, match="^objective: 'dft' cannot be read: it is nested too deeply.$"):
        objective("dft")


numbers = st.floats(1e-3, 1e3) | st.integers(1, 9) | st.floats(-1e3, -1e-3)
calls = st.one_of(
    st.sampled_from(list(OBJECTIVES)),
    st.builds("focal(gamma={}, alpha={})".format, st.floats(0, 9), st.floats(1e-3, 2)),
    st.builds("poly_1(epsilon={})".format, st.floats(-1, 9)),
    st.builds("label_smoothing(convention='{}')".format, st.sampled_from(["uniform", "others"])),
)
expressions = st.recursive(
    calls,
    lambda inner: st.one_of(
        st.builds("{} * ({})".format, numbers, inner),
        st.builds("({}) / {}".format, inner, numbers),
        st.builds("{} + {}".format, inner, inner),
        st.builds("{} - ({})".format, inner, inner),
        st.builds("-({})".format, inner),
    ),
    max_leaves=6,
)


@settings(deadline=None)  # it counts the time that other processes take
@given(text=expressions)
def test_expression_reads_back_from_its_own_text(text: str) -> None:
    try:
        read = objective(text)
    except ValueError as error:
        assert "is zero everywhere" in str(error)  # drawn so that everything cancels
        return
    assert objective(str(read)) == read
    assert str(objective(str(read))) == str(read)


fragments = st.sampled_from(
    [*OBJECTIVES, *"+-*/().,=' \"\\{}[]:;@~#\n\t", "gamma", "1e-4", "2", "0x", "lambda", "f'", "**", "1or", "\x00"]
)


@settings(deadline=None)
@given(text=st.text() | st.lists(fragments, max_size=14).map("".join))
@example(text="\ud800")
@example(text="1or dft")
@example(text="2 (dft)")
@example(text="'\\d'")
@example(text="dft is 2")
@example(text="b'x'*dft")
def test_expression_of_anything_at_all_is_read_or_refused_with_value_error(text: str) -> None:
    try:
        assert objective(str(objective(text))) == objective(text)
    except ValueError as error:
        assert str(error).startswith("objective: ")
