"""What `inspect` and `analyze` each report about the same rows, side by side.

``python -m tests.pipeline.accounts FILE ...`` prints what differs, for every file with every template below.
"""

from __future__ import annotations

import sys
from typing import Any

from tests.tiny import tiny_tokenizer

from sftloss import analyze, inspect
from sftloss.analysis import AnalysisOptions
from sftloss.analysis.mask.rules import INSPECT_RULES
from sftloss.data.account import ROW_RULES
from sftloss.data.rendering.families import trl_templates
from sftloss.document import Document
from sftloss.errors import SftlossError
from sftloss.pipeline import Run
from sftloss.roles import ROLES

SPECIAL = ("<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<think>")
TEMPLATES = ("qwen3_training", "llama3", None)
JUDGED = {rule.id for rule in ROW_RULES} | {rule.id for rule in INSPECT_RULES}


def tokenizer_with(template: str | None) -> Any:
    """A byte tokenizer with one of TRL's templates."""
    return tiny_tokenizer(
        [], chat_template=None if template is None else trl_templates()[template], special=SPECIAL, bos=True
    )


def smallest_model(tokenizer: Any) -> Any:
    """A random model that costs nothing: the accounts do not depend on it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=2**20, eos_token_id=None, **sizes)
    ).eval()


def _table(document: Document, name: str) -> dict[str, Any]:
    tables = (table for section in document.sections for table in section.tables if table.id == name)
    return {str(row[0]): row for table in tables for row in table.rows}


def _findings(document: Document) -> dict[str, Any]:
    judged = [finding for finding in document.findings if finding.id in JUDGED]
    return {finding.id: (finding.severity, finding.rows) for finding in judged}


def differences(rows: Any, tokenizer: Any, model: Any = None, **run: Any) -> list[str]:
    """One line for each thing that the two reports say differently; empty where they agree."""
    options = Run(on_error="skip", tokens_per_batch=16384, **run)
    page = inspect(rows, tokenizer, run=options).document
    totals, by_role = _table(page, "totals"), _table(page, "by-role")
    count = {name: int(row[1]) for name, row in totals.items()}
    model = model or smallest_model(tokenizer)
    try:
        report = analyze(model, tokenizer, rows, question=AnalysisOptions(replicates=10), run=options)
    except SftlossError as error:
        return [] if not count["examples"] else [f"analyze raises {error}"]
    facts, examples = dict(report.document.facts), report.frames["examples"]
    used = f"{count['examples']:,} of {count['rows read']:,}"
    roles = _table(report.document, "roles")
    pairs: dict[str, tuple[Any, Any]] = {
        "rows used": (used, facts["rows used"]),
        "examples": (count["examples"], int(facts["examples"].replace(",", ""))),
        "tokens": (count["tokens"], int(examples["n_tokens"].sum())),
        "trained tokens": (count["trained tokens"], int(facts["trained tokens"].replace(",", ""))),
        "truncated": (count["truncated examples"], int((examples["truncated"] > 0).sum())),
        "tokens cut off": (count["tokens cut off"], int(examples["truncated"].sum())),
    }
    for role in ROLES:
        share = by_role[role][1] / count["tokens"] if role in by_role else 0.0
        trained = by_role[role][2] / count["trained tokens"] if role in by_role else 0.0
        weight = by_role[role][5] if role in by_role else 0.0
        row = roles.get(role)
        pairs |= {
            f"{role}: share of all tokens": (round(share, 5), round(float(row[1]) if row else 0.0, 5)),
            f"{role}: share of trained tokens": (round(trained, 5), round(float(row[2]) if row else 0.0, 5)),
            f"{role}: weight": (weight > 0, bool(row and row[2])),
        }
    inspected, analyzed = _findings(page), _findings(report.document)
    pairs |= {f"finding {id}": (inspected.get(id), analyzed.get(id)) for id in {**inspected, **analyzed}}
    return [f"{name}: inspect {one}, analyze {other}" for name, (one, other) in pairs.items() if one != other]


if __name__ == "__main__":
    for path in sys.argv[1:]:
        for template in TEMPLATES:
            tokenizer = tokenizer_with(template)
            lines = differences(path, tokenizer, max_length=1024)
            print(path, template, *(lines or ["agree"]), sep="\n  ", flush=True)
