"""duckdb-engine: SQLAlchemy's dialect, which wraps duckdb's connections and cursors."""

from __future__ import annotations

from dataclasses import replace

from pidpool.drivers.duckdb import DRIVER as _OF_DUCKDB

DRIVER = replace(_OF_DUCKDB, duckdb=lambda connection: connection._ConnectionWrapper__c)
