"""Hydra configs, shipped as package data: one YAML a command, one folder a group."""
