"""Task weights at work in training: those of the steps before, exact under any split, kept with the checkpoint."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.cases import chunks, definition, gradients, model_of, ragged_rows, relative_error

from sftloss.errors import ConfigError
from sftloss.tasks import MultiTaskLoss, Rules
from sftloss.tasks.strategies import coba
from sftloss.training import Loss, TaskFactors, TaskWeighting, attach, collate_rows, with_loss

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
# peft 0.21 asks transformers 5.23 by a name that will go; a CPU has no memory to pin
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning"),
]

ROWS = ragged_rows()
pad = partial(collate_rows, pad_id=0)


def weighting_of(strategy: Any = "gls", **rules: Any) -> TaskWeighting:
    return TaskWeighting(MultiTaskLoss(["a", "b"], strategy, rules=Rules(**rules)))


def steps_of(tasks: TaskWeighting, splits: list[list[dict[str, Any]]], **loss: Any) -> tuple[Any, list[list[float]]]:
    """A plain loop, one optimizer step a split; the model, and the weights after each step."""
    model = model_of()
    attachment = attach(model, Loss(tasks=tasks, **loss))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    weights = []
    for micro_batches in splits:
        step = attachment.step(micro_batches)
        for batch in micro_batches:
            model(**batch, num_items_in_batch=step).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        tasks.step()
        weights.append(tasks.weighting.weights.tolist())
    return model, weights


def plain_steps(loss: Loss, count: int) -> Any:
    """The same loop under a loss that nothing moves."""
    model = model_of()
    attachment = attach(model, loss)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(count):
        model(**pad(ROWS), num_items_in_batch=attachment.step([pad(ROWS)])).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def task_loss(model: Any, task: int) -> torch.Tensor:
    rows = [row for row in ROWS if row["tasks"] == task]
    return definition(model, rows, lambda row: row["token_weights"][1:])


@pytest.mark.parametrize("base", ["task_mean", "token_mean"])
def test_a_step_is_weighted_by_what_the_step_before_has_shown(base: str) -> None:
    """gls: weights are in proportion to 1 / L_k. The first step has weights 1, the second those of its losses."""
    tasks = weighting_of(base=base)
    model, _ = steps_of(tasks, [[pad(ROWS)]])
    before = model_of()
    losses = torch.stack([task_loss(before, k).detach() for k in (0, 1)])
    expected = (1 / losses) / (1 / losses).mean()
    # float64, but for rotary angles and norms, which the model takes in float32 of equal inputs
    assert torch.allclose(tasks.weighting.weights, expected, rtol=1e-10)
    step = model._sftloss_attachment.step([pad(ROWS)])
    model(**pad(ROWS), num_items_in_batch=step).loss.backward()
    got = gradients(model)
    sizes = [
        sum(float(r["token_weights"][1:][r["labels"][1:] != -100].double().sum()) for r in ROWS if r["tasks"] == k)
        for k in (0, 1)
    ]
    parts = [1.0, 1.0] if base == "task_mean" else [size / sum(sizes) for size in sizes]
    model._sftloss_attachment.detach()
    sum(float(expected[k]) * parts[k] * task_loss(model, k) for k in (0, 1)).backward()  # type: ignore[union-attr]
    assert relative_error(got, gradients(model)) < 1e-10


@pytest.mark.parametrize(
    "loss", [{}, {"objective": "focal(gamma=2)", "normalization": "sqrt", "normalizer": "sequences"}]
)
def test_any_split_of_the_steps_is_the_whole(loss: dict[str, Any]) -> None:
    whole, expected = steps_of(weighting_of("uncertainty"), [[pad(ROWS)]] * 3, **loss)
    pack = partial(pad, packed=True)
    for split in (
        [pad(part) for part in chunks(ROWS, 2)],
        [pad(part) for part in chunks(ROWS, 3)],
        [pack(ROWS[:5]), pad(ROWS[5:])],
        [pad([row]) for row in ROWS],
    ):
        model, weights = steps_of(weighting_of("uncertainty"), [split] * 3, **loss)
        # sums of float64 in another order, three steps long
        assert torch.allclose(torch.tensor(weights), torch.tensor(expected), rtol=1e-10)
        for one, other in zip(model.parameters(), whole.parameters(), strict=True):
            assert torch.allclose(one, other, atol=1e-10)


def test_weights_that_move_within_a_step_fail_this_law() -> None:
    """The negative control: each micro-batch a step of its own."""
    whole, _ = steps_of(weighting_of(), [[pad(ROWS)]] * 2)
    model, _ = steps_of(weighting_of(), [[pad(part)] for part in chunks(ROWS, 4)])
    assert any(not torch.allclose(a, b, atol=1e-3) for a, b in zip(model.parameters(), whole.parameters(), strict=True))


def test_a_step_whose_end_is_forgotten_ends_when_the_next_is_counted() -> None:
    told = steps_of(weighting_of(), [[pad(ROWS)]] * 2)[1]
    tasks, model = weighting_of(), model_of()
    attachment = attach(model, Loss(tasks=tasks))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        step = attachment.step([pad(ROWS)])
        model(**pad(ROWS), num_items_in_batch=step).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert tasks.weighting.weights.tolist() == told[0]
    assert tasks.now().tolist() == told[1]


def test_fixed_weights_are_the_factors_of_that_loss() -> None:
    tasks = weighting_of({"a": 1.5, "b": 0.5})
    tasks.weighting.weights = torch.tensor([1.5, 0.5], dtype=torch.float64)  # a task not seen yet has weight 1
    model = steps_of(tasks, [[pad(ROWS)]] * 2)[0]
    other = plain_steps(Loss(tasks=TaskFactors((1.5, 0.5))), 2)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(one, two, rtol=1e-12)  # 1.5 by way of its logarithm


def test_equal_weights_of_token_means_are_plain_training_bit_for_bit() -> None:
    model = steps_of(weighting_of({"a": 1.0, "b": 1.0}, base="token_mean"), [[pad(ROWS)]] * 2)[0]
    for one, two in zip(model.parameters(), plain_steps(Loss(), 2).parameters(), strict=True):
        assert torch.equal(one, two)


def test_an_evaluation_weights_no_task_and_moves_no_weight() -> None:
    tasks = weighting_of()
    model, weights = steps_of(tasks, [[pad(ROWS)]] * 2)
    model.eval()
    value = float(model(**pad(ROWS)).loss.detach())
    assert tasks.now().tolist() == weights[-1] and not tasks.weighting.passes
    model._sftloss_attachment.detach()
    attach(model, Loss())
    assert value == float(model(**pad(ROWS)).loss.detach())


def test_a_task_of_weight_zero_counts_as_absent() -> None:
    """Its tokens are not looked at, so a loss of 0 would be an invention; in the first step its weight is 1."""
    tasks = weighting_of({"a": 2.0, "b": 0.0})
    steps_of(tasks, [[pad(ROWS)]] * 3)
    told = tasks.weighting.get_task_statistics()
    assert told["a"]["num_updates"] == 3 and told["b"]["num_updates"] == 1
    assert told["b"]["current_loss"] > 1


def test_a_pass_that_knows_no_step_is_refused() -> None:
    model = model_of()
    attach(model, Loss(tasks=weighting_of()))
    with pytest.raises(ValueError, match="num_items_in_batch=attachment.step"):
        model(**pad(ROWS))


def test_what_training_does_not_show_is_refused_in_one_sentence() -> None:
    with pytest.raises(ConfigError, match="once per optimizer step here"):
        TaskWeighting(MultiTaskLoss(["a", "b"], "gls", update_freq=1))


def trainer_of(path: Path, tasks: TaskWeighting, rows: Any = ROWS, **more: Any) -> Any:
    options = {"max_steps": 6, "save_steps": 3, "learning_rate": 1e-2, "logging_steps": 2, "report_to": "none",
               "use_cpu": True, "disable_tqdm": True, "dataloader_pin_memory": False, "remove_unused_columns": False,
               "save_strategy": "steps", **more}  # fmt: skip
    options = {"gradient_accumulation_steps": 2, **options}
    args = transformers.TrainingArguments(output_dir=str(path), per_device_train_batch_size=2, **options)
    cls = with_loss(transformers.Trainer, Loss(tasks=tasks))
    return cls(model=model_of(), args=args, train_dataset=rows, data_collator=pad)


def test_trainer_moves_the_weights_once_a_step_and_logs_them(tmp_path: Path) -> None:
    tasks = weighting_of("uncertainty")
    trainer = trainer_of(tmp_path, tasks)
    trainer.train()
    assert int(tasks.weighting.steps) == 6 and not tasks.weighting.passes
    log = trainer.state.log_history[2]
    told = tasks.weighting.get_task_statistics()
    for name in ("a", "b"):
        assert log[f"task_weight/{name}"] == told[name]["weight"] != 1.0
        assert log[f"task_loss/{name}"] == told[name]["current_loss"]
        assert 0 < log[f"task_token_share/{name}"] < 1 and 0 < log[f"task_effective_share/{name}"] < 1
    assert sum(log[f"task_weight/{name}"] for name in ("a", "b")) == pytest.approx(2.0, abs=1e-12)


def test_trainer_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    whole = trainer_of(tmp_path / "whole", weighting_of("uncertainty"))
    whole.train()
    trainer_of(tmp_path / "cut", weighting_of("uncertainty"), max_steps=6).train()
    tasks = weighting_of("uncertainty")
    resumed = trainer_of(tmp_path / "cut", tasks)
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-3"))
    for one, two in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(one, two)
    saved = tmp_path / "whole" / "checkpoint-6" / "task_weights.safetensors"
    assert (tmp_path / "cut" / "checkpoint-6" / saved.name).read_bytes() == saved.read_bytes()


def test_a_resumed_trainer_that_forgets_its_weights_ends_elsewhere(tmp_path: Path) -> None:
    """The negative control: the weights of the steps before are in the result."""
    tasks = weighting_of("uncertainty")
    trainer = trainer_of(tmp_path, tasks)
    trainer.train()
    fresh = weighting_of("uncertainty")
    fresh.load = lambda folder: None  # type: ignore[method-assign]
    resumed = trainer_of(tmp_path / "other", fresh)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert fresh.weighting.weights.tolist() != tasks.weighting.weights.tolist()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "checkpoint-3.task_weights.safetensors is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "task_weights.safetensors is damaged"),
    ],
)
def test_a_missing_or_truncated_state_is_refused_by_name(tmp_path: Path, damage: Any, message: str) -> None:
    trainer_of(tmp_path, weighting_of(), max_steps=3).train()
    damage(tmp_path / "checkpoint-3" / "task_weights.safetensors")
    with pytest.raises(ConfigError, match=message):
        trainer_of(tmp_path, weighting_of()).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (MultiTaskLoss(["a", "c"], "gls"), '"task c"'),
        (MultiTaskLoss(["a", "b"], "dwa"), "strategy is gls, this one's dwa"),
    ],
)
def test_the_state_of_other_tasks_or_another_strategy_is_refused(
    tmp_path: Path, other: MultiTaskLoss, message: str
) -> None:
    weighting_of().save(tmp_path)
    with pytest.raises(ConfigError, match=message):
        TaskWeighting(other).load(tmp_path)


def expected_gramian(model: Any) -> torch.Tensor:
    """By one backward pass a task, of the unweighted means."""
    found = []
    parameters = [p for name, p in model.named_parameters() if ".layers." in name and p.dim() == 2]
    for task in (0, 1):
        parts = torch.autograd.grad(task_loss(model, task), parameters)
        found.append(torch.cat([part.flatten() for part in parts]))
    rows = torch.stack(found)
    return rows @ rows.T


@pytest.mark.parametrize("strategy", ["gradient_balance", "upgrad"])
def test_a_gradient_strategy_has_the_tasks_gradients_of_the_same_backward_pass(strategy: str) -> None:
    """Padded, packed and accumulated: the Gramian of the second step, its weights divided out."""
    for split in ([pad(ROWS)], [pad(part) for part in chunks(ROWS, 3)], [pad(ROWS[:5], packed=True), pad(ROWS[5:])]):
        tasks, model, seen = weighting_of(strategy), model_of(), []
        tasks.weighting.weights = torch.tensor([1.5, 0.5], dtype=torch.float64)
        attachment = attach(model, Loss(tasks=tasks))
        step = attachment.step(split)
        for batch in split:
            with tasks.capture(batch):
                model(**batch, num_items_in_batch=step).loss.backward()
        own = tasks.weighting.step
        tasks.weighting.step = lambda gramian, own=own, seen=seen: (seen.append(gramian), own(gramian))  # type: ignore[misc]
        tasks.step()
        attachment.detach()
        # float64, but the model's norms round gradients to float32, and 1.5 times a number rounds elsewhere
        truth = expected_gramian(model)
        assert torch.allclose(seen[0], truth, rtol=0.0, atol=1e-7 * float(truth.max()))
        assert tasks.weighting.weights.tolist() != [1.5, 0.5]


@pytest.mark.parametrize("is_reentrant", [False, True])
def test_gradients_by_task_are_the_same_under_checkpointing(is_reentrant: bool) -> None:
    found = []
    for checkpointing in (False, True):
        model, tasks = model_of(), weighting_of("upgrad")
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": is_reentrant})
            model.enable_input_require_grads()
        step = attach(model, Loss(tasks=tasks)).step([pad(ROWS)])
        with tasks.capture(pad(ROWS)):
            model(**pad(ROWS), num_items_in_batch=step).loss.backward()
        assert tasks._gradients is not None
        found.append(tasks._gradients.gramian())
    assert torch.equal(*found) and (found[0].diagonal() > 0).all()


def test_gradients_by_task_under_autocast_are_near_the_exact_ones() -> None:
    """bfloat16 activations have 8 bits; the largest of two layers' errors stays below five of them."""
    model, tasks = model_of().float(), weighting_of("upgrad")
    step = attach(model, Loss(tasks=tasks)).step([pad(ROWS)])
    with tasks.capture(pad(ROWS)), torch.autocast("cpu", dtype=torch.bfloat16):
        model(**pad(ROWS), num_items_in_batch=step).loss.backward()
    assert tasks._gradients is not None
    truth = expected_gramian(model_of())
    error = (tasks._gradients.gramian() - truth).abs().max() / truth.abs().max()
    assert 0 < float(error) < 2**-5


