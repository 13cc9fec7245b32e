"""One backward pass equals K of them, wherever it does not refuse."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from sftloss.tasks import MultiTaskLoss, Rules, TaskGradients
from sftloss.tasks.gramian import on_present
from sftloss.tasks.strategies import upgrad

VOCAB, WIDTH, TASKS = 11, 8, 3


class Lora(nn.Module):
    """A frozen linear map with a low-rank one beside it, as adapters are built."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.base, self.down, self.up = (nn.Linear(a, b) for a, b in ((width, width), (width, 2), (2, width)))
        self.base.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


class Tiny(nn.Module):
    """Attention with adapters, a norm, an embedding and a head."""

    def __init__(self, checkpointing: bool | None = None) -> None:
        super().__init__()
        self.embedding, self.norm = nn.Embedding(VOCAB, WIDTH), nn.LayerNorm(WIDTH)
        self.q, self.v = Lora(WIDTH), Lora(WIDTH)
        self.head = nn.Linear(WIDTH, VOCAB)
        self.embedding.requires_grad_(False)
        self.norm.requires_grad_(False)
        self.checkpointing = checkpointing  # None, or use_reentrant

    def forward(self, ids: Tensor, segments: Tensor | None = None) -> Tensor:
        x = self.embedding(ids)
        if self.checkpointing is None:
            return self.head(self.block(x, segments))
        x = x.requires_grad_()
        return self.head(checkpoint(self.block, x, segments, use_reentrant=self.checkpointing))

    def block(self, x: Tensor, segments: Tensor | None) -> Tensor:
        y, columns = self.norm(x), x.shape[1]
        mask = torch.ones(columns, columns, dtype=torch.bool).tril()
        if segments is not None:
            mask = mask & (segments[:, :, None] == segments[:, None, :])
        return x + F.scaled_dot_product_attention(self.q(y), y, self.v(y), attn_mask=mask)


def tiny(**keywords) -> Tiny:
    torch.manual_seed(0)
    return Tiny(**keywords).double()


def rows(seed: int = 0, count: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, VOCAB, (count, 7), generator=generator)
    targets = torch.randint(0, VOCAB, (count, 7), generator=generator)
    targets[:, :2] = -100  # a prompt: it has no loss and learns all the same
    return ids, targets, torch.arange(count) % TASKS


def token_losses(model: nn.Module, ids: Tensor, targets: Tensor, segments: Tensor | None = None) -> Tensor:
    logits = model(ids, segments)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").reshape(targets.shape)


def by_autograd(model: nn.Module, data: tuple[Tensor, Tensor, Tensor]) -> list[Tensor]:
    """K backward passes, each of one task's sum: rows of each trained parameter's gradients."""
    ids, targets, tasks = data
    losses, chosen = token_losses(model, ids, targets), trained_of(model)
    found = [torch.autograd.grad(losses[tasks == k].sum(), chosen, retain_graph=True) for k in range(TASKS)]
    return [torch.stack(gradients) for gradients in zip(*found, strict=True)]


