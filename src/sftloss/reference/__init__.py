"""What a reference model says of each token: stored once beside the data, read in training by row."""

from __future__ import annotations

from sftloss.reference.divergence import reference_divergence
from sftloss.reference.read import References, open_references
from sftloss.reference.store import Kept, ReferenceWriter, row_key, vocabulary_identity, writing

__all__ = [
    "Kept",
    "ReferenceWriter",
    "References",
    "open_references",
    "reference_divergence",
    "row_key",
    "vocabulary_identity",
    "writing",
]
