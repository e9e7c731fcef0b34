"""Opens sessions of onnxruntime with a worker's number of threads."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def open_session(path: Path, *, num_threads: int, device: str = "cpu") -> Any:
    """Opens an `onnxruntime.InferenceSession`, on the CPU if the runtime has no CUDA.

    Args:
        path: The .onnx file.
        num_threads: CPU threads of one operator; operators run one after the other.
        device: "cpu" or "cuda".
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    providers = ["CPUExecutionProvider"]
    if device == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, "CUDAExecutionProvider")
    return onnxruntime.InferenceSession(str(path), options, providers=providers)
