"""Norms from one backward pass are those of a backward pass for each example."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.launching import torchrun
from tests.tiny_models import tiny_model
from tests.training.cases import VOCAB, model_of, ragged_rows, without
from torch import Tensor, nn

from sftloss import per_example_gradients
from sftloss.decoder import PlainPort
from sftloss.errors import ModelError
from sftloss.training import Loss, attach, collate_rows
from sftloss.training.gradients.layers import embedding_squares, norm_squares
from sftloss.training.gradients.layout import Layout
from sftloss.training.gradients.norms import norms_by_loop
from sftloss.training.gradients.per_example import ExampleGradients, attached, question_of, refuse_sharded

pytest.importorskip("transformers")
pytestmark = [
    # peft 0.21 asks transformers 5.23 by a name that will go
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*tie_word_embeddings:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*tied.*:UserWarning"),
]

ROWS = without(ragged_rows(5), "token_weights", "tasks", "row_ids")
BATCH = collate_rows(ROWS, pad_id=0)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}


def held_to_the_loop(model: nn.Module, batch: dict[str, Any], loss: Any = "cross_entropy") -> ExampleGradients:
    """The norms by hooks, after each layer group's were compared with the loop's."""
    gradients = per_example_gradients(model, batch, loss)
    with attached(model, loss) as attachment:
        by_loop = norms_by_loop(attachment, question_of(attachment, batch, attachment.loss))
    tolerance = TOLERANCE[next(model.parameters()).dtype]
    total = torch.stack([*by_loop.squares.values()]).sum(0).sqrt()
    assert bool((total > 0).all())
    assert float(((gradients.norms - total) / total).abs().max()) <= tolerance
    for group, squares in by_loop.squares.items():
        assert float(((gradients.by_layer[group] - squares.sqrt()) / total).abs().max()) <= tolerance, group
    assert torch.allclose(gradients.losses, by_loop.losses, rtol=1e-6)
    assert gradients.coverage.share == 1 and not gradients.coverage.reason
    assert all(p.grad is None for p in model.parameters())
    return gradients


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2", "qwen3", "gemma2", "phi", "cohere"])
def test_norms_are_those_of_a_loop(family: str, tied: bool, dtype: torch.dtype, monkeypatch: Any) -> None:
    if dtype == torch.float64:  # the norms of these two take a step in float32 whatever the model's dtype
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
        if family == "cohere":
            pytest.skip("its norm rounds to float32")
    held_to_the_loop(model_of(family, dtype=dtype, tie_word_embeddings=tied), BATCH, "focal(gamma=2)")


def test_rows_without_padding_and_left_padded_rows() -> None:
    model = model_of(tie_word_embeddings=True)
    ids = torch.randint(3, VOCAB, (3, 9), generator=torch.Generator().manual_seed(0))
    held_to_the_loop(model, {"input_ids": ids, "labels": ids})
    left = {"input_ids": ids, "labels": ids.clone(), "attention_mask": torch.ones_like(ids)}
    left["attention_mask"][0, :4], left["labels"][0, :5] = 0, -100
    held_to_the_loop(model, left)


@pytest.mark.parametrize("tied", [False, True])
def test_documents_of_a_packed_row_have_the_norms_they_have_as_rows(tied: bool) -> None:
    model = model_of("llama", tie_word_embeddings=tied)
    gradients = held_to_the_loop(model, collate_rows(ROWS, pad_id=0, packed=True))
    assert torch.allclose(gradients.norms, per_example_gradients(model, BATCH).norms, rtol=1e-10)
    assert gradients.rows.tolist() == [0] * len(ROWS)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(use_reentrant: bool) -> None:
    model, again = (model_of("gpt2", tie_word_embeddings=True) for _ in range(2))
    plain = per_example_gradients(model, BATCH)
    again.activation_checkpointing_enable({"use_reentrant": use_reentrant})  # also in the first call's comparison
    gradients = per_example_gradients(again, BATCH)
    assert torch.allclose(gradients.norms, plain.norms, rtol=1e-12) and not gradients.coverage.reason


def test_adapters_that_hooks_cannot_follow_under_reentrant_checkpoints() -> None:
    """No layer is followed at all, and the first checkpoint's input needs a gradient."""
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(model_of(), peft.IA3Config(target_modules=["v_proj"], feedforward_modules=[])).double()
    plain = per_example_gradients(model, BATCH)
    assert plain.coverage.looped == plain.coverage.trained and bool((plain.norms > 0).all())
    assert not per_example_gradients(model, BATCH, uncovered="leave_out").norms.any()
    model.activation_checkpointing_enable({"use_reentrant": True})
    model.enable_input_require_grads()
    assert torch.allclose(per_example_gradients(model, BATCH).norms, plain.norms, rtol=1e-12)


