"""Recorded play: collecting it from a source, and the files it lives in."""
