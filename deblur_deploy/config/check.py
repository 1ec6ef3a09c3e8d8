"""How settings refuse a value."""

from __future__ import annotations

from deblur_deploy.core.errors import ConfigError


def require(condition: bool, message: str, hint: str) -> None:
    """Raise a :class:`ConfigError` unless the condition holds."""
    if not condition:
        raise ConfigError(message, hint=hint)
