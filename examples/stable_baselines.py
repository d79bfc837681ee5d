"""PPO of Stable-Baselines3 in a dream, on what the world's encoder makes of each frame.

    pip install 'worldsim[rl]'
    python examples/stable_baselines.py --steps 200000
"""

from __future__ import annotations

import argparse

from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor

from worldsim.envs.sb3 import WorldVecEnv


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="pong", help="a name or a folder")
    parser.add_argument("--envs", type=int, default=16)
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--rollout", type=int, default=128, help="steps of each row between two updates")
    args = parser.parse_args()

    env = VecMonitor(WorldVecEnv(args.envs, world=args.world, obs_type="latent", action_repeat=2))
    agent = PPO("MlpPolicy", env, n_steps=args.rollout, batch_size=args.envs * args.rollout // 4, seed=0, verbose=1)
    agent.learn(args.steps)
    env.close()


if __name__ == "__main__":
    main()
