"""autocaft: find what fine-tuning teaches beyond the task, and train without it."""

__version__ = "0.1.0"
