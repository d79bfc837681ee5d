"""Settings, the command line, and what it answers to a mistake."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from worldsim import settings
from worldsim.__main__ import VERBS
from worldsim.__main__ import main as door
from worldsim.errors import WorldsimError

CONFIG = """\
world: pong  # which world
steps: 2
rate: 1.5
name: null
source: pong
inner: {width: 3}
"""


@dataclass(frozen=True)
class Inner:
    width: int
    crop: tuple[int, int] | None = None


@dataclass(frozen=True)
class Outer:
    inner: Inner
    rate: float = 1.0
    name: str | None = None
    mode: Literal["fast", "slow"] = "fast"
    path: Path = Path(".")
    loud: bool = False
    sizes: tuple[int, ...] = ()
    rows: tuple[Inner, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise ValueError(f"rate is {self.rate}, it must not be negative")


@pytest.fixture
def seen() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: list[dict[str, Any]]) -> Callable[..., int]:
    """A command whose config is CONFIG and that notes the settings it was given."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "pong.yaml").write_text("id: ALE/Pong-v5\nrate: 1e-3\n", encoding="utf-8")
    (tmp_path / "work.yaml").write_text(CONFIG, encoding="utf-8")
    monkeypatch.setattr(settings, "configs_folder", lambda: tmp_path)
    monkeypatch.chdir(tmp_path)

    @settings.command("work")
    def main(config: dict[str, Any]) -> int | None:
        """Does the work."""
        seen.append(config)
        if config["world"] == "bad":
            raise WorldsimError("the world is bad:\n  mend it")
        if config["world"] == "full":
            raise OSError(errno.ENOSPC, "No space left on device", "weights.bin")
        if config["world"] == "stop":
            raise KeyboardInterrupt
        return 3 if config["world"] == "three" else None

    return main


def test_overrides_reach_the_command_as_plain_values(
    verb: Callable[..., int], seen: list[dict[str, Any]]
) -> None:
    assert verb(["steps=4", "name=a_b", "inner.width=5", "world=hf:owner/name"]) == 0
    assert seen == [
        {
            "world": "hf:owner/name",
            "steps": 4,
            "rate": 1.5,
            "name": "a_b",
            "source": "pong",
            "inner": {"width": 5},
        }
    ]
    assert type(seen[0]) is dict and type(seen[0]["inner"]) is dict


@pytest.mark.parametrize("source", ["pong", "ALE/Breakout-v5", "CartPole-v1", "my_module:Mine-v0"])
def test_a_source_is_a_name_and_not_a_choice_of_hydras(
    verb: Callable[..., int], seen: list[dict[str, Any]], source: str
) -> None:
    assert verb([f"source={source}"]) == 0
    assert seen[0]["source"] == source


def test_a_command_leaves_nothing_behind_but_what_it_does(verb: Callable[..., int], tmp_path: Path) -> None:
    before, argv, environment = sorted(tmp_path.rglob("*")), list(sys.argv), dict(os.environ)
    assert verb(["steps=4"]) == 0
    assert verb(["nonsense=4"]) == 2
    assert (sorted(tmp_path.rglob("*")), sys.argv, dict(os.environ)) == (before, argv, environment)


def test_a_report_names_the_command_and_not_a_folder_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["worldsim evaluate", "world=pong", "parts=[objects]", "out=there", "hydra.x=1"])
    assert settings.command_line() == "worldsim evaluate world=pong 'parts=[objects]'"


