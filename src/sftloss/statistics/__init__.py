"""Statistics of the next-token distribution, from logits or straight from hidden states and the output head."""

from sftloss.statistics._definition import IGNORED, from_logits
from sftloss.statistics._engine import token_statistics
from sftloss.statistics._head import Head
from sftloss.statistics._map_logits import map_logits
from sftloss.statistics._measure import TokenSignal, measure_tokens
from sftloss.statistics._plan import Plan
from sftloss.statistics._sharded import Shard
from sftloss.statistics._stats import FIELDS, TokenStats

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
