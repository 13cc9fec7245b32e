"""The plugins, against recorded interfaces, and against the real ones where those packages are installed.

Recorded from axolotl 0.19.0 (PyPI; `axolotl/integrations/base.py`, `load_plugin` and `PluginManager.get_trainer_cls`)
and from ms-swift 4.6.0 (PyPI; `swift/loss/base.py`, and the call in `swift/trainers/seq2seq_trainer.py`).
"""

from __future__ import annotations

import importlib
import inspect
import sys
import types
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.cases import definition, gradients, model_of, ragged_rows, relative_error, without

from sftloss.errors import ConfigError
from sftloss.testing import check_accumulation
from sftloss.training import Loss, collate_rows
from sftloss.training.hosts import axolotl, loss_from, ms_swift

transformers = pytest.importorskip("transformers")
ROWS = without(ragged_rows(), "token_weights", "tasks", "row_ids")
BATCH = collate_rows(ROWS, pad_id=0)
pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning")


class BasePlugin:
    """What of Axolotl's class a loss has to do with."""

    def register(self, cfg: dict) -> None: ...

    def get_input_args(self) -> str | None: ...

    def get_trainer_cls(self, cfg: Any) -> Any: ...


class BaseLoss:
    """ms-swift's, without its look at Megatron."""

    def __init__(self, args: Any, trainer: Any) -> None:
        self.args, self.trainer = args, trainer

    def __call__(self, outputs: Any, labels: Any, *, num_items_in_batch: Any = None, loss_scale: Any = None, **kwargs):  # type: ignore[no-untyped-def]
        raise NotImplementedError