def test_a_sweep_runs_every_choice(verb: Callable[..., int], seen: list[dict[str, Any]]) -> None:
    assert verb(["-m", "steps=1,2", "world=pong,three"]) == 3
    assert [(one["steps"], one["world"]) for one in seen] == [
        (1, "pong"),
        (1, "three"),
        (2, "pong"),
        (2, "three"),
    ]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["stepz=4"],
            "unknown key 'stepz' (did you mean 'steps'?): work takes world, steps, rate, name, source, inner",
        ),
        (["inner.height=4"], "unknown key 'inner.height'"),
        (["--steps=4"], "unknown flag '--steps=4': settings have no dashes, write steps=4"),
        (["--steps", "4"], "unknown flag '--steps': settings have no dashes, write steps=..."),
        (["steps"], "cannot read 'steps': settings are written key=value"),
        (["steps=[1,2"], "cannot read 'steps=[1,2'"),
        (["steps=???"], "say steps=..."),
        (["name=${nothing}"], "Interpolation key 'nothing' not found"),
        (["world=bad"], "the world is bad: mend it"),
        (["world=full"], "the disk is full while writing weights.bin: free some space and run this again"),
        (["-m", "world=pong,bad"], "the world is bad: mend it"),
    ],
)
def test_a_mistake_is_answered_in_one_line_and_code_2(
    verb: Callable[..., int], capfd: pytest.CaptureFixture[str], arguments: list[str], line: str
) -> None:
    assert verb(arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith(f"worldsim work: {line}") and err.count("\n") == 1


def test_ctrl_c_is_one_line_and_code_130(verb: Callable[..., int], capfd: pytest.CaptureFixture[str]) -> None:
    assert verb(["world=stop"]) == 130
    assert capfd.readouterr().err == "worldsim work: stopped by Ctrl-C\n"


def test_a_bug_keeps_its_own_traceback(verb: Callable[..., int]) -> None:
    @settings.command("work")
    def broken(config: dict[str, Any]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        broken([])


def test_help_shows_every_setting_with_its_comment(
    verb: Callable[..., int], capsys: pytest.CaptureFixture[str], seen: list[dict[str, Any]]
) -> None:
    assert verb(["--help"]) == 0
    out = capsys.readouterr().out
    assert "Does the work." in out and CONFIG.strip() in out
    assert not seen


def test_the_door_lists_its_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert door([]) == 0
    out = capsys.readouterr().out
    assert all(verb in out for verb in VERBS)
    assert door(["pley"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("worldsim: unknown verb 'pley' (did you mean 'play'?): there is collect, ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("verb_name", VERBS)
def test_every_verb_is_there_and_explains_itself(verb_name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert door([verb_name, "--help"]) == 0
    usage, _, about, *_ = capsys.readouterr().out.splitlines()
    assert usage == f"worldsim {verb_name} [key=value ...]"
    assert len(about.split()) > 3 and about.endswith(".")  # a sentence
    assert door([verb_name, "no_such_key=1"]) == 2
    assert "unknown key 'no_such_key'" in capsys.readouterr().err


def test_python_m_worldsim_ends_with_the_verbs_code() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "worldsim", "nonsense"], capture_output=True, text=True, timeout=600
    )
    assert run.returncode == 2 and run.stdout == "" and run.stderr.count("\n") == 1


def test_from_dict_builds_nested_dataclasses_from_json() -> None:
    text = '{"inner": {"width": 4, "crop": [1, 2]}, "rate": 2, "path": "a/b", "sizes": [1, 2, 3],' \
        ' "rows": [{"width": 1.0}], "extra": {"a": [1]}}'  # fmt: skip
    assert settings.from_dict(Outer, json.loads(text)) == Outer(
        Inner(4, (1, 2)), rate=2.0, path=Path("a/b"), sizes=(1, 2, 3), rows=(Inner(1),), extra={"a": [1]}
    )


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({}, "the key 'inner' is missing"),
        ({"inner": {}}, "the key 'inner.width' is missing"),
        (
            {"inner": {"width": 1, "wdth": 2}},
            "unknown key 'inner.wdth' (did you mean 'width'?): the keys are width, crop",
        ),
        ({"inner": {"width": "wide"}}, "inner.width is 'wide', it must be a whole number"),
        ({"inner": {"width": 1.5}}, "inner.width is 1.5, it must be a whole number"),
        ({"inner": {"width": True}}, "inner.width is True, it must be a whole number"),
        ({"inner": {"width": 1, "crop": [1]}}, "inner.crop has 1 values, it must have 2"),
        ({"inner": {"width": 1, "crop": "all"}}, "inner.crop is 'all', it must be a list or null"),
        ({"inner": {"width": 1, "crop": [1, "x"]}}, "inner.crop[1] is 'x', it must be a whole number"),
        ({"inner": 3}, "inner is 3, it must be keys and values"),
        ({"inner": {"width": 1}, "mode": "warp"}, "mode is 'warp', it must be one of fast, slow"),
        ({"inner": {"width": 1}, "loud": 1}, "loud is 1, it must be true or false"),
        ({"inner": {"width": 1}, "name": [1]}, "name is [1], it must be text or null"),
        ({"inner": {"width": 1}, "rate": -1}, "rate is -1.0, it must not be negative"),
        ({"inner": {"width": 1}, "rows": [{"width": 1}, {}]}, "the key 'rows[1].width' is missing"),
        ([1], "the whole is [1], it must be keys and values"),
    ],
)
def test_from_dict_names_the_key_that_is_wrong(values: Any, line: str) -> None:
    with pytest.raises(WorldsimError) as error:
        settings.from_dict(Outer, values, where="config.json")
    assert str(error.value) == f"config.json: {line}"


def test_home_is_the_variable_or_the_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLDSIM_HOME", str(tmp_path / "mine"))
    assert settings.home() == tmp_path / "mine"
    monkeypatch.delenv("WORLDSIM_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert settings.home() == tmp_path / ".cache" / "worldsim"


def test_load_group_reads_a_config_or_lists_those_there_are(verb: Callable[..., int]) -> None:
    assert settings.load_group("source", "pong") == {"id": "ALE/Pong-v5", "rate": 0.001}
    with pytest.raises(
        WorldsimError, match=r"^unknown source 'pang' \(did you mean 'pong'\?\): there is pong$"
    ):
        settings.load_group("source", "pang")
    with pytest.raises(WorldsimError, match="unknown source '../work'"):
        settings.load_group("source", "../work")


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    """`worldsim train --help | head -1`"""
    line = f"{sys.executable} -m worldsim train --help | head -c 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
    assert done.stderr == "" and done.stdout.split()[-1].lstrip("w") in ("0", "141")


@pytest.mark.parametrize(
    "value",
    [None, True, 3, 0.5, 1e-05, "dit:4", "a b", 'q"u\\o', "", "k=v", [1, None, "x,y"], {"near": 4, "deep": {"a": [1]}}],
)
def test_what_is_written_is_read_as_it_was(value: object) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    assert OverridesParser.create().parse_override(f"key={settings.written(value)}").value() == value


def test_only_what_differs_from_the_defaults_is_said() -> None:
    usual = {"a": 1, "b": {"c": 2, "d": None}, "e": {"f": 1}}
    told = {"a": 1, "b": {"c": 3, "d": {"x": 1}}, "e": None, "g": "new"}
    assert settings.overrides(told, usual) == {"b.c": "3", "b.d": "{x:1}", "e": "null", "g": "new"}
    assert settings.overrides(usual, usual) == {}
