"""Private names of other libraries that this package uses, each with the version it was seen in.

`tests/test_library_internals.py` has a test per name, which fails when a new version moves it.
"""

from __future__ import annotations

from typing import Any


def alignment_heads(name: str, digest: str) -> bytes | None:
    """Returns the alignment heads of a checkpoint published by OpenAI (openai-whisper 20250625).

    `whisper._MODELS` has the address of each checkpoint, of which its digest is a part, and
    `whisper._ALIGNMENT_HEADS` has its heads, as `Whisper.set_alignment_heads` takes them.

    Args:
        name: Name of the checkpoint, e.g. `tiny.en`.
        digest: SHA-256 of its file.

    Returns:
        None if the file is not that checkpoint.
    """
    import whisper

    is_published = digest in whisper._MODELS.get(name, "")
    return whisper._ALIGNMENT_HEADS[name] if is_published else None


def frame_mask(model: Any, num_frames: int, attention_mask: Any) -> Any:
    """Whether each frame of a wav2vec 2.0 model is not padding (transformers 5.24).

    Args:
        model: A `Wav2Vec2PreTrainedModel`.
        num_frames: Frames of the model's output.
        attention_mask: (batch, samples), 1 where there is audio.
    """
    return model._get_feature_vector_attention_mask(num_frames, attention_mask)
