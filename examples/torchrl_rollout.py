"""A world in TorchRL: its wrapper, its own check, and a roll-out as a TensorDict.

    pip install 'worldsim[rl]'
    python examples/torchrl_rollout.py
"""

from __future__ import annotations

import argparse

import gymnasium as gym
from torchrl.envs import GymWrapper, StepCounter, TransformedEnv, check_env_specs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="pong", help="a name or a folder")
    parser.add_argument("--steps", type=int, default=100)
    args = parser.parse_args()

    env = TransformedEnv(GymWrapper(gym.make("worldsim:WorldSim/World-v0", world=args.world)), StepCounter())
    check_env_specs(env)
    print(env.rollout(args.steps))
    env.close()


if __name__ == "__main__":
    main()
