"""The player: a window, a keyboard and a clock around a `Session`."""
