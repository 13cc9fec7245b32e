"""An attached loss is the model's own loss where they are the same, for every way families make logits."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from tests.tiny_models import FAMILIES
from tests.training.cases import VOCAB, definition, gradients, model_of, ragged_rows, relative_error, without

from sftloss.errors import ModelError
from sftloss.training import Loss, attach, attachment_of, collate_rows, detach

pytest.importorskip("transformers")
# peft 0.21 asks transformers 5.23 by a name that will go
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

ROWS = without(ragged_rows(), "token_weights", "tasks")
BATCH = collate_rows(ROWS, pad_id=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_attached_cross_entropy_is_the_mean_over_the_models_own_logits(family: str) -> None:
    model = model_of(family)
    own = model(**{k: v for k, v in BATCH.items() if k != "row_ids"})
    truth = definition(model, ROWS)
    truth.backward()
    expected = gradients(model)
    attachment = attach(model, "cross_entropy")
    out = model(**BATCH)
    out.loss.backward()
    rest = 0.0 if own.get("aux_loss") is None else model.router_aux_loss_coef * float(own.aux_loss.detach())
    assert out.get("logits") is None
    # these two take steps in float32 whatever the model's dtype, and padding changes the order of their sums
    tolerance = 1e-6 if family in ("gemma2", "cohere") else 1e-10
    assert abs(float(out.loss.detach()) - rest - float(truth.detach())) < tolerance
    if not rest:  # with router losses the gradient has a part that `definition` lacks
        assert relative_error(gradients(model), expected) < tolerance
    assert attachment.metrics()["cross_entropy"] == pytest.approx(float(truth.detach()), abs=1e-6)


def test_router_losses_are_kept() -> None:
    """The model's own loss, in float32 because transformers computes it there."""
    model = model_of("mixtral", dtype=torch.float32, router_aux_loss_coef=3.0)
    inputs = {k: v for k, v in BATCH.items() if k != "row_ids"}
    own = model(**inputs)
    own.loss.backward()
    expected = gradients(model)
    assert float(own.aux_loss.detach()) > 0.1
    attach(model, "cross_entropy")
    out = model(**inputs)
    out.loss.backward()
    torch.testing.assert_close(out.loss, own.loss)
    torch.testing.assert_close(out.aux_loss, own.aux_loss)
    # two float32 orders of summation
    assert relative_error(gradients(model), expected) < 1e-4


def test_tied_head_gets_the_gradients_of_both_its_uses() -> None:
    model = model_of("llama", tie_word_embeddings=True)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    definition(model, ROWS).backward()
    expected = gradients(model)
    attach(model, "cross_entropy")
    model(**BATCH).loss.backward()
    assert relative_error(gradients(model), expected) < 1e-10


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_changes_nothing(use_reentrant: bool) -> None:
    model = model_of()
    attach(model, Loss("focal(gamma=2)"))
    model(**BATCH).loss.backward()
    expected = gradients(model)
    model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
    if use_reentrant:
        model.enable_input_require_grads()
    model(**BATCH).loss.backward()
    assert relative_error(gradients(model), expected) < 1e-10


def test_head_never_multiplies_the_tokens_in_training() -> None:
    """No logits: the head module itself sees no token."""
    model = model_of()
    attach(model, "cross_entropy")
    seen = []
    model.lm_head.register_forward_hook(lambda _, inputs, output: seen.append(output.numel()))
    model(**BATCH).loss.backward()
    assert seen == [0]


def test_without_labels_and_in_generation_nothing_changes() -> None:
    model = model_of().eval()
    ids = BATCH["input_ids"][:1, :3]
    before, text = model(ids), model.generate(ids, max_new_tokens=4, do_sample=False)
    attach(model, "cross_entropy")
    after = model(ids)
    assert torch.equal(after.logits, before.logits) and after.past_key_values is not None
    assert torch.equal(model.generate(ids, max_new_tokens=4, do_sample=False), text)


def test_logits_are_there_in_evaluation_and_on_request() -> None:
    model = model_of()
    attach(model, "cross_entropy")
    expected = model(BATCH["input_ids"], attention_mask=BATCH["attention_mask"]).logits
    assert torch.equal(model(**BATCH, output_logits=True).logits, expected)
    model.eval()
    out = model(**BATCH)
    assert torch.equal(out.logits, expected)
    assert model(**BATCH, output_logits=False).get("logits") is None
    assert float(out.loss.detach()) == pytest.approx(float(definition(model, ROWS).detach()), abs=1e-10)
    loss, logits, *_ = model(**BATCH, return_dict=False)
    assert torch.equal(logits, expected) and loss == out.loss


def test_detach_restores_the_model() -> None:
    model = model_of()
    before = dict(vars(model))
    attach(model, "cross_entropy")
    assert attachment_of(model) is not None
    model(**BATCH)
    detach(model)
    assert dict(vars(model)) == before and attachment_of(model) is None
    assert model(BATCH["input_ids"], labels=BATCH["labels"]).logits.shape[-1] == VOCAB
    with pytest.raises(ModelError, match="no loss attached"):
        detach(model)


