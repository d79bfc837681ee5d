"""Which device and number format a session runs in."""

from __future__ import annotations

import torch

from worldsim.errors import BackendError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def pick_device(name: str | torch.device) -> torch.device:
    """The device called ``name``.

    Raises:
        BackendError: no such device, or none on this machine.
    """
    try:
        device = torch.device(name)
        torch.zeros((), device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise BackendError(f"device {str(name)!r} cannot be used ({reason}): try device=cpu") from error
    return device


def pick_dtype(name: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The number format asked for, or for ``None`` the fastest one that the device has in hardware.

    bfloat16 where the processor multiplies it natively (AVX512-BF16 or AMX, and a GPU from compute capability
    8.0 on), because elsewhere it is emulated and slower than float32.

    Raises:
        BackendError: a format other than float32 and bfloat16.
    """
    if name is None:
        return torch.bfloat16 if has_native_bfloat16(device) else torch.float32
    dtype = DTYPES.get(name.removeprefix("torch.")) if isinstance(name, str) else name
    if dtype is None or dtype not in DTYPES.values():
        raise BackendError(f"dtype {name!r} is not supported: use one of {', '.join(DTYPES)}, or none to choose")
    return dtype


def has_native_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 arithmetic is in the device's hardware and PyTorch is set to use it."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu" or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    flags = torch.cpu.get_capabilities()
    return bool(flags.get("avx512_bf16") or flags.get("amx_bf16"))
