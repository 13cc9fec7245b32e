"""The roles of tokens: whose words a token belongs to."""

from __future__ import annotations

ROLES = ("prompt", "response", "system", "tool", "unknown")
"""Names of the roles. The role code of a token is the index here; ``prompt`` is the user's side and the
template's own words; ``unknown`` are tokens of rows that hold no turn of the chat template and name no roles."""

PROMPT, RESPONSE, SYSTEM, TOOL, UNKNOWN = range(len(ROLES))
