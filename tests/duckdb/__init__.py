"""DuckDB files across fork: docs/duckdb.md promises it, and each promise is here, with controls that fail."""
