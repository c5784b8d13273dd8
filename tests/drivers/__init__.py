"""Discarding with real drivers and real servers, and how pidpool finds the driver of a connection."""