def test_conflicts_are_watched_under_weights_that_stay() -> None:
    """The cosine of the two gradients, to the log; nothing that is trained changes by it."""
    watched = TaskWeighting(MultiTaskLoss(["a", "b"], "static"), conflicts=True)
    model = model_of()
    attachment = attach(model, Loss(tasks=watched))
    truth, split = expected_gramian(model_of()), [pad(part) for part in chunks(ROWS, 2)]
    step = attachment.step(split)
    for batch in split:
        with watched.capture(batch):
            model(**batch, num_items_in_batch=step).loss.backward()
    watched.step()
    told = watched.metrics()
    # the model's norms round gradients to float32
    assert told["task_cosine/a, b"] == pytest.approx(float(truth[0, 1] / (truth[0, 0] * truth[1, 1]).sqrt()), abs=1e-6)
    assert told["task_gradient/a"] == pytest.approx(float(truth[0, 0].sqrt()), rel=1e-6)
    assert told["task_conflict_rate"] == float(truth[0, 1] < 0) and told["task_weight/a"] == 1.0
    got = gradients(model)
    other = model_of()
    plain = attach(other, Loss(tasks=weighting_of("static")))
    step = plain.step(split)
    for batch in split:
        other(**batch, num_items_in_batch=step).loss.backward()
    assert all(torch.equal(one, two) for one, two in zip(got.values(), gradients(other).values(), strict=True))
    with pytest.raises(ConfigError, match="the watch for conflicts needs each task's gradient: the router loss"):
        attach(model_of("mixtral"), Loss(tasks=TaskWeighting(MultiTaskLoss(["a", "b"], "static"), conflicts=True)))


