"""Latency and throughput of worlds, measured so that the figures can be trusted and compared."""
