"""Frames into files that anyone can look at."""
