"""Serving: one engine thread that carries out the requests of many clients together, and an HTTP interface to it.

``engine`` needs nothing beyond the package; ``app`` and ``server`` need the extra ``llada-uni[serve]``.
"""
