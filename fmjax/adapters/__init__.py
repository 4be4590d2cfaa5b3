"""Adapters: how much of a model changes, and small trees that are merged into what does not."""
