"""Stands for pydensecrf in processes that inherit ``sys.path`` alone: puts the front end in its own place."""

from densecrf.compat.pydensecrf import install

install()
