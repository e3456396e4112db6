"""Acoustic encoders behind one interface: features (B, T, F) and lengths in, hidden states and their mask out.

Shapes: B batch, T frames in, U frames out, F features, D width, L layers, S samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from emoray.errors import ConfigError, MissingExtraError
from emoray.models.batch import frame_mask
from emoray.models.config import LogMelConfig, LoraConfig, SslConfig


class LogMelEncoder(nn.Module):
    """Small convolutions and a transformer over log-mels: the size that a CPU can train [ours].

    Every convolution gets zeros beyond a clip's end and its output is masked again, so padding changes nothing.

    Attributes:
        width: Width D of the hidden states.
    """

    def __init__(self, config: LogMelConfig) -> None:
        super().__init__()
        self.width = config.width
        self._strides = list(config.strides)
        if config.kernel % 2 == 0:
            raise ConfigError(
                f"kernel {config.kernel} is even", where="model.encoder.logmel.kernel", remedy="Use an odd one"
            )
        widths = [config.mels, *[config.width] * len(config.strides)]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(before, after, config.kernel, stride, config.kernel // 2)
            for before, after, stride in zip(widths[:-1], widths[1:], config.strides, strict=True)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in config.strides)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                config.width,
                config.heads,
                4 * config.width,
                config.dropout,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width)

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Encode log-mels.

        Returns:
            Hidden states (B, U, D) and the mask (B, U) of the valid ones.
        """
        mask_BT = frame_mask(lengths_B, features_BTF.shape[1])
        hidden_BTD = features_BTF.masked_fill(~mask_BT.unsqueeze(-1), 0)
        for convolution, norm, stride in zip(self.convolutions, self.norms, self._strides, strict=True):
            hidden_BTD = nn.functional.gelu(norm(convolution(hidden_BTD.transpose(1, 2)).transpose(1, 2)))
            lengths_B = (lengths_B + stride - 1) // stride
            mask_BT = frame_mask(lengths_B, hidden_BTD.shape[1])
            hidden_BTD = hidden_BTD.masked_fill(~mask_BT.unsqueeze(-1), 0)
        hidden_BTD = hidden_BTD + _sinusoids(hidden_BTD.shape[1], self.width).to(hidden_BTD)
        for layer in self.layers:
            hidden_BTD = layer(hidden_BTD, src_key_padding_mask=~mask_BT)
        return self.norm(hidden_BTD), mask_BT


def _sinusoids(frames: int, width: int) -> Tensor:
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angle = torch.arange(frames)[:, None] * rate[None, :]
    return torch.stack([angle.sin(), angle.cos()], dim=-1).reshape(frames, -1)[:, :width]