def trained_of(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def captured(model: nn.Module, *batches: tuple[Tensor, Tensor, Tensor]) -> TaskGradients:
    gradients = TaskGradients(model, tasks=TASKS)
    for ids, targets, tasks in batches:
        with gradients.capture(tasks):
            token_losses(model, ids, targets).sum().backward()
    return gradients


def assert_gradients(gradients: TaskGradients, expected: list[Tensor]) -> None:
    for buffer, true in zip(gradients.buffers, expected, strict=True):
        # float64, another order of addition
        assert_close(buffer[:TASKS], true, rtol=1e-10, atol=1e-13)
        assert (buffer[TASKS] == 0).all()


@pytest.mark.parametrize("checkpointing", [None, False, True], ids=["plain", "checkpointed", "reentrant"])
def test_one_backward_equals_one_for_each_task(checkpointing):
    model, data = tiny(checkpointing=checkpointing), rows()
    expected = by_autograd(tiny(), data)
    assert_gradients(captured(model, data), expected)
    for p, true in zip(trained_of(model), expected, strict=True):
        assert_close(p.grad, true.sum(0), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("checkpointing", [None, False, True], ids=["plain", "checkpointed", "reentrant"])
def test_norms_and_embeddings_are_followed_too(checkpointing):
    def everything(**keywords) -> Tiny:
        model = tiny(**keywords)
        model.embedding.requires_grad_(True)
        return with_norm(model)

    data = rows()
    expected = by_autograd(everything(), data)
    assert len(expected) == 13  # embedding, norm and head, and two adapters of two maps
    assert_gradients(captured(everything(checkpointing=checkpointing), data), expected)


def test_norm_within_heads_is_followed_by_the_task_of_the_token():
    """As families normalize queries: (rows, columns, heads, width)."""

    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm = nn.Linear(4, 6), nn.RMSNorm(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.first(x).unflatten(-1, (2, 3))).flatten(2)

    torch.manual_seed(0)
    model, x, ids = Heads().double(), torch.randn(2, 5, 4).double(), torch.tensor([[0, 0, 1, 1, 1], [2, 2, 2, 0, 0]])
    model.norm.weight.data.normal_()
    gradients = TaskGradients(model, tasks=TASKS)
    with gradients.capture(ids, is_packed=True):
        model(x).square().sum().backward()
    losses = model(x).square().sum(-1)
    found = [torch.autograd.grad(losses[ids == k].sum(), trained_of(model), retain_graph=True) for k in range(TASKS)]
    assert_gradients(gradients, [torch.stack(each) for each in zip(*found, strict=True)])


def test_micro_batches_add_up():
    one, two = rows(0), rows(1, count=3)
    expected = [a + b for a, b in zip(by_autograd(tiny(), one), by_autograd(tiny(), two), strict=True)]
    assert_gradients(captured(tiny(), one, two), expected)


def test_losses_by_task_give_the_same_gradients_and_leave_grad_alone():
    """Tutorial flaws B29 and 5: zero_grad and backward inside forward wiped what earlier micro-batches had added."""
    model, (ids, targets, tasks) = tiny(), rows()
    for p in trained_of(model):
        p.grad = torch.ones_like(p)
    gradients, losses = TaskGradients(model, tasks=TASKS), token_losses(model, ids, targets)
    gradients.add({k: losses[tasks == k].sum() for k in range(TASKS)})
    assert_gradients(gradients, by_autograd(tiny(), (ids, targets, tasks)))
    assert all((p.grad == 1).all() for p in trained_of(model))


def test_the_gramian_is_that_of_the_gradients_and_weights_are_divided_out():
    model, data = tiny(), rows()
    expected = sum(true.flatten(1) @ true.flatten(1).T for true in by_autograd(tiny(), data))
    gradients = TaskGradients(model, tasks=TASKS)
    weights = torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64)
    with gradients.capture(data[2]):
        (weights[data[2]][:, None] * token_losses(model, *data[:2])).sum().backward()
    assert_close(gradients.gramian(weights), expected, rtol=1e-9, atol=0)
    assert_close(gradients.gramian(), expected * torch.outer(weights, weights), rtol=1e-9, atol=0)


def test_applied_weights_give_the_gradient_of_the_weighted_loss():
    model, data = tiny(), rows()
    true = by_autograd(tiny(), data)
    gradients = captured(model, data)
    weights = on_present(upgrad.weights, gradients.gramian(), torch.tensor([True, True, True]))
    gradients.apply(weights)
    for p, each in zip(trained_of(model), true, strict=True):
        assert_close(p.grad, torch.tensordot(weights, each, dims=1), rtol=1e-9, atol=1e-12)
    gradients.zero()
    assert all((buffer == 0).all() for buffer in gradients.buffers)


def packed(seed: int = 0) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor], Tensor]:
    """Three rows, the same as one packed row, and its segments."""
    ids, targets, tasks = rows(seed, count=3)
    in_one = tuple(x.reshape(1, -1) for x in (ids, targets, tasks[:, None].expand(ids.shape)))
    return (ids, targets, tasks), in_one, torch.arange(3).repeat_interleave(7)[None]


def test_packed_rows_with_isolated_attention_equal_rows_and_without_it_they_do_not():
    """Tutorial flaw 6, and the negative control: attention across sequences mixes the tasks' gradients."""
    plain, (ids, targets, tasks), segments = packed()
    expected = by_autograd(tiny(), plain)
    found = {}
    for isolated in (True, False):
        model = tiny()
        gradients = TaskGradients(model, tasks=TASKS)
        with gradients.capture(tasks, is_packed=True):
            token_losses(model, ids, targets, segments if isolated else None).sum().backward()
        found[isolated] = gradients
    assert_gradients(found[True], expected)
    error = sum(float((b[:TASKS] - t).norm()) for b, t in zip(found[False].buffers, expected, strict=True))
    assert error > 0.01 * sum(float(t.norm()) for t in expected)


