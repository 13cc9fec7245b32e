"""Your own instruction file, from nothing to a report: `python examples/real_data.py --data FILE --family llama`.

A byte-level tokenizer is trained on the file, a two-layer model of the family learns it for a minute or two, and
`sftloss analyze` says what the loss trained on. No network, no GPU, nothing outside --output is written.

The model is tiny and knows nothing but this file: numbers about lengths, masks and tasks are the data's own, numbers
about confidence are this model's. For yours, run `sftloss analyze --model YOURS --data FILE`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from sftloss import weighted_loss
from sftloss.cli import main as command_line
from sftloss.data import Batch, Example, RowError, batches, encode, read_records
from sftloss.decoder import Decoder, open_decoder
from sftloss.weights import coefficients

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "gpt2": ("GPT2Config", {}),
    "qwen3": ("Qwen3Config", {"head_dim": 24}),
    "gemma2": ("Gemma2Config", {"head_dim": 24, "final_logit_softcapping": 30.0, "sliding_window": 256}),
}
EOS, PAD = "<|end|>", "<|pad|>"


def make_tokenizer(texts: Iterator[str], vocab_size: int) -> Any:
    """Byte-level merges of the data's own text. It has no chat template: sftloss then writes plain headings."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[EOS, PAD], initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=EOS, pad_token=PAD, clean_up_tokenization_spaces=False
    )


def make_model(family: str, tokenizer: Any, *, width: int, positions: int) -> torch.nn.Module:
    """Two layers of `family`, drawn at random."""
    import transformers

    name, special = FAMILIES[family]
    sizes: dict[str, Any] = {"hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 3 * width, "max_position_embeddings": positions, "initializer_range": width**-0.5}
    if family == "gpt2":
        renamed = {"hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}
        renamed |= {"intermediate_size": "n_inner", "max_position_embeddings": "n_positions"}
        sizes = {renamed.get(key, key): value for key, value in sizes.items()}
    else:
        sizes["num_key_value_heads"] = 4
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = getattr(transformers, name)(vocab_size=len(tokenizer), tie_word_embeddings=True, **sizes, **ids, **special)
    return transformers.AutoModelForCausalLM.from_config(config)


def encoded(data: Path, tokenizer: Any, max_length: int) -> list[Example]:
    """Every usable row; the analysis will say which were not."""
    examples = []
    for record in read_records(data):
        try:
            examples.append(encode(record, tokenizer, max_length=max_length))
        except RowError:
            continue
    return examples


def epochs(examples: Sequence[Example], pad_id: int, tokens_per_batch: int) -> Iterator[Batch]:
    """Batches without end, each epoch in its own fixed order."""
    generator = torch.Generator().manual_seed(0)
    while True:
        order = torch.randperm(len(examples), generator=generator).tolist()
        yield from batches((examples[i] for i in order), pad_id=pad_id, tokens_per_batch=tokens_per_batch, window=64)


def train(decoder: Decoder, source: Iterator[Batch], *, steps: int, rate: float = 4e-3) -> None:
    """Cross-entropy under the token mean, one batch a step."""
    assert decoder.head is not None, decoder.reason
    optimizer = torch.optim.AdamW(decoder.model.parameters(), lr=rate, weight_decay=0.01, betas=(0.9, 0.98))
    begin = time.perf_counter()
    decoder.model.train()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / 30, (steps - step) / (steps / 2))
        batch = next(source)
        hidden = decoder.hidden(batch.input_ids, batch.position_ids, batch.attention_mask)
        weights = batch.weights.flatten()
        loss, _ = weighted_loss(
            hidden.flatten(0, 1), decoder.head, batch.targets.flatten(), coefficients(weights, weights.sum())
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}: loss {loss.item():.3f}, {time.perf_counter() - begin:.0f} s", file=sys.stderr)
    decoder.model.eval()


def texts_of(data: Path) -> Iterator[str]:
    for record in read_records(data):
        yield from (message.content for message in record.messages or ())
        if record.text:
            yield record.text


def arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Any other flag goes to `sftloss analyze`.",
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--family", choices=FAMILIES, default="llama")
    parser.add_argument("--output", type=Path, required=True, help="folder for model/ and report/")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--vocab", type=int, default=2000)
    parser.add_argument("--max-length", type=int, default=1024)
    return parser.parse_known_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Tokenizer, model, training, report."""
    chosen, rest = arguments(argv)
    torch.manual_seed(0)
    tokenizer = make_tokenizer(texts_of(chosen.data), chosen.vocab)
    examples = encoded(chosen.data, tokenizer, chosen.max_length)
    model = make_model(chosen.family, tokenizer, width=chosen.width, positions=chosen.max_length)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(examples):,} examples", file=sys.stderr)
    train(open_decoder(model), epochs(examples, tokenizer.pad_token_id, 1024), steps=chosen.steps)
    folder = chosen.output / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    sys.argv = [
        "sftloss",
        "analyze",
        "--model",
        str(folder),
        "--data",
        str(chosen.data),
        "--output",
        str(chosen.output / "report"),
    ]
    sys.argv += ["--max-length", str(chosen.max_length), "--overwrite", *rest]
    print(" ".join(sys.argv), file=sys.stderr)
    command_line()


if __name__ == "__main__":
    main()
