"""Findings and headlines of a comparison: what could spoil it, the differences it supports, what shows none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sftloss.analysis.lengths.forecast import WITHIN
from sftloss.document import Command, Cure, Finding, Interval
from sftloss.experiments.experiment import Arm, Experiment
from sftloss.experiments.verdicts.comparisons import ENOUGH_SEEDS, LEAST_TILT, Comparison, Results, least_seeds
from sftloss.rules import Evidence, Rule, findings_of
from sftloss.words import confidence, counted, listed, number, percent

FEW_DECIDE = "Few examples decide this number"
_NAMED = 3  # more arms are counted, not listed
_CUT = 0.1  # share of cut answers from which lengths and exact matches say little
_WORSE = 0.02  # nats a token: a smaller rise of the held-out loss may be chance


@dataclass(frozen=True)
class Verdicts:
    """What the findings are about.

    Attributes:
        experiment: What was compared.
        results: Every arm with every seed.
        compared: All comparisons with the first arm.
        command: The command line that asked for the experiment, where there is one.
    """

    experiment: Experiment
    results: Results
    compared: tuple[Comparison, ...]
    command: Command | None = None

    def again(self, flag: str, value: str, words: str) -> Cure:
        """The same command with one other value; `words` where no `sftloss compare` asked for the experiment."""
        if self.command is None or self.command.verb != "compare":
            return words
        return self.command.with_flag(flag, value)


def _few_seeds(on: Verdicts) -> Evidence | None:
    count, arms = len(on.results.seeds), len(on.results.arms)
    if count >= least_seeds(arms):
        return None
    return Evidence(f"{counted(count, 'seed')} cannot support a verdict; intervals are shown, but differences are not "
                    f"judged. With {arms} arms a verdict needs {least_seeds(arms)} seeds.",
                    cure=_more_seeds(on))  # fmt: skip


def _some_seeds(on: Verdicts) -> Evidence | None:
    count = len(on.results.seeds)
    if not least_seeds(len(on.results.arms)) <= count < ENOUGH_SEEDS or not on.compared:
        return None
    errors = on.compared[0].errors_needed
    return Evidence(f"With {count} seeds only very large differences are found: where seeds vary more than examples, "
                    f"those above {errors:.0f} standard errors.", cure=_more_seeds(on))  # fmt: skip


def _more_seeds(on: Verdicts) -> Cure:
    seeds = max(ENOUGH_SEEDS, least_seeds(len(on.results.arms)))
    return on.again("--seeds", str(seeds), f"use {seeds} seeds")


def _unequal_tokens(on: Verdicts) -> Evidence | None:
    by_arm = [[result.tokens for result in on.results.of(arm)] for arm in on.results.arms]
    if all(len(set(tokens)) == 1 for tokens in zip(*by_arm, strict=True)):
        return None
    tokens = [count for counts in by_arm for count in counts]
    return Evidence(
        f"Arms with the same seed were trained on different numbers of tokens: {min(tokens):,} to {max(tokens):,}."
    )


def _mixed_versions(on: Verdicts) -> Evidence | None:
    versions = {tuple(sorted(result.versions.items())) for result in on.results.by_trial.values()}
    return Evidence("Arms were trained with different versions of Python packages.") if len(versions) > 1 else None


def _worse_than_before(on: Verdicts) -> Evidence | None:
    """Arms whose held-out loss ended above its start with every seed, though the model was pretrained."""
    if on.experiment.is_scratch:
        return None
    rises = {arm: [r.curve[-1].nll - r.curve[0].nll for r in on.results.of(arm) if r.curve] for arm in on.results.arms}
    worse = [arm for arm, by_seed in rises.items() if by_seed and min(by_seed) > _WORSE]
    if not worse:
        return None
    arm = max(worse, key=lambda one: sum(rises[one]))
    start, end = (_mean_loss(on.results, arm, at) for at in (0, -1))
    which = "every arm" if len(worse) == len(on.results.arms) else listed([on.results.names[one] for one in worse])
    rate = on.experiment.recipe.learning_rate
    return Evidence(
        f"Training made the pretrained model worse in {which}: held-out loss rose from {number(start)} to "
        f"{number(end)} nats per token with {on.results.names[arm]}.",
        end - start,
        unit="nats",
        cure=on.again("--learning-rate", f"{rate / 10:g}", f"use a smaller learning rate, e.g. {rate / 10:g}"),
    )


def _answers_cut(on: Verdicts) -> Evidence | None:
    """Arms of which the limit on new tokens cuts many answers."""
    means = {arm: on.results.mean(arm, "truncated") for arm in on.results.arms}
    cut = {on.results.names[arm]: mean.value for arm, mean in means.items() if mean is not None and mean.value >= _CUT}
    if not cut:
        return None
    limit, longest = on.experiment.max_new_tokens, max(on.results.first.reference_lengths, default=0)
    more = max(2 * limit, longest)
    why = "" if longest > limit else (
        f"Every held-out answer fits into {limit} tokens, so the models run on: check with sftloss inspect that the "
        "end of answers is trained, or train for more steps."
    )  # fmt: skip
    by_arm = listed([f"{percent(share)} of the answers of {name}" for name, share in cut.items()])
    return Evidence(
        f"The limit of {limit} new tokens cuts off {by_arm}.",
        max(cut.values()),
        unit="share",
        why=why,
        cure=on.again("--max-new-tokens", str(more), f"allow {more} new tokens"),
    )


def _mean_loss(results: Results, arm: Arm, at: int) -> float:
    losses = [result.curve[at].nll for result in results.of(arm)]
    return sum(losses) / len(losses)


def _difference(judged: tuple[Verdicts, Comparison]) -> Evidence | None:
    on, one = judged
    if not one.is_different:
        return None
    value, low, high = one.in_unit
    assert low is not None and high is not None
    return Evidence(
        difference_sentence(one, on.results),
        value,
        Interval(low, high, round(one.level, 4)),
        "ratio" if one.measure.kind == "ratio" else one.measure.unit,
        why=f"The difference is paired over examples and {len(on.results.seeds)} seeds. {_error_rate(on)}",
    )


def _no_difference(on: Verdicts) -> Evidence | None:
    equal = [one for one in on.compared if one.is_judged and not one.is_different]
    if not equal:
        return None
    count = len(on.compared)
    which = "No comparison" if len(equal) == count else f"{len(equal)} of {count} comparisons"
    shows = "shows a difference" if len(equal) == count else "show no difference"
    return Evidence(
        f"{which} with {on.results.reference} {shows}.",
        why=f"This does not prove that the arms are equal. {_detectable(equal, on)} {_error_rate(on)}",
    )


def _no_verdict(on: Verdicts) -> Evidence | None:
    rest = [one for one in on.compared if not one.is_judged]
    if not rest:
        return None
    parts = []
    for measure, ours in _by_measure(rest).items():
        values = ", ".join(f"{on.results.names[one.arm]} {measure.signed(one.difference.value)}" for one in ours)
        parts.append(f"{measure.name} ({values if len(ours) <= _NAMED else f'{len(ours)} arms'})")
    return Evidence(f"There is too little data for a verdict against {on.results.reference}: {'; '.join(parts)}.")


def _error_rate(on: Verdicts) -> str:
    if len(on.compared) == 1:
        return "It is the only comparison."
    level = confidence(on.compared[0].level)
    return f"There are {len(on.compared)} comparisons; their {level} intervals hold all together with 95 % confidence."


def _detectable(equal: Sequence[Comparison], on: Verdicts) -> str:
    """One sentence with the smallest difference of each measure that would have been found."""
    arms, parts = {one.arm for one in on.compared}, []
    for measure, ours in _by_measure(equal).items():
        sizes = [one.detectable for one in ours]
        least = "none, however large" if None in sizes else measure.words(max(s for s in sizes if s is not None))
        where = listed([on.results.names[one.arm] for one in ours]) if len(ours) <= _NAMED else f"{len(ours)} arms"
        parts.append(f"{measure.name} {least}" + (f" ({where})" if len(ours) < len(arms) else ""))
    return f"Of 5 experiments of this size, 4 would find a difference of about: {'; '.join(parts)}."


def _by_measure(compared: Sequence[Comparison]) -> dict[Any, list[Comparison]]:
    return {measure: [one for one in compared if one.measure == measure]
            for measure in dict.fromkeys(one.measure for one in compared)}  # fmt: skip


_PREMISES: tuple[Rule[Verdicts], ...] = (
    Rule("CMP001", "warning", "Too few seeds for a verdict",
         "A training may work with one seed and fail with another. A few seeds may all agree by chance, more often "
         "with more arms; no interval shows this.", f"use {ENOUGH_SEEDS} seeds", _few_seeds),
    Rule("CMP004", "info", "3 or 4 seeds",
         "So few seeds may agree by chance, so the intervals are wide. Finished trainings are kept; only those of new "
         "seeds are added.", f"use {ENOUGH_SEEDS} seeds", _some_seeds),
    Rule("CMP002", "error", "Arms trained on different numbers of tokens",
         "A difference may then come from the amount of training.",
         "remove the folders of these arms and run the command again", _unequal_tokens),
    Rule("CMP003", "warning", "Arms trained with different package versions",
         "Results with the same seed are then not exactly paired.",
         "choose a new --output, so that all arms are trained with the same versions", _mixed_versions),
    Rule("CMP005", "warning", "A pretrained model that training made worse",
         "The usual cause is a learning rate that is too high for a pretrained model, or too many passes over few "
         "rows. Differences between arms then compare kinds of damage.", "use a smaller learning rate",
         _worse_than_before),
    Rule("CMP006", "warning", "Answers cut off by --max-new-tokens",
         "The length of a cut answer is only a lower bound, and exact match counts it as wrong, so arms look alike.",
         "a larger --max-new-tokens", _answers_cut),
)  # fmt: skip
_DIFFERENCE: Rule[tuple[Verdicts, Comparison]] = Rule(
    "CMP010", "info", "A difference from the first arm that the data supports",
    "The simultaneous interval of the difference excludes zero.", "", _difference,
)  # fmt: skip
_REST: tuple[Rule[Verdicts], ...] = (
    Rule("CMP020", "info", "Comparisons that show no difference",
         "This does not prove that the arms are equal: smaller differences may exist.", "", _no_difference),
    Rule("CMP021", "info", "Comparisons without a verdict",
         "A verdict needs an interval over at least 3 seeds, and over more where there are more arms.", "",
         _no_verdict),
)  # fmt: skip
COMPARE_RULES: tuple[Rule[Any], ...] = (*_PREMISES, _DIFFERENCE, *_REST)
"""All findings of a comparison."""


def comparison_findings(on: Verdicts) -> tuple[Finding, ...]:
    """Findings about the rows and what else could spoil the comparison, then supported differences, then the rest."""
    differences = (_DIFFERENCE.finding((on, one)) for one in on.compared)
    return (
        *on.results.first.row_findings,
        *findings_of(_PREMISES, on),
        *(finding for finding in differences if finding is not None),
        *findings_of(_REST, on),
    )


def comparison_headlines(on: Verdicts) -> tuple[str, ...]:
    """How many differences are supported, the clearest of each arm, and the lengths predicted and generated."""
    results, shown = on.results, [one for one in on.compared if one.is_different]
    size = f"{counted(len(results.arms), 'arm')} with {counted(len(results.seeds), 'seed')}"
    count = "none" if not shown else str(len(shown))
    verb = "show" if len(shown) > 1 else "shows"
    whole = f"{len(on.compared)} comparisons with {results.reference}"
    is_judged = not on.compared or any(one.is_judged for one in on.compared)
    lines = [
        f"{size}: {count} of {whole} {verb} a difference."
        if is_judged
        else f"{size}: too little data to judge the {whole}."
    ]
    if any(one.measure.task for one in on.compared):  # one task may gain what another loses: all, not the clearest
        lines.append(f"Against {results.reference}: {task_conclusion(on.compared, results)}")
    elif shown:
        strongest = sorted(shown, key=lambda one: -abs(one.difference.value) / (one.difference.error or 1e-300))
        first_of_arm = {one.arm: one for one in reversed(strongest)}
        clearest = [first_of_arm[arm] for arm in results.arms if arm in first_of_arm][:3]
        lines += [difference_sentence(one, results) for one in clearest]
    return (*lines, *_length_line(results))


def _length_line(results: Results) -> tuple[str, ...]:
    parts = []
    for arm in results.arms[1:]:
        within, bound = results.predicted_length(arm), results.predicted_length(arm, is_bound=True)
        generated = results.relative(arm, "length_ratio")
        if within is None or bound is None or generated is None:
            continue
        if max(abs(within - 1.0), abs(bound - 1.0)) >= LEAST_TILT:
            predicted = f"predicted {within:.2f}× {WITHIN}, {bound:.2f}× at the bound"
            parts.append(f"{results.names[arm]} {predicted}; generated {generated.value:.2f}×")
    return (f"Mean answer length over that of {results.reference}: {'. '.join(parts)}.",) if parts else ()


def difference_sentence(one: Comparison, results: Results) -> str:
    """The sentence of a difference that the data supports."""
    measure, value = one.measure, one.difference.value
    _, low, high = one.in_unit
    assert low is not None and high is not None
    more = "higher" if value > 0 else "lower"
    judged = "" if not measure.better else ", which is better" if measure.better == more else ", which is worse"
    return (
        f"{results.names[one.arm]}: {measure.name} is {measure.words(abs(value))} {more} than with "
        f"{results.reference}{judged} (simultaneous interval {number(low)} to {number(high)}; "
        f"{counted(one.prompts, 'prompt')}, {counted(len(results.seeds), 'seed')})."
        + (f" {FEW_DECIDE}." if one.difference.is_fragile else "")
    )


def task_conclusion(compared: Sequence[Comparison], results: Results) -> str:
    """How many arms lowered or raised a held-out loss, with the tasks in which they did."""
    losses = [one for one in compared if one.measure.key == "token_nll"]
    arms = tuple(dict.fromkeys(one.arm for one in losses))
    if not any(one.is_judged for one in losses):
        return "There are too few seeds for a verdict on any task."

    def moved(sign: int) -> tuple[str, ...]:
        there = [one for one in losses if one.is_different and one.difference.value * sign > 0]
        where = {arm: [one.measure.task or "all tokens" for one in there if one.arm == arm] for arm in arms}
        return tuple(f"{results.names[arm]} ({', '.join(tasks)})" for arm, tasks in where.items() if tasks)

    lower, higher = moved(-1), moved(1)
    equal = len(arms) - len({one.arm for one in losses if one.is_different})
    parts = (
        f"{len(lower)} of {len(arms)} arms lowered a held-out loss" + (f": {listed(lower)}" if lower else ""),
        f"{len(higher)} raised one" + (f": {listed(higher)}" if higher else ""),
        f"{equal} show no difference",
    )
    return "; ".join(parts) + "."
