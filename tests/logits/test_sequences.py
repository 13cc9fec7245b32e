"""The chapter's analyzer, corrected: noise shows no trend, nothing is dropped, nothing is left behind."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torch.nn.functional as F
from tests.tiny_models import tiny_model
from torch import nn

from sftloss.logits import LossFunctionAnalyzer, comprehensive_loss_analysis, generate_test_data, length_summary

VOCAB = 61


@pytest.fixture(scope="module")
def data():
    return generate_test_data(VOCAB, 60)


class Toy(nn.Module):
    """An embedding, dropout and a head; returns a plain tensor, and has a parameter that is never used."""

    def __init__(self, form=lambda logits: logits):
        super().__init__()
        self.body = nn.Sequential(nn.Embedding(VOCAB, 8), nn.Dropout(0.5))
        self.head, self.unused, self.form = nn.Linear(8, VOCAB), nn.Linear(2, 2), form

    def forward(self, ids):
        return self.form(self.head(self.body(ids)))


def test_generated_data_is_repeatable_and_leaves_the_global_random_state_alone():
    """The chapter has no seed."""
    state = torch.random.get_rng_state()
    (first, logits), (again, _) = generate_test_data(VOCAB, 5), generate_test_data(VOCAB, 5)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert logits[0].shape == (first[0].numel(), VOCAB)
    other, _ = generate_test_data(VOCAB, 5, seed=1)
    assert any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_noise_shows_no_trend_of_the_loss_per_token_with_length(data):
    """In the chapter, T - 1 targets over T made a correlation of 0.54 out of pure noise."""
    result = LossFunctionAnalyzer().analyze_length_bias(*data)
    assert result["bias_assessment"] == "neutral"
    assert result["elasticity"]["mean_loss"]["low"] < 0 < result["elasticity"]["mean_loss"]["high"]
    # an off-by-one would give an elasticity of about 1 / 35 here: outside of this interval
    assert result["elasticity"]["mean_loss"]["high"] < 1 / 40
    assert result["elasticity"]["total_loss"]["value"] == pytest.approx(1, abs=0.02)


def test_every_sequence_counts_the_one_of_its_length_too(data):
    """In the chapter, lengths that occur once were dropped, 33 of 100 sequences in one draw."""
    result = LossFunctionAnalyzer().analyze_length_bias(*data)
    lengths = [sequence.numel() - 1 for sequence in data[0]]
    assert result["per_example"]["length"] == lengths and result["correlations"]["mean_loss"]["n"] == 60
    assert sum(row["count"] for row in result["length_stats"].values()) == 60
    single = next(row for row in result["length_stats"].values() if row["count"] == 1)
    assert single["total_loss"]["std"] is None


def test_losses_are_those_of_torch(data):
    result = LossFunctionAnalyzer().analyze_length_bias(*data)
    for index, (sequence, z) in enumerate(zip(*data, strict=True)):
        expected = F.cross_entropy(z[:-1].double(), sequence[1:])
        # float32 inside
        assert result["per_example"]["mean_loss"][index] == pytest.approx(float(expected), rel=1e-5)


def test_correlation_of_the_sum_is_called_mechanical(data):
    """In the chapter, r = 0.999 on random logits was "severe bias"."""
    result = LossFunctionAnalyzer().analyze_length_bias(*data)
    assert result["correlations"]["total_loss"]["r"] > 0.99
    assert result["bias_assessment"] == "neutral" and "by construction" in result["note"]


def test_a_real_trend_is_found_with_its_sign():
    """In the chapter, only positive correlations were flagged."""
    sequences, logits = generate_test_data(VOCAB, 60)
    for sign, verdict in ((1.0, "short_harder"), (-1.0, "long_harder")):
        sharpened = []
        for sequence, z in zip(sequences, logits, strict=True):
            z = z.clone()
            z[torch.arange(len(z) - 1), sequence[1:]] += 4 + sign * math.log(len(z) / 30)
            sharpened.append(z)
        assert LossFunctionAnalyzer().analyze_length_bias(sequences, sharpened)["bias_assessment"] == verdict


def test_too_little_data_gives_none_with_a_reason():
    """In the chapter, two groups gave r = 0 with p = 0."""
    sequences, logits = generate_test_data(VOCAB, 2)
    analyzer = LossFunctionAnalyzer()
    result = analyzer.analyze_length_bias(sequences, logits)
    assert result["bias_assessment"] == "insufficient"
    for table in ("elasticity", "correlations", "spearman"):
        one = result[table]["mean_loss"]
        assert one.get("r") is None and one.get("value") is None and "at least 3" in one["reason"]
    compared = analyzer.compare_loss_functions(sequences, logits)["standard_ce"]
    assert compared["length_bias_correlation"] is None and compared["bias_p_value"] is None and compared["reason"]


@pytest.mark.parametrize("count", [0, 1])
def test_no_sequences_at_all_are_no_error(count):
    sequences, logits = generate_test_data(VOCAB, count)
    analyzer = LossFunctionAnalyzer()
    assert analyzer.analyze_length_bias(sequences, logits)["bias_assessment"] == "insufficient"
    assert analyzer.compare_loss_functions(sequences, logits)["focal_loss"]["std_loss"] is None
    assert analyzer.analyze_gradient_magnitude_bias(sequences, Toy())["elasticity"]["grad_norm_sum"]["value"] is None


def test_ignored_targets_are_no_targets_and_a_sequence_without_any_is_left_out():
    """In the chapter, -100 crashed the scatter."""
    sequences, logits = generate_test_data(VOCAB, 4)
    sequences[0][:] = -100
    sequences[1][:5] = -100
    sequences[2], logits[2] = sequences[2][:1], logits[2][:1]
    analyzer = LossFunctionAnalyzer()
    result = analyzer.analyze_length_bias(sequences, logits)
    assert result["excluded"] == 2 and result["per_example"]["length"][0] == sequences[1].numel() - 5
    assert all(math.isfinite(row["total_loss"]) for row in analyzer.compare_loss_functions(sequences, logits).values())
    gradients = analyzer.analyze_gradient_magnitude_bias(sequences, Toy())
    assert gradients["excluded"] == 2 and gradients["per_example"]["length"] == result["per_example"]["length"]


def test_a_padded_vocabulary_is_left_out_on_request_and_minus_infinity_is_harmless(data):
    """In the chapter, vocab_size has no effect, and -inf columns make the smoothed loss infinite."""
    sequences, logits = data
    plain = LossFunctionAnalyzer().compare_loss_functions(sequences[:5], logits[:5])
    padded = [F.pad(z, (0, 3), value=9.0) for z in logits[:5]]
    assert LossFunctionAnalyzer(VOCAB).compare_loss_functions(sequences[:5], padded) == plain
    masked = [F.pad(z, (0, 3), value=float("-inf")) for z in logits[:5]]
    got = LossFunctionAnalyzer().compare_loss_functions(sequences[:5], masked)
    for name, row in got.items():
        assert row["mean_loss"] == pytest.approx(plain[name]["mean_loss"], rel=1e-5)


def test_low_precision_logits_are_computed_in_float32(data):
    """The chapter computes in the dtype of the logits."""
    low = [z.bfloat16() for z in data[1][:3]]
    analyzer = LossFunctionAnalyzer()
    upcast = [z.float() for z in low]
    assert analyzer.compare_loss_functions(data[0][:3], low) == analyzer.compare_loss_functions(data[0][:3], upcast)


def test_compared_losses_are_their_formulas(data):
    sequence, z = data[0][0], data[1][0].double()
    got = LossFunctionAnalyzer(gamma=1.5, smoothing=0.2).compare_loss_functions(data[0][:1], data[1][:1])
    targets, rows = sequence[1:], z[:-1]
    ce = F.cross_entropy(rows, targets, reduction="none")
    ramp = torch.linspace(0.5, 1.0, len(ce)).double()
    expected = {
        "standard_ce": ce.sum(),
        "length_normalized_ce": ce.mean(),
        "focal_loss": ((1 - (-ce).exp()) ** 1.5 * ce).sum(),
        "label_smoothing_ce": F.cross_entropy(rows, targets, label_smoothing=0.2, reduction="sum"),
        "weighted_ce": (ramp / ramp.mean() * ce).sum(),  # mean 1, not the 0.75 of the chapter
    }
    for name, value in expected.items():
        assert got[name]["total_loss"] == pytest.approx(float(value), rel=1e-5)


def test_signal_of_a_sum_goes_with_the_tokens_and_that_of_a_mean_with_the_sequences(data):
    """The chapter compares the size of the loss; what trains is the gradient."""
    got = LossFunctionAnalyzer().compare_loss_functions(*data)
    for name, row in got.items():
        anchor = 0 if name == "length_normalized_ce" else 1
        assert row["signal_elasticity"]["value"] == pytest.approx(anchor, abs=0.05)
        assert row["is_sum"] == bool(anchor)


def test_a_loss_that_is_a_mean_is_not_divided_again(data):
    """The chapter divides it again."""
    row = LossFunctionAnalyzer().compare_loss_functions(*data)["length_normalized_ce"]
    assert row["normalized_bias_correlation"] == row["length_bias_correlation"]


@pytest.mark.parametrize("form", [lambda z: z, lambda z: (z, None), lambda z: {"logits": z}])
def test_gradient_norm_is_that_of_the_sum_and_of_the_mean(form):
    """The chapter calls an RMS an average, and takes outputs[0, :-1] of any output."""
    model, sequence = Toy(), torch.tensor([3, 5, 7, 9])
    if isinstance(form(0), dict):
        from transformers.utils import ModelOutput

        model.form = lambda z: ModelOutput(logits=z)
    else:
        model.form = form
    model.eval()
    reference = F.cross_entropy(model.head(model.body(sequence))[:-1], sequence[1:], reduction="sum")
    used = [*model.body.parameters(), *model.head.parameters()]
    norm = torch.stack([g.square().sum() for g in torch.autograd.grad(reference, used)]).sum().sqrt()
    one = LossFunctionAnalyzer().analyze_gradient_magnitude_bias([sequence], model)["per_example"]
    # float32 gradients
    assert one["grad_norm_sum"][0] == pytest.approx(float(norm), rel=1e-5)
    assert one["grad_norm_mean"][0] == pytest.approx(float(norm) / 3, rel=1e-5)
    assert one["loss"][0] == pytest.approx(float(reference.detach()) / 3, rel=1e-5)


def test_gradient_analysis_leaves_nothing_behind():
    """In the chapter, gradients of the last sequence stayed, accumulated ones were erased, dropout stayed on."""
    model, (sequences, _) = Toy(), generate_test_data(VOCAB, 3)
    model.train()
    model.body.eval()
    model.head.weight.grad = torch.full_like(model.head.weight, 7.0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    modes = [module.training for module in model.modules()]
    analyzer = LossFunctionAnalyzer()
    with torch.no_grad():
        first = analyzer.analyze_gradient_magnitude_bias(sequences, model)
    assert bool((model.head.weight.grad == 7).all()) and model.head.bias.grad is None
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())
    assert analyzer.analyze_gradient_magnitude_bias(sequences, model) == first  # no dropout
    trained = analyzer.analyze_gradient_magnitude_bias(sequences, model, train_mode=True)
    assert trained["per_example"]["grad_norm_sum"] != first["per_example"]["grad_norm_sum"]


def test_gradient_analysis_puts_the_mode_back_when_the_model_fails():
    model = Toy(form=lambda z: z[0])
    with pytest.raises(ValueError, match="must return logits"):
        LossFunctionAnalyzer().analyze_gradient_magnitude_bias([torch.tensor([1, 2, 3])], model)
    assert model.training
    with pytest.raises(ValueError, match="no parameter"):
        LossFunctionAnalyzer().analyze_gradient_magnitude_bias([torch.tensor([1, 2])], Toy().requires_grad_(False))


def test_gradient_analysis_takes_a_transformers_model_and_names_what_it_normalizes():
    sequences, _ = generate_test_data(VOCAB, 6)
    got = LossFunctionAnalyzer().analyze_gradient_magnitude_bias(sequences, tiny_model("llama", VOCAB))
    assert all(math.isfinite(norm) and norm > 0 for norm in got["per_example"]["grad_norm_sum"])
    difference = got["elasticity"]["grad_norm_sum"]["value"] - got["elasticity"]["grad_norm_mean"]["value"]
    assert difference == pytest.approx(1)  # the mean's norm is the sum's over T
    assert "summed over targets" in got["normalization"]


def test_nothing_is_printed_unless_asked_and_no_backslash_n_then(data, capsys):
    """In the chapter, every line break was printed as a backslash and an n."""
    sequences, logits = data[0][:6], data[1][:6]
    analyzer = LossFunctionAnalyzer()
    for call in (
        lambda **k: analyzer.analyze_length_bias(sequences, logits, **k),
        lambda **k: analyzer.compare_loss_functions(sequences, logits, **k),
        lambda **k: analyzer.analyze_gradient_magnitude_bias(sequences, Toy(), **k),
    ):
        result = call()
        assert capsys.readouterr().out == ""
        call(verbose=True)
        shown = capsys.readouterr().out
        assert "elasticity" in shown and "\n" in shown and "\\n" not in shown
        json.dumps(result, allow_nan=False)  # plain numbers and None: a result can be written as it is
    assert "none (needs at least 3 examples" in length_summary(analyzer.analyze_length_bias(sequences[:1], logits[:1]))


def test_comprehensive_analysis_gives_both_results_and_recommends_nothing():
    """In the chapter, ranking by |r| always recommends the loss that divides by T."""
    lengths, losses = comprehensive_loss_analysis(num_samples=8, confidence=5.0)
    assert lengths["excluded"] == 0 and list(losses)[0] == "standard_ce"
    assert "recommend" not in json.dumps([lengths, losses])


@pytest.mark.parametrize("change", [lambda s, z: (s, z[:-1]), lambda s, z: (s, [z[0][:-1], *z[1:]])])
def test_sequences_and_logits_that_do_not_fit_are_refused(change):
    with pytest.raises(ValueError, match="analyze_length_bias: "):
        LossFunctionAnalyzer().analyze_length_bias(*change(*generate_test_data(VOCAB, 3)))


def test_a_model_of_transformers_takes_one_backward_pass_for_a_batch(monkeypatch):
    """The same numbers as one pass a sequence."""
    pytest.importorskip("transformers")
    from tests.tiny_models import tiny_model

    generator = torch.Generator().manual_seed(0)
    sequences = [torch.randint(3, 61, (n,), generator=generator) for n in (4, 9, 6, 12, 3, 7, 5, 8, 10)]
    sequences[1][:4] = -100
    sequences.append(torch.tensor([5, -100]))
    model, analyzer = tiny_model("gpt2"), LossFunctionAnalyzer(resamples=10)
    together = analyzer.analyze_gradient_magnitude_bias(sequences, model)
    monkeypatch.setattr(LossFunctionAnalyzer, "_gradients_together", lambda *arguments: None)
    alone = analyzer.analyze_gradient_magnitude_bias(sequences, model)
    assert together["excluded"] == alone["excluded"] == 1
    for name, values in alone["per_example"].items():
        assert together["per_example"][name] == pytest.approx(values, rel=1e-5)
