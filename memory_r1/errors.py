"""The exceptions that the project raises on purpose, each of them also the matching stdlib error.

A message is one line: what was found, where, what is allowed and how to fix it.
"""


class MemoryR1Error(Exception):
    """Base of all errors raised on purpose. Commands print the message as one line and exit with status 1."""


class ConfigurationError(MemoryR1Error, ValueError):
    """A recipe field, a command-line option or a combination of them is invalid."""


class DataError(MemoryR1Error, ValueError):
    """A data file or one of its records is malformed. The message names the file, line and field."""


class ChecksumError(DataError):
    """A file differs from the published one: it is truncated or another version."""


class ModelError(MemoryR1Error, RuntimeError):
    """A base model or adapter is missing or broken, or the adapter belongs to another base model."""


class StoreError(MemoryR1Error, RuntimeError):
    """The memory store cannot be read or written as requested."""


class ScopeError(MemoryR1Error, PermissionError):
    """A read or write names no scope, or an entry of another scope."""


class TrainingError(MemoryR1Error, RuntimeError):
    """A training run cannot start or continue (nothing trainable, non-finite loss, ...)."""


class PromptTooLongError(MemoryR1Error, ValueError):
    """A prompt plus its longest allowed completion exceeds the model's context window."""


class EndpointError(MemoryR1Error, ConnectionError):
    """A model server gave no usable reply after all retries."""
