"""Rows to train and evaluate on, generic text, and how both become tokens."""
