"""The roles of tokens: whose words a token belongs to."""

from __future__ import annotations

ROLES = ("prompt", "response", "system", "tool")
"""Names of the roles. The role code of a token is the index here; ``prompt`` is the user's side."""

PROMPT, RESPONSE, SYSTEM, TOOL = range(len(ROLES))
