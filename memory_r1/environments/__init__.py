"""Gymnasium environments in which memory policies learn; they need the extra `environments`."""

from importlib.util import find_spec

from memory_r1.errors import ConfigurationError

_PACKAGES = ("gymnasium", "stable_baselines3", "sb3_contrib")


def check_extra() -> None:
    """Raise a ConfigurationError if the extra `environments` is not installed."""
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise ConfigurationError(
            f"environments: not installed: {', '.join(missing)}; run pip install -e '.[environments]'"
        )