def test_layer_by_layer_trains_to_the_same_weights_and_takes_no_accumulation(tmp_path: Path) -> None:
    found = []
    for layerwise in (False, True):
        tasks = TaskWeighting(MultiTaskLoss(["a", "b"], "upgrad"), layerwise=layerwise)
        trainer_of(tmp_path, tasks, gradient_accumulation_steps=1, save_strategy="no").train()
        found.append(tasks.weighting.weights)
        assert tasks._gradients is not None and bool(tasks._gradients.buffers) != layerwise
    # sums over layers in another order
    assert torch.allclose(*found, rtol=1e-9, atol=0) and found[0].tolist() != [1.0, 1.0]
    with pytest.raises(ConfigError, match="give grad_accum=1"):
        trainer_of(tmp_path, tasks)


def test_packed_rows_of_several_tasks_are_refused_where_attention_may_mix_them() -> None:
    """A mask of padding alone lets packed sequences see each other, so their gradients have no owner."""
    tasks, model, packed = weighting_of("upgrad"), model_of(), pad(ROWS[:5], packed=True)
    attach(model, Loss(tasks=tasks))
    mixed = {**packed, "attention_mask": torch.ones_like(packed["input_ids"])}
    with pytest.raises(ValueError, match="a row holds several tasks"), tasks.capture(mixed):
        pass


