"""Weights from elsewhere, and back: Hugging Face folders, from one table a family."""
