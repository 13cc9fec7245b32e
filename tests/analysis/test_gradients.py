"""The section and the findings about measured gradients, from numbers that are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from tests.analysis.tables import make_table, random_examples

from sftloss import numbers
from sftloss.analysis.signal.describe import describe_signal_with_frames
from sftloss.analysis.signal.frames import open_study
from sftloss.analysis.signal.gradients import Cosines, GradientStudy, MeasuredGradients
from sftloss.analysis.signal.rules.gradient import GRADIENT_RULES
from sftloss.analysis.signal.sections.gradient import gradient_section
from sftloss.analysis.signal.views import AnalysisOptions
from sftloss.errors import ConfigError
from sftloss.rules import findings_of
from sftloss.weights import EXAMPLE_MEAN
from sftloss.words import percent

TABLE = make_table(random_examples(120))


def study_of(
    change: Any = None,
    *,
    shares: Any = None,
    cosines: tuple[Cosines, ...] = (),
    tokens: Any = None,
    whole: float | None = None,
    **options: Any,
) -> Any:
    """Norms that follow the root of the length, perhaps changed by a function of these norms."""
    base = open_study(TABLE, AnalysisOptions(replicates=100, **options))
    norms = np.sqrt(base.size)
    norms = norms if change is None else change(norms)
    frame = pl.DataFrame(
        {"example": base.ids, **{f"norm:{name}": norms * (at + 1) for at, name in enumerate(base.objectives)}}
    )
    wholes: dict[str, float] = {}
    if shares is not None:
        frame = frame.with_columns(share=pl.Series(shares(len(norms))))
        wholes = dict.fromkeys(base.objectives, 0.02 if whole is None else whole)
    note = "Shares of an update by plain gradient descent under token mean, by forward mode."
    return GradientStudy(base, MeasuredGradients(frame, "all", note, wholes, cosines, tokens))


def ids_of(study: GradientStudy) -> set[str]:
    return {finding.id for finding in findings_of(GRADIENT_RULES, study)}


def test_elasticity_of_the_norm_under_each_normalization() -> None:
    study = study_of()
    laws = {view.normalization.name: study.law(view).value for view in study.study.views}
    assert laws == pytest.approx({"token mean": 0.5, "example mean": -0.5, "sqrt": 0.0}, abs=1e-6)
    assert ids_of(study) == set()


def test_text_marked_as_wrong_has_no_part_of_any_sum() -> None:
    """Its weight is below 0, and the length of a row with a right and a wrong answer was their difference."""
    marked, left_out = (
        open_study(make_table([{"p": [0.5, 0.4, 0.3, 0.2], "weight": [1, 1, wrong, wrong]}] * 3), AnalysisOptions())
        for wrong in (-1, 0)
    )
    assert marked.size.tolist() == [2, 2, 2]
    assert marked.base.drop("content").equals(left_out.base.drop("content"))


def token_shares(per_example: Any) -> pl.DataFrame:
    """Each example's share, all of it at its first trained token."""
    tokens = TABLE.tokens().filter(pl.col("weight") > 0).collect().group_by("example").agg(pl.col("position").min())
    return tokens.sort("example").with_columns(share=pl.Series(per_example))


def test_the_section_has_every_table_and_chart() -> None:
    cosines = (
        Cosines("task", ("a", "b", "c"), ((1.0, -0.3, 0.1), (-0.3, 1.0, 0.0), (0.1, 0.0, 1.0))),
        Cosines("language", ("de", "en"), ((1.0, 0.4), (0.4, 1.0))),
    )
    parts = np.where(np.arange(120) % 4, 2.0, -1.0) / 150
    study = study_of(shares=lambda count: parts, cosines=cosines, tokens=token_shares(parts))
    section = gradient_section(study, lambda ids: [f"<{i}>" for i in ids])
    names = ["numbers", "deciles", "ratios", "influential", "agreement", "update-confidence"]
    names += ["cosines-task", "cosines-language"]
    assert [table.id for table in section.tables] == [f"gradient-{name}" for name in names]
    names = ["decile-shares", "ratios", "agreement", "update-confidence", "conflicts-task"]
    assert [chart.id for chart in section.charts] == [f"gradient-{name}" for name in names]
    assert all(chart.series and chart.description for chart in section.charts)
    assert section.charts[-1].series[0].x == ("a, b", "b, c", "a, c")
    assert [one.label for one in section.charts[0].series] == ["tokens", "norm, token mean", "update"]
    assert section.lead.startswith("An example of twice the length has 1.41 times the gradient norm.")
    influential = section.tables[3]
    assert influential.rows[0][-1].startswith("<") and influential.rows[0][0].startswith("data.jsonl:")
    update = section.tables[5]
    assert sum(row[[c.key for c in update.columns].index("update")] for row in update.rows) == pytest.approx(1)
    assert [one.title.endswith(f"{percent(-1 / 150)} of the update") for one in section.strips] == [0, 0, 1, 1]
    for_it, against = section.strips[0].values[0], section.strips[2].values[1]
    assert for_it[0] == against[0] == 1 and not any(for_it[1:]) and section.strips[0].measures[0] == "for the update"


