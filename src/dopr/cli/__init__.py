"""The command `dopr`: one file a command; `command_line` reads what was typed."""

from dopr.cli.command_line import main

__all__ = ["main"]
