"""Weights in the data and weights by role are one account: `analyze` has the shares that `train` trains."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers")
from sftloss.analysis import AnalysisOptions
from sftloss.data.demo import demo_model, demo_tokenizer
from sftloss.finetune import Recipe
from sftloss.finetune.fine_tune import data_of, loss_of
from sftloss.finetune.rows import Collator
from sftloss.pipeline import analyze
from sftloss.training.batch.tokens import read_tokens
from sftloss.weights import normalization as read_normalization


def said(answer: str, **extra: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": "copy: red fig"}, {"role": "assistant", "content": answer, **extra}]


ROWS = [
    {"messages": said("red")},
    {"messages": said("red"), "weight": 2},
    {"messages": said("red fig red fig"), "weight": 0.5},
    {"messages": [*said("no", weight=0), *said("red fig")], "weight": 3},
    {"messages": [*said("red", weight=0.25), *said("red fig")]},
]
_model, _tokenizer = cache(demo_model), cache(demo_tokenizer)


def trained(normalization: str, roles: dict[str, float] | None) -> np.ndarray:
    """Share of each row in the coefficients of a step that holds all rows."""
    recipe = Recipe(normalization=normalization, roles=roles)
    data = data_of(recipe, _tokenizer(), ROWS)[0]
    inputs = Collator(0)([data[i] for i in range(len(ROWS))])
    sums = read_tokens(loss_of(recipe), inputs).weights.view(len(ROWS), -1).sum(1).numpy()
    return sums / sums.sum()


def analyzed(normalization: str, roles: dict[str, float] | None) -> np.ndarray:
    question = AnalysisOptions(
        normalization=read_normalization(normalization), level="S0", replicates=20, strips=0,
        role_weights=None if roles is None else tuple(roles.items()),
    )  # fmt: skip
    return analyze(_model(), _tokenizer(), ROWS, question=question).frames["examples"]["signal"].to_numpy()


@pytest.mark.parametrize("roles", [None, {"prompt": 0.1, "response": 1.0}])
@pytest.mark.parametrize("normalization", ["token-mean", "example-mean", "sqrt"])
def test_analyze_has_the_share_of_each_row_that_train_trains(normalization: str, roles: dict[str, float] | None):
    np.testing.assert_allclose(analyzed(normalization, roles), trained(normalization, roles), rtol=1e-5)


@pytest.mark.parametrize("normalization", ["token-mean", "example-mean", "sqrt"])
def test_a_row_of_weight_two_counts_twice_under_every_normalization(normalization: str):
    shares = trained(normalization, None)
    assert shares[1] == pytest.approx(2 * shares[0])
