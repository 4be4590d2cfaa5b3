"""Whole networks, one file per family, variants as small functions at the end."""
