"""The compiled module in which duckdb's own connections live."""

from __future__ import annotations

from pidpool.drivers.duckdb import DRIVER as DRIVER  # noqa: PLC0414 - it is this module's, too
