"""Gymnasium's own wrappers on a world: grey frames, a stack of four, episode statistics, a film.

    pip install 'worldsim[video]'
    python examples/wrappers.py --film films
"""

from __future__ import annotations

import argparse

import gymnasium as gym


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="pong", help="a name or a folder")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--film", default=None, help="a folder for the film of the first episode")
    args = parser.parse_args()

    env = gym.make(
        "worldsim:WorldSim/World-v0", world=args.world, render_mode="rgb_array", obs_type="gray", action_repeat=2
    )
    if args.film:
        env = gym.wrappers.RecordVideo(env, args.film, disable_logger=True)
    env = gym.wrappers.RecordEpisodeStatistics(gym.wrappers.FrameStackObservation(env, 4))
    env.action_space.seed(0)
    observation, info = env.reset(seed=0)
    total = 0.0
    for _ in range(args.steps):
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        total += float(reward)
        if terminated or truncated:
            print(f"an episode of {info['episode']['l']} steps returned {info['episode']['r']:.0f}")
            observation, info = env.reset()
    print(f"{observation.shape} {observation.dtype}, rewards {total:.0f}")
    env.close()


if __name__ == "__main__":
    main()
