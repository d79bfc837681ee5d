"""What the README promises is what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from worldsim.__main__ import VERBS
from worldsim.envs import MAX_EPISODE_STEPS
from worldsim.envs.sources import SourceConfig, load_source
from worldsim.play.keyboard import markdown_table
from worldsim.schema import from_dict
from worldsim.world import load_world

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readmes_keys_are_the_players_keys() -> None:
    assert markdown_table(load_source("pong").action_table()) in README


def test_the_readmes_test_command_is_what_ci_runs() -> None:
    command = "pip install -e '.[dev]' && pytest"
    for file in ("README.md", "CONTRIBUTING.md", ".ci/run"):
        lines = [line.strip() for line in (ROOT / file).read_text(encoding="utf-8").splitlines()]
        assert command in lines, file


def test_every_verb_that_the_readme_uses_is_there() -> None:
    used = set(re.findall(r"^worldsim (\w+) \w+=|`worldsim (\w+)", README, re.MULTILINE))
    assert {first or second for first, second in used} <= set(VERBS)


def test_the_settings_that_the_readme_uses_are_there() -> None:
    for line in re.findall(r"python play\.py ([^`\n]*=[^`\n]*)", README):
        keys = {setting.split("=")[0] for setting in line.split()}
        config = (ROOT / "configs" / "play.yaml").read_text(encoding="utf-8")
        assert all(re.search(rf"^{key}:", config, re.MULTILINE) for key in keys), line


def test_the_readmes_source_file_is_one() -> None:
    (block,) = re.findall(r"```yaml\n(.+?)```", README, re.DOTALL)
    values = OmegaConf.to_container(OmegaConf.create(block))
    config = from_dict(SourceConfig, {"name": "freeway", **values})
    assert config.action_table().names == ("NOOP", "UP", "DOWN")


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md"])
def test_what_the_documents_point_at_exists(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#:]+)\)", text)
    targets += re.findall(r"`((?:worldsim|envs|agents|configs|assets|tests|\.ci)/[\w./]*)`", text)
    assert targets
    missing = [target for target in targets if not (ROOT / target).exists()]
    assert not missing


def test_the_figures_are_of_the_world_in_the_box() -> None:
    cards = {world: ROOT / "assets" / "worlds" / world / "CARD.md" for world in MAX_EPISODE_STEPS}
    for world, file in [("pong", ROOT / "README.md"), *cards.items()]:
        measured = f"Weights {load_world(world).fingerprint[:12]}, "
        assert measured in file.read_text(encoding="utf-8"), f"{file}: run `worldsim evaluate` and `worldsim card`"
