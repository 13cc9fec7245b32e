"""Shares of examples in an update are those of the examples' own gradients, and add up to 1."""

from __future__ import annotations

from functools import partial
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
from sftloss.training.gradients.cosines import cosines_between
from sftloss.training.gradients.direction import Update, gradient_of, inner_product, update_of
from sftloss.training.gradients.norms import replaced
from sftloss.training.gradients.per_example import attached, example_gradients, per_example_gradients, question_of
from sftloss.training.gradients.shares import AdditiveShares, additive_shares, as_one_step, finite_step

pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    # torch's own, when forward mode is first used
    pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning"),
]

ROWS = without(ragged_rows(6), "token_weights", "tasks", "row_ids")
BATCHES = [collate_rows(ROWS[:3], pad_id=0), collate_rows(ROWS[3:], pad_id=0)]
LOSS = Loss("focal(gamma=2)", normalization="sqrt")


def gradients_of_examples(model: Any, loss: Loss = LOSS) -> list[dict[str, Tensor]]:
    """Gradient of each example's part of the step's loss, by autograd."""
    out = []
    with attached(model, loss) as attachment:
        for batch in as_one_step(attachment, BATCHES, loss):
            question, named = question_of(attachment, batch, loss), dict(model.named_parameters())
            for example in range(question.layout.count):
                opened = attachment.open(batch, loss)
                c = torch.where(question.layout.examples == example, question.coefficients, 0.0)
                value, _ = weighted_loss(opened.states, opened.head, opened.tokens.targets, c, loss.function)
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
    update = update_of(model, whole, optimizer).direction
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


@pytest.mark.parametrize("objective", ["dft", "eaft"])
def test_a_finite_difference_does_not_follow_what_an_objective_holds_fixed(objective: str, monkeypatch: Any) -> None:
    """A difference of losses is the derivative of p log p for dft, and gave shares that were wrong by tenths."""
    monkeypatch.setattr(module, "_forward_mode", refused)
    model, loss = model_of("gpt2"), Loss(objective)
    shares = additive_shares(model, BATCHES, loss)
    parts = gradients_of_examples(model, loss)
    whole = {name: sum(part[name] for part in parts) for name in parts[0]}
    truth = torch.tensor([inner_product(part, whole) for part in parts], dtype=torch.float64)
    assert torch.allclose(torch.cat([*shares.examples]), truth / truth.sum(), atol=1e-6)
    assert shares.method == "finite difference" and shares.error < 1e-6


def test_a_model_keeps_its_parameters_where_a_layer_also_lists_them() -> None:
    """A GRU reads its weights from a list, which held the moved ones after a pass."""
    layer = torch.nn.GRU(2, 3)
    with replaced(layer, lambda name, p: p.detach() + 1):
        assert all(not isinstance(p, torch.nn.Parameter) for p in layer._flat_weights)
    assert all(a is b for a, b in zip(layer._flat_weights, layer.parameters(), strict=True))


def test_a_finite_step_changes_the_loss_little_where_the_gradient_is_steep() -> None:
    """On SmolLM2 a step of 2e-4 of the weights' norm raised the loss by nats, and the shares were wrong."""
    model = torch.nn.ParameterDict({"a": torch.ones(4)})
    steep, flat = ({"a": torch.full((4,), size)} for size in (50.0, 1e-3))
    assert finite_step(model, Update(steep, steep), mass=0.5) * 4 * 50.0**2 == pytest.approx(0.04 * 0.5)
    assert finite_step(model, Update(flat, flat), mass=0.5) == pytest.approx(2e-4 * 2 / 2e-3)


def test_shares_of_a_model_in_training_mode_are_without_dropout(monkeypatch: Any) -> None:
    monkeypatch.setattr(module, "_forward_mode", refused)
    model = tiny_model("gpt2", VOCAB, attn_pdrop=0.5, resid_pdrop=0.5, embd_pdrop=0.5).double().train()
    shares = additive_shares(model, BATCHES, LOSS)
    assert model.training and shares.error < 1e-6
    without_any = additive_shares(model.eval(), BATCHES, LOSS)
    assert torch.equal(torch.cat([*shares.examples]), torch.cat([*without_any.examples]))