@pytest.fixture
def swift(monkeypatch: pytest.MonkeyPatch) -> Any:
    """ms-swift's room of losses, recorded."""
    room: Any = types.ModuleType("swift.loss")
    room.BaseLoss, room.loss_map = BaseLoss, {"cross_entropy": BaseLoss}
    monkeypatch.setitem(sys.modules, "swift", types.ModuleType("swift"))
    monkeypatch.setitem(sys.modules, "swift.loss", room)
    return room


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The plugin as Axolotl loads it: `getattr(import_module(module), name)()`, over the recorded base."""
    base: Any = types.ModuleType("axolotl.integrations.base")
    base.BasePlugin = BasePlugin
    trainers: Any = types.ModuleType("axolotl.core.trainers.base")
    trainers.AxolotlTrainer = transformers.Trainer
    for name, module in (("axolotl.integrations.base", base), ("axolotl.core.trainers.base", trainers)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "axolotl", types.ModuleType("axolotl"))
    yield importlib.reload(axolotl).SftlossPlugin()
    monkeypatch.undo()
    importlib.reload(axolotl)


def test_axolotl_trains_with_the_loss_of_its_file(plugin: Any, tmp_path: Path) -> None:
    from tests.training.test_trainer import arguments, train

    cfg = {"sftloss": {"objective": "cross_entropy", "normalization": "example-mean", "normalizer": "sequences"}}
    plugin.register(cfg)
    cls = plugin.get_trainer_cls(cfg)
    assert issubclass(cls, transformers.Trainer)
    model = model_of()
    torch.stack([definition(model, [row]) for row in ROWS]).mean().backward()
    truth = gradients(model)
    pad = partial(collate_rows, pad_id=0)
    _, steps = train(cls, model, arguments(tmp_path, 2, 4), ROWS, data_collator=pad)
    assert relative_error(steps[0], truth) < 1e-10
    assert plugin.get_trainer_cls({}) is None, "the next plugin may have one"


def test_axolotl_reads_the_key_as_its_files_are_checked(plugin: Any) -> None:
    module, name = plugin.get_input_args().rsplit(".", 1)
    arguments = getattr(importlib.import_module(module), name)
    assert arguments(sftloss="dft").sftloss == "dft"
    assert arguments(sftloss={"normalization": "sqrt"}).sftloss == {"normalization": "sqrt"}
    assert arguments().sftloss is None
    with pytest.raises(ValueError):
        arguments(sftloss=3)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"use_eaft": True}, "use_eaft is a second loss"),
        ({"liger_fused_linear_cross_entropy": True}, "is a second loss"),
        ({"sftloss": {"normalization": "example-mean"}, "sample_packing": True}, "set sample_packing: false"),
        ({"sftloss": {"gamma": 1.0}}, "unknown key 'gamma'"),
        ({"sftloss": "no_such_loss"}, "no_such_loss"),
    ],
)
def test_axolotl_configuration_that_means_two_things_is_refused(more: dict, message: str, plugin: Any) -> None:
    with pytest.raises(ConfigError, match=message):
        plugin.register({"sftloss": "cross_entropy", **more})


def test_ms_swift_loss_is_the_objective_over_the_items_of_the_step(swift: Any) -> None:
    cls = ms_swift.register("ours", "cross_entropy")
    assert swift.loss_map["ours"] is cls and issubclass(cls, BaseLoss)
    model = model_of()
    definition(model, ROWS).backward()
    truth = gradients(model)
    outputs = model(BATCH["input_ids"], attention_mask=BATCH["attention_mask"])
    compute = cls(None, None)
    items = (BATCH["labels"][:, 1:] != -100).sum()
    # as its trainer calls it
    compute(outputs, BATCH["labels"], num_items_in_batch=items, loss_scale=None, trainer=None).backward()
    assert relative_error(gradients(model), truth) < 1e-10


def test_ms_swift_loss_obeys_the_law_of_accumulation(swift: Any) -> None:
    compute = ms_swift.register("ours", "focal(gamma=2)")(None, None)

    def loss(model: Any, batch: Any, num_items_in_batch: Any) -> Any:
        outputs = model(batch["input_ids"], attention_mask=batch["attention_mask"])
        return compute(outputs, batch["labels"], num_items_in_batch=num_items_in_batch)

    assert check_accumulation(loss, model_of(), BATCH).reason == "exact"


def test_ms_swift_loss_scale_weighs_and_does_not_normalize(swift: Any) -> None:
    """Its own convention: the same scale on every token scales the loss."""
    compute = ms_swift.register("ours", "cross_entropy")(None, None)
    outputs = model_of()(BATCH["input_ids"], attention_mask=BATCH["attention_mask"])
    plain = compute(outputs, BATCH["labels"])
    scale = torch.full((BATCH["labels"].numel(),), 0.25)
    scaled = compute(outputs, BATCH["labels"], loss_scale=scale)
    assert float(scaled.detach()) == pytest.approx(float(plain.detach()) / 4)


def test_ms_swift_loss_needs_what_ms_swift_counts(swift: Any) -> None:
    for loss in (Loss(normalization="sqrt"), Loss(normalizer="sequences"), Loss(roles={"prompt": 0.1})):
        with pytest.raises(ConfigError, match="counts labels only"):
            ms_swift.register("ours", loss)
    with pytest.raises(ConfigError, match="has a loss 'cross_entropy' already"):
        ms_swift.register("cross_entropy", "dft")


def test_loss_from_a_file_is_a_loss() -> None:
    assert loss_from({"roles": {"prompt": 0.1, "response": 1}}).roles == {"prompt": 0.1, "response": 1}
    with pytest.raises(ConfigError, match="nor an exponent"):
        loss_from({"normalization": float("nan")})


def real(name: str) -> Any:
    """A module of an installed package; the test is skipped where it, or something it needs, is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"{name.split('.')[0]} is not installed whole: {error}")


def parameters(function: Any) -> list[tuple[str, Any]]:
    return [(p.name, p.kind) for p in inspect.signature(function).parameters.values()]


@pytest.mark.filterwarnings("ignore")
def test_recorded_interface_is_axolotls() -> None:
    base = real("axolotl.integrations.base")
    for name in ("register", "get_input_args", "get_trainer_cls"):
        assert parameters(getattr(base.BasePlugin, name)) == parameters(getattr(BasePlugin, name))
    loaded = base.load_plugin("sftloss.training.hosts.axolotl.SftlossPlugin")
    assert isinstance(loaded, base.BasePlugin) and loaded.get_trainer_cls({}) is None


@pytest.mark.filterwarnings("ignore")
def test_recorded_interface_is_ms_swifts() -> None:
    room = real("swift.loss")
    assert parameters(room.BaseLoss.__init__) == parameters(BaseLoss.__init__)
    assert parameters(room.BaseLoss.__call__) == parameters(BaseLoss.__call__)
    cls = ms_swift.register("sftloss_test", "dft")
    try:
        assert room.loss_map["sftloss_test"] is cls and issubclass(cls, room.BaseLoss)
        cls(None, object())  # its constructor looks at the trainer's class
    finally:
        del room.loss_map["sftloss_test"]
