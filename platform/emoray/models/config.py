"""Configuration of the acoustic encoders and of the models built on them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import PositiveFloat, PositiveInt, field_validator

from emoray.config import Section
from emoray.schema import GRANULARITIES


class MelConfig(Section):
    """A log-mel front-end.

    Attributes:
        mels: Mel bands.
        window_s: Analysis window.
        hop_s: Step between frames.
        low_hz: Lower edge of the mel bands.
        high_hz: Upper edge of the mel bands.
        floor: Added to the mel power before the logarithm.
        center: Subtracted from the log-mels. Fixed, not per clip: loudness carries emotion.
        scale: Divides the centred log-mels.
    """

    mels: PositiveInt
    window_s: PositiveFloat
    hop_s: PositiveFloat
    low_hz: float
    high_hz: PositiveFloat
    floor: PositiveFloat
    center: float
    scale: PositiveFloat


class LogMelConfig(MelConfig):
    """The `logmel` encoder and its front-end.

    Attributes:
        width: Hidden width D.
        strides: Stride of each convolution over time.
        kernel: Kernel of each convolution, in frames.
        layers: Transformer layers.
        heads: Attention heads.
        dropout: Dropout inside the transformer layers.
    """

    width: PositiveInt
    strides: list[PositiveInt]
    kernel: PositiveInt
    layers: int
    heads: PositiveInt
    dropout: float


class Cnn14Config(MelConfig):
    """The `cnn14` encoder and its front-end.

    Attributes:
        width: Scale of the channels: 1 gives the published 64 to 2048, a quarter is what a CPU can train.
        dropout: Dropout after each block.
    """

    width: PositiveFloat
    dropout: float


class LoraConfig(Section):
    """Low-rank adapters on the attention projections (extra `lora`).

    Attributes:
        rank: Rank of the adapters.
        alpha: Their scale is alpha / rank.
        dropout: Dropout before the adapters.
        target_modules: Names of the linear layers that get one.
    """

    rank: PositiveInt
    alpha: PositiveFloat
    dropout: float
    target_modules: list[str]


class SslConfig(Section):
    """The `ssl` encoder: a Hugging Face speech encoder of the wav2vec 2.0 family.

    Attributes:
        checkpoint: Hub id or folder.
        revision: Revision on the hub, or null.
        tuning: `frozen`, `finetune` or `lora`; the convolutional front-end is frozen in every case.
        layers: `weighted` (learnable softmax-weighted sum of all hidden layers) or `last`.
        lora: Adapters for `tuning: lora`.
        architecture: The checkpoint's configuration and waveform normalisation, filled in by
            `emoray.models.build.portable` so that a saved model needs no checkpoint; null before.
    """

    checkpoint: str
    revision: str | None
    tuning: Literal["frozen", "finetune", "lora"]
    layers: Literal["weighted", "last"]
    lora: LoraConfig
    architecture: dict[str, Any] | None


class MoonshineConfig(Section):
    """The frozen encoder of the recogniser Moonshine tiny, which a dependency carries: no download, no GPU.

    Attributes:
        dropout: Dropout of its states' pooled statistics, which are batch-normalised before.
        revision: Hash of the encoder's file, filled in by `emoray.models.build.portable` so that a saved model is never
            scored with another encoder; null before.
    """

    dropout: float
    revision: str | None


class EncoderConfig(Section):
    """Which acoustic encoder.

    Attributes:
        kind: `logmel` and `cnn14` are trained from scratch on log-mels; `ssl` starts from a pre-trained checkpoint;
            `moonshine` is frozen, and `moonshine_logmel` has the log-mels of `logmel` beside its states.
        speaker_norms: Features relative to what is usual for the speaker, estimated from enrolment clips (not `ssl`).
        logmel: Options of `logmel`, and of the log-mels of `moonshine_logmel`.
        cnn14: Options of `cnn14`.
        ssl: Options of `ssl`.
        moonshine: Options of `moonshine` and `moonshine_logmel`.
    """

    kind: Literal["logmel", "cnn14", "ssl", "moonshine", "moonshine_logmel"]
    speaker_norms: bool
    logmel: LogMelConfig
    cnn14: Cnn14Config
    ssl: SslConfig
    moonshine: MoonshineConfig


class MoeConfig(Section):
    """Mixture of experts (FM-MOE).

    Attributes:
        experts: Number of experts E.
        inner: Inner width of an expert.
        routing: `dense` (all experts) or `top2`.
        router: `per_dimension` (one each for V, A and D) or `shared`.
    """

    experts: PositiveInt
    inner: PositiveInt
    routing: Literal["dense", "top2"]
    router: Literal["per_dimension", "shared"]


class FusionConfig(Section):
    """How semantics and sound are fused in MSF-SER.

    Attributes:
        kind: `fm_moe` (FiLM and mixture of experts), `concat_mlp` or `cross_attention`.
        gate: `vector` (sigmoid per channel) or `softmax` (one weight per granularity).
        heads: Attention heads of `cross_attention`.
        moe: Options of `fm_moe`.
    """

    kind: Literal["fm_moe", "concat_mlp", "cross_attention"]
    gate: Literal["vector", "softmax"]
    heads: PositiveInt
    moe: MoeConfig


#: How the valence-arousal-dominance cube is cut into regions (`emoray.models.regions`).
Regions = Literal["octants", 30, 45, 60, 180]


class EmoSphereConfig(Section):
    """Options of EmoSphere-SER only. The widths of style pooling and heads are the model's.

    Attributes:
        regions: `octants`, or the step in degrees of a grid of angles.
        kernel: Kernel of style pooling's gated convolutions, in frames.
        heads: Attention heads of style pooling.
        dropout: Dropout inside style pooling.
    """

    regions: Regions
    kernel: PositiveInt
    heads: PositiveInt
    dropout: float


class PerspectiveConfig(Section):
    """Options of the model of the perspective loss only.

    Attributes:
        sound: The sound's vector of an utterance: `statistics` (mean and standard deviation of its features over time)
            or `encoder` (the acoustic encoder and attentive statistics).
        fusion: Where sound and text are fused: `late` (logits), `hidden` (last hidden vectors) or `early` (before the
            GRU).
        operator: How: `add`, `concat` or `attention` (AT-fusion).
        gru: Width of the GRU in each direction.
        heads: Heads of the self-attention over the dialogue, of width 2 · gru in all.
    """

    sound: Literal["statistics", "encoder"]
    fusion: Literal["late", "hidden", "early"]
    operator: Literal["add", "concat", "attention"]
    gru: PositiveInt
    heads: PositiveInt


class StatisticsSvmConfig(Section):
    """Options of the support vector machines on statistics only.

    Attributes:
        c: Penalty C of the machines.
        max_clips: Most training clips that they are fitted to, spread over the train split: fitting takes time with the
            square of their number, and a version holds a row for each.
    """

    c: PositiveFloat
    max_clips: PositiveInt


class ModelConfig(Section):
    """A model.

    Attributes:
        name: Key of `emoray.models.build.MODELS`.
        width: Width D of the fused vectors; of style pooling in `emosphere`.
        hidden: Hidden width of the MLP heads (`acoustic`, `concat`, `text`, `emosphere`, `perspective`, `challenge`,
            `wav2vec2_dim`, `fusion.kind: concat_mlp`).
        dropout: Dropout before the outputs; in `emosphere`, `challenge` and `wav2vec2_dim` also before the heads.
        attention: Hidden width of attentive statistics pooling.
        text_width: Width E of the text vectors: the text encoder's, and 18 more with
            `annotate.embed.semantics_numbers`.
        granularities: Semantics that the model is built with (ablations leave some out).
        classes: Names of the classes of the categorical head; empty for none.
        encoder: The acoustic encoder.
        fusion: The fusion of MSF-SER.
        emosphere: Options of EmoSphere-SER.
        perspective: Options of the model of the perspective loss.
        statistics_svm: Options of the support vector machines on statistics.
    """

    name: Literal[
        "msf_ser",
        "emosphere",
        "multistage",
        "single_stage",
        "late_fusion",
        "perspective",
        "concat",
        "acoustic",
        "challenge",
        "wav2vec2_dim",
        "cnn14",
        "text",
        "statistics_svm",
        "mean",
    ]
    width: PositiveInt
    hidden: PositiveInt
    dropout: float
    attention: PositiveInt
    text_width: PositiveInt
    granularities: list[Literal["les", "gs", "es"]]
    classes: list[str]
    encoder: EncoderConfig
    fusion: FusionConfig
    emosphere: EmoSphereConfig
    perspective: PerspectiveConfig
    statistics_svm: StatisticsSvmConfig

    @field_validator("granularities")
    @classmethod
    def _in_order(cls, names: list[str]) -> list[str]:
        if len(set(names)) != len(names):
            raise ValueError("a granularity occurs twice")
        return [name for name in GRANULARITIES if name in names]
