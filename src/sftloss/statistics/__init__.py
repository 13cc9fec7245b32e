"""Statistics of the next-token distribution, from logits or straight from hidden states and the output head."""

from sftloss.statistics.definition import from_logits
from sftloss.statistics.head import Head
from sftloss.statistics.map_logits import map_logits
from sftloss.statistics.measure import TokenSignal, measure_tokens
from sftloss.statistics.plan import Plan
from sftloss.statistics.sharded import Shard
from sftloss.statistics.tokens import FIELDS, IGNORED, Objective, TokenStats
from sftloss.statistics.two_pass import token_statistics

__all__ = [
    "FIELDS",
    "IGNORED",
    "Head",
    "Objective",
    "Plan",
    "Shard",
    "TokenSignal",
    "TokenStats",
    "from_logits",
    "map_logits",
    "measure_tokens",
    "token_statistics",
]
