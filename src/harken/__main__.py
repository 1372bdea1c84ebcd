"""`python -m harken` is the command `harken`."""

from harken.cli import main

# Processes that train folds side by side import this file too.
if __name__ == "__main__":
    main()
