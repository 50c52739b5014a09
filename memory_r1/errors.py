"""Every exception the project raises on purpose: each is a `MemoryR1Error` and also the matching stdlib error.

A message says what was found, where, what is allowed and how to fix it, in one line.
"""


class MemoryR1Error(Exception):
    """Base of all errors raised on purpose; commands print it as one line and exit with status 1."""


class ConfigurationError(MemoryR1Error, ValueError):
    """A recipe field, command-line option or combination of them is not usable."""


class DataError(MemoryR1Error, ValueError):
    """A data file or a record in it is malformed; the message names file, line and field."""


class ChecksumError(DataError):
    """A file's bytes are not those that were published (cut short, or another version)."""


class ModelError(MemoryR1Error, RuntimeError):
    """A base model or adapter is missing, broken, or made for another base model."""


class StoreError(MemoryR1Error, RuntimeError):
    """The memory store cannot be read or written as asked."""


class ScopeError(MemoryR1Error, PermissionError):
    """A read or write named no scope, or an entry of another scope."""


class TrainingError(MemoryR1Error, RuntimeError):
    """A training run cannot start or go on (nothing trainable, non-finite loss, ...)."""


class PromptTooLongError(MemoryR1Error, ValueError):
    """A prompt and its longest completion are more than the model's window holds."""


class EndpointError(MemoryR1Error, ConnectionError):
    """A model server did not give a usable reply, after all retries."""
