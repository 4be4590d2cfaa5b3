"""Metrics and evaluators: (predict, state) -> numbers."""
