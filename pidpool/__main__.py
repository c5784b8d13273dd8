"""``python -m pidpool`` is the command line."""

from __future__ import annotations

from pidpool.cli import main

if __name__ == "__main__":
    main()
