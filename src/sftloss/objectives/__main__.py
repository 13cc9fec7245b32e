"""``python -m sftloss.objectives``: rewrite the generated parts of the documentation page."""

from sftloss.objectives.page import rewrite_objectives_page

rewrite_objectives_page()
