"""State belongs to the instance and the call: copies, pickles, threads, wrappers around an attached model."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import Any

import pytest
import torch
from tests.training.cases import definition, gradients, model_of, ragged_rows, relative_error, without
from torch import nn

from sftloss.errors import ModelError
from sftloss.tasks import MultiTaskLoss
from sftloss.training import Loss, TaskWeighting, attach, attachment_of, collate_rows, detach

pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

ROWS = without(ragged_rows(), "token_weights", "tasks")
BATCH = collate_rows(ROWS, pad_id=0)
LOSS = Loss("focal(gamma=2)", normalization="sqrt")


def copied(model: Any) -> Any:
    return copy.deepcopy(model)


def pickled(model: Any) -> Any:
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("another", [copied, pickled])
def test_copy_of_an_attached_model_has_an_attachment_of_its_own(another: Any) -> None:
    model = model_of()
    own = float(model(BATCH["input_ids"], labels=BATCH["labels"]).loss.detach())
    attach(model, LOSS)
    expected = float(model(**BATCH).loss.detach())
    other = another(model)
    attachment, theirs = attachment_of(model), attachment_of(other)
    assert attachment is not None and theirs is not None and theirs is not attachment and theirs.model is other
    attachment.metrics()
    theirs.metrics()
    loss = other(**BATCH).loss
    assert float(loss.detach()) == expected
    loss.backward()
    assert model.lm_head.weight.grad is None and other.lm_head.weight.grad is not None
    assert attachment.metrics() == {}, "a pass of the copy is not counted in the original"
    assert theirs.metrics()["trained_tokens"] > 0
    detach(model)
    assert float(other(**BATCH).loss.detach()) == expected, "the copy trains on after the original was detached"
    detach(other)
    for each in (model, other):
        assert float(each(BATCH["input_ids"], labels=BATCH["labels"]).loss.detach()) == own


def test_copy_under_autocast_of_accelerate_runs_its_own_weights() -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerate.state.AcceleratorState._reset_state(True)
    model = model_of(dtype=torch.float32)
    attach(model, "cross_entropy")
    model = accelerate.Accelerator(mixed_precision="bf16", cpu=True).prepare_model(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.lm_head.weight.zero_()
    assert float(other(**BATCH).loss.detach()) == pytest.approx(float(torch.tensor(61.0).log()), abs=1e-6)
    detach(other)
    own = other(BATCH["input_ids"], labels=BATCH["labels"])
    assert own.logits is not None and not own.logits.any(), "its own forward again, its own weights"
    attach(other, "z_loss")  # another loss, above the wrapper that stayed
    assert float(other(**BATCH).loss.detach()) == pytest.approx(float(torch.tensor(61.0).log()) ** 2, rel=1e-5)
    assert attachment_of(model).loss != attachment_of(other).loss
    accelerate.state.AcceleratorState._reset_state(True)


@pytest.mark.parametrize("strategy", ["gls", "gradient_balance"])
def test_copy_of_a_model_with_task_weights_moves_its_own(strategy: str) -> None:
    batch = collate_rows(without(ragged_rows(), "token_weights"), pad_id=0)
    tasks = TaskWeighting(MultiTaskLoss(["a", "b"], strategy))

    def step_of(model: Any) -> Any:
        factors = attachment_of(model).loss.task_factor
        step = attachment_of(model).step([batch])
        with factors.capture(batch):
            model(**batch, num_items_in_batch=step).loss.backward()
        factors.step()
        return factors

    model = model_of()
    attach(model, Loss(tasks=tasks))
    step_of(model)  # the copy is made in the middle of a training
    before = tasks.weighting.weights.tolist()
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.model.embed_tokens.weight.mul_(3.0)
    theirs = step_of(other)
    assert theirs is not tasks and tasks.weighting.weights.tolist() == before
    assert theirs.weighting.weights.tolist() != before


def test_objective_that_cannot_be_pickled_says_so_itself() -> None:
    model = model_of()
    attach(model, lambda stats: -stats.target_logprob)
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        pickle.dumps(model)


def test_two_threads_in_one_attached_model_do_not_disturb_each_other() -> None:
    model = model_of()
    before = dict(vars(model))
    attach(model, LOSS)
    parts = [collate_rows(ROWS[:4], pad_id=0), collate_rows(ROWS[4:], pad_id=0)]
    expected = [float(model(**part).loss.detach()) for part in parts]
    attachment_of(model).metrics()
    found: list[list[Any]] = [[], []]

    def run(which: int) -> None:
        try:
            for _ in range(20):
                found[which].append(float(model(**parts[which]).loss.detach()))
        except Exception as error:
            found[which].append(error)

    threads = [threading.Thread(target=run, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[value] * 20 for value in expected]
    tokens = sum(int((row["labels"][1:] != -100).sum()) for row in ROWS)
    assert attachment_of(model).metrics()["trained_tokens"] == 20 * tokens
    detach(model)
    assert dict(vars(model)) == before
    assert float(model(BATCH["input_ids"], labels=BATCH["labels"]).loss.detach()) > 0


def test_data_parallel_is_refused() -> None:
    with pytest.raises(ModelError, match=r"nn.DataParallel is not supported, .* with torchrun"):
        attach(nn.DataParallel(model_of()), "cross_entropy")


def adapted(kind: str, is_tied: bool) -> Any:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    base = model_of(tie_word_embeddings=is_tied)
    more: dict[str, Any] = {
        "lora": {"target_modules": ["embed_tokens", "q_proj"]},
        "trained tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [5, 9, 11]},
    }.get(kind, {})
    if kind == "tokens alone":
        return peft.get_peft_model(base, peft.TrainableTokensConfig(token_indices=[5, 9, 11])).train()
    return peft.get_peft_model(base, peft.LoraConfig(r=2, init_lora_weights=False, **more)).train()


@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings.*:UserWarning")
@pytest.mark.parametrize("is_tied", [False, True])
@pytest.mark.parametrize("kind", ["lora", "trained tokens", "tokens alone"])
def test_adapters_on_the_input_embedding_train_as_with_the_models_own_logits(kind: str, is_tied: bool) -> None:
    model = adapted(kind, is_tied)
    for name, parameter in model.named_parameters():
        if "trainable_tokens_delta" in name:  # as after some training
            parameter.data += 0.3
    definition(model, ROWS).backward()
    expected = gradients(model)
    attach(model, "cross_entropy")
    model(**BATCH).loss.backward()
    assert relative_error(gradients(model), expected) < 1e-10


def test_packed_row_with_an_attention_mask_of_ones_is_refused() -> None:
    """The mask makes transformers drop the boundaries: its sequences would see each other."""
    model = model_of()
    attach(model, "cross_entropy")
    batch = collate_rows(ROWS, pad_id=0, packed=True)
    model(**batch)
    mask = torch.ones_like(batch["input_ids"])
    with pytest.raises(ValueError, match="position_ids restart .* attention_mask"):
        model(**batch, attention_mask=mask)
    with pytest.raises(ValueError, match="position_ids restart .* attention_mask"):
        attachment_of(model).step([{**batch, "attention_mask": mask}])
    rows = {"input_ids": batch["input_ids"].expand(2, -1), "labels": batch["labels"].expand(2, -1)}
    with pytest.raises(ValueError, match="position_ids restart .* attention_mask"):  # one row of positions for all
        model(**rows, position_ids=batch["position_ids"], attention_mask=mask.expand(2, -1))


def test_packed_row_whose_positions_restart_at_one_is_refused_too() -> None:
    model = model_of()
    attach(model, "cross_entropy")
    batch = collate_rows(ROWS, pad_id=0, packed=True)
    batch |= {"attention_mask": torch.ones_like(batch["labels"]), "position_ids": batch["position_ids"] + 1}
    with pytest.raises(ValueError, match="position_ids restart .* attention_mask"):
        model(**batch)


def test_position_ids_beside_a_mask_of_padded_rows_are_no_packing() -> None:
    model = model_of()
    attach(model, "cross_entropy")
    plain = float(model(**BATCH).loss.detach())
    positions = torch.arange(BATCH["input_ids"].shape[1]).expand(BATCH["input_ids"].shape)
    zero_in_padding = positions * BATCH["attention_mask"]
    assert float(model(**BATCH, position_ids=zero_in_padding).loss.detach()) == pytest.approx(plain, rel=1e-12)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_compiled_attached_model_trains_as_before() -> None:
    """Dynamo rebuilds bound methods by name; the model's own forward must not become ours by that."""
    model = model_of(dtype=torch.float32)
    attach(model, "cross_entropy")
    model(**BATCH).loss.backward()
    expected = gradients(model)
    compiled = torch.compile(model, backend="eager")
    compiled(**BATCH).loss.backward()
    assert relative_error(gradients(model), expected) < 1e-5
    assert compiled.eval()(**BATCH).logits.shape[-1] == 61