def test_a_head_that_an_adapter_trains_whole_needs_no_loop() -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["q_proj"], r=2, init_lora_weights=False, modules_to_save=["lm_head"])
    held_to_the_loop(peft.get_peft_model(model_of(), config).double(), BATCH)


def test_labels_on_padding_belong_to_their_row() -> None:
    """Who copies input_ids into labels trains the padding too, and its gradient is the row's."""
    labels = BATCH["input_ids"].clone()
    held_to_the_loop(model_of("gpt2"), {**BATCH, "labels": labels})


@pytest.mark.parametrize("target", [["q_proj", "down_proj"], ["q_proj", "lm_head"]])
def test_adapters(target: list[str]) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=target, r=2, init_lora_weights=False)
    model = peft.get_peft_model(model_of("llama"), config)
    with_names = per_example_gradients(model, BATCH)
    held_to_the_loop(model, BATCH)
    assert all("lora" not in name or ".layers." not in name for name in with_names.by_layer)


def test_dropout_of_attention_does_not_make_the_hooks_look_wrong() -> None:
    """GPT-2's attention reads the probability of its dropout and its own mode: a loop would run for nothing."""
    model = tiny_model("gpt2", VOCAB, attn_pdrop=0.5, resid_pdrop=0.5, embd_pdrop=0.5).double().train()
    assert not per_example_gradients(model, BATCH, "cross_entropy").coverage.reason


def test_sums_over_many_tokens_keep_their_digits_in_bfloat16() -> None:
    """bfloat16 has no 601, and on some devices a sum of ones stops at 256."""
    tokens, embedding, norm = 601, nn.Embedding(5, 1), nn.LayerNorm(1)
    segments = torch.zeros(1, tokens + 1, dtype=torch.long)
    segments[0, -1] = -1
    layout = Layout((1, tokens + 1), segments[0], 1, torch.zeros(1, dtype=torch.long))
    ones = torch.ones(tokens + 1, 1, dtype=torch.bfloat16)
    ids = torch.full((tokens + 1,), 3)
    assert float(embedding_squares(embedding, [(ids, ones)], layout)) == tokens**2
    assert float(norm_squares(norm, [(ones, ones)], layout, ["bias"])["bias"]) == tokens**2


def test_long_examples_take_the_direct_form_and_several_chunks(monkeypatch: Any) -> None:
    """More tokens than columns, and a head whose chunks hold less than one example."""
    monkeypatch.setattr("sftloss.statistics.plan._CHUNK_ROWS", 32)
    monkeypatch.setattr("sftloss.statistics.plan._CHUNK_BYTES", 1)
    ids = torch.randint(3, VOCAB, (2, 100), generator=torch.Generator().manual_seed(0))
    for family in ("gpt2", "phi"):
        held_to_the_loop(model_of(family), {"input_ids": ids, "labels": ids})


def test_another_normalization_by_scaling() -> None:
    model = model_of("gpt2")
    of_tokens = per_example_gradients(model, BATCH, Loss())
    lengths = (BATCH["labels"][:, 1:] != -100).sum(1)
    of_examples = per_example_gradients(model, BATCH, Loss(normalization="example-mean"))
    factors = lengths.sum() / (len(lengths) * lengths.double())
    assert torch.allclose(of_tokens.scaled(factors).norms, of_examples.norms, rtol=1e-12)


class Shared(nn.Module):
    """One layer that is called twice, two layers of one weight, and perhaps something that hooks cannot follow."""

    def __init__(self, kind: str = "") -> None:
        super().__init__()
        self.embedding, self.twice, self.norm = nn.Embedding(VOCAB, 8), nn.Linear(8, 8), nn.LayerNorm(8)
        self.first, self.second = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        self.second.weight = self.first.weight
        self.head, self.kind = nn.Linear(8, VOCAB), kind
        self.raw = nn.Parameter(torch.ones(8)) if kind == "raw" else None

    def body(self, ids: Tensor) -> Tensor:
        x = self.embedding(input=ids)
        if self.kind == "in place":
            x *= 2
        x = x + torch.tanh(self.twice(torch.tanh(self.twice(x)))).cumsum(1)
        if self.kind == "bypassed":
            return self.norm(x + torch.tanh(nn.functional.linear(x, self.first.weight)))
        x = x + torch.tanh(self.second(torch.tanh(self.first(x))))
        return self.norm(x if self.raw is None else x * self.raw)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.head(self.body(input_ids))


def shared(kind: str = "") -> Any:
    torch.manual_seed(0)
    model = Shared(kind).double()
    attach(model, "cross_entropy", port=PlainPort(lambda model, batch: model.body(batch["input_ids"]), head="head"))
    return model


