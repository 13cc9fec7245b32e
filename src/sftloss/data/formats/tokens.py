"""Rows of token ids, with the labels and masks that come along: one clean sequence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sftloss.data.formats.format import Format, RawRow, required
from sftloss.data.formats.weights import NEGATIVE, TOKEN_WEIGHTS, is_marked, weight_of
from sftloss.data.reasons import BadRow, excerpt
from sftloss.roles import ROLES


def tokens(row: RawRow) -> dict[str, list[Any]]:
    """``input_ids``, and ``labels``, ``weights`` (the product of all masks), ``roles`` where the row has them.

    Positions whose attention mask is 0 are padding and left out, on either side.

    Raises:
        BadRow: ``bad-tokens``, ``bad-weight``, or ``empty-answer`` for an empty sequence.
    """
    ids = _integers(required(row, "input_ids"), "input_ids")
    if min(ids, default=0) < 0:
        raise BadRow("bad-tokens", f"input_ids holds {min(ids)}; -100 belongs into labels")
    columns: dict[str, list[Any]] = {"input_ids": ids}
    if row.get("labels") is not None:
        columns["labels"] = _integers(row["labels"], "labels")
    weights = _weights(row)
    if row.get(NEGATIVE) is not None:
        marks = [is_marked(mark, f"token {i}") for i, mark in enumerate(_listed(row[NEGATIVE], NEGATIVE))]
        weights = [1.0] * len(ids) if weights is None else weights
        _check_size(NEGATIVE, marks, len(weights))
        weights = [-w if mark else w for w, mark in zip(weights, marks, strict=True)]
    if weights is not None:
        columns["weights"] = weights
    if row.get("roles") is not None:
        columns["roles"] = [ROLES.index(role) if role in ROLES else role for role in _listed(row["roles"], "roles")]
        if not all(isinstance(code, int) and 0 <= code < len(ROLES) for code in columns["roles"]):
            raise BadRow("bad-tokens", f"roles must be names or codes of {', '.join(ROLES)}")
    for name, column in columns.items():
        _check_size(name, column, len(ids))
    columns = _without_padding(row, columns)
    if not columns["input_ids"]:
        raise BadRow("empty-answer", "input_ids is empty; remove the row")
    _refuse_packed(row)
    _refuse_shifted(columns)
    return columns


_LARGEST = 2**31 - 1


def _check_size(name: str, column: list[Any], size: int) -> None:
    if len(column) != size:
        raise BadRow("bad-tokens", f"{name} has {len(column)} entries, input_ids {size}; make them equal")


def _listed(value: Any, name: str) -> list[Any]:
    value = value.tolist() if hasattr(value, "tolist") else value
    if not isinstance(value, list | tuple):
        raise BadRow("bad-tokens", f"{name} is {excerpt(value, 40)}, not a list; write a flat list")
    return list(value)


def _integers(value: Any, name: str) -> list[int]:
    values = _listed(value, name)
    # bool is an int to isinstance, and a list of lists would be one batch, not one row
    for kind in set(map(type, values)) - {int}:
        raise BadRow("bad-tokens", f"{name} holds a {kind.__name__}; write a flat list of whole numbers")
    if max(map(abs, values), default=0) > _LARGEST:
        raise BadRow("bad-tokens", f"{name} holds {excerpt(max(values, key=abs), 40)}, and no vocabulary is that large")
    return values


def _weights(row: RawRow) -> list[float] | None:
    product: list[float] | None = None
    for name in TOKEN_WEIGHTS:
        value = row.get(name)
        if value is None or isinstance(value, int | float | str):  # a single number weighs the row
            continue
        factors = [weight_of(factor, f"{name}[{i}]") for i, factor in enumerate(_listed(value, name))]
        if product is not None and len(product) != len(factors):
            raise BadRow(
                "bad-tokens",
                f"{name} has {len(factors)} entries, another mask of the row {len(product)}; make them equal",
            )
        product = factors if product is None else [a * b for a, b in zip(product, factors, strict=True)]
    return product


def _without_padding(row: RawRow, columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    if row.get("attention_mask") is None:
        return columns
    mask = _listed(row["attention_mask"], "attention_mask")
    kinds = {repr(entry) for entry in mask}
    if not kinds <= {"0", "1", "False", "True", "0.0", "1.0"}:
        raise BadRow("bad-tokens", "attention_mask holds more than 0 and 1; give one unpacked sequence a row")
    _check_size("attention_mask", mask, len(columns["input_ids"]))
    if all(mask):
        return columns
    return {name: [entry for entry, kept in zip(column, mask, strict=True) if kept] for name, column in columns.items()}


def _refuse_packed(row: RawRow) -> None:
    """Several sequences in one row would attend to each other and share one length."""
    for name in ("seq_lengths", "position_ids"):
        if row.get(name) is None:
            continue
        entries = _integers(row[name], name)
        # padding repeats position 0 or 1, a second sequence counts up from 0 again
        restarts = sum(a == 0 and b == 1 for a, b in zip(entries, entries[1:], strict=False))
        if (len(entries) if name == "seq_lengths" else restarts) > 1:
            raise BadRow("bad-tokens", f"{name} shows that several sequences are packed into the row; give one a row")


def _refuse_shifted(columns: Mapping[str, list[Any]]) -> None:
    ids = columns["input_ids"]
    for i, (label, token) in enumerate(zip(columns.get("labels", ids), ids, strict=True)):
        if label != token and label != -100:
            shifted = i + 1 < len(ids) and label == ids[i + 1]
            cure = "they look shifted by one; give them unshifted" if shifted else "each label is its input id or -100"
            raise BadRow("bad-tokens", f"labels[{i}] is {label} where input_ids has {token}: {cure}")


TOKENS = Format(
    "tokens",
    lambda row: "input_ids" in row,
    tokens,
    "`input_ids`, and where there are some `labels` (-100 is not trained), `attention_mask`, `loss_mask` or other "
    "weights, `is_negative`, `roles`",
    {"input_ids": [5, 6, 7], "labels": [-100, 6, 7]},
    order=10,
)
