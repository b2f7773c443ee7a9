"""Run a script that imports pydensecrf: ``python -m densecrf.compat.pydensecrf script.py args...``."""

from __future__ import annotations

import os
import runpy
import sys

from densecrf.compat.pydensecrf import install


def main() -> None:
    """Run the script as `python script.py args...` would, on the front end."""
    if len(sys.argv) < 2:
        raise SystemExit("usage: python -m densecrf.compat.pydensecrf script.py [args...]")
    script = sys.argv[1]
    if not os.path.isfile(script):
        raise SystemExit(f"{script}: no such file")
    del sys.argv[0]
    sys.path[0] = os.path.dirname(os.path.realpath(script))
    install()
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
