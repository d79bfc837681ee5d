"""The machine that figures belong to: what it is, which commit runs on it, and how often it stands still by itself."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from pathlib import Path
from typing import Any

# Instruction sets that decide which matrix products a CPU does fast.
_TELLING_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_bf16",
    "avx512_vnni",
    "avx_vnni",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "bf16",
    "sve",
)


def machine() -> dict[str, Any]:
    """Processor, cores, instruction sets, system and versions, with PyTorch's number of threads at this moment."""
    import torch

    return {
        "cpu": _cpuinfo(r"model name\s*:\s*(.+)") or platform.processor() or platform.machine(),
        "cores": physical_cores(),
        "cpus": len(_usable()),
        "instructions": " ".join(
            flag for flag in _TELLING_FLAGS if flag in (_cpuinfo(r"(?:flags|Features)\s*:\s*(.+)") or "").split()
        ),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def physical_cores() -> int:
    """Physical cores that this process may use: arithmetic gains nothing from a core's second thread."""
    usable = _usable()
    blocks = (_read("/proc/cpuinfo") or "").strip().split("\n\n")
    cores = set()
    for block in blocks:
        found = dict(re.findall(r"^(processor|physical id|core id)\s*:\s*(\d+)", block, re.MULTILINE))
        if int(found.get("processor", -1)) in usable:
            cores.add((found.get("physical id"), found.get("core id", found["processor"])))
    if cores:
        return len(cores)
    import torch

    return min(len(usable), torch.get_num_threads())


def commit() -> str | None:
    """The commit of the checkout that this code is in, with ``+`` if files differ from it; None outside a checkout."""
    folder = Path(__file__).parent
    try:
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, timeout=10, check=True
        )
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def short(commit: str | None) -> str:
    """A commit for people to read: twelve digits, and the ``+`` that says that files differed from it."""
    return "unknown" if commit is None else commit[:12] + "+" * commit.endswith("+")


def stolen_ms() -> float | None:
    """Milliseconds of CPU time, over all CPUs since boot, that a hypervisor gave to others; None where nobody counts.

    Linux counts in steps of 10 ms.
    """
    line = (_read("/proc/stat") or "").partition("\n")[0].split()
    if len(line) < 9 or line[0] != "cpu":
        return None
    return 1000.0 * int(line[8]) / os.sysconf("SC_CLK_TCK")


def stalls(seconds: float = 2.0) -> dict[str, float | int | None]:
    """How long the machine stands still while this process does nothing but read the clock.

    No program can be more punctual: where a virtual machine pauses for 50 ms, all that runs on it is 50 ms late.

    Args:
        seconds: How long to look.

    Returns:
        ``seconds``; the ``longest_ms`` between two readings; how many were ``over_1_ms`` and ``over_10_ms``;
        ``stolen_ms``.
    """
    gaps = []
    stolen, clock = stolen_ms(), time.perf_counter
    end = clock() + seconds
    last = clock()
    longest = 0.0
    while last < end:
        now = clock()
        gap = now - last
        if gap > 0.001:
            gaps.append(gap)
        longest = max(longest, gap)
        last = now
    after = stolen_ms()
    return {
        "seconds": seconds,
        "longest_ms": 1000 * longest,
        "over_1_ms": len(gaps),
        "over_10_ms": sum(gap > 0.01 for gap in gaps),
        "stolen_ms": None if stolen is None or after is None else after - stolen,
    }


def _usable() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _cpuinfo(pattern: str) -> str | None:
    found = re.search(pattern, _read("/proc/cpuinfo") or "")
    return found[1].strip() if found else None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return None