def test_a_pass_that_was_not_captured_is_refused() -> None:
    tasks = weighting_of("upgrad")
    with pytest.raises(ValueError, match="0 of 1 passes were captured"):
        steps_of(tasks, [[pad(ROWS)]])


def test_trainer_captures_by_itself_and_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    trainer_of(tmp_path, weighting_of("gradient_balance")).train()
    saved = tmp_path / "checkpoint-6" / "task_weights.safetensors"
    before = saved.read_bytes()
    resumed = trainer_of(tmp_path, weighting_of("gradient_balance"))
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert saved.read_bytes() == before
    assert resumed.state.log_history[-2]["task_weight/a"] != 1.0


def test_adapters_alone_are_followed() -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["q_proj", "down_proj", "lm_head"], r=2, init_lora_weights=False)
    model = peft.get_peft_model(model_of(), config)
    tasks = weighting_of("grad_norm")
    attachment = attach(model, Loss(tasks=tasks))
    step = attachment.step([pad(ROWS)])
    with tasks.capture(pad(ROWS)):
        model(**pad(ROWS), num_items_in_batch=step).loss.backward()
    tasks.step()
    assert tasks._gradients is not None and len(tasks._gradients.parameters) == 8  # A and B of two layers each
    assert tasks.weighting.weights.tolist() != [1.0, 1.0]