def test_gradients_in_bfloat16_are_as_near_as_autograd_is():
    """Autocast: activations and their gradients are bfloat16, the buffers are not."""
    model, data = tiny().float(), rows()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        gradients = captured(model, data)
    for p, buffer in zip(trained_of(model), gradients.buffers, strict=True):
        assert buffer.dtype == torch.float32
        # one rounding to bfloat16 of each factor, 2^-8, twice, and autograd's of the product
        assert (buffer.sum(0) - p.grad).norm() <= 0.02 * p.grad.norm()


def test_task_gradients_are_those_of_torchjd():
    autojac = pytest.importorskip("torchjd.autojac", reason="torchjd is not installed")
    model, (ids, targets, tasks) = tiny(), rows()
    losses = token_losses(model, ids, targets)
    sums = torch.stack([losses[tasks == k].sum() for k in range(TASKS)])
    autojac.backward(sums, inputs=trained_of(model), parallel_chunk_size=1)
    assert_gradients(captured(tiny(), (ids, targets, tasks)), [p.jac for p in trained_of(model)])


@pytest.mark.parametrize("strategy", ["gradient_balance", "grad_norm"])
def test_balanced_tasks_pull_equally_hard(strategy):
    """The whole loop: a task whose loss is a hundred times another's ends with the same weighted norm."""
    model, (ids, targets, tasks) = tiny(), rows()
    weighted = MultiTaskLoss(["a", "b", "c"], strategy, rules=Rules(bounds=None))
    gradients = TaskGradients(model, tasks=TASKS)
    scale = torch.tensor([1.0, 100.0, 0.01]).double()[tasks][:, None]
    for _ in range(3):
        with gradients.capture(tasks):
            loss, _info = weighted(scale * token_losses(model, ids, targets), tasks)
            loss.backward()
        gramian = gradients.gramian(weighted.weights)
        weighted.step(gramian)
        gradients.zero()
    pulls = weighted.weights * gramian.diagonal().sqrt()
    # the model does not move, so every step shows the same norms; token weights of 1 are float32, so coefficients are
    assert_close(pulls, pulls.mean().expand(3), rtol=1e-6, atol=0)


def test_layer_by_layer_gives_the_same_gramian_and_holds_no_gradients():
    model, data = tiny(), rows()
    gradients = TaskGradients(model, tasks=TASKS, layerwise=True)
    with gradients.capture(data[2]):
        token_losses(model, *data[:2]).sum().backward()
    assert gradients.buffers == []
    assert_close(gradients.gramian(), captured(tiny(), data).gramian(), rtol=1e-12, atol=0)


def test_layer_by_layer_two_backward_passes_give_the_weighted_gradient():
    """The first shows the Gramian, the second is of the weighted loss; no gradient of a task is kept."""
    model, (ids, targets, tasks) = tiny(), rows()
    gradients, losses = TaskGradients(model, tasks=TASKS, layerwise=True), None
    with gradients.capture(tasks):
        losses = token_losses(model, ids, targets)
        losses.sum().backward(retain_graph=True)
    weights = on_present(upgrad.weights, gradients.gramian(), torch.ones(TASKS, dtype=torch.bool))
    model.zero_grad()
    (weights[tasks][:, None] * losses).sum().backward()
    expected = captured(other := tiny(), (ids, targets, tasks))
    expected.apply(on_present(upgrad.weights, expected.gramian(), torch.ones(TASKS, dtype=torch.bool)))
    for p, q in zip(trained_of(model), trained_of(other), strict=True):
        assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-12)


def test_layer_by_layer_takes_one_pass_a_step_and_each_layer_once():
    model, data = tiny(), rows()
    gradients = TaskGradients(model, tasks=TASKS, layerwise=True)
    for _ in range(2):
        with gradients.capture(data[2]):
            token_losses(model, *data[:2]).sum().backward()
        gradients.zero()
    with gradients.capture(data[2]):
        token_losses(model, *data[:2]).sum().backward()
    with pytest.raises(ValueError, match="one pass a step"), gradients.capture(data[2]):
        pass
    for call in (lambda: gradients.apply(torch.ones(TASKS)), lambda: gradients.add({})):
        with pytest.raises(ValueError, match="layerwise holds no gradients"):
            call()
    twice = nn.Linear(3, 3)
    gradients = TaskGradients(twice, tasks=1, layerwise=True)
    with pytest.raises(ValueError, match="uses twice"), gradients.capture(torch.zeros(2, dtype=torch.long)):
        twice(twice(torch.ones(2, 3))).sum().backward()


