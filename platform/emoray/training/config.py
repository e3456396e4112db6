"""Configuration of training."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from emoray.config import Section


class PlanConfig(Section):
    """How utterances become global batches. For models that read dialogues all of it is about dialogues, not clips.

    Attributes:
        batch_size: Clips (dialogues) of a global batch at most.
        batch_seconds: Padded seconds (clips × longest, after the crop) of a global batch at most.
        buckets: Length buckets: clips of one batch come from one bucket.
    """

    batch_size: PositiveInt
    batch_seconds: PositiveFloat
    buckets: PositiveInt


class AugmentConfig(Section):
    """Random changes to training clips, each drawn from (seed, step, utterance).

    Attributes:
        crop_s: Longest stretch of a clip in training; null for whole clips. Evaluation always hears the whole clip.
        modality_dropout: Chance that text vectors are taken away from a clip, a set of them as they are missing in use.
        time_masks: Stretches of frames set to zero (not of a waveform).
        time_mask_s: Longest such stretch.
        mel_masks: Bands of log-mels set to zero; nothing where there are none (`ssl`, `moonshine`).
        mel_mask_width: Widest such band.
    """

    crop_s: PositiveFloat | None
    modality_dropout: NonNegativeFloat
    time_masks: NonNegativeInt
    time_mask_s: NonNegativeFloat
    mel_masks: NonNegativeInt
    mel_mask_width: NonNegativeInt


class ObjectiveConfig(Section):
    """Weights of the terms of the loss.

    Attributes:
        ccc: Weight of Σ_d (1 − CCC_d); with 0 a model is selected by the UAR of its classes.
        ccc_scope: `global` (over workers × accumulation) or `local` (per micro-batch, as papers with accumulation do).
        category: Weight of the cross-entropy of `model.classes`. null: 1 where the train split has classes and no
            dimension, else 0.
        class_weights: Weigh each class by N / (C · n_c) of the train split in it; else all clips count the same.
        modalities: δ of the perspective loss: weight of each modality's own cross-entropy beside that of the fused
            classes, times `category` (only `perspective` has them).
        as_released: The cross-entropy as the perspective loss was released: applied to softmaxed values, and summed
            over the clips instead of their mean.
        load_balance: Weight of the router's load balance.
        region: Weight of the class-weighted cross-entropy of regions, times λ(epoch) (only `emosphere` has regions).
        region_epochs: Epochs E in which λ falls: λ(e) = 1 − .99 e / E.
        region_floor: λ from then on: 0 as released, .01 to stay where it fell to.
    """

    ccc: NonNegativeFloat
    ccc_scope: Literal["global", "local"]
    category: NonNegativeFloat | None
    class_weights: bool
    modalities: NonNegativeFloat
    as_released: bool
    load_balance: NonNegativeFloat
    region: NonNegativeFloat
    region_epochs: PositiveInt
    region_floor: NonNegativeFloat


class OptimizerConfig(Section):
    """The optimiser and its schedule.

    Attributes:
        kind: `adamw`, `adam` (the decay is part of the gradient), or `sgd` with momentum.
        encoder_lr: Learning rate of pre-trained encoder weights.
        lr: Learning rate of everything else.
        weight_decay: Of matrices; vectors (biases, norms, gates) have none.
        betas: AdamW's and Adam's.
        momentum: SGD's.
        schedule: After the warm-up: `cosine` (to zero), `constant`, or `plateau` (falls when the dev score stays).
        warmup_fraction: Share of all steps with a linear warm-up.
        plateau_factor: What `plateau` multiplies the learning rates by.
        plateau_patience: Epochs without a better dev score that it waits for.
        clip_norm: Largest norm of the gradient; null for any.
    """

    kind: Literal["adamw", "adam", "sgd"]
    encoder_lr: NonNegativeFloat
    lr: PositiveFloat
    weight_decay: NonNegativeFloat
    betas: tuple[float, float]
    momentum: NonNegativeFloat
    schedule: Literal["cosine", "constant", "plateau"]
    warmup_fraction: NonNegativeFloat
    plateau_factor: PositiveFloat
    plateau_patience: NonNegativeInt
    clip_norm: PositiveFloat | None


class TrainConfig(Section):
    """What a training learns: every key is part of the run's name (docs/decisions/0024).

    Attributes:
        seed: Of initial weights, plan, augmentation and dropout.
        epochs: Passes over the train split.
        patience: Epochs without a better dev score before the run stops; null to run all.
        precision: `fp32` or `bf16` (autocast; slower on CPUs).
        micro_batch_size: Clips of one forward pass on a worker; a larger share of the global batch is accumulated. A
            dialogue that has more goes alone.
        plan: Batches.
        augment: Random changes to clips.
        objective: Loss.
        optimizer: Optimiser and schedule.
    """

    moved_keys: ClassVar[dict[str, str]] = {
        name: f"launch.{name}"
        for name in (
            *("workers", "sharding", "gradient_checkpointing", "compile", "gpu", "threads"),
            *("eval_batch_size", "checkpoint_steps", "shard_rows", "cache_dir"),
        )
    }

    seed: int
    epochs: PositiveInt
    patience: PositiveInt | None
    precision: Literal["fp32", "bf16"]
    micro_batch_size: PositiveInt
    plan: PlanConfig
    augment: AugmentConfig
    objective: ObjectiveConfig
    optimizer: OptimizerConfig


class LaunchConfig(Section):
    """How a training is carried out. No key is part of the run's name, and a run can resume under another launch.

    Other values change results by rounding only, but for `workers`: more of them divide a batch into other
    micro-batches, and dropout's masks and a local CCC (`train.objective.ccc_scope`) are made per micro-batch. What
    changes results in any other way belongs to `TrainConfig` (docs/decisions/0024).

    Attributes:
        workers: Training workers; 0 trains in the caller's own process, without Ray.
        gpu: Give each worker a GPU.
        threads: Torch threads of a CPU worker.
        cpus_per_worker: Cores that a training worker reserves; less than one leaves the data some of a small machine.
        cpus_per_data_task: Cores that a task which collates batches reserves.
        steps_per_task: Steps that one task collates.
        tasks_ahead: Tasks whose steps are collated ahead of a worker: what its batches fill of the object store.
        sharding: `none` (each worker holds all weights, gradients and optimiser state) or `full` (its share of them, by
            FSDP2; a worker that is alone holds all of them). Where micro-batches are accumulated each worker still
            holds a whole gradient within a step.
        gradient_checkpointing: Keep no activations inside the layers of the acoustic encoder but compute them again in
            the backward pass: less memory, a third more to compute. Not for `cnn14`.
        compile: Compile the layers of the acoustic encoder for any number of clips and frames, the first steps being
            slow: `inductor` (torch.compile's own; needs a C++ compiler) or `aot_eager` (traced but not compiled: to
            look for faults without a compiler, no faster); null for neither.
        eval_batch_size: Clips of one forward pass in evaluation. A dialogue that has more goes alone.
        shard_rows: Utterances per shard of the packed training set.
        cache_dir: Where the shards of a remote lake are kept on local disk; null for a folder per user in the
            system's temporary one.
        checkpoint_steps: Steps between checkpoints inside an epoch; one is also made after every epoch.
        keep_checkpoints: Checkpoints to keep of a run.
        max_failures: Worker deaths that a run survives by restarting from its last checkpoint.
        stop_s: How long SIGTERM or Ctrl-C waits for Ray's workers to checkpoint; less than the scheduler waits before
            it kills.
    """

    workers: NonNegativeInt
    gpu: bool
    threads: PositiveInt
    cpus_per_worker: PositiveFloat
    cpus_per_data_task: PositiveFloat
    steps_per_task: PositiveInt
    tasks_ahead: PositiveInt
    sharding: Literal["none", "full"]
    gradient_checkpointing: bool
    compile: Literal["inductor", "aot_eager"] | None
    eval_batch_size: PositiveInt
    shard_rows: PositiveInt
    cache_dir: str | None
    checkpoint_steps: PositiveInt
    keep_checkpoints: PositiveInt
    max_failures: NonNegativeInt
    stop_s: PositiveFloat
