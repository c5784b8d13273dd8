"""PerProcess, and the clients that it knows."""
