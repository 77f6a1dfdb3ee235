"""Bytes and counts for people."""

from __future__ import annotations


def readable_bytes(count: float) -> str:
    """Return bytes in decimal units, as disks are sold."""
    if count == float("inf"):
        return "unlimited"
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if count < 999.5 or unit == "PB":
            return f"{count:.3g} {unit}" if count < 999.5 else f"{count:,.0f} {unit}"
        count /= 1000
    raise AssertionError


def readable_parameters(count: int) -> str:
    return f"{count / 1e9:.3f} B" if count >= 1e9 else f"{count / 1e6:.2f} M"
