"""The HF Trainer with any loss: one line differs. `python examples/hf_trainer.py [output folder]`.

TRL's SFTTrainer takes the same line: `with_loss(SFTTrainer, LOSS)(...)`. This file uses the tiny model and the
generated data that come with the package; put your own in their places.
"""

from __future__ import annotations

import sys

from transformers import Trainer, TrainingArguments

from sftloss.data import Examples, collate
from sftloss.data.demo import demo_model, demo_records, demo_tokenizer
from sftloss.training import Loss, inputs_of, with_loss

LOSS = Loss("focal(gamma=1)", normalization="sqrt")


def main(folder: str = "trainer-output", **more: object) -> list[dict[str, float]]:
    tokenizer = demo_tokenizer()
    examples = list(Examples(demo_records(seed=1, count=200), tokenizer))
    args = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=4,
        max_steps=5,
        learning_rate=1e-3,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        **more,  # type: ignore[arg-type]
    )
    trainer = with_loss(
        Trainer, LOSS
    )(  # was: trainer = Trainer(
        model=demo_model(),
        args=args,
        train_dataset=examples[:160],
        eval_dataset=examples[160:],
        data_collator=lambda rows: inputs_of(collate([[row] for row in rows], pad_id=tokenizer.pad_token_id)),
    )
    trainer.train()
    print(trainer.evaluate())
    return trainer.state.log_history


if __name__ == "__main__":
    main(*sys.argv[1:2])
