"""An attached loss is the model's own loss where they are the same, for every way families make logits."""

from __future__ import annotations

import copy
import inspect
import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.paths import ROOT
from tests.tiny_models import FAMILIES
from tests.training.cases import VOCAB, definition, gradients, model_of, ragged_rows, relative_error, without

from sftloss.decoder import open_decoder
from sftloss.errors import ModelError
from sftloss.objectives import context_candidates, objective
from sftloss.training import Loss, TaskFactors, attach, attachment_of, collate_rows, detach, step_total, weigh_batch
from sftloss.training.batch.tokens import read_tokens

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


def test_a_device_without_float64_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of()
    on_mps = SimpleNamespace(device=torch.device("mps"))
    monkeypatch.setattr(type(model), "parameters", lambda self, recurse=True: iter([on_mps]))
    with pytest.raises(ModelError, match="on mps: weights and sums are float64.*device='cpu'"):
        attach(model, "cross_entropy")


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


def test_detaching_twice_is_detaching_once() -> None:
    model = model_of()
    attachment = attach(model, "cross_entropy")
    attachment.detach()
    attachment.detach()
    with pytest.raises(ModelError, match="no loss attached"):
        detach(model)
    assert attach(model, "cross_entropy").is_active


@pytest.mark.parametrize("is_weighted", [False, True])
def test_step_of_a_loss_with_other_task_factors_is_refused(is_weighted: bool) -> None:
    weighted, plain = Loss(tasks=TaskFactors({"a": 1.0, "b": 0.5})), Loss(tasks=("a", "b"))
    batch = {**BATCH, "tasks": torch.arange(8) % 2}
    model = model_of()
    attach(model, weighted if is_weighted else plain)
    step = step_total(plain if is_weighted else weighted, [batch])
    with pytest.raises(ValueError, match="the step of a loss with other task factors"):
        model(**batch, num_items_in_batch=step)


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


def test_model_whose_every_loss_is_nan_is_named_as_the_cause() -> None:
    model = model_of()
    attachment = attach(model, "cross_entropy")
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"at every one of the \d+ trained tokens, so the cause is the model"):
        model(**BATCH)
    attachment.detach()
    with pytest.raises(ModelError, match="LlamaForCausalLM gives NaN as logits; check its weights for NaN"):
        attach(model, "cross_entropy")
    reason = open_decoder(model).reason
    assert reason == "its logits are NaN (check its weights for NaN, and its dtype)"


@pytest.mark.parametrize("weight", [1e308, 5e-324, float("nan"), float("inf")])
def test_weight_that_float32_cannot_hold_is_refused(weight: float) -> None:
    rows = [{"input_ids": [1, 2, 3], "token_weights": [1.0, weight, 1.0]}]
    with pytest.raises(ValueError, match=r"token_weights holds (1e\+308|4.94066e-324|nan|inf), which float32"):
        collate_rows(rows, pad_id=0)
    assert collate_rows([{**rows[0], "token_weights": [0, 1e30, 1e-30]}], pad_id=0)["token_weights"].all(dim=0)[1]


def test_weights_that_add_up_to_infinity_are_refused() -> None:
    model = model_of()
    attach(model, "cross_entropy")
    batch = {**BATCH, "token_weights": torch.full(BATCH["labels"].shape, 1e308, dtype=torch.float64)}
    with pytest.raises(ValueError, match="the weights add up to infinity"):
        model(**batch)


@pytest.mark.parametrize("code", [-5, 99])
@pytest.mark.parametrize("loss", [Loss(), Loss(roles={"prompt": 0.1, "response": 1.0})])
def test_code_that_is_no_role_is_refused(code: int, loss: Loss) -> None:
    model = model_of()
    attach(model, loss)
    with pytest.raises(ValueError, match=rf"role code {code} does not exist; the codes are 0 prompt, .* and -1"):
        model(**BATCH | {"roles": torch.full_like(BATCH["labels"], code)})


def test_trained_token_of_unknown_role_has_no_share_of_a_role() -> None:
    model = model_of()
    attachment = attach(model, "cross_entropy")
    roles = torch.where(torch.arange(BATCH["labels"].shape[1]) % 2 == 0, 2, -1).expand_as(BATCH["labels"]).clone()
    roles[0] = 1
    model(**BATCH | {"roles": roles})
    shares = {name: value for name, value in attachment.metrics().items() if name.startswith("signal_share")}
    assert set(shares) == {"signal_share/response", "signal_share/system"} and sum(shares.values()) == pytest.approx(1)


def loss_of_logits(logits: Any, labels: Any) -> Any:
    return torch.nn.functional.cross_entropy(logits, labels, reduction="none")


def loss_of_one_argument(logits: Any) -> Any:
    return logits.softmax(-1)


def test_function_of_logits_is_answered_with_map_logits() -> None:
    with pytest.raises(ValueError, match=r"Loss: loss_of_logits needs labels beside its first argument\..*map_logits"):
        Loss(loss_of_logits)
    with pytest.raises(ValueError, match=r"loss_of_logits needs labels beside its first argument\..*map_logits"):
        objective(loss_of_logits)
    with pytest.raises(ValueError, match=r"TokenStats has no statistic 'softmax'.*An objective takes token statistics"):
        objective(loss_of_one_argument)
    model = model_of()
    attach(model, loss_of_one_argument)
    with pytest.raises(AttributeError, match="has no statistic 'softmax'.* Whole logits: see map_logits"):
        model(**BATCH)


def test_bridge_of_the_documentation_trains_a_loss_of_logits() -> None:
    """The code in docs/objectives.md, "A loss of logits", has the gradient of the model's own loss."""
    page = (ROOT / "docs" / "objectives.md").read_text(encoding="utf-8")
    code = re.search(r"## A loss of logits.*?```python\n(.*?)```", page, re.DOTALL)
    assert code is not None
    model, rows = model_of(), without(ROWS, "row_ids")
    logits = torch.cat([model(row["input_ids"][None]).logits[0, :-1] for row in rows])
    labels = torch.cat([row["labels"][1:] for row in rows])
    torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1).backward()
    expected = gradients(model)
    names = {"model": model, "batches": [collate_rows(rows[:3], pad_id=0), collate_rows(rows[3:], pad_id=0)]}
    exec(compile(code[1], "docs/objectives.md", "exec"), names)
    assert relative_error(gradients(model), expected) < 1e-10


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


def test_tensor_with_several_columns_a_token_travels_with_the_labels() -> None:
    labels = torch.tensor([[-100, 4, 5, 6], [-100, 7, 8, -100]])
    batch = {"labels": labels, "candidate_ids": context_candidates(labels.clamp(min=0), labels, last=2)}
    loss = Loss(objective="unlikelihood_context")
    tokens = read_tokens(loss, batch)
    assert tokens.extras["candidate_ids"].tolist()[:3] == [[0, -100], [4, 0], [5, 4]]  # of the labels 4, 5 and 6
    weighed = read_tokens(loss, weigh_batch(loss, batch))
    assert torch.equal(weighed.extras["candidate_ids"], tokens.extras["candidate_ids"])
    with pytest.raises(ValueError, match="candidate_ids has shape"):
        read_tokens(loss, {**batch, "candidate_ids": batch["candidate_ids"][:, 1:]})
