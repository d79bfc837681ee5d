"""OpenVINO: a CPU runtime from a wheel, with its own code generator, so that no compiler is needed."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from worldsim.engine.backends import Part, first_line
from worldsim.errors import BackendError, MissingExtra


class OpenVINO:
    """Converts a part's float32 graph; a bfloat16 session lets OpenVINO compute in bfloat16 inside.

    OpenVINO takes and gives NumPy arrays, which have no bfloat16: such tensors cross the border as float32.
    """

    name = "openvino"
    fixed_shapes = True

    def __init__(self) -> None:
        try:
            import openvino
        except ImportError as error:
            raise MissingExtra("openvino", "openvino") from error
        self._openvino = openvino
        self._core = openvino.Core()

    def prepare(self, part: nn.Module, example: tuple[Tensor, ...]) -> Part:
        """The part, converted; see :class:`~worldsim.engine.backends.Backend`."""
        results = part(*example)
        kinds = [result.dtype for result in (results if isinstance(results, tuple) else (results,))]
        inside = "bf16" if torch.bfloat16 in {x.dtype for x in (*example, *part.state_dict().values())} else "f32"
        try:
            # Tensors of inference mode cannot be exported; copies made outside of it can.
            with torch.inference_mode(False), torch.no_grad():
                wide = tuple(_wide(x.clone()) for x in example)
                exported = torch.export.export(copy.deepcopy(part).float(), wide, strict=False)
                model = self._openvino.convert_model(exported.run_decompositions(), example_input=wide)
            compiled = self._core.compile_model(
                model,
                "CPU",
                {
                    "PERFORMANCE_HINT": "LATENCY",
                    "INFERENCE_PRECISION_HINT": inside,
                    "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                    "NUM_STREAMS": 1,
                },
            )
            request = compiled.create_infer_request()
        except Exception as error:  # a converter can fail in a hundred ways
            raise BackendError(
                f"backend 'openvino' cannot convert this world ({first_line(error)}): use backend=eager"
            ) from error
        single = not isinstance(results, tuple)

        def run(*arguments: Tensor) -> Any:
            request.infer([_wide(x).numpy() for x in arguments], share_inputs=True)
            made = [
                torch.from_numpy(request.get_output_tensor(i).data).to(kind, copy=True) for i, kind in enumerate(kinds)
            ]
            return made[0] if single else tuple(made)

        run(*example)
        return run


def _wide(x: Tensor) -> Tensor:
    """bfloat16 as float32, anything else as it is; in one piece."""
    return (x.float() if x.dtype == torch.bfloat16 else x).contiguous()


def make(device: torch.device) -> OpenVINO:
    """For a CPU.

    Raises:
        BackendError: the device is another.
        MissingExtra: OpenVINO is not installed.
    """
    if device.type != "cpu":
        raise BackendError(f"backend 'openvino' runs on device=cpu here, not {device}: use backend=inductor")
    return OpenVINO()
