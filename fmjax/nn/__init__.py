"""Blocks: attention, feed-forward, convolution, embedding, position."""
