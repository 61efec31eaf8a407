"""The run folder: atomic files, the record of what is done, the lock, progress, and the one generic runner.

Nothing here imports torch, so a second run of a finished folder and `autocaft --help` are quick.
"""
