"""SQLite files across fork: docs/sqlite.md promises it, and every row of its table is here with a control."""