def test_detach_under_anothers_wrapper_passes_calls_on() -> None:
    """Accelerate's mixed precision wraps `forward` after us; taking ours out of the middle is not possible."""
    model = model_of()
    own = float(model(BATCH["input_ids"], labels=BATCH["labels"]).loss.detach())
    attachment = attach(model, "z_loss")
    ours = model.forward
    model.forward = lambda *args, **kwargs: ours(*args, **kwargs)
    attachment.detach()
    assert float(model(BATCH["input_ids"], labels=BATCH["labels"]).loss.detach()) == own
    attach(model, "cross_entropy")


def test_only_one_loss_is_attached_at_a_time() -> None:
    model = model_of()
    attach(model, "cross_entropy")
    with pytest.raises(ModelError, match="detach it first"):
        attach(model, "cross_entropy")


def test_deep_copy_of_an_attached_model_trains_itself() -> None:
    model = model_of()
    attach(model, "cross_entropy")
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.lm_head.weight.zero_()
    loss = other(**BATCH).loss
    loss.backward()
    # a zero head knows nothing: the loss is log V
    assert float(loss.detach()) == pytest.approx(float(torch.tensor(VOCAB).double().log()), abs=1e-10)
    assert model.lm_head.weight.grad is None and other.lm_head.weight.grad is not None


def test_signature_is_the_models_own_and_the_losss() -> None:
    model = model_of()
    own = list(inspect.signature(model.forward).parameters)
    attach(model, Loss(extras=("reference",)))
    ours = list(inspect.signature(model.forward).parameters)
    assert ours[: len(own) - 1] == own[:-1] and ours[-1] == own[-1]
    assert {"token_weights", "tasks", "row_ids", "reference"} <= set(ours)


def test_packed_head_is_refused() -> None:
    model = model_of()
    full = model.lm_head.weight.detach().clone()
    model.lm_head.weight = torch.nn.Parameter(torch.zeros(976, 1, dtype=torch.uint8), requires_grad=False)
    model.lm_head.forward = lambda hidden: hidden @ full.T
    with pytest.raises(ModelError, match="cannot be fused with its head: its head's weight is packed"):
        attach(model, "cross_entropy")


def test_head_that_is_not_the_models_logits_is_refused() -> None:
    model = model_of()
    model.lm_head.register_forward_hook(lambda _, inputs, output: 1.1 * output)
    with pytest.raises(ModelError, match="not the declared function"):
        attach(model, "cross_entropy")


@pytest.mark.parametrize("save_head", [False, True])
@pytest.mark.parametrize("is_attached_first", [False, True])
def test_lora_on_the_body_trains_as_with_the_models_own_logits(is_attached_first: bool, save_head: bool) -> None:
    peft = pytest.importorskip("peft")
    base = model_of()
    config = peft.LoraConfig(
        target_modules=["q_proj", "v_proj"],
        r=2,
        init_lora_weights=False,
        modules_to_save=["lm_head"] if save_head else None,
    )
    if is_attached_first:
        attach(base, "cross_entropy")
    torch.manual_seed(0)
    model = peft.get_peft_model(base, config).train()
    definition(model, ROWS).backward()
    expected = gradients(model)
    assert len(expected) == (9 if save_head else 8)
    if not is_attached_first:
        attach(model, "cross_entropy")
    model(**BATCH).loss.backward()
    assert relative_error(gradients(model), expected) < 1e-10


def test_batch_with_nothing_to_learn_gives_every_parameter_a_zero_gradient() -> None:
    model = model_of()
    attach(model, "cross_entropy")
    batch = {**BATCH, "labels": torch.full_like(BATCH["labels"], -100)}
    loss = model(**batch).loss
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_loss_that_is_not_finite_names_its_rows() -> None:
    model = model_of()
    attach(model, "cross_entropy")
    with torch.no_grad():
        model.model.embed_tokens.weight[int(ROWS[2]["input_ids"][1])] = float("nan")
    with pytest.raises(FloatingPointError, match=r"not finite at \d+ tokens of .*data.jsonl:3"):
        model(**BATCH)
    unnamed = {k: v for k, v in BATCH.items() if k != "row_ids"}
    with pytest.raises(FloatingPointError, match="row 2 of the micro-batch"):
        model(**unnamed)


def test_bfloat16_loss_errs_no_more_than_the_models_own() -> None:
    truth = float(definition(model_of().to(torch.bfloat16).double(), ROWS).detach())
    model = model_of(dtype=torch.bfloat16)
    own = float(model(**{k: v for k, v in BATCH.items() if k != "row_ids"}).loss.detach())
    attach(model, "cross_entropy")
    out = model(**BATCH)
    assert out.loss.dtype == torch.float32
    # the hidden states' own rounding dominates both; the head's adds to theirs only
    assert abs(float(out.loss.detach()) - truth) <= 2 * abs(own - truth) + torch.finfo(torch.bfloat16).eps


@pytest.mark.parametrize("label", [61, -1])
@pytest.mark.parametrize("packed", [False, True])
def test_label_outside_the_vocabulary_is_named_with_its_row(label: int, packed: bool) -> None:
    model = model_of()
    attach(model, "cross_entropy")
    rows = [dict(row) for row in ROWS]
    rows[3]["labels"] = rows[3]["labels"].clone()
    rows[3]["labels"][2] = label
    with pytest.raises(ValueError, match=rf"data\.jsonl:4 has the label {label}, .* ends at 60; use -100"):
        model(**collate_rows(rows, pad_id=0, packed=packed))
