"""A decoder that is a plain module is read, proved, analysed and trained by way of a port."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sftloss
from sftloss.decoder import PlainPort, load_model, open_decoder, port_of, ports, register_port, with_fast_dtype
from sftloss.errors import ModelError
from sftloss.finetune import Lora, Recipe
from sftloss.finetune.setup import loaded
from sftloss.training import Loss, attach, attachment_of, collate_rows, detach

VOCAB = 61
ROWS = [{"input_ids": torch.arange(3, 7 + 3 * i)} for i in range(4)]
BATCH = collate_rows(ROWS, pad_id=0)


class Plain(nn.Module):
    """A bag of the tokens before, with a softcapped head; it adds a loss where it is asked to."""

    def __init__(self, cap: float | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.mix, self.output = nn.Embedding(VOCAB, 16), nn.Linear(16, 16), nn.Linear(16, VOCAB)
        self.cap = cap
        self.double()

    def body(self, tokens: Tensor) -> Tensor:
        return torch.tanh(self.mix(self.embed(tokens).cumsum(1)))

    def forward(self, tokens: Tensor) -> Tensor:
        logits = self.output(self.body(tokens))
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)


def hidden_states(model: Any, batch: Mapping[str, Any]) -> Tensor:
    return model.body(batch["tokens"])


def router_loss(model: Any) -> Tensor:
    return model.mix.weight.square().sum()


PORT = PlainPort(hidden_states, head="output", ids="tokens")


@pytest.fixture
def registered() -> Iterator[None]:
    register_port(Plain, PORT)
    yield
    ports._PORTS.pop(Plain)


def own_loss(model: Plain) -> Tensor:
    logits = model(BATCH["input_ids"])[:, :-1].flatten(0, 1)
    return nn.functional.cross_entropy(logits, BATCH["labels"][:, 1:].flatten())


def gradient_of(model: Plain) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def test_attached_plain_module_has_the_gradient_of_its_own_logits() -> None:
    truth, model = Plain(), Plain()
    own_loss(truth).backward()
    attach(model, "cross_entropy", port=PORT)
    out = model(BATCH["input_ids"], labels=BATCH["labels"])
    out.loss.backward()
    torch.testing.assert_close(gradient_of(model), gradient_of(truth), rtol=1e-10, atol=1e-12)  # float64
    assert out.logits is None and torch.equal(model(BATCH["input_ids"]), truth(BATCH["input_ids"]))
    kept = model(tokens=BATCH["input_ids"], labels=BATCH["labels"], output_logits=True)
    assert torch.equal(kept.logits, truth(BATCH["input_ids"]))
    detach(model)
    assert torch.equal(model(BATCH["input_ids"]), truth(BATCH["input_ids"]))


def test_what_a_plain_module_adds_to_its_loss_is_kept_once_a_step() -> None:
    truth, model = Plain(), Plain()
    (own_loss(truth) + router_loss(truth)).backward()
    attachment = attach(
        model, "cross_entropy", port=PlainPort(hidden_states, "output", "tokens", added_loss=router_loss)
    )
    parts = [collate_rows(ROWS[:1], pad_id=0), collate_rows(ROWS[1:], pad_id=0)]
    step = attachment.step(parts)
    for part in parts:
        model(**part, num_items_in_batch=step).loss.backward()
    torch.testing.assert_close(gradient_of(model), gradient_of(truth), rtol=1e-10, atol=1e-12)  # float64


def test_port_that_leaves_the_softcap_out_is_refused() -> None:
    with pytest.raises(ModelError, match="Plain cannot be fused with its head: its logits are not the declared"):
        attach(Plain(cap=2.0), "cross_entropy", port=PORT)
    attach(Plain(cap=2.0), "cross_entropy", port=PlainPort(hidden_states, "output", "tokens", softcap=2.0))


def test_model_without_a_port_and_a_head_that_is_not_there_are_one_sentence() -> None:
    with pytest.raises(ModelError, match=r"no port is registered for its class; pass port=.*PlainPort"):
        attach(Plain(), "cross_entropy")
    with pytest.raises(ModelError, match="Plain has no module 'lm_head'; name its head"):
        attach(Plain(), "cross_entropy", port=PlainPort(hidden_states, head="lm_head"))


def test_registered_port_serves_wrapped_models_and_subclasses(registered: None) -> None:
    class Sub(Plain):
        pass

    model = Sub()
    assert port_of(model) is PORT
    attachment = attach(torch.compile(model, backend="eager"), Loss("dft"))
    assert attachment.model is model and attachment_of(model) is attachment


@pytest.mark.parametrize("another", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copy_of_a_plain_module_is_attached_by_itself(another: Any) -> None:
    model = Plain()
    attach(model, "cross_entropy", port=PORT)
    other = another(model)
    detach(model)
    expected = float(own_loss(model).detach())
    assert float(other(**BATCH).loss.detach()) == pytest.approx(expected, rel=1e-12)
    assert attachment_of(model) is None and attachment_of(other).metrics()["trained_tokens"] > 0


def test_plain_module_is_opened_with_a_proved_head(registered: None) -> None:
    decoder = open_decoder(Plain())
    assert decoder.reason == "" and decoder.vocab_size == VOCAB and not decoder.is_packable
    hidden = decoder.hidden(BATCH["input_ids"])
    torch.testing.assert_close(
        decoder.head.logits(hidden.flatten(0, 1)), decoder.logits(BATCH["input_ids"]).flatten(0, 1)
    )
    assert open_decoder(Plain(cap=2.0)).head is None


def test_plain_module_is_analysed(registered: None) -> None:
    pytest.importorskip("polars")
    from tests.tiny import tiny_tokenizer

    tokenizer = tiny_tokenizer(["red fox", "blue bird", "copy"])
    model = Plain()
    model.embed, model.output = nn.Embedding(len(tokenizer), 16).double(), nn.Linear(16, len(tokenizer)).double()
    rows = [{"prompt": "copy", "completion": word} for word in ("red fox", "blue bird", "red", "blue")]
    assert sftloss.analyze(model, tokenizer, rows).document.sections


@pytest.mark.parametrize(
    ("dtype", "device", "instructions", "memory", "expected"),
    [
        (torch.bfloat16, "cpu", {}, 2**30, torch.float32),
        (torch.float16, "cpu", {"amx_bf16": True}, 2**30, torch.float32),
        (torch.bfloat16, "cpu", {"amx_bf16": True}, 2**30, torch.bfloat16),
        (torch.bfloat16, "cpu", {}, 47, torch.bfloat16),  # six numbers in float32 take 24 bytes
        (torch.bfloat16, "cuda", {}, 2**30, torch.bfloat16),
        (torch.float64, "cpu", {}, 2**30, torch.float64),
    ],
)
def test_sixteen_bits_become_float32_where_a_processor_is_slower_in_them(
    monkeypatch, dtype, device, instructions, memory, expected
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    monkeypatch.setattr("sftloss.decoder.loading._memory", lambda: memory)
    assert with_fast_dtype(torch.nn.Linear(2, 2).to(dtype), device).weight.dtype == expected


def test_a_checkpoint_in_bfloat16_is_loaded_for_the_device_that_computes(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    model, tokenizer = load_model("demo", dtype="bfloat16")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    dtypes = [load_model(tmp_path, **how)[0].dtype for how in ({}, {"computes_on": "cuda"}, {"dtype": "bfloat16"})]
    assert dtypes == [torch.float32, torch.bfloat16, torch.bfloat16]
    recipe = Recipe(model=str(tmp_path), data="demo", lora=Lora(), device="cpu")
    assert loaded(recipe)[0].dtype == torch.float32
