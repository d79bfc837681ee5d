"""Running a world: ring cache, samplers, session, stopwatch. Knows nothing of Gymnasium, Hydra or pygame."""
