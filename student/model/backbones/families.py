"""The families of checkpoints with adapters. This module imports no large libraries, so that
command lines can use it."""

import re

BACKBONES = {
    "qwen2_audio": "student.model.backbones.qwen2_audio:Qwen2Audio",
    "qwen2_5_omni": "student.model.backbones.qwen2_5_omni:Qwen2_5Omni",
    "qwen2_5_omni_thinker": "student.model.backbones.qwen2_5_omni:Qwen2_5Omni",
    "qwen3_omni_moe": "student.model.backbones.qwen3_omni:Qwen3Omni",
    "qwen3_omni_moe_thinker": "student.model.backbones.qwen3_omni:Qwen3Omni",
    "audioflamingo3": "student.model.backbones.audio_flamingo3:AudioFlamingo3",
    "musicflamingo": "student.model.backbones.music_flamingo:MusicFlamingo",
    "voxtral": "student.model.backbones.voxtral:Voxtral",
}
"""`model_type` of a checkpoint's config -> module and class of the adapter."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""OWNER/NAME of a model on a hub."""
