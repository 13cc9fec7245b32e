"""Shares of examples in an update are those of the examples' own gradients, and add up to 1."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.tiny_models import tiny_model
from tests.training.cases import VOCAB, model_of, ragged_rows, without
from torch import Tensor

from sftloss.loss import weighted_loss
from sftloss.numbers import noise_scale
from sftloss.training import Loss, collate_rows
from sftloss.training.gradients import shares as module
from sftloss.training.gradients.cosines import group_cosines
from sftloss.training.gradients.per_example import attached, per_example_gradients, question_of
from sftloss.training.gradients.shares import additive_shares, gradient_of, inner_product, update_of, with_one_step

pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    # torch's own, when forward mode is first used
    pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning"),
]

ROWS = without(ragged_rows(6), "token_weights", "tasks", "row_ids")
BATCHES = [collate_rows(ROWS[:3], pad_id=0), collate_rows(ROWS[3:], pad_id=0)]
LOSS = Loss("focal(gamma=2)", normalization="sqrt")


def gradients_of_examples(model: Any) -> list[dict[str, Tensor]]:
    """Gradient of each example's part of the step's loss, by autograd."""
    out = []
    with attached(model, LOSS) as attachment:
        for batch in with_one_step(attachment, BATCHES, LOSS):
            question, named = question_of(attachment, batch, LOSS), dict(model.named_parameters())
            for example in range(question.layout.count):
                opened = attachment.open(batch, LOSS)
                c = torch.where(question.layout.examples == example, question.coefficients, 0.0)
                value, _ = weighted_loss(opened.states, opened.head, opened.tokens.targets, c, LOSS.function)
                out.append(dict(zip(named, torch.autograd.grad(value, [*named.values()]), strict=True)))
    return out


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("method", [pytest.param("forward mode", marks=pytest.mark.slow), "finite difference"])
def test_shares_are_those_of_the_examples_gradients(method: str, optimizer: str, monkeypatch: Any) -> None:
    model = model_of("gpt2", tie_word_embeddings=True)
    if method == "finite difference":
        monkeypatch.setattr(module, "_forward_mode", refused)
    before = [p.detach().clone() for p in model.parameters()]
    shares = additive_shares(model, BATCHES, LOSS, optimizer=optimizer)
    parts = gradients_of_examples(model)
    whole = {name: sum(part[name] for part in parts) for name in parts[0]}
    update = update_of(model, whole, optimizer)
    truth = torch.tensor([inner_product(part, update) for part in parts], dtype=torch.float64)
    examples = torch.cat([*shares.examples])
    assert shares.method == method
    assert float(examples.sum()) == pytest.approx(1, abs=1e-12)
    assert float(torch.cat([*shares.tokens]).sum()) == pytest.approx(1, abs=1e-12)
    tolerance = 1e-9 if method == "forward mode" else 1e-6
    assert torch.allclose(examples, truth / truth.sum(), atol=tolerance)
    assert shares.decrease == pytest.approx(inner_product(whole, update)) and shares.error < tolerance
    assert shares.negative == pytest.approx(float((truth < 0).double().mean()))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters())
    assert model.config._attn_implementation == "sdpa"


def test_shares_of_a_model_in_training_mode_are_without_dropout(monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "_forward_mode", refused)
    model = tiny_model("gpt2", VOCAB, attn_pdrop=0.5, resid_pdrop=0.5, embd_pdrop=0.5).double().train()
    shares = additive_shares(model, BATCHES, LOSS)
    assert model.training and shares.error < 1e-6
    without_any = additive_shares(model.eval(), BATCHES, LOSS)
    assert torch.equal(torch.cat([*shares.examples]), torch.cat([*without_any.examples]))


def refused(*arguments: Any) -> Tensor:
    raise NotImplementedError


def test_moments_of_an_optimizer_give_its_direction() -> None:
    model = model_of("gpt2")
    optimizer = torch.optim.Adam(model.parameters())
    for p in model.parameters():
        p.grad = torch.full_like(p, 0.5)
    optimizer.step()
    name, p = next(iter(model.named_parameters()))
    (update,) = update_of(model, {name: torch.ones_like(p)}, optimizer).values()
    assert torch.allclose(update, torch.full_like(p, 1 / (0.001**0.5 * 0.5)), rtol=1e-5)
    with pytest.raises(ValueError, match="must be 'sgd', 'adam' or an optimizer"):
        update_of(model, {}, "lion")


def test_noise_scale_is_that_of_the_examples_covariance() -> None:
    model = model_of("gpt2")
    batch = collate_rows(ROWS, pad_id=0)
    loss = Loss(normalization="example-mean")
    gradients = per_example_gradients(model, batch, loss)
    with attached(model, loss) as attachment:
        whole = gradient_of(attachment, [batch], loss)
    vectors = gradients.norms.square().sum() * len(ROWS), inner_product(whole, whole)
    scale = noise_scale(gradients.norms.numpy(), vectors[1] ** 0.5)
    count = len(ROWS)
    assert scale.noise == pytest.approx(float((count * vectors[0] / count - vectors[1]) * count / (count - 1)))
    assert scale.signal == pytest.approx(vectors[1] - scale.noise / count)
    with pytest.raises(ValueError, match="at least two examples"):
        noise_scale([1.0], 1.0)


def test_cosines_of_groups_and_the_whole_gradient() -> None:
    model = model_of("gpt2")
    with attached(model, LOSS) as attachment:
        steps = with_one_step(attachment, BATCHES, LOSS)
        names, cosines, whole = group_cosines(attachment, {"a": steps[:1], "b": steps[1:], "c": steps[:1]}, LOSS)
        parts = [gradient_of(attachment, [batch], LOSS) for batch in steps]
    expected = inner_product(*parts) / (inner_product(parts[0], parts[0]) * inner_product(parts[1], parts[1])) ** 0.5
    assert names == ["a", "b", "c"]
    assert float(cosines[0, 1]) == pytest.approx(expected) and float(cosines[0, 2]) == pytest.approx(1)
    assert all(torch.allclose(whole[name], 2 * parts[0][name] + parts[1][name]) for name in whole)


def test_one_batch_or_one_without_labels_is_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"the list of a step's micro-batches; give \[batch\] for one"):
        additive_shares(model_of(), BATCHES[0], LOSS)
    with pytest.raises(ValueError, match="the batch has no labels"):
        per_example_gradients(model_of(), {"input_ids": BATCHES[0]["input_ids"]}, LOSS)


def test_memory_that_runs_out_is_not_taken_for_a_missing_forward_mode(monkeypatch: Any) -> None:
    def too_large(*arguments: Any) -> Tensor:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(module, "_forward_mode", too_large)
    with pytest.raises(torch.OutOfMemoryError):
        additive_shares(model_of(), BATCHES, LOSS)
