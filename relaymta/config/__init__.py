"""Configuration: a TOML file becomes frozen settings, or a list of everything that is wrong with it.

This door shows the words that every room's `Settings` uses. `loader` reads files (and alone needs cattrs),
`lines` finds where in the text a key stands. Which tables there are is left to relaymta.settings.
"""

from relaymta.config.problems import ConfigError, Problem
from relaymta.config.socketaddress import SocketAddress
from relaymta.config.units import Duration, Size, parse_duration, parse_size, show_duration, show_size

__all__ = [
    "ConfigError",
    "Duration",
    "Problem",
    "Size",
    "SocketAddress",
    "parse_duration",
    "parse_size",
    "show_duration",
    "show_size",
]