def test_negative_counts_by_the_sign_of_the_product_with_the_step() -> None:
    shares = [torch.tensor([0.6, 0.6]), torch.tensor([-0.2])]  # of <g_i, u> = 6, 6, -2 or -6, -6, 2
    down, up = (AdditiveShares(shares, shares, decrease, "forward mode", 0.0).negative for decrease in (10.0, -10.0))
    assert (down, up) == (pytest.approx(1 / 3), pytest.approx(2 / 3))


def refused(*arguments: Any) -> Tensor:
    raise NotImplementedError


OPTIMIZERS = {
    "adam": partial(torch.optim.Adam, lr=1e-3, eps=1e-4),
    "adamw, decay": partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.1, amsgrad=True),
    "adafactor": partial(torch.optim.Adafactor, lr=1e-2, weight_decay=0.0),
    "sgd, momentum": partial(torch.optim.SGD, lr=1e-2, momentum=0.9, nesterov=True),
}


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_an_optimizers_update_is_the_step_that_it_then_takes(kind: str, steps: int) -> None:
    """With its moments, its bias correction and the learning rates of its groups, without its weight decay."""
    model = model_of("gpt2")
    named, generator = dict(model.named_parameters()), torch.Generator().manual_seed(0)
    parameters = [*named.values()]
    optimizer = OPTIMIZERS[kind]([{"params": parameters[:3], "lr": 5e-3}, {"params": parameters[3:]}])
    for _ in range(steps):
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)
        optimizer.step()
    gradient = {name: torch.randn(p.shape, generator=generator, dtype=p.dtype) for name, p in named.items()}
    update = update_of(model, gradient, optimizer)
    before = {name: p.detach().clone() for name, p in named.items()}
    for name, p in named.items():
        p.grad = gradient[name].clone()
    optimizer.step()
    rates = {p: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    fastest = max(rate for rate, _ in rates.values())
    for name, p in named.items():
        rate, decay = rates[p]
        moved = before[name] * (1 - rate * decay) - p.detach()
        assert torch.allclose(update.direction[name] * fastest, moved, rtol=1e-9, atol=1e-15), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lr", [1e-6, 10.0])
def test_the_step_of_adafactor_grows_with_the_weight(dtype: torch.dtype, lr: float) -> None:
    """In float32 the difference of two weights would have lost the digits of a step of 1e-6."""
    model = torch.nn.ParameterDict({name: torch.full((4,), size) for name, size in {"a": 5.0, "b": 0.05}.items()})
    model.to(dtype)
    parameters = [*model.values()]
    before = [p.detach().clone() for p in parameters]
    direction = update_of(
        model, {name: torch.ones(4) for name in "ab"}, torch.optim.Adafactor(parameters, lr)
    ).direction
    rate = min(lr, 1.0) / lr  # at step t it is at most the root of 1 / t
    for name, p, value in zip("ab", parameters, before, strict=True):
        assert torch.allclose(direction[name], value.float() * rate, rtol=1e-6)
        assert torch.equal(p, value)


def test_an_optimizer_without_float64_steps_from_0_in_the_parameters_dtype() -> None:
    class Single(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            if any(p.dtype == torch.float64 for group in self.param_groups for p in group["params"]):
                raise ValueError("no kernel for float64")
            super().step()

    model = torch.nn.ParameterDict({"a": torch.ones(3)}).bfloat16()
    optimizer = Single(model.values(), lr=2.0**-20, momentum=0.5)  # of 1 it would round to nothing
    update = update_of(model, {"a": torch.arange(3.0)}, optimizer)
    assert torch.allclose(update.direction["a"], torch.arange(3.0))


def test_other_optimizers_are_refused() -> None:
    from transformers.optimization import Adafactor

    model = model_of("gpt2")
    gradient = {name: torch.ones_like(p) for name, p in model.named_parameters()}
    with pytest.raises(ValueError, match="the optimizer has lr=None; give it a learning rate"):
        update_of(model, gradient, Adafactor(model.parameters()))
    with pytest.raises(ValueError, match="must be 'sgd', 'adam' or an optimizer"):
        update_of(model_of("gpt2"), {}, "lion")
    with pytest.raises(ValueError, match="has none of the model's trained parameters"):
        update_of(model_of("gpt2"), {}, torch.optim.Adam([torch.nn.Parameter(torch.ones(1))]))


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
    assert noise_scale([0.25 + 1e-9] * 4, 1.0).examples == 0  # equal rows, up to float32
    with pytest.raises(ValueError, match="at least two examples"):
        noise_scale([1.0], 1.0)
    for wrong in (-1.0, float("nan")):
        with pytest.raises(ValueError, match=f"norms must be finite and at least 0, norm 1 is {wrong:g}"):
            noise_scale([1.0, wrong], 1.0)
        with pytest.raises(ValueError, match=f"batch's gradient must be finite and at least 0, got {wrong:g}"):
            noise_scale([1.0, 1.0], wrong)


def test_cosines_between_gradients() -> None:
    model = model_of("gpt2")
    with attached(model, LOSS) as attachment:
        parts = [gradient_of(attachment, [batch], LOSS) for batch in as_one_step(attachment, BATCHES, LOSS)]
    expected = inner_product(*parts) / (inner_product(parts[0], parts[0]) * inner_product(parts[1], parts[1])) ** 0.5
    cosines = cosines_between([*parts, parts[0]])
    assert float(cosines[0, 1]) == pytest.approx(expected) and float(cosines[0, 2]) == pytest.approx(1)


@pytest.mark.parametrize("kind", ["gpt2", "untied llama", "bias", "mixtral", "adapters"])
def test_one_pass_gives_the_norms_and_the_gradient_of_all(kind: str) -> None:
    """Also of weights that hooks cannot follow, and of adapters on the head, whose factors are no parameters."""
    model = model_of({"untied llama": "llama", "bias": "phi", "adapters": "llama"}.get(kind, kind))
    if kind == "gpt2":
        model = model_of("gpt2", tie_word_embeddings=True)
    if kind == "adapters":
        peft = pytest.importorskip("peft")
        config = peft.LoraConfig(target_modules=["q_proj", "lm_head"], r=2, init_lora_weights=False)
        model = peft.get_peft_model(model, config)
    with attached(model, LOSS) as attachment:
        (batch,) = as_one_step(attachment, BATCHES[:1], LOSS)
        question = question_of(attachment, batch, LOSS)
        gradients, whole = example_gradients(attachment, question, has_whole=True)
        expected = gradient_of(attachment, [batch], LOSS)
        alone = example_gradients(attachment, question)[0]
    assert torch.allclose(gradients.norms, alone.norms, rtol=1e-12)
    assert whole.keys() == expected.keys() and all(p.grad is None for p in model.parameters())
    for name, gradient in expected.items():
        assert torch.allclose(whole[name], gradient, rtol=1e-9, atol=1e-14), name


def test_one_batch_or_one_without_labels_is_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"the list of a step's micro-batches; give \[batch\] for one"):
        additive_shares(model_of(), BATCHES[0], LOSS)
    with pytest.raises(ValueError, match="the batch has no labels"):
        per_example_gradients(model_of(), {"input_ids": BATCHES[0]["input_ids"]}, LOSS)
    for function in (per_example_gradients, additive_shares):
        batch: Any = BATCHES[:1] if function is additive_shares else BATCHES[0]
        with pytest.raises(ValueError, match=r"gem\(kind='log_sigmoid'\) is computed of whole logits"):
            function(model_of(), batch, "gem(kind='log_sigmoid')")
        with pytest.raises(ValueError, match="no parameter of the model requires a gradient"):
            function(model_of().requires_grad_(False), batch, LOSS)


def test_memory_that_runs_out_is_not_taken_for_a_missing_forward_mode(monkeypatch: Any) -> None:
    def too_large(*arguments: Any) -> Tensor:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(module, "_forward_mode", too_large)
    with pytest.raises(torch.OutOfMemoryError):
        additive_shares(model_of(), BATCHES, LOSS)
