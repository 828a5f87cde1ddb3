"""The only code that opens a checkpoint: names, keys, strict loading, atomic saving, float8 blocks.

Import from the modules: ``weights.catalog`` needs no torch, so that a command line can name models at once.
"""

__all__ = []
