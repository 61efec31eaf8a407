"""Supervised fine-tuning, with and without a subspace ablated."""
