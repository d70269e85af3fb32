"""Frozen values of which many are made.

The `__init__` of a frozen dataclass sets each field past the lock that it has put on it, which
takes three times as long as to set it. So a value is filled as an object of another class,
with the same slots and no lock, and then becomes one of its own class.
"""

from __future__ import annotations

from typing import Any

__all__ = ["fillable"]


def fillable(cls: type) -> Any:
    """Return a class of objects that can be filled, and then be made ones of `cls`.

    Args:
        cls: a frozen dataclass with slots and without a base of its own.
    """
    return type(f"Fillable{cls.__name__}", (), {"__slots__": cls.__dict__["__slots__"]})
