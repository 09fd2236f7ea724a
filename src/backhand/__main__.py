"""`python -m backhand` does what the command `backhand` does."""

from .cli import main

main()