@pytest.mark.parametrize(
    ("family", "given", "message"),
    [("mixtral", {}, "the router loss of this model mixes tasks"), ("gpt2", {}, "no plain linear layer")],
)
def test_gradients_that_cannot_be_told_apart_are_refused_in_one_sentence(
    family: str, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        attach(model_of(family, **given), Loss(tasks=weighting_of("upgrad")))
    assert "choose a strategy that needs losses only" in str(caught.value)
    attach(model_of(family, **given), Loss(tasks=weighting_of("gls")))


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the packages below TRL
def test_sft_trainer_takes_the_same_line(tmp_path: Path) -> None:
    """Rows keep their column `tasks`, the collator lays it out."""
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    from tests.tiny import tiny_tokenizer

    plain = [{k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in row.items()} for row in ROWS]
    args = trl.SFTConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=4, gradient_accumulation_steps=2, max_steps=3,
        logging_steps=1, report_to="none", use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False,
        save_strategy="no", max_length=None, bf16=False, activation_checkpointing=False,
    )  # fmt: skip
    tasks = weighting_of("gls")
    trainer = with_loss(trl.SFTTrainer, Loss(tasks=tasks))(
        model=model_of(),
        args=args,
        train_dataset=datasets.Dataset.from_list(plain),
        data_collator=pad,
        processing_class=tiny_tokenizer([]),
    )
    trainer.train()
    log = [line["task_weight/a"] for line in trainer.state.log_history if "task_weight/a" in line]
    assert int(tasks.weighting.steps) == 3 and len(set(log)) == 3 and log[-1] == float(tasks.weighting.weights[0])


def test_sharded_weights_and_a_loss_scale_are_refused(tmp_path: Path) -> None:
    model = model_of()
    model.model.layers[0].mlp.up_proj.weight.device_mesh = None  # as a DTensor has one
    with pytest.raises(ConfigError, match="its weights are sharded over ranks"):
        attach(model, Loss(tasks=weighting_of("upgrad")))
    with pytest.raises(ConfigError, match="use bf16"):
        trainer_of(tmp_path, weighting_of("upgrad"), fp16=True)


def test_famo_looks_at_the_steps_own_tokens_after_the_optimizer_has_moved() -> None:
    """Any split of the step shows the same; what the log counts is not changed by it."""
    weights, told = [], []
    for split in ([pad(ROWS)], [pad(part) for part in chunks(ROWS, 3)]):
        tasks = weighting_of("famo")
        model, found = steps_of(tasks, [split] * 3)
        weights.append(torch.tensor(found))
        told.append(model._sftloss_attachment.metrics(is_global=False))
    # sums of float64 in another order
    assert torch.allclose(weights[0], weights[1], rtol=1e-9) and weights[0][-1].tolist() != [1.0, 1.0]
    assert (
        told[0]["trained_tokens"]
        == told[1]["trained_tokens"]
        == 3 * sum(int((row["labels"][1:] != -100).sum()) for row in ROWS)
    )


