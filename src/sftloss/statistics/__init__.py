"""Statistics of the next-token distribution, from logits or straight from hidden states and the output head."""

from ._definition import IGNORED, from_logits
from ._engine import token_statistics
from ._head import Head
from ._map_logits import map_logits
from ._measure import TokenSignal, measure_tokens
from ._plan import Plan
from ._sharded import Shard
from ._stats import FIELDS, TokenStats

__all__ = [
    "FIELDS",
    "IGNORED",
    "Head",
    "Plan",
    "Shard",
    "TokenSignal",
    "TokenStats",
    "from_logits",
    "map_logits",
    "measure_tokens",
    "token_statistics",
]
