"""Errors a user can act on. Each says what, where and what to do, and has an exit code of its own.

`autocaft --help` lists the codes from this file, so a code is documented once: in the first line of its class.
"""

from __future__ import annotations


class AutocaftError(Exception):
    """Something the user can mend. The message is shown without a traceback."""

    exit_code = 1


class ConfigError(AutocaftError):
    """The configuration has an unknown key or a value that cannot work."""

    exit_code = 3


class DataError(AutocaftError):
    """A data file is missing, empty or has a bad row."""

    exit_code = 4


class ModelError(AutocaftError):
    """A model, tokenizer or dictionary (SAE) is not there or does not fit."""

    exit_code = 5


class NothingSelectedError(AutocaftError):
    """No direction passed the selection, so there is nothing to ablate."""

    exit_code = 6


class TrainingError(AutocaftError):
    """The loss is no longer a number; the last good checkpoint is kept."""

    exit_code = 7


class DiskFullError(AutocaftError):
    """The disk is full; what is done is kept."""

    exit_code = 8


class RunLockedError(AutocaftError):
    """Another process works on this run folder."""

    exit_code = 9


class RunChangedError(AutocaftError):
    """The run folder was made with other settings; use another name or --redo STAGE."""

    exit_code = 10


class JudgeError(AutocaftError):
    """A judge cannot go on: no key, no credit, or replies still to be filled in."""

    exit_code = 11


class AblationError(AutocaftError):
    """The ablation cannot be what it claims to be (rows open with different tokens, a packed batch, ...)."""

    exit_code = 12


class WorkerError(AutocaftError):
    """A worker process died (most often: out of memory); what is done is kept."""

    exit_code = 13


class UnreadRowsError(AutocaftError):
    """An audit is done, but some rows or whole sets could not be read; they are named, the others were audited."""

    exit_code = 14


class VerdictError(AutocaftError):
    """An audit is done, and a set has the verdict that --fail-on names, or a worse one."""

    exit_code = 15


def all_error_types() -> list[type[AutocaftError]]:
    """Every error with an exit code of its own, by code."""
    return sorted(AutocaftError.__subclasses__(), key=lambda error: error.exit_code)