def test_famo_is_shown_the_losses_of_the_moved_model() -> None:
    tasks, shown = weighting_of("famo"), []
    own = tasks.weighting.observe_extra
    tasks.weighting.observe_extra = lambda *given: (shown.append(given), own(*given))  # type: ignore[method-assign]
    model, _ = steps_of(tasks, [[pad(ROWS)]])
    losses, groups, weights = shown[0]
    model._sftloss_attachment.detach()
    for task in (0, 1):
        at = groups == task
        expected = float(task_loss(model, task).detach())
        assert float((losses[at] * weights[at]).sum() / weights[at].sum()) == pytest.approx(expected, rel=1e-10)


def test_coba_looks_at_evaluations_and_goes_on_without_one() -> None:
    tasks = TaskWeighting(MultiTaskLoss(["a", "b"], coba(warmup=2)))
    model, _ = steps_of(tasks, [[pad(ROWS)]])
    for _ in range(4):
        model.eval()
        with torch.no_grad():
            model(**pad(ROWS))
        tasks.end_evaluation()
        model.train()
        step = model._sftloss_attachment.step([pad(ROWS)])
        model(**pad(ROWS), num_items_in_batch=step).loss.backward()
        torch.optim.SGD(model.parameters(), lr=0.1).step()
        model.zero_grad()
        tasks.step()
    before = tasks.weighting.weights.tolist()
    assert before != [1.0, 1.0]
    step = model._sftloss_attachment.step([pad(ROWS)])
    model(**pad(ROWS), num_items_in_batch=step).loss.backward()
    tasks.step()
    assert tasks.weighting.weights.tolist() == before


def test_doremi_reads_a_reference_and_is_refused_without() -> None:
    with pytest.raises(ConfigError, match="a tensor reference_logprob in the batches"):
        attach(model_of(), Loss(tasks=weighting_of("doremi")))
    reference = [torch.full((len(row["input_ids"]),), -5.0 + 4.9 * row["tasks"]) for row in ROWS]
    batch = {**pad(ROWS), "reference_logprob": torch.nn.utils.rnn.pad_sequence(reference, batch_first=True)}
    tasks = weighting_of("doremi")
    steps_of(tasks, [[batch]] * 2, extras=("reference_logprob",))
    # a's loss is near the reference's 5 nats, b's far above its 0.1
    assert tasks.weighting.weights[1] > 1 > tasks.weighting.weights[0]


def test_doremi_asks_a_reference_model_for_the_same_tokens() -> None:
    """As if batches held its log-probabilities; padded, packed and accumulated; it is not trained."""
    torch.manual_seed(5)
    reference, split = model_of(), [pad(ROWS[:5], packed=True), pad(ROWS[5:])]
    for p in reference.parameters():
        p.data += 0.3 * torch.randn_like(p)
    before = [p.clone() for p in reference.parameters()]
    held = []
    for batch in split:
        given = {k: v for k, v in batch.items() if k in ("input_ids", "attention_mask", "position_ids")}
        with torch.no_grad():
            logits = reference(**given, use_cache=False)  # with one, packed rows would see each other
        logprobs, labels = logits.logits[:, :-1].log_softmax(-1), batch["labels"][:, 1:].clamp(min=0)
        told = torch.zeros(batch["labels"].shape, dtype=torch.float64)
        told[:, 1:] = logprobs.gather(-1, labels[..., None])[..., 0]
        held.append({**batch, "reference_logprob": told})
    expected = weighting_of("doremi")
    steps_of(expected, [held] * 3, extras=("reference_logprob",))
    tasks = TaskWeighting(MultiTaskLoss(["a", "b"], "doremi"), reference=reference)
    steps_of(tasks, [split] * 3)
    # float64, but the model's norms are float32's
    assert torch.allclose(tasks.weighting.weights, expected.weighting.weights, rtol=1e-6)
    assert tasks.weighting.weights.tolist() != [1.0, 1.0]
    assert all(torch.equal(p, q) and not p.requires_grad for p, q in zip(reference.parameters(), before, strict=True))


def test_a_reference_of_another_vocabulary_is_refused() -> None:
    other = model_of()
    other.resize_token_embeddings(7)
    with pytest.raises(ConfigError, match="the reference model has 7 tokens"):
        attach(model_of(), Loss(tasks=TaskWeighting(MultiTaskLoss(["a", "b"], "doremi"), reference=other)))
