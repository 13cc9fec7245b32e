"""Accelerate with any loss, exact at any split: `accelerate launch examples/accelerate_loop.py`.

It uses the tiny model and the generated data that come with the package; put your own in their places.
"""

from __future__ import annotations

from itertools import islice

import torch
from accelerate import Accelerator

from sftloss.data import Examples, batches
from sftloss.data.demo import demo_model, demo_records, demo_tokenizer
from sftloss.training import Loss, attach, inputs_of

LOSS = Loss("cross_entropy", normalization="sqrt")
STEPS, MICRO_BATCHES, TOKENS = 5, 4, 512


def main() -> list[float]:
    accelerator = Accelerator(gradient_accumulation_steps=MICRO_BATCHES)
    tokenizer, model = demo_tokenizer(), demo_model().train()
    attachment = attach(model, LOSS)  # the one line, before prepare
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-3))
    mine = demo_records(seed=1)[accelerator.process_index :: accelerator.num_processes]
    examples = Examples(mine, tokenizer)
    stream = map(inputs_of, batches(examples, pad_id=tokenizer.pad_token_id, tokens_per_batch=TOKENS))
    losses = []
    for _ in range(STEPS):
        window = list(islice(stream, MICRO_BATCHES))
        step = attachment.step(window)  # counts the normalizer: one number for all micro-batches and ranks
        for batch in window:
            with accelerator.accumulate(model):
                batch = {k: v.to(accelerator.device) if hasattr(v, "to") else v for k, v in batch.items()}
                loss = model(**batch, num_items_in_batch=step).loss
                # backward divides by gradient_accumulation_steps; the step's normalizer has done that already
                accelerator.backward(loss * accelerator.gradient_accumulation_steps)
                optimizer.step()
                optimizer.zero_grad()
        seen = attachment.metrics()
        losses.append(seen["cross_entropy"])
        accelerator.print("  ".join(f"{name} {value:.4f}" for name, value in seen.items()))
    return losses


if __name__ == "__main__":
    main()
