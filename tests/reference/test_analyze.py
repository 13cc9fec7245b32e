"""`analyze` with stored values: the loss and the signal that a second forward pass would give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
pl = pytest.importorskip("polars")
from tests.tiny import tiny_tokenizer  # noqa: E402
from tests.tiny_models import tiny_model  # noqa: E402

from sftloss import analyze  # noqa: E402
from sftloss.analysis import AnalysisOptions, MeasuredTable  # noqa: E402
from sftloss.analysis.table.tokens import batch_tokens, measure_logits  # noqa: E402
from sftloss.data import Examples, collate  # noqa: E402
from sftloss.decoder import open_decoder  # noqa: E402
from sftloss.errors import ConfigError, DataError  # noqa: E402
from sftloss.objectives import objective  # noqa: E402
from sftloss.pipeline import Run, check, store_reference  # noqa: E402
from sftloss.reference import open_references  # noqa: E402
from sftloss.statistics import Head, measure_tokens  # noqa: E402
from sftloss.training import Loss, inputs_of  # noqa: E402
from sftloss.training.gradients.per_example import attached  # noqa: E402
from sftloss.weights import role_weights  # noqa: E402

ROWS = [{"prompt": f"ask {n}", "completion": "answer " * (1 + n % 5)} for n in range(12)]
LOSS = "cross_entropy + 0.5 * k3_anchor"


@pytest.fixture(scope="module")
def made(tmp_path_factory: Any) -> tuple[Any, Any, Path]:
    """A model, its tokenizer, and the stored values of another model."""
    tokenizer, folder = tiny_tokenizer([]), tmp_path_factory.mktemp("analyze") / "ref"
    model, other = (tiny_model("llama", len(tokenizer), seed=seed, initializer_range=0.02) for seed in (0, 1))
    store_reference(other, tokenizer, ROWS, run=Run(output=folder))
    return model, tokenizer, folder


def test_a_batch_is_measured_with_the_values_of_its_rows(made: tuple[Any, Any, Path]) -> None:
    model, tokenizer, folder = made
    references, examples = open_references([folder], tokenizer), list(Examples(ROWS, tokenizer))
    batch = references.lay(collate([[example] for example in examples], pad_id=0), ["reference_logprob"])
    tokens = batch_tokens(open_decoder(model), batch, {LOSS: objective(LOSS)})
    log_r = torch.cat([references.columns(example.input_ids)["reference_logprob"][1:] for example in examples])
    log_p = torch.tensor(tokens["target_logprob"].to_list())
    assert (log_r - log_p).max() < 5, "beyond it the anchor is a straight line"
    expected = -log_p + 0.5 * ((log_r - log_p).exp() - 1 - (log_r - log_p))
    torch.testing.assert_close(torch.tensor(tokens[f"loss:{LOSS}"].to_list()), expected)


@pytest.mark.parametrize("name", ["pear", "iw_sft_sequence"])
@pytest.mark.parametrize("by_role", [None, {"prompt": 0.1, "response": 1.0}])
def test_values_of_whole_sequences_are_those_of_training(
    made: tuple[Any, Any, Path], name: str, by_role: dict[str, float] | None
) -> None:
    """The losses of the table, times the weights, add up to the loss that is trained."""
    model, tokenizer, folder = made
    references, examples = open_references([folder], tokenizer), list(Examples(ROWS, tokenizer))
    batch = references.lay(collate([[example] for example in examples], pad_id=0), ["reference_logprob"])
    tokens = batch_tokens(open_decoder(model), batch, {name: objective(name)}, by_role)
    inputs, weights = inputs_of(batch), torch.tensor(tokens["weight"].to_list())
    if by_role is not None:
        del inputs["token_weights"]
        weights = role_weights(torch.tensor(tokens["role"].to_list()), by_role)
    with attached(model.eval(), Loss(name, roles=by_role, normalizer=1.0)), torch.no_grad():
        trained = model(**inputs).loss
    torch.testing.assert_close((torch.tensor(tokens[f"loss:{name}"].to_list()) * weights).sum(), trained.float())


@pytest.mark.slow
def test_the_table_has_the_loss_that_reads_the_reference(made: tuple[Any, Any, Path], tmp_path: Path) -> None:
    model, tokenizer, folder = made
    run = Run(output=tmp_path / "out", reference=(folder,), tokens_per_batch=64)
    report = analyze(model, tokenizer, ROWS, losses=["cross_entropy", LOSS], run=run)
    assert LOSS in report.to_json()
    tokens = MeasuredTable(tmp_path / "out" / "table").tokens().collect()
    difference = (tokens[f"loss:{LOSS}"] - tokens["loss:cross_entropy"]).to_numpy()
    assert (difference >= -1e-6).all() and difference.max() > 0, "the anchor is at least 0"
    manifest = json.loads((tmp_path / "out" / "table" / "manifest.json").read_text("utf-8"))
    assert manifest["reference"][0]["model"]["type"] == "LlamaForCausalLM"
    own = folder.with_name("own")
    store_reference(model, tokenizer, ROWS, run=Run(output=own))
    with pytest.raises(ConfigError, match="holds a table of something else"):
        again = Run(output=tmp_path / "out", reference=(own,), tokens_per_batch=64, resume=True)
        analyze(model, tokenizer, ROWS, losses=["cross_entropy", LOSS], run=again)


def test_gradients_are_of_the_loss_that_reads_the_reference(made: tuple[Any, Any, Path]) -> None:
    model, tokenizer, folder = made
    question = AnalysisOptions(signal="grad", signal_examples=6, replicates=20)
    run = Run(reference=(folder,))
    norms = [
        analyze(model, tokenizer, ROWS, losses=[loss], question=question, run=run).frames["gradient-ratios"]["norm"]
        for loss in (LOSS, "cross_entropy")
    ]
    assert (norms[0] != norms[1]).any()


def test_what_does_not_fit_is_refused(made: tuple[Any, Any, Path]) -> None:
    model, tokenizer, folder = made
    with pytest.raises(ConfigError, match="give reference, the folder that sftloss reference writes"):
        check(ROWS, losses=[LOSS], run=Run())
    with pytest.raises(ConfigError, match="has no old_logprob"):
        check(ROWS, losses=["psft"], run=Run(reference=(folder,)))
    with pytest.raises(ConfigError, match="reads candidate_ids of each token, which sftloss train and sftloss compare"):
        check(ROWS, losses=["idk"], run=Run(reference=(folder,)))
    with pytest.raises(DataError, match="row 0: this row has no values in"):
        analyze(
            model, tokenizer, [{"prompt": "other", "completion": "row"}], losses=[LOSS], run=Run(reference=(folder,))
        )


def test_a_model_without_a_readable_head_is_measured_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(9, 4, generator=generator), torch.randn(7, 4, generator=generator)
    targets, by_name = torch.arange(9) % 7, {LOSS: objective(LOSS)}
    extras = {"reference_logprob": -3 * torch.rand(9, generator=generator)}
    _, ours = measure_logits(hidden @ weight.t(), targets, by_name, extras=extras)
    _, expected = measure_tokens(hidden, Head(weight), targets, by_name, extras=extras)
    for name in ("loss", "l1", "l2"):
        torch.testing.assert_close(getattr(ours[LOSS], name), getattr(expected[LOSS], name))
