"""Compressed checkpoints as other programs store them, out and back in again."""
