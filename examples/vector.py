"""Sixty-four Pongs, dreamed as one batch: frames a second, points, and a state that is played twice.

    python examples/vector.py --envs 64 --steps 300
"""

from __future__ import annotations

import argparse
import time

import gymnasium as gym
import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="pong", help="a name or a folder")
    parser.add_argument("--envs", type=int, default=64)
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()

    envs = gym.make_vec("worldsim:WorldSim/World-v0", num_envs=args.envs, world=args.world)
    envs.action_space.seed(0)
    observations, infos = envs.reset(seed=0)
    rewards = np.zeros(args.envs)
    began = time.perf_counter()
    for _ in range(args.steps):
        observations, reward, terminations, truncations, infos = envs.step(envs.action_space.sample())
        rewards += reward
    seconds = time.perf_counter() - began
    print(f"{observations.shape} {observations.dtype}, {args.steps * args.envs / seconds:.0f} frames/s")
    print(f"points for and against: {infos['score'].sum(0)}, rewards {rewards.sum():.0f}")

    # One moment, two futures: rows that continue from the same state with the same action stay equal.
    state = envs.unwrapped.clone_state([0])
    for row in range(args.envs):
        envs.unwrapped.restore_state(state, [row])
    observations, *_ = envs.step(np.zeros(args.envs, int))
    print(f"all rows equal after a copy: {bool((observations == observations[:1]).all())}")
    envs.close()


if __name__ == "__main__":
    main()
