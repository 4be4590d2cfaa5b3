"""Optimizers and schedules by address, on optax."""
