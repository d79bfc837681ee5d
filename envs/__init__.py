"""The Gymnasium side: worlds as environments, and the real games they were learned from."""

from __future__ import annotations

from gymnasium.envs.registration import register, registry

ENTRY_POINT = "worldsim.envs.world_env:WorldEnv"
VECTOR_ENTRY_POINT = "worldsim.envs.vector_env:WorldVectorEnv"

# Episodes are cut off where the source cuts them off: ALE at 108000 raw frames, two of which are a tick.
MAX_EPISODE_STEPS = {"pong": 54_000, "breakout": 54_000}


def register_worlds() -> None:
    """Register ``WorldSim/<Name>-v0`` for the worlds in the box and ``WorldSim/World-v0`` for any other;
    twice is harmless.

    Entry points are strings, so nothing heavy is imported before ``gymnasium.make``.
    """
    for world, limit in MAX_EPISODE_STEPS.items():
        name = f"WorldSim/{world.title()}-v0"
        if name not in registry:
            register(
                name,
                entry_point=ENTRY_POINT,
                vector_entry_point=VECTOR_ENTRY_POINT,
                max_episode_steps=limit,
                kwargs={"world": world},
            )
    if "WorldSim/World-v0" not in registry:
        register("WorldSim/World-v0", entry_point=ENTRY_POINT, vector_entry_point=VECTOR_ENTRY_POINT)