@pytest.mark.parametrize("kind", ["", "in place"])
def test_a_layer_called_twice_and_two_layers_of_one_weight(kind: str) -> None:
    """One is called by keyword, and what it gives may be changed in place."""
    held_to_the_loop(shared(kind), BATCH)


@pytest.mark.parametrize(
    ("kind", "reason"), [("raw", "hooks cannot follow raw"), ("bypassed", "the gradient of first is not that of")]
)
def test_what_is_not_covered_falls_back_to_a_loop_and_is_named(kind: str, reason: str, monkeypatch: Any) -> None:
    """The loop forms the gradients of these weights only, and the first call's comparison is not repeated."""
    model, looped = shared(kind), {"raw": ("raw",), "bypassed": ("first.weight",)}[kind]
    per_example_gradients(model, BATCH)
    wanted: list[Any] = []
    monkeypatch.setattr(
        "sftloss.training.gradients.per_example.norms_by_loop",
        lambda attachment, question, names: (
            wanted.append(tuple(names)) or norms_by_loop(attachment, question, None, names)
        ),
    )
    gradients = per_example_gradients(model, BATCH)
    with attached(model, None) as attachment:
        by_loop = norms_by_loop(attachment, question_of(attachment, BATCH, attachment.loss))
    assert wanted == [looped] and gradients.coverage.uncovered == looped
    truth = torch.stack([*by_loop.squares.values()]).sum(0).sqrt()
    assert torch.allclose(gradients.norms, truth, rtol=1e-12)
    assert reason in gradients.coverage.reason and gradients.coverage.share == 1
    assert f"{gradients.coverage.looped:,} of them by one backward pass an example" in str(gradients.coverage)


def test_uncovered_weights_may_be_left_out() -> None:
    coverage = per_example_gradients(shared("raw"), BATCH, uncovered="leave_out").coverage
    assert coverage.uncovered == ("raw",) and coverage.trained - coverage.covered == 8 and not coverage.reason
    bypassed = per_example_gradients(shared("bypassed"), BATCH, uncovered="leave_out").coverage
    assert bypassed.uncovered == ("first.weight",) and bypassed.trained - bypassed.covered == 64
    with pytest.raises(ValueError, match="uncovered must be 'loop' or 'leave_out'"):
        per_example_gradients(shared(), BATCH, uncovered="ignore")


def test_only_the_experts_of_a_mixture_fall_back_to_a_loop() -> None:
    model = model_of("mixtral")
    coverage = per_example_gradients(model, BATCH).coverage
    assert "experts" in coverage.reason and coverage.share == 1
    assert (
        all(".mlp." in name for name in coverage.uncovered) and 0 < coverage.looped < coverage.trained
    )  # and the router
    with attached(model, None) as attachment:
        by_loop = norms_by_loop(attachment, question_of(attachment, BATCH, attachment.loss))
    truth = torch.stack([*by_loop.squares.values()]).sum(0).sqrt()
    assert torch.allclose(per_example_gradients(model, BATCH).norms, truth, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_that_of_the_training(dtype: torch.dtype) -> None:
    """The squares of what a pass under autocast gives are not rounded a second time, and none vanishes in float16."""
    model = model_of("gpt2", dtype=torch.float32, tie_word_embeddings=True)
    small = Loss(normalizer=1e6)
    with torch.autocast("cpu", dtype):
        gradients = per_example_gradients(model, BATCH, small)
    exact = per_example_gradients(model, BATCH, small).norms
    assert not gradients.coverage.reason
    assert torch.allclose(gradients.norms, exact, rtol=0.02 if dtype == torch.bfloat16 else 0.003)
    assert not torch.allclose(gradients.norms, exact, rtol=1e-5)


@pytest.mark.parametrize("kind", ["DeepSpeed ZeRO-3", "FSDP2"])
def test_sharded_weights_are_refused_by_name(kind: str, monkeypatch: Any) -> None:
    model = model_of("gpt2")
    if kind == "FSDP2":
        monkeypatch.setattr("sftloss.training.gradients.per_example.DTensor", nn.Parameter)
    else:
        next(model.parameters()).ds_id = 0
    with pytest.raises(ModelError, match=f"sharded \\({kind}"):
        refuse_sharded(model)


def test_no_gradient_of_a_parameter_is_formed() -> None:
    model, formed = model_of("gpt2", dtype=torch.float32), []
    per_example_gradients(model, BATCH)  # the first call compares with the loop
    for p in model.parameters():
        p.register_hook(formed.append)
    with torch.no_grad():
        per_example_gradients(model, BATCH)
    assert not formed and all(p.requires_grad for p in model.parameters())


@pytest.mark.slow
def test_each_rank_has_the_norms_of_its_own_rows(tmp_path: Path) -> None:
    found = torchrun("training/gradient_ranks.py", 2, tmp_path / "found.json")
    assert found["rows"] == 8 and found["error"] < 1e-12
