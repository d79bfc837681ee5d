"""The command: cells in processes of their own, turn by turn, nothing lost."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from worldsim.benchmark import measure, report
from worldsim.benchmark.cells import Cell, product
from worldsim.benchmark.run import BenchmarkConfig, Worker, benchmark, main
from worldsim.benchmark.statistics import percentile
from worldsim.engine.session import Session
from worldsim.errors import WorldsimError
from worldsim.model.designs import Design
from worldsim.settings import unswept
from worldsim.world import World, save_world

QUICK = ["ticks=12", "repeats=2", "warmup=2", "threads=1", "plots=false"]
SETTINGS: dict[str, Any] = asdict(Cell())


def test_cells_are_every_combination_of_the_lists() -> None:
    cells = product(SETTINGS | {"steps": [1, 2], "batch": [1, 4], "dtype": "float32"})
    assert [(cell.steps, cell.batch) for cell in cells] == [(1, 1), (1, 4), (2, 1), (2, 4)]
    assert {cell.dtype for cell in cells} == {"float32"}
    with pytest.raises(WorldsimError, match="empty list"):
        product(SETTINGS | {"steps": []})
    with pytest.raises(WorldsimError, match="batch is 0"):
        product(SETTINGS | {"batch": [1, 0]})


def test_a_hydra_sweep_is_one_run_with_lists() -> None:
    swept = ["-m", "steps=1,2", "batch=range(1,4)", "world=pong"]
    assert unswept(swept) == ["steps=[1,2]", "batch=[1,2,3]", "world=pong"]
    assert unswept(["steps=1"]) == ["steps=1"]


def test_a_sleep_in_a_stage_shows_in_that_stage_and_nowhere_else(make_world) -> None:
    session = Session(make_world(seed=1), dtype="float32")
    session.reset(start=0)
    rng = np.random.default_rng(0)
    measure.time_ticks(session, 10, rng)
    plain = measure.time_ticks(session, 40, rng)["samples"]
    encode = session._parts.encode

    def slow(*arguments: torch.Tensor) -> Any:
        time.sleep(0.02)
        return encode(*arguments)

    object.__setattr__(session._parts, "encode", slow)
    slowed = measure.time_ticks(session, 40, rng)["samples"]
    # The least disturbed ticks: whatever else runs on the machine is not the benchmark's doing.
    added = {stage: percentile(slowed[stage], 5) - percentile(plain[stage], 5) for stage in plain}
    assert added["encode"] > 15 and added["tick"] > 15
    assert all(abs(added[stage]) < 10 for stage in ("decode", "to_uint8", "outcome", "response"))


def test_a_stages_time_is_part_of_its_tick(make_world) -> None:
    session = Session(make_world(seed=1), 2, dtype="float32")
    session.reset(start=0)
    made = measure.time_ticks(session, 30, np.random.default_rng(0))
    s = {stage: np.array(values) for stage, values in made["samples"].items()}
    assert {len(values) for values in s.values()} == {30} and len(made["resident_bytes"]) == 10
    assert (s["decode"] + s["to_uint8"] <= s["response"]).all()
    assert (s["response"] + s["encode"] + s["outcome"] <= s["tick"]).all()


def test_flops_are_those_of_the_matrix_products(make_world) -> None:
    """Counted by hand for the products of one tick: 2 x multiplications, attention's own included."""
    world = make_world(seed=1)
    c = world.config.model
    length, d, v, w = c.tokens, c.dim, c.view_dim, c.dim // 2
    within = 4 * length * length * d  # scores and mixing
    block = 2 * length * d * (4 * d + 2 * c.mlp_ratio * d) + within + 2 * 9 * length * d
    past = 4 * length * d * (c.window - 1)
    encode = 2 * length * v * d + c.encoder_layers * (block + 2 * length * 4 * d * d + past)
    fine, coarse, cells = c.decoder_width, 2 * c.decoder_width, c.height * c.width // 4
    scene = 2 * length * d * fine * c.patch**2 // 4 + 2 * cells * 9 * fine * (36 + 2 * fine)
    side, taps = c.patch + 2 * c.margin, 2 * c.margin + 1
    wide, busy = side + taps - 1, min(c.extrapolated, length)
    encode += 2 * busy * taps * (side * 3 * side * wide + side * wide * taps + taps * c.patch * side)
    encode += 2 * busy * taps * c.patch * side * 3 * c.patch
    resize = 2 * 2 * cells * fine * coarse  # down and up again
    ends = 2 * cells * 9 * fine * (12 + 12)
    decode = ends + 2 * cells * 9 * 4 * fine**2 + resize + c.decoder_layers * 2 * (cells // 4) * 9 * 2 * coarse**2
    heads = 2 * (length * (d + v) * w + 2 * length * w * 4 + 4 * w * w + 5 * w)
    for steps in (1, 3):
        wanted = encode + scene + steps * decode + heads
        assert measure.flops_per_tick(world, steps, 2) == pytest.approx(2 * wanted, rel=0.02)


def test_another_window_is_another_memory_of_the_same_world(make_world) -> None:
    world = make_world(seed=1)
    own = world.config.model.window
    for window in (2, own + 3):
        other = measure.with_window(world, window)
        session = Session(other, dtype="float32")
        session.reset(start=0)
        session.step([1])
        assert other.config.model.window == window
    same = measure.with_window(world, own)
    assert same.fingerprint == world.fingerprint


def test_the_command_measures_keeps_resumes_and_compares(
    tiny_world_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.json"
    arguments = [f"world={tiny_world_folder}", f"out={out}", *QUICK]
    assert main([*arguments, "dtype=float32", "steps=[1,2]", "backend=[eager,cudagraphs]"]) == 0
    found = report.read(out)
    assert len(found["cells"]) == 4
    good = [entry for entry in found["cells"] if entry["error"] is None]
    assert [entry["cell"]["steps"] for entry in good] == [1, 2] and all(len(entry["repeats"]) == 2 for entry in good)
    assert all("NVIDIA GPU" in entry["error"] for entry in found["cells"] if entry not in good)
    printed = capsys.readouterr().out
    assert "decisions/s" in printed and (tmp_path / "a.csv").exists() and (tmp_path / "a.md").exists()
    first = good[0]["repeats"]
    assert main([*arguments, "dtype=float32", "-m", "steps=1,3", "resume=true"]) == 0
    again = report.read(out)
    assert sorted(entry["cell"]["steps"] for entry in again["cells"] if entry["error"] is None) == [1, 2, 3]
    kept = next(entry for entry in again["cells"] if entry["cell"]["steps"] == 1 and not entry["error"])
    assert kept["repeats"] == first
    assert main(["compare", str(out), str(out)]) == 0
    assert "no difference shown" in capsys.readouterr().out


def test_a_cell_whose_process_dies_costs_the_others_nothing(tiny_world_folder: Path) -> None:
    kept: list[int] = []
    cells = [Cell(world=str(tiny_world_folder), dtype="float32", threads=1, batch=batch) for batch in (1, 2)]
    opened = Worker.ask

    def ask(self: Worker, **request: Any) -> dict[str, Any]:
        if self.cell.batch == 2 and "run" in request:
            self._process.kill()  # as the kernel does when memory runs out
        return opened(self, **request)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Worker, "ask", ask)
        entries = benchmark(cells, BenchmarkConfig(ticks=10, repeats=2, warmup=1), lambda e: kept.append(len(e)))
    assert entries[0]["error"] is None and len(entries[0]["repeats"]) == 2
    assert "memory" in entries[1]["error"] and not entries[1]["repeats"]
    assert kept == [2, 2]


def test_an_unknown_world_is_said_by_the_cell_and_by_the_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a.json"
    assert main(["world=pnog", f"out={out}", *QUICK]) == 2
    assert "pnog" in json.loads(out.read_text(encoding="utf-8"))["cells"][0]["error"]
    assert "Traceback" not in capsys.readouterr().err


def test_the_table_goes_into_its_part_of_a_page(
    tiny_world_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    part = "<!-- speed: written by `worldsim benchmark` -->\nold\n<!-- /speed -->"
    page.write_text(f"# Page\n\nBefore.\n\n{part}\n\nAfter.\n")
    arguments = [f"world={tiny_world_folder}", f"out={tmp_path / 'a.json'}", *QUICK, "dtype=float32"]
    assert main([*arguments, f"into={page}:speed"]) == 0
    text = page.read_text()
    assert text.startswith("# Page\n\nBefore.") and text.endswith("After.\n")
    assert "decisions/s" in text and "old" not in text
    assert main([*arguments, "resume=true", f"into={page}:size"]) == 0
    assert "After.\n\n## Size\n\n<!-- size" in page.read_text()
    assert main([*arguments, "into=page.md"]) == 2
    assert "page.md:backends" in capsys.readouterr().err


def test_a_result_of_something_else_is_not_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.json"
    out.write_text('{"format": "something"}')
    assert main([f"out={out}", "resume=true", *QUICK]) == 2
    assert str(out) in capsys.readouterr().err and out.read_text() == '{"format": "something"}'


def test_other_designs_of_a_worlds_size_are_cells(make_world, tmp_path: Path) -> None:
    folder = save_world(make_world(seed=1), tmp_path / "lively")  # an action changes something
    alike = {"world": str(folder), "dtype": "float32", "threads": 1}
    asked = [("scd", 3), ("dit", 1), ("dit", 3), ("dit:3", 3), ("stream:3", 3), ("stream-causal:3", 3)]
    cells = [cell for model, steps in asked for cell in product(SETTINGS | alike | {"model": model, "steps": steps})]
    made = benchmark(cells, BenchmarkConfig(ticks=12, repeats=1, warmup=2), lambda e: None)
    found = {(entry["cell"]["model"], entry["cell"]["steps"]): entry for entry in made}
    assert [entry["error"] for entry in made] == [None] * len(cells)
    flops = {key: entry["facts"]["flops_per_tick"] for key, entry in found.items()}
    # Every denoising step is a pass through all of a transformer, and so is the clean chunk, of which nothing is drawn.
    c, one_pass = make_world(seed=1).config.model, (flops["dit", 3] - flops["dit", 1]) // 2
    assert 2 * one_pass - flops["dit", 1] == 2 * c.tokens * c.dim * c.patch_dim
    assert flops["dit:3", 3] == pytest.approx(flops["dit", 3], rel=0.1)
    which = ("own", "first", "most")
    delays = {model: tuple(entry["facts"][f"delay_{one}"] for one in which) for (model, _), entry in found.items()}
    assert delays == {
        "scd": (1, 1, 1), "dit": (1, 1, 1), "dit:3": (3, 1, 3), "stream:3": (3, 1, 1), "stream-causal:3": (3, 3, 3),
    }  # fmt: skip
    for entry in made:
        samples = {name: np.array(values) for name, values in entry["repeats"][0]["samples"].items()}
        assert (samples["response"] <= samples["tick"]).all()


def test_a_world_of_another_design_is_measured_with_its_own_weights(make_world, tmp_path: Path) -> None:
    like = make_world(seed=1)
    torch.manual_seed(0)
    network = Design.parse("dit:2").make(like.config.model)  # fresh: no action changes anything
    config = dataclasses.replace(like.config, design="dit:2")
    folder = save_world(World(config, like.actions, network.requires_grad_(False), like.starts), tmp_path / "chunks")
    cell = Cell(world=str(folder), dtype="float32", threads=1, steps=2)
    [entry] = benchmark([cell], BenchmarkConfig(ticks=10, repeats=1, warmup=2), lambda e: None)
    assert entry["error"] is None and "delay_own" not in entry["facts"]
    assert entry["facts"]["parameters"] == sum(weight.numel() for weight in network.parameters())
    [other] = benchmark([dataclasses.replace(cell, window=5)], BenchmarkConfig(ticks=10, repeats=1), lambda e: None)
    assert "leave window out" in other["error"]


@pytest.mark.parametrize("model", ["dti", "dit:0", "dit:x", "stream", "stream:65", "scd:2"])
def test_an_unknown_design_is_told(model: str) -> None:
    with pytest.raises(WorldsimError, match="there is scd, dit"):
        Cell(model=model)


def test_designs_are_measured_as_an_engine() -> None:
    with pytest.raises(WorldsimError, match="leave surface and without out"):
        Cell(model="dit", surface="window")


def test_the_player_in_a_window_is_a_cell(tiny_world_folder: Path) -> None:
    cell = Cell(world=str(tiny_world_folder), dtype="float32", threads=1, surface="window", backend="eager")
    [entry] = benchmark([cell], BenchmarkConfig(ticks=12, repeats=1, warmup=2), lambda e: None)
    assert entry["error"] is None
    samples = entry["repeats"][0]["samples"]
    assert {"poll", "decode", "present", "event", "encode", "tick"} <= set(samples)
    assert len(samples["tick"]) == 12


def test_stalls_of_the_machine_are_looked_for() -> None:
    from worldsim.machine import stalls

    seen = stalls(0.05)
    assert seen["longest_ms"] > 0 and seen["over_1_ms"] >= seen["over_10_ms"] >= 0
