"""Run the command line as `python -m sftloss`, for example with an interpreter that is not first on PATH."""

from sftloss.cli import main

if __name__ == "__main__":
    main()
