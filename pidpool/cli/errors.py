"""The command cannot be carried out: a usage error or one of the environment, never a finding."""

from __future__ import annotations


class CommandError(Exception):
    """Ends the command with exit code 2; its message says what happened and what to do."""

    exit_code = 2
