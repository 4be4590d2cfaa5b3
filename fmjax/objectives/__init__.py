"""Objectives: (nets, batch) -> loss and metrics."""
