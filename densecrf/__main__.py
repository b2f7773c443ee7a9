"""``python -m densecrf``: the command line."""

from densecrf.cli import main

main()
