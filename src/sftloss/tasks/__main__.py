"""``python -m sftloss.tasks``: rewrite the generated table of the documentation page."""

from sftloss.tasks.page import rewrite_strategies_page

rewrite_strategies_page()
