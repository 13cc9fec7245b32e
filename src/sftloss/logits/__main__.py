"""``python -m sftloss.logits``: every demonstration of this room, in the order of the chapter."""

from __future__ import annotations

import argparse

from sftloss.document import LANGUAGES
from sftloss.logits import (
    analyze_length_normalization_effects,
    compare_focal_vs_standard_loss,
    comprehensive_loss_analysis,
    demonstrate_gradient_magnitude,
    demonstrate_multitask_loss,
    test_instruction_response_loss,
)

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m sftloss.logits", description="Print all demonstrations.")
    parser.add_argument("--lang", choices=LANGUAGES, default="en", help="Language of the text.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of data and models.")
    options = parser.parse_args()
    try:
        for demonstration in (
            comprehensive_loss_analysis,
            demonstrate_gradient_magnitude,
            analyze_length_normalization_effects,
            compare_focal_vs_standard_loss,
            demonstrate_multitask_loss,
            test_instruction_response_loss,
        ):
            demonstration(seed=options.seed, lang=options.lang)
    except ModuleNotFoundError as error:
        raise SystemExit(f'{error.name} is missing; install it with: pip install "sftloss[cli]"') from None
