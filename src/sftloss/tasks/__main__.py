"""``python -m sftloss.tasks``: rewrite the generated table of the documentation page."""

from sftloss.tasks.page import main

main()
