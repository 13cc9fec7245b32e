"""A table that `measure` wrote is described, and its signal is the gradient that autograd finds in the logits."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from tests.analysis.tiny_data import padded, tiny_examples
from tests.tiny_models import tiny_model

from sftloss.analysis import AnalysisOptions, View, describe_signal, measure
from sftloss.analysis.signal.frames import open_study
from sftloss.decoder import open_decoder
from sftloss.objectives import cross_entropy, focal
from sftloss.weights import Normalization

OBJECTIVES = {"cross_entropy": cross_entropy, "focal(gamma=2)": partial(focal, gamma=2.0)}


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


@pytest.fixture(scope="module")
def table(model, tmp_path_factory):
    return measure(open_decoder(model), tiny_examples(24), OBJECTIVES, tmp_path_factory.mktemp("table"), batch=padded)


def logit_gradients(model, alpha):
    """The L1 norm of the gradient of the whole step's loss in each example's logits, by autograd."""
    examples = tiny_examples(24)
    logits, losses, sizes = [], [], []
    for example in examples:
        with torch.no_grad():
            out = model(input_ids=example.input_ids[None]).logits[0, :-1]
        leaf = out.float().requires_grad_()
        logits.append(leaf)
        nll = torch.nn.functional.cross_entropy(leaf, example.input_ids[1:], reduction="none")
        losses.append((nll * example.weights[1:]).sum())
        sizes.append(float(example.weights[1:].sum()))
    factors = [size**-alpha if size else 0.0 for size in sizes]
    total = sum(f * s for f, s in zip(factors, sizes, strict=True))
    sum(f * loss for f, loss in zip(factors, losses, strict=True)).div(total).backward()
    return [float(leaf.grad.abs().sum()) for leaf in logits]


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_signal_at_s1_is_the_gradient_of_the_step_in_the_logits(model, table, alpha):
    study = open_study(table, AnalysisOptions(replicates=20))
    signal = study.signal(View("cross_entropy", Normalization("x", alpha)), "S1")
    # float32 models: two ways to the same logits differ by a few units in the last place
    assert signal.tolist() == pytest.approx(logit_gradients(model, alpha), rel=2e-4, abs=1e-7)


def test_a_measured_table_becomes_a_document_that_every_renderer_shows(table):
    from sftloss.report import from_json, render_html, render_markdown, to_json

    document = describe_signal(
        table, AnalysisOptions(replicates=50, micro_batch=2), decode=lambda ids: [f"t{i}" for i in ids]
    )
    assert to_json(from_json(to_json(document))) == to_json(document)
    page = render_html(document)
    assert "<svg" in page and len(page) < 2_000_000 and "Output length" in render_markdown(document)
    assert [finding.id for finding in document.findings if finding.id == "MASK001"] == ["MASK001"]  # row 5 is one token


def test_a_model_whose_every_loss_is_nan_is_not_told_that_nothing_is_trained(tmp_path):
    broken = tiny_model("llama")
    with torch.no_grad():
        broken.lm_head.weight.fill_(float("nan"))
    table = measure(open_decoder(broken), tiny_examples(24), OBJECTIVES, tmp_path / "table", batch=padded)
    document = describe_signal(table, AnalysisOptions())
    assert document.headlines[0].startswith("All ") and "NaN or infinite loss" in document.headlines[0]
    sentences = {finding.id: finding.sentence for finding in document.findings}
    assert "(100 % of all)" in sentences["NUM001"]
    assert sentences["MASK001"].startswith("1 of 24 examples"), "the one that is masked"
    assert document.sections[0].lead == "23 of 24 examples train at least one token. These are some of them."