class GivenStates(nn.Module):
    """Hidden states that the front-end computed with a frozen encoder: nothing is learned here.

    Attributes:
        width: Width D of the states.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """The states (B, T, D) as they are, and the mask (B, T) of the valid ones."""
        return features_BTF, frame_mask(lengths_B, features_BTF.shape[1])


class SslEncoder(nn.Module):
    """A Hugging Face speech encoder over waveforms: wav2vec 2.0, HuBERT, WavLM and similar.

    The convolutional front-end is always frozen. If it normalises over time (`feat_extract_norm="group"`, as in
    WavLM-base and base+), it runs clip by clip and pads after, since its statistics would otherwise include the
    padding.

    Attributes:
        width: Width D of the hidden states.

    Raises:
        ConfigError: The checkpoint cannot be read or is of another family.
        MissingExtraError: `tuning: lora` without peft.
    """

    def __init__(self, config: SslConfig) -> None:
        super().__init__()
        self._frozen = config.tuning == "frozen"
        backbone: Any = _load_backbone(config)
        self._per_clip = backbone.config.feat_extract_norm == "group"
        self._kernels_strides = list(zip(backbone.config.conv_kernel, backbone.config.conv_stride, strict=True))
        self.width = int(backbone.config.hidden_size)
        backbone.requires_grad_(not self._frozen)
        if config.tuning == "lora":
            backbone = _add_lora(backbone, config.lora)
        for name, parameter in backbone.named_parameters():
            # The mask embedding is for pre-training only: DDP would wait for its gradient.
            if "feature_extractor" in name or "masked_spec_embed" in name:
                parameter.requires_grad_(False)
        self.backbone = backbone
        states = int(backbone.config.num_hidden_layers) + 1
        self.layer_weight_L = nn.Parameter(torch.zeros(states)) if config.layers == "weighted" else None

    def train(self, mode: bool = True) -> SslEncoder:
        """Training mode, but a frozen backbone stays without dropout."""
        super().train(mode)
        if self._frozen:
            self.backbone.eval()
        return self

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Encode waveforms (B, S, 1).

        Returns:
            Hidden states (B, U, D) and the mask (B, U) of the valid ones.
        """
        model: Any = self.backbone
        with torch.no_grad():
            local_BUC = self._front_end(model.feature_extractor, features_BTF.squeeze(-1), lengths_B)
        mask_BU = frame_mask(self._frames(lengths_B), local_BUC.shape[1])
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._frozen):
            projected = model.feature_projection(local_BUC)
            hidden_BUD = projected[0] if isinstance(projected, tuple) else projected
            if self.layer_weight_L is None:
                return model.encoder(hidden_BUD, attention_mask=mask_BU).last_hidden_state, mask_BU
            states = self._hidden_states(model.encoder, hidden_BUD, mask_BU)
        weight_L = self.layer_weight_L.softmax(0)
        hidden_BUD = torch.zeros_like(states[0])
        for weight, state_BUD in zip(weight_L, states, strict=True):
            hidden_BUD = hidden_BUD + weight * state_BUD
        return hidden_BUD, mask_BU

    def _front_end(self, extractor: nn.Module, samples_BS: Tensor, lengths_B: Tensor) -> Tensor:
        shortest = self._receptive_field()
        if int(lengths_B.min()) < shortest:
            # Such a clip would have no frame; silence up to one frame lets it be scored.
            lengths_B = lengths_B.clamp_min(shortest)
            samples_BS = nn.functional.pad(samples_BS, (0, max(0, shortest - samples_BS.shape[1])))
        if not self._per_clip:
            return extractor(samples_BS).transpose(1, 2)
        clips = [extractor(samples_BS[i : i + 1, :length])[0].T for i, length in enumerate(lengths_B.tolist())]
        return pad_sequence(clips, batch_first=True)

    def _frames(self, lengths_B: Tensor) -> Tensor:
        lengths_B = lengths_B.clamp_min(self._receptive_field())
        for kernel, stride in self._kernels_strides:
            lengths_B = (lengths_B - kernel) // stride + 1
        return lengths_B

    def _receptive_field(self) -> int:
        samples = 1
        for kernel, stride in reversed(self._kernels_strides):
            samples = (samples - 1) * stride + kernel
        return samples

    @staticmethod
    def _hidden_states(encoder: nn.Module, hidden_BUD: Tensor, mask_BU: Tensor) -> list[Tensor]:
        """Input of the first layer and every layer's output, the last after the encoder's final norm."""
        states: list[Tensor] = []

        def keep_input(_module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            states.append(arguments[0] if arguments else keywords["hidden_states"])

        def keep_output(_module: nn.Module, _arguments: object, output: object) -> None:
            states.append(output[0] if isinstance(output, tuple) else output)  # type: ignore[arg-type]

        layers: Any = encoder.layers
        hooks = [layers[0].register_forward_pre_hook(keep_input, with_kwargs=True)]
        hooks += [layer.register_forward_hook(keep_output) for layer in layers]
        try:
            last = encoder(hidden_BUD, attention_mask=mask_BU).last_hidden_state
        finally:
            for hook in hooks:
                hook.remove()
        states[-1] = last
        return states


def architecture(config: SslConfig) -> dict[str, Any]:
    """The checkpoint's configuration and waveform normalisation, as in `SslConfig.architecture`.

    Raises:
        ConfigError: The checkpoint cannot be read.
    """
    if config.architecture is not None:
        return config.architecture
    from transformers import AutoConfig, AutoFeatureExtractor

    try:
        model = AutoConfig.from_pretrained(config.checkpoint, revision=config.revision)
        extractor = AutoFeatureExtractor.from_pretrained(config.checkpoint, revision=config.revision)
    except (OSError, ValueError) as error:
        raise _unreadable(config, error) from error
    return {"model": model.to_dict(), "normalise": bool(extractor.do_normalize)}


def _load_backbone(config: SslConfig) -> nn.Module:
    # Imported here: it takes three times as long as everything else, and the logmel encoder does not need it.
    from transformers import AutoConfig, AutoModel

    # LayerDrop would skip layers on some workers only; masking is ours (emoray.training.data.augment).
    quiet = {"layerdrop": 0.0, "apply_spec_augment": False}
    if config.architecture is not None:
        tree = dict(config.architecture["model"])
        model_config = AutoConfig.for_model(tree.pop("model_type"), **{**tree, **quiet})
        backbone = AutoModel.from_config(model_config)
    else:
        try:
            backbone = AutoModel.from_pretrained(
                config.checkpoint, revision=config.revision, dtype=torch.float32, **quiet
            )
        except (OSError, ValueError) as error:
            raise _unreadable(config, error) from error
    parts = ("feature_extractor", "feature_projection", "encoder")
    if not all(hasattr(backbone, part) for part in parts) or not hasattr(backbone.config, "feat_extract_norm"):
        raise ConfigError(
            f"{config.checkpoint} is a {backbone.config.model_type}, which does not read waveforms like wav2vec 2.0",
            where="model.encoder.ssl.checkpoint",
            remedy="Use a WavLM, wav2vec 2.0, HuBERT, UniSpeech-SAT or data2vec-audio checkpoint",
        )
    return backbone


def _unreadable(config: SslConfig, error: Exception) -> ConfigError:
    return ConfigError(
        f"cannot load speech encoder {config.checkpoint!r}: {str(error).splitlines()[0]}",
        where="model.encoder.ssl.checkpoint",
        remedy="Give a folder in Hugging Face layout, or a hub id with network access",
    )


#: WavLM's attention passes the weights of these layers to a fused function and never calls the layers.
WAVLM_BYPASSED = ("q_proj", "k_proj", "v_proj", "out_proj")


def _add_lora(backbone: Any, config: LoraConfig) -> nn.Module:
    bypassed = [name for name in config.target_modules if name in WAVLM_BYPASSED]
    if backbone.config.model_type == "wavlm" and bypassed:
        raise ConfigError(
            f"adapters on WavLM's {', '.join(bypassed)} would have no effect: its attention bypasses these layers",
            where="model.encoder.ssl.lora.target_modules",
            remedy="Use [intermediate_dense, output_dense]",
        )
    try:
        from peft import LoraConfig as PeftConfig
        from peft import inject_adapter_in_model
    except ImportError:
        raise MissingExtraError(
            "LoRA needs the package peft",
            where="model.encoder.ssl.tuning",
            remedy="Install the extra: pip install 'emoray[lora]'",
        ) from None
    backbone.requires_grad_(False)
    options = PeftConfig(
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(config.target_modules),
    )
    return inject_adapter_in_model(options, backbone)


def pretrained_parameters(encoder: nn.Module) -> Iterator[nn.Parameter]:
    """Parameters from a checkpoint (adapters are not): they have the encoder's lower learning rate."""
    if isinstance(encoder, SslEncoder):
        yield from (parameter for name, parameter in encoder.backbone.named_parameters() if "lora_" not in name)