def test_each_loss_has_its_norms_and_its_noise_scale() -> None:
    table = make_table(random_examples(60), objectives=("cross_entropy", "focal"))
    base = open_study(table, AnalysisOptions(replicates=20))
    frame = pl.DataFrame({"example": base.ids, "norm:cross_entropy": np.sqrt(base.size), "norm:focal": base.size})
    wholes = {"cross_entropy": 0.08, "focal": 0.9}
    study = GradientStudy(base, MeasuredGradients(frame, "all", "", wholes))
    rows = {row[0]: row for row in gradient_section(study, None).tables[0].rows}
    assert rows["cross_entropy, token mean"][1] == pytest.approx(0.5, abs=1e-6)
    assert rows["focal, token mean"][1] == pytest.approx(1, abs=1e-6)
    view = next(view for view in base.ways if view.objective == "focal")
    assert rows["focal, token mean"][-1] == pytest.approx(numbers.noise_scale(study.norms(view), 0.9).examples)
    assert rows["cross_entropy, example mean"][-1] is None
    ratios = gradient_section(study, None).charts[1]
    assert [one.label for one in ratios.series] == ["cross_entropy", "focal"]


def test_a_noise_scale_that_is_not_measured_is_a_sentence() -> None:
    def shares(count: int) -> Any:
        return np.full(count, 1 / count)

    small, large = (gradient_section(study_of(shares=shares, whole=whole), None).lead for whole in (1e-4, 10.0))
    assert "The gradient noise scale is larger than 120 examples can measure." in small
    table = gradient_section(study_of(shares=shares, whole=1e-4), None).tables[0]
    assert table.note == "Larger than these examples can measure: the noise scale of token mean."
    assert "The gradient noise scale is 0, because all examples have the same gradient." in large
    assert "need --signal additive" in gradient_section(study_of(), None).notes[1]


def test_a_gradient_that_is_not_finite_leaves_the_noise_scale_unmeasured() -> None:
    study = study_of(shares=lambda count: np.full(count, 1 / count), whole=float("nan"))
    assert "noise scale was not measured, because a gradient is not finite" in gradient_section(study, None).lead
    section = gradient_section(study_of(shares=lambda count: np.full(count, np.nan), whole=float("inf")), None)
    assert "were not measured, because a gradient is not finite" in section.notes[1]
    assert ids_of(study) == set()


def test_equal_examples_have_no_rank_correlation() -> None:
    base = open_study(make_table([{"p": [0.5, 0.25, 0.5]}] * 6), AnalysisOptions(replicates=20))
    frame = pl.DataFrame({"example": base.ids, "norm:cross_entropy": np.ones(6)})
    section = gradient_section(GradientStudy(base, MeasuredGradients(frame, "all")), None)
    chart = next(chart for chart in section.charts if chart.id == "gradient-agreement")
    assert chart.description.startswith("Every rank correlation is undefined")
    assert "The 1 example with the largest gradients has 17 % of" in section.lead


def test_the_ratio_of_gradient_and_loss_does_not_depend_on_the_normalization() -> None:
    tables = [
        gradient_section(study_of(normalization=rule), None).tables[2]
        for rule in (AnalysisOptions().normalization, EXAMPLE_MEAN)
    ]
    ratio = [[row[-1] for row in table.rows][0] for table in tables]
    assert ratio[0] == pytest.approx(ratio[1], rel=0.2)  # groups hold several lengths


def test_most_of_the_examples_against_the_update() -> None:
    signs = study_of(shares=lambda count: np.where(np.arange(count) % 2, 3.0, -1.0) / count)
    (finding,) = [one for one in findings_of(GRADIENT_RULES, signs) if one.id == "SIG002"]
    assert finding.value == pytest.approx(0.5, abs=0.01) and len(finding.rows) == 10


def test_an_outlier_is_named_by_file_and_line() -> None:
    (finding,) = findings_of(GRADIENT_RULES, study_of(lambda norms: np.where(np.arange(len(norms)) == 7, 500, norms)))
    assert finding.id == "SIG005" and finding.rows == ("data.jsonl:8",)


def test_norms_that_differ_by_orders_anyway_are_no_outliers() -> None:
    """Easy examples have a thousandth of the norm of hard ones, and a third of all are hard."""
    assert ids_of(study_of(lambda norms: np.where(np.arange(len(norms)) % 3 == 0, 1000 * norms, norms))) == set()


def test_conflicting_groups_and_a_step_below_the_noise_scale() -> None:
    cosines = (Cosines("language", ("en", "zh"), ((1.0, -0.4), (-0.4, 1.0))),)
    study = study_of(shares=lambda count: np.full(count, 1 / count), cosines=cosines, micro_batch=1)
    assert ids_of(study) == {"SIG006", "SIG007"}
    sentences = {one.id: one.sentence for one in findings_of(GRADIENT_RULES, study)}
    assert "'zh' and 'en'" in sentences["SIG006"] or "'en' and 'zh'" in sentences["SIG006"]


@pytest.mark.parametrize("signal", ["table", "grad"])
def test_an_optimizer_without_shares_of_an_update_is_refused(signal: Any) -> None:
    with pytest.raises(ConfigError, match="adam changes nothing here") as refusal:
        AnalysisOptions(signal=signal, optimizer="adam")
    assert str(refusal.value).endswith("add signal='additive'.")


def test_the_document_and_its_frames_hold_the_section() -> None:
    options = AnalysisOptions(replicates=50)
    base = study_of().measured
    document, frames = describe_signal_with_frames(TABLE, options, gradients=lambda study: base)
    assert [section.id for section in document.sections][-2:] == ["gradient", "method"]
    assert frames["gradient-deciles"].height == 10
    with pytest.raises(ConfigError, match="must be table, grad or additive"):
        AnalysisOptions(signal="hessian")  # type: ignore[arg-type]
