"""What PEFT puts on the head trains as with the model's own logits, which are not held."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.training.cases import definition, gradients, model_of, ragged_rows, relative_error, without

from sftloss.errors import ModelError
from sftloss.training import attach, collate_rows

pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
pytestmark = [
    # peft 0.21 asks transformers 5.23 by a name that will go
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*tie_word_embeddings:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*tied.*:UserWarning"),
]

ROWS = without(ragged_rows(), "token_weights", "tasks")
BATCH = collate_rows(ROWS, pad_id=0)
HEAD = {"target_modules": ["q_proj", "lm_head"], "r": 2, "init_lora_weights": False}


def adapted(family: str = "llama", *, dtype: torch.dtype = torch.float64, tied: bool = False, **config: Any) -> Any:
    torch.manual_seed(0)
    base = model_of(family, dtype=dtype, tie_word_embeddings=tied)
    return peft.get_peft_model(base, peft.LoraConfig(**{**HEAD, **config})).train()


def trains_as_its_own_logits(model: Any, tolerance: float = 1e-10) -> dict[str, torch.Tensor]:
    """Gradients by the definition, after ours were held to them."""
    definition(model, ROWS).backward()
    truth = gradients(model)
    attachment = attach(model, "cross_entropy")
    model(**BATCH).loss.backward()
    assert relative_error(gradients(model), truth) < tolerance
    attachment.detach()
    return truth


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", ["llama", "granite", "phi", "gemma2", "cohere"])
def test_lora_on_the_head_trains_as_with_the_models_own_logits(family: str, tied: bool) -> None:
    """With a factor on the logits, a bias and a cap."""
    # these two take steps in float32 whatever the model's dtype, and padding changes the order of their sums
    truth = trains_as_its_own_logits(adapted(family, tied=tied), 1e-5 if family in ("gemma2", "cohere") else 1e-10)
    assert sum("lm_head" in name for name in truth) == 2 and len(truth) == 6


def test_head_with_an_adapter_never_multiplies_the_tokens() -> None:
    model = adapted()
    attach(model, "cross_entropy")
    seen = []
    for layer in (model.base_model.model.lm_head, model.base_model.model.lm_head.base_layer):
        layer.register_forward_hook(lambda _, inputs, output: seen.append(output.numel()))
    model(**BATCH).loss.backward()
    assert seen == [0, 0]


def test_fresh_adapter_learns_though_it_starts_at_zero() -> None:
    truth = trains_as_its_own_logits(adapted(init_lora_weights=True))
    name = next(name for name in truth if "lm_head.lora_B" in name)
    assert truth[name].norm() > 0


@pytest.mark.parametrize("use_rslora", [False, True])
def test_scaling_is_the_adapters_own(use_rslora: bool) -> None:
    trains_as_its_own_logits(adapted(r=4, lora_alpha=3, use_rslora=use_rslora))


def test_dropout_draws_what_the_models_own_head_draws() -> None:
    """The head alone has dropout, so one seed gives both passes the same mask."""
    model = adapted(target_modules=["lm_head"], lora_dropout=0.5)
    torch.manual_seed(7)
    logits = model(input_ids=BATCH["input_ids"], attention_mask=BATCH["attention_mask"]).logits
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), BATCH["labels"][:, 1:].flatten()).backward()
    truth = gradients(model)
    attach(model, "cross_entropy")
    torch.manual_seed(7)
    model(**BATCH).loss.backward()
    assert relative_error(gradients(model), truth) < 1e-10
    torch.manual_seed(8)
    model(**BATCH).loss.backward()
    assert relative_error(gradients(model), truth) > 0.1


def test_disabled_and_merged_adapters_are_the_models_own() -> None:
    model = adapted()
    attach(model, "cross_entropy")
    on = model(**BATCH).loss.item()
    with model.disable_adapter():
        off = model(**BATCH).loss.item()
        assert off == pytest.approx(definition(model, ROWS).item(), abs=1e-10)
    assert abs(off - on) > 1e-3 and model(**BATCH).loss.item() == on
    model.merge_adapter()
    assert model(**BATCH).loss.item() == pytest.approx(on, abs=1e-9)
    model.unmerge_adapter()
    assert model(**BATCH).loss.item() == pytest.approx(on, abs=1e-9)


def test_loss_is_attached_to_a_merged_model_and_one_with_adapters_off() -> None:
    model = adapted()
    with model.disable_adapter():
        attach(model, "cross_entropy").detach()
    model.merge_adapter()
    attach(model, "cross_entropy")
    assert model(**BATCH).loss.item() == pytest.approx(definition(model, ROWS).item(), abs=1e-10)


def test_active_adapters_are_those_that_train() -> None:
    model = adapted()
    model.add_adapter("second", peft.LoraConfig(**{**HEAD, "r": 3, "lora_alpha": 5}))
    model.add_adapter("body", peft.LoraConfig(**{**HEAD, "target_modules": ["q_proj"]}))
    for active, on_head in (("default", 2), ("second", 2), ("body", 0), (["default", "second"], 4)):
        (model.set_adapter if isinstance(active, str) else model.base_model.set_adapter)(active)
        truth = trains_as_its_own_logits(model)
        assert sum("lm_head" in name for name in truth) == on_head


def test_evaluation_gives_the_models_logits_and_the_same_loss() -> None:
    model = adapted().eval()
    attach(model, "cross_entropy")
    out = model(**BATCH)
    own = model(input_ids=BATCH["input_ids"], attention_mask=BATCH["attention_mask"]).logits
    assert torch.equal(out.logits, own)
    assert out.loss.item() == pytest.approx(definition(model, ROWS).item(), abs=1e-10)


def test_bfloat16_model_with_float32_adapters_errs_no_more_than_its_own_loss() -> None:
    model = adapted(dtype=torch.bfloat16)
    assert model.base_model.model.lm_head.lora_B["default"].weight.dtype == torch.float32
    inputs = {k: v for k, v in BATCH.items() if k != "row_ids"}
    model(**inputs).loss.backward()
    own = gradients(model)
    attach(model, "cross_entropy")
    model(**BATCH).loss.backward()
    ours = gradients(model)
    definition(model.double(), ROWS).backward()
    truth = gradients(model)
    # the body's own rounding is in both
    assert relative_error(ours, truth) <= 2 * relative_error(own, truth) + torch.finfo(torch.bfloat16).eps
    assert {g.dtype for g in ours.values()} == {torch.float32}


class Packed(torch.nn.Linear):
    """A frozen layer in eight bits, for machines without bitsandbytes."""

    def __init__(self, layer: torch.nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False, dtype=layer.weight.dtype)
        del self.weight
        size = layer.weight.detach().abs().amax() / 127
        self.weight = torch.nn.Parameter((layer.weight.detach() / size).round().to(torch.int8), requires_grad=False)
        self.size = size

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(hidden, self.weight.to(hidden.dtype) * self.size)


@pytest.mark.parametrize("use_checkpoints", [False, True])
def test_packed_body_under_adapters_trains(use_checkpoints: bool) -> None:
    base = model_of()
    for layer in base.model.layers:
        for name in ("q_proj", "k_proj", "v_proj"):
            setattr(layer.self_attn, name, Packed(getattr(layer.self_attn, name)))
    torch.manual_seed(0)
    model = peft.get_peft_model(base, peft.LoraConfig(**HEAD)).double().train()
    assert model.base_model.model.model.layers[0].self_attn.q_proj.weight.dtype == torch.int8
    if use_checkpoints:
        base.activation_checkpointing_enable({"use_reentrant": False})
    trains_as_its_own_logits(model)


def in_four_bits(bnb: Any, layer: torch.nn.Linear) -> torch.nn.Module:
    options = {"bias": False, "compute_dtype": torch.float32, "quant_type": "nf4"}
    packed = bnb.nn.Linear4bit(layer.in_features, layer.out_features, **options)
    packed.weight = bnb.nn.Params4bit(layer.weight.data.clone(), requires_grad=False, quant_type="nf4", module=packed)
    return packed.to("cpu")


def four_bit_model(bnb: Any) -> Any:
    model = model_of(dtype=torch.float32, hidden_size=64, intermediate_size=128)
    for layer in model.model.layers:
        for block in (layer.self_attn, layer.mlp):
            for name, child in list(block.named_children()):
                if isinstance(child, torch.nn.Linear):
                    setattr(block, name, in_four_bits(bnb, child))
    return model


def test_body_in_four_bits_of_bitsandbytes_trains() -> None:
    bnb = pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    model = peft.get_peft_model(four_bit_model(bnb), peft.LoraConfig(**HEAD)).train()
    assert model.base_model.model.model.layers[0].self_attn.q_proj.base_layer.weight.dtype == torch.uint8
    # float32, whose products of other shapes add in another order
    trains_as_its_own_logits(model, 1e-4)


@pytest.mark.parametrize("is_training", [False, True])
def test_attaching_runs_no_layer_of_bitsandbytes_in_evaluation_mode(is_training: bool) -> None:
    """Some processors pack a layer anew in that mode, for good, and it gives no gradient afterwards."""
    bnb = pytest.importorskip("bitsandbytes")
    model, modes = four_bit_model(bnb).train(is_training), []
    for layer in (module for module in model.modules() if isinstance(module, bnb.nn.Linear4bit)):
        layer.register_forward_hook(lambda module, *_: modes.append(module.training))
    attach(model, "cross_entropy")
    assert modes and all(modes)
    assert {module.training for module in model.modules()} == {is_training}


def test_head_in_four_bits_of_bitsandbytes_is_refused() -> None:
    bnb = pytest.importorskip("bitsandbytes")
    model = four_bit_model(bnb)
    model.lm_head = in_four_bits(bnb, model.lm_head)
    with pytest.raises(ModelError, match="cannot be fused with its head"):
        attach(model, "cross_entropy")


def other_kinds() -> dict[str, tuple[Any, str]]:
    target = {"target_modules": ["lm_head"]}
    return {
        "DoRA": (
            peft.LoraConfig(**target, use_dora=True),
            "'default' on the head is DoraLinearVariant, not plain LoRA",
        ),
        "bias": (peft.LoraConfig(**target, lora_bias=True), "'default' on the head is lora_bias=True, not plain LoRA"),
        "LoHa": (peft.LoHaConfig(**target), "the head has base_layer, hada_.* which is no plain low-rank adapter"),
        "IA3": (peft.IA3Config(**target, feedforward_modules=[]), "the head has base_layer, ia3_l beside weight"),
    }


@pytest.mark.parametrize("kind", ["DoRA", "bias", "LoHa", "IA3"])
@pytest.mark.parametrize("is_attached_first", [False, True])
@pytest.mark.filterwarnings("ignore:.*merging LoRA weights")
def test_other_adapters_on_the_head_are_refused(kind: str, is_attached_first: bool) -> None:
    config, message = other_kinds()[kind]
    base = model_of()
    if is_attached_first:
        attach(base, "cross_entropy")
    model = peft.get_peft_model(base, config)
    with pytest.raises(ModelError, match=message):
        model(**BATCH) if is_attached_first else attach(model, "cross_entropy")


def test_wrapper_that_keeps_the_models_forward_pass_is_refused() -> None:
    """PEFT's adaption prompts call what ``model.forward`` was when they were made."""
    config = peft.AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=3, adapter_layers=1)
    with pytest.raises(ModelError, match="AdaptionPromptModel keeps the model's own forward pass"):
        attach(peft.get_peft_model(model_of(), config), "cross_entropy")
    base = model_of()
    attachment = attach(base, "cross_entropy")
    peft.get_peft_model(base, config)(**BATCH).loss.backward()
    assert attachment.metrics()["trained_tokens"] > 0