def test_any_negative_task_is_no_task():
    """-100 is how labels say it."""
    ids, targets, tasks = rows()
    found = []
    for none in (-1, -100):
        model = tiny()
        gradients = TaskGradients(model, tasks=TASKS)
        chosen = torch.where(tasks == 2, none, tasks)
        with gradients.capture(chosen):
            (token_losses(model, ids, targets) * (chosen >= 0)[:, None]).sum().backward()
        found.append(gradients.gramian())
    assert torch.equal(*found) and (found[0][2] == 0).all()


class Fused(nn.Linear):
    pass


class Bypass(Tiny):
    """Its head's weight is also used outside the module, as a fused kernel would."""

    def forward(self, ids: Tensor, segments: Tensor | None = None) -> Tensor:
        return super().forward(ids, segments) + self.head.weight.sum(1) * ids[..., None]


class Around(Tiny):
    """A kernel that takes the weight and never calls the module."""

    def forward(self, ids: Tensor, segments: Tensor | None = None) -> Tensor:
        return self.block(self.embedding(ids), segments) @ self.head.weight.T


def with_norm(model: Tiny) -> Tiny:
    model.norm.requires_grad_(True)
    return model


def with_convolution(model: Tiny) -> Tiny:
    model.extra = nn.Conv1d(1, 1, 1)
    return model


def with_fused(model: Tiny) -> Tiny:
    model.head = Fused(WIDTH, VOCAB).double()
    return model


def with_tied(model: Tiny) -> Tiny:
    model.other = nn.Linear(WIDTH, VOCAB)
    model.other.weight = model.head.weight
    return model


def with_batch_norm(model: Tiny) -> Tiny:
    model.extra = nn.BatchNorm1d(3)
    model.extra.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: with_convolution(tiny()), "extra.weight belongs to a Conv1d"),
        (lambda: with_fused(tiny()), "head.weight belongs to a Fused"),
        (lambda: with_tied(tiny()), "belongs to head.weight, other.weight"),
        (lambda: with_batch_norm(tiny()), "extra is a batch norm"),
        (lambda: Bypass().double(), "head.weight do not add up"),
        (lambda: Around().double(), "head.weight do not add up"),
    ],
    ids=["convolution", "subclass", "tied", "batch norm", "bypassed", "gone around"],
)
def test_what_cannot_be_attributed_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        captured(make(), rows())


def test_rows_of_several_tasks_and_wrong_shapes_are_refused():
    _, (ids, targets, tasks), _ = packed()
    with pytest.raises(ValueError, match="a row holds several tasks"):
        captured(tiny(), (ids, targets, tasks))
    ids, targets, tasks = rows()
    with pytest.raises(ValueError, match=r"a layer has \(6, 7\) tokens, task_ids have shape \(5,\)"):
        captured(tiny(), (ids, targets, tasks[:5]))
    with pytest.raises(ValueError, match="task 3 is out of range"):
        captured(tiny(), (ids, targets, tasks + 1))
    with pytest.raises(ValueError, match="nothing to follow"):
        TaskGradients(tiny().requires_grad_(False), tasks=2)


def test_tokens_of_no_task_must_have_no_gradient():
    ids, targets, tasks = rows()
    gradients = captured(tiny(), (ids, targets, torch.where(tasks == 2, -1, tasks)))
    with pytest.raises(ValueError, match="negative task id have a gradient"):
        gradients.gramian()


def test_backward_pass_outside_of_capture_is_noticed_and_a_second_one_is_not_counted():
    model, (ids, targets, tasks) = tiny(), rows()
    with pytest.raises(ValueError, match="and no backward pass"), TaskGradients(model, tasks=TASKS).capture(tasks):
        token_losses(model, ids, targets)
    gradients = TaskGradients(model, tasks=TASKS)
    with gradients.capture(tasks):
        loss = token_losses(model, ids, targets).sum()
        loss.backward(retain_graph=True)
    before = gradients.gramian()
    loss.backward()
    assert torch.equal(gradients.gramian(), before)


def test_hooks_are_gone_after_a_pass_that_failed():
    model = tiny()
    gradients = TaskGradients(model, tasks=TASKS)
    with pytest.raises(RuntimeError, match="on purpose"), gradients.capture(rows()[2]):
        raise RuntimeError("on purpose")
    assert not any(module._forward_hooks for module in model.modules())
