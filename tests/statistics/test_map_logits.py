"""`map_logits` is its definition, chunk by chunk, for losses that read whole distributions."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from sftloss.statistics import Head, Plan, Shard, from_logits, map_logits


def forward_kl(student, teacher):
    p = teacher.softmax(-1)
    return (p * (teacher.log_softmax(-1) - student.log_softmax(-1))).sum(-1)


def reverse_kl(student, teacher):
    return forward_kl(teacher, student)


def skewed_to_target(student, teacher, target):
    """Reads extra rows too."""
    own = student.log_softmax(-1).gather(1, target[:, None])[:, 0]
    return forward_kl(student, teacher) * target.double() - own.square()


def made(dtype=torch.float64, tokens=7, vocab=11):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    student = (draw(tokens, 4), Head(draw(vocab, 4), draw(vocab), scale=0.7, softcap=3.0))
    teacher = (draw(tokens, 5), Head(draw(vocab, 5)))
    upstream = torch.randn(tokens, generator=generator, dtype=torch.float64)
    return student, teacher, upstream


def tensors(*sources):
    return [t for hidden, head in sources for t in (hidden, head.weight, head.bias) if t is not None]


@pytest.mark.parametrize("function", [forward_kl, reverse_kl])
@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_map_logits_is_its_definition_in_value_and_every_gradient(function, chunk):
    student, teacher, upstream = made()
    plain = function(*(head.logits(hidden) for hidden, head in (student, teacher)))
    ours = map_logits(function, student, teacher, plan=Plan(tokens=chunk))
    assert_close(ours, plain)
    every = tensors(student, teacher)
    expected = torch.autograd.grad(plain, every, upstream)
    actual = torch.autograd.grad(ours, every, upstream)
    for mine, true in zip(actual, expected, strict=True):
        assert_close(mine, true, rtol=1e-9, atol=1e-12)  # float64; only the order of sums differs


def test_map_logits_cuts_rows_with_the_tokens():
    student, teacher, upstream = made()
    target = torch.arange(7)
    plain = skewed_to_target(student[1].logits(student[0]), teacher[1].logits(teacher[0]), target)
    ours = map_logits(skewed_to_target, student, teacher, rows=(target,), plan=Plan(tokens=2))
    assert_close(ours, plain)
    (expected,) = torch.autograd.grad(plain, student[0], upstream)
    (actual,) = torch.autograd.grad(ours, student[0], upstream)
    assert_close(actual, expected)


def test_a_teacher_without_gradients_gets_none():
    student, teacher, upstream = made()
    frozen = (teacher[0].detach(), Head(teacher[1].weight.detach()))
    (map_logits(forward_kl, student, frozen, plan=Plan(tokens=3)) * upstream).sum().backward()
    assert student[1].weight.grad is not None and student[0].grad is not None
    assert frozen[0].grad is None and teacher[1].weight.grad is None


def test_cross_entropy_written_as_a_function_has_the_statistics_gradient():
    (hidden, head), _, upstream = made()
    targets = torch.tensor([3, 1, 4, 1, 5, 9, 2])
    ours = map_logits(
        lambda z, y: torch.nn.functional.cross_entropy(z, y, reduction="none"), (hidden, head), rows=(targets,)
    )
    truth = -from_logits(head.logits(hidden), targets).target_logprob
    assert_close(ours, truth)
    for mine, true in zip(*(torch.autograd.grad(f, hidden, upstream) for f in (ours, truth)), strict=True):
        assert_close(mine, true)


def test_bfloat16_inputs_are_computed_in_float32():
    student, teacher, _ = made(torch.bfloat16)
    seen = []
    map_logits(lambda a, b: seen.append((a.dtype, b.dtype)) or a.sum(-1), student, teacher)
    assert seen == [(torch.float32, torch.float32)]
    map_logits(forward_kl, student, teacher).sum().backward()
    assert student[0].grad.dtype == student[1].weight.grad.dtype == torch.bfloat16


def test_backward_twice_with_retain_graph_is_the_same_gradient():
    student, teacher, _ = made()
    total = map_logits(forward_kl, student, teacher, plan=Plan(tokens=2)).sum()
    first = torch.autograd.grad(total, student[0], retain_graph=True)
    assert_close(torch.autograd.grad(total, student[0]), first)


def test_a_function_that_reads_one_source_leaves_the_others_gradient_zero():
    student, teacher, upstream = made()
    ours = map_logits(lambda a, b: a.logsumexp(-1), student, teacher)
    _, unused = torch.autograd.grad(ours, [student[0], teacher[0]], upstream)
    assert not unused.any()


def test_no_tokens_give_a_connected_empty_result():
    _, head = made()[0]
    hidden = torch.zeros(0, 4, dtype=torch.float64, requires_grad=True)
    map_logits(lambda z: z.sum(-1), (hidden, head)).sum().backward()
    assert hidden.grad.shape == (0, 4) and not head.weight.grad.any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, t: map_logits(forward_kl), "at least one"),
        (lambda s, t: map_logits(forward_kl, s, (t[0][:3], t[1])), "map_logits: .*7.*3|map_logits: .*3.*7"),
        (lambda s, t: map_logits(forward_kl, s, t, rows=(torch.zeros(2),)), "rows must have 7"),
        (lambda s, t: map_logits(lambda a, b: a, s, t), "one value a token"),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    student, teacher, _ = made()
    with pytest.raises(ValueError, match=message):
        call(student, teacher)


def test_a_shard_is_refused():
    head = Head(torch.zeros(5, 4), shard=Shard(start=0, vocab=11))
    with pytest.raises(ValueError, match="gather the head"):
        map_logits(lambda z: z.sum(-1), (torch.zeros(3, 4), head))
