"""`python -m boostershot` is the command `boostershot`."""

from boostershot.cli import main

main()
