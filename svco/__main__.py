"""`python -m svco`."""

from svco.cli import main

main()
