"""The ways a run ends that are not a bug of ours, each with its exit code on the command line.

A message is one sentence: what was wrong, where (file, line, row, field), what to do.
"""


class SftlossError(Exception):
    """Base of all errors that are the input's or the machine's, not ours."""

    exit_code = 5


class ConfigError(SftlossError):
    """A flag, a YAML key or an expression that cannot be used."""

    exit_code = 2


class DataError(SftlossError):
    """A data file without a usable row, or a row that must not be skipped."""

    exit_code = 3


class ModelError(SftlossError):
    """A model or tokenizer that cannot be loaded or used."""

    exit_code = 4


class MachineError(SftlossError):
    """A process that the machine ended, as for want of memory."""

    exit_code = 5
