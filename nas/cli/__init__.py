"""The command line: `nas analyze | profile | search | export | evaluate | targets`."""

from nas.cli.app import main

__all__ = ["main"]
