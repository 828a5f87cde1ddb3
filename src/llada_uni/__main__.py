"""``python -m llada_uni`` is the command ``llada-uni``."""

from __future__ import annotations

import sys

from llada_uni.cli.main import run

if __name__ == "__main__":
    sys.exit(run())
