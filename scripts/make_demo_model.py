"""Train the demo model and write it to src/sftloss/data/demo_model/: `python scripts/make_demo_model.py`.

Deterministic on one machine and thread count. Stored in bfloat16: half the size, and the demo measures, it does not
compete.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from sftloss.data import Batch, Record, batches, encode
from sftloss.data.demo import DEMO_TASKS, MODEL_PATH, demo_records

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}<|im_end|>{% endgeneration %}\n"
    "{% else %}{{ message.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer(records: tuple[Record, ...], vocab_size: int) -> Any:
    """Byte-level merges of the demo's own text; digits stay single, so that adding can be learned."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [f"{message.role}\n{message.content}" for record in records for message in record.messages or ()]
    inner.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|im_start|>"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def make_model(tokenizer: Any, width: int) -> Any:
    """A small Llama with tied embeddings."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.1,  # about width^-0.5; at 0.05 copying is not learned in 4000 steps
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def loss_of(model: Any, batch: Batch) -> torch.Tensor:
    """Mean cross-entropy of the weighted targets, nats."""
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
    is_trained = batch.weights > 0
    return torch.nn.functional.cross_entropy(logits[is_trained], batch.targets[is_trained])


def endless(examples: list[Any], pad_id: int, rows: int) -> Iterator[Batch]:
    """Epoch after epoch, each in a fresh but fixed order; unsorted, because batches of one length are of one task."""
    generator = torch.Generator().manual_seed(0)
    while True:
        order = torch.randperm(len(examples), generator=generator).tolist()
        yield from batches((examples[i] for i in order), pad_id=pad_id, batch_size=rows, bucketed=False)


def train(model: Any, source: Iterator[Batch], steps: int, rate: float) -> None:
    """AdamW with a short warm-up and a cosine to zero."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01, betas=(0.9, 0.98))
    begin = time.perf_counter()
    for step in range(steps):
        factor = min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = rate * factor
        loss = loss_of(model, next(source))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 250 == 0:
            print(f"step {step + 1}: loss {loss.item():.3f}, {time.perf_counter() - begin:.0f} s", flush=True)


@torch.no_grad()
def confidence(model: Any, examples: list[Any], pad_id: int) -> dict[str, tuple[float, float, float]]:
    """By task: mean cross-entropy, share of right tokens, share of answers right in every token."""
    found: dict[str, list[tuple[float, float, float]]] = {task: [] for task in DEMO_TASKS}
    for batch in batches(examples, pad_id=pad_id, batch_size=32):
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False).logits
        logprobs = logits.log_softmax(-1)
        for i, example in enumerate(batch.examples):
            here = (batch.segments == i) & (batch.weights > 0)
            targets = batch.targets[here]
            right = (logprobs[here].argmax(-1) == targets).float()
            nll = -logprobs[here].gather(1, targets[:, None]).mean()
            found[str(example.task)].append((nll.item(), right.mean().item(), right.min().item()))
    return {task: tuple(torch.tensor(rows).mean(0).tolist()) for task, rows in found.items() if rows}  # type: ignore[misc]


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Weights in bfloat16, config and tokenizer; nothing else, no pickle."""
    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors writes for the owner alone, and a package is for everyone


def main() -> None:
    """Train, save, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--out", type=Path, default=MODEL_PATH)
    chosen = parser.parse_args()
    torch.manual_seed(0)
    records = demo_records(0, count=20000)
    tokenizer = make_tokenizer(records[:4000], 480)
    begin = time.perf_counter()
    examples = [encode(record, tokenizer) for record in records]
    print(f"{1e3 * (time.perf_counter() - begin) / len(records):.2f} ms to encode a record")
    model = make_model(tokenizer, chosen.width)
    print(f"{sum(p.numel() for p in model.parameters())} parameters, vocabulary {len(tokenizer)}")
    train(model, endless(examples, tokenizer.pad_token_id, chosen.rows), chosen.steps, chosen.rate)
    save(model, tokenizer, chosen.out)
    fresh = [encode(record, tokenizer) for record in demo_records(1, count=1000)]
    for task, (nll, right, whole) in confidence(model.float().eval(), fresh, tokenizer.pad_token_id).items():
        print(f"{task:8s} nll {nll:.3f}  tokens right {right:.2f}  answers right {whole:.2f}")
    print(f"{sum(p.stat().st_size for p in chosen.out.iterdir()) / 1000:.0f} kB in {chosen.out}")


if __name__ == "__main__":
    main()
