"""Task weightings as arms of a comparison: named, trained, judged task by task, their weights shown over time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.cli.tools import run
from tests.experiments.made import PLAN, results, with_recipe
from tests.experiments.test_runner import TINY

from sftloss.document import Column, Table
from sftloss.errors import ConfigError
from sftloss.experiments.experiment import arm_labels
from sftloss.experiments.pages.tables import in_parts
from sftloss.experiments.pages.tasks import conflicts_section, task_weights_section
from sftloss.experiments.pages.verdicts import by_task_section
from sftloss.experiments.run.results import Point
from sftloss.experiments.verdicts.comparisons import HEADLINE, Results, comparisons, measures_of
from sftloss.experiments.verdicts.findings import Verdicts, comparison_headlines, task_conclusion

WEIGHTED = replace(PLAN, losses=("cross_entropy",), tasks=("none", "gls", "static"), seeds=(0, 1, 2, 3))


def test_arms_are_named_by_their_weighting() -> None:
    arms = WEIGHTED.arms()
    assert [arm.tasks for arm in arms] == ["", "gls", "static"]
    assert arm_labels(arms) == ("unweighted", "gls", "static")
    assert arms[0].slug == "cross_entropy-token-mean"  # as without weightings, so a finished arm is found


@pytest.mark.parametrize(("text", "message"), [("glss", "did you mean 'gls'"), ("gls(x=1)", "gls has no x")])
def test_a_weighting_that_cannot_be_read_is_refused_before_anything_is_trained(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(WEIGHTED, tasks=("none", text)).arms()


def test_verdicts_are_about_each_task_where_weightings_differ() -> None:
    found = results(0.5, experiment=WEIGHTED)
    assert [measure.id for measure in measures_of(found)] == [
        "token_nll", "exact_match", "token_nll-add", "token_nll-copy"
    ]  # fmt: skip
    assert measures_of(results(0.5)) == HEADLINE
    compared = comparisons(found)
    assert len(compared) == 2 * 4 and {round(one.level, 6) for one in compared} == {round(1 - 0.05 / 8, 6)}
    by_task = {one.measure.task: one for one in compared if one.arm.tasks == "gls" and one.measure.task}
    tasks = found.first.groups.task
    for task, one in by_task.items():
        chosen = [name == task for name in tasks]
        expected = found.difference(one.arm, "token_nll", np.asarray(chosen))
        assert one.difference == expected and one.is_different


def test_a_point_with_task_metrics_is_read_as_it_was_written() -> None:
    for point in (Point(3, 1.5), Point(3, 1.5, {"task_weight/qa": 1.25})):
        assert Point(*json.loads(json.dumps(point))) == point


def moving(weight: float) -> Results:
    """Results of which one arm has weights that moved and one has weights that did not."""
    found = results(0.5, experiment=replace(WEIGHTED, seeds=(0, 1, 2)))
    for one, result in found.by_trial.items():
        end = {"gls": weight, "static": 1.0}.get(one.arm.tasks)
        if end is not None:
            points = [(0, 1.0), (5, (1 + end) / 2), (10, end + 0.02 * one.seed * (end != 1))]
            curve = tuple(
                Point(
                    s, 1.0, {"task_weight/add": w, "task_weight/copy": 2 - w, **({"task_loss/add": 3.0} if s else {})}
                )
                for s, w in points
            )
            found.by_trial[one] = replace(result, curve=curve)  # type: ignore[index]
    return found


def test_weights_are_shown_over_time_where_they_moved_and_at_the_end_of_every_arm() -> None:
    found = moving(1.5)
    section = task_weights_section(found)
    assert section is not None and section.lead.startswith("Weights moved in 1 of 2 arms")
    chart, loss = section.charts  # no arm knows a loss of the other task
    assert loss.title == "Training loss of add"
    assert [series.label for series in loss.series] == ["gls", "static"] and loss.series[0].y == (3.0, 3.0)
    assert chart.title == "gls" and [series.label for series in chart.series] == ["add", "copy"]
    assert chart.series[0].x == (5.0, 10.0) and chart.series[0].y[-1] == pytest.approx(1.52)
    assert (chart.series[0].low[-1], chart.series[0].high[-1]) == pytest.approx((1.5, 1.54))
    assert [row[:2] for row in section.tables[1].rows] == [
        ("gls", "add"), ("gls", "copy"), ("static", "add"), ("static", "copy")
    ]  # fmt: skip
    assert section.tables[0].rows[0] == ("gls", *map(pytest.approx, (1.52, 1.5, 1.54, 0.48, 0.46, 0.5)))
    assert task_weights_section(results(0.5)) is None


def test_shares_and_trend_are_shown_over_time_and_conflicts_where_someone_looked() -> None:
    found = moving(1.5)
    assert conflicts_section(found) is None
    for one, result in found.by_trial.items():
        if one.arm.tasks:
            more = {"task_slope/add": -0.1, "task_effective_share/add": 0.75, "task_token_share/add": 0.5}
            if one.arm.tasks == "static":
                more |= {"task_conflict_rate": 0.25, "task_cosine/add, copy": -0.5}
            curve = tuple(point._replace(tasks={**point.tasks, **more}) for point in result.curve)
            found.by_trial[one] = replace(result, curve=curve)  # type: ignore[index]
    charts = {chart.title: chart for chart in task_weights_section(found).charts}  # type: ignore[union-attr]
    assert {"Training loss of add", "Effective share of add", "Trend of add"} <= charts.keys()
    shares = charts["Effective share of add"]
    assert [(one.label, one.y[-1]) for one in shares.series] == [
        ("gls", 0.75),
        ("static", 0.75),
        ("share of tokens", 0.5),
    ]
    section = conflicts_section(found)
    assert section is not None and section.lead.endswith("in 25 % of the pairs.")
    assert section.tables[0].rows == (("static", 0.25, -0.5),) and section.charts[0].series[0].y == (0.25, 0.25)


def test_compare_trains_task_weightings_from_the_command_line(tmp_path: Path) -> None:
    """The arm of weights 1 over all tokens is the unweighted arm, number by number."""
    words = [
        "compare", "--tasks", "none", "--tasks", "static(base=token_mean, conflicts=true)",
        "--tasks", "gradient_balance", "--seeds", 1,
        "--width", 16, "--heads", 2, "--layers", 1, "--max-examples", 48, "--eval-rows", 24,
        "--data-tasks", "multitask", "--max-steps", 4, "--batch-size", 8, "--points", 2, "--samples", 0,
        "--max-new-tokens", 6, "-o", tmp_path,
    ]  # fmt: skip
    done = run(*words)
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "report.json").read_text())
    (section,) = [s for s in told["sections"] if s["id"] == "task-weights"]
    assert {row[1] for row in section["tables"][1]["rows"]} == {"classify", "qa", "summarise", "translate"}
    arms = {path.name: json.loads((path / "result.json").read_text()) for path in (tmp_path / "arms").iterdir()}
    plain = arms["cross_entropy-token-mean-seed0"]
    equal = arms["cross_entropy-token-mean-static-base-token_mean-conflicts-true-seed0"]
    other = arms["cross_entropy-token-mean-gradient_balance-seed0"]
    assert plain["metrics"] == equal["metrics"] != other["metrics"]
    assert other["curve"][1][2] and not plain["curve"][1][2]


@pytest.mark.parametrize(
    "weighting", ["coba(warmup=2)", *(pytest.param(name, marks=pytest.mark.slow) for name in ("doremi", "famo"))]
)
def test_a_weighting_that_wants_more_than_training_rows_gets_it(tmp_path: Path, weighting: str) -> None:
    """Held-out losses of another draw, or a reference trained first; nothing of it stays in the folder."""
    from sftloss.experiments import compare

    experiment = replace(TINY, losses=("cross_entropy",), tasks=("static", weighting), samples=0)
    experiment = with_recipe(experiment, max_steps=8)
    compare(experiment, output=tmp_path)
    equal, moved = (
        json.loads((tmp_path / "arms" / f"{arm.slug}-seed0" / "result.json").read_text()) for arm in experiment.arms()
    )
    weights = {k: v for k, v in moved["curve"][-1][2].items() if k.startswith("task_weight/")}
    assert weights and any(abs(v - 1) > 1e-3 for v in weights.values())
    assert equal["tokens"] == moved["tokens"] and equal["metrics"] != moved["metrics"]
    assert not list(tmp_path.rglob("reference"))


def test_a_second_draw_holds_no_question_that_was_trained() -> None:
    from sftloss.data.demo import demo_tokenizer
    from sftloss.experiments.run.material import material, second_draw

    experiment = replace(with_recipe(TINY, max_examples=400), data_tasks=("multitask",), eval_rows=100)
    trained, judged, _ = material(experiment, tokenizer := demo_tokenizer())
    drawn = second_draw(experiment, tokenizer, trained)
    assert {e.task for e in drawn.examples} == {e.task for e in trained.examples}
    seen = {e.prompts for e in (*trained.examples, *judged.examples)}
    assert not seen & {e.prompts for e in drawn.examples}


def test_held_out_losses_of_a_file_are_for_the_judge_alone(tmp_path: Path) -> None:
    from sftloss.experiments import compare

    experiment = replace(
        with_recipe(TINY, data="a.jsonl", eval_data="b.jsonl"), losses=("cross_entropy",), tasks=("static", "coba")
    )
    with pytest.raises(ConfigError, match="coba follows held-out losses during training"):
        compare(experiment, output=tmp_path)


def test_a_lost_arm_of_task_weights_is_trained_to_the_same_bytes(tmp_path: Path) -> None:
    experiment = replace(TINY, losses=("cross_entropy",), tasks=("none", "gls"))
    from sftloss.experiments import compare

    compare(experiment, output=tmp_path)
    lost = tmp_path / "arms" / "cross_entropy-token-mean-gls-seed0" / "result.json"
    before = lost.read_bytes()
    lost.unlink()
    compare(experiment, output=tmp_path)
    assert lost.read_bytes() == before


def test_what_each_task_gained_or_lost_is_said_in_one_sentence_and_one_row_an_arm() -> None:
    """Half a nat more on every token of two arms: both raised every loss, none lowered one."""
    found = results(0.5, experiment=WEIGHTED)
    compared = comparisons(found)
    section = by_task_section(found, compared)
    assert section is not None
    assert section.lead == (
        "0 of 2 arms lowered a held-out loss; 2 raised one: gls (all tokens, add, copy) and static (all tokens, add, "
        "copy); 0 show no difference."
    )
    (table,) = section.tables
    assert [row[0] for row in table.rows] == ["gls", "static"]
    assert table.rows[0][-1] == "all higher, add higher, copy higher" and table.rows[0][1] == pytest.approx(
        0.5, abs=0.1
    )
    assert section.lead in comparison_headlines(Verdicts(WEIGHTED, found, compared))[1]
    same = results(0.0, experiment=WEIGHTED)
    assert "0 raised one; 2 show no difference" in task_conclusion(comparisons(same), same)
    plain = results(0.5)
    assert by_task_section(plain, comparisons(plain)) is None


def test_one_seed_gives_no_conclusion() -> None:
    found = results(0.5, experiment=replace(WEIGHTED, seeds=(0,)))
    assert task_conclusion(comparisons(found), found) == "There are too few seeds for a verdict on any task."


def test_a_table_of_many_arms_comes_in_parts_that_a_page_shows_whole() -> None:
    rows = tuple((str(i),) for i in range(25))
    found = in_parts(Table("t", "All", (Column("arm", "arm"),), rows))
    assert [len(part.rows) for part in found] == [12, 12, 1] and sum((part.rows for part in found), ()) == rows
    assert found[1].title == "All (2 of 3)" and len({part.id for part in found}) == 3
