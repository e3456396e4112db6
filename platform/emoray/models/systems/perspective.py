"""The perspective loss over dialogues: utterances in their order, and a loss of each modality beside the fusion's.

Shapes: B utterances of a batch, G dialogues, U utterances of the longest, T frames, F features, D width, P width of
both directions of the GRU, H hidden width, C classes, 3 = (valence, arousal, dominance).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from emoray.errors import ConfigError
from emoray.models.batch import Batch, Output, frame_mask
from emoray.models.config import ModelConfig
from emoray.models.fusion import TextVector
from emoray.models.heads import LABEL_CENTER, ClassHead, PooledSound, feature_width
from emoray.models.pooling import mean_deviation
from emoray.schema import DIMENSIONS


class Perspective(nn.Module):
    """Dialogues under the perspective loss (arXiv 2304.03899 [code]); a clip scored alone is a dialogue of one turn.

    Clips are scored so online and in bulk, without the turns around them. Per modality m (sound, text): x_m = W_m e_m;
    BiGRU over the dialogue's turns; dropout; multi-head self-attention over the dialogue's turns; h_m = Drop(ReLU(W·));
    logits l_m = W h_m. Sound and text are fused by one of three operators (`Fuse`), in one of three places:

    - `late`: l_f = fuse(l_a, l_t), with `add` the published proposal;
    - `hidden`: l_f = W fuse(h_a, h_t);
    - `early`: the fused x_a, x_t have their own GRU, attention and output.

    In each of them the modalities keep their own logits, with the loss δ (CE(p_a) + CE(p_t)) (`Objective`). e_t are the
    text vectors (the published system: BERT's of the transcript), or the learned "absent" one [ours]; e_a comes from
    the packed features, since the release's audio vectors are not available [ours]. V, A and D are linear outputs in
    place of the logits, fused likewise, and have the CCC loss where the objective includes it [ours].

    Raises:
        ConfigError: No granularity is left, the heads do not divide the GRU's width, or the `statistics` would be of a
            waveform.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self._fusion = config.perspective.fusion
        operator, classes = config.perspective.operator, len(config.classes)
        self.sound = PooledSound(config) if config.perspective.sound == "encoder" else SoundStatistics(config)
        self.text = TextVector(config)
        self.project_text = nn.Linear(self.text.width, config.width)
        self.context_audio, self.context_text = DialogueContext(config), DialogueContext(config)
        self.classify_audio, self.classify_text = ClassHead(config.hidden, classes), ClassHead(config.hidden, classes)
        if self._fusion == "late":
            self.score_audio = nn.Linear(config.hidden, len(DIMENSIONS))
            self.score_text = nn.Linear(config.hidden, len(DIMENSIONS))
            self.fuse_scores = Fuse(operator, len(DIMENSIONS))
            self.fuse_logits = Fuse(operator, classes) if classes else None
            return
        if self._fusion == "early":
            self.context_fused = DialogueContext(config)
        self.fuse = Fuse(operator, config.hidden if self._fusion == "hidden" else config.width)
        self.score, self.classify = nn.Linear(config.hidden, len(DIMENSIONS)), ClassHead(config.hidden, classes)

    def forward(self, batch: Batch) -> Output:
        """Score a batch; the turns of one dialogue have context from each other, whatever their order in the batch."""
        table = DialogueTable.of(batch)
        audio_BD, text_BD = self.sound(batch), self.project_text(self.text(batch))
        audio_BH, text_BH = self.context_audio(audio_BD, table), self.context_text(text_BD, table)
        logits_BC, own = None, [self.classify_audio(audio_BH), self.classify_text(text_BH)]
        if self._fusion == "late":
            scores_B3 = self.fuse_scores(self.score_audio(audio_BH), self.score_text(text_BH))
            if self.fuse_logits is not None:
                logits_BC = self.fuse_logits(*own)
        else:
            hidden = self._fusion == "hidden"
            fused_BH = (
                self.fuse(audio_BH, text_BH) if hidden else self.context_fused(self.fuse(audio_BD, text_BD), table)
            )
            scores_B3, logits_BC = self.score(fused_BH), self.classify(fused_BH)
        modalities = None if logits_BC is None else torch.stack(own, dim=1)
        return Output(LABEL_CENTER + scores_B3, logits_BC, modality_logits_BMC=modalities)


@dataclass(frozen=True)
class DialogueTable:
    """Positions of a batch's utterances in a table of dialogues, one row each.

    Attributes:
        row_B: Row of each utterance: its dialogue.
        column_B: Column: its index among the dialogue's turns in the batch, from 0.
        length_G: Turns of each dialogue.
    """

    row_B: Tensor
    column_B: Tensor
    length_G: Tensor

    @classmethod
    def of(cls, batch: Batch) -> DialogueTable:
        """The table of a batch; without dialogues each clip has its own row."""
        if batch.dialogue_B is None or batch.turn_B is None:
            row_B = torch.arange(len(batch), device=batch.lengths_B.device)
            return cls(row_B, torch.zeros_like(row_B), torch.ones_like(row_B))
        _, row_B, length_G = batch.dialogue_B.unique(return_inverse=True, return_counts=True)
        order_B = batch.turn_B.argsort(stable=True)
        order_B = order_B[row_B[order_B].argsort(stable=True)]
        first_G = length_G.cumsum(0) - length_G
        column_B = torch.empty_like(row_B)
        column_B[order_B] = torch.arange(len(batch), device=row_B.device) - first_G[row_B[order_B]]
        return cls(row_B, column_B, length_G)

    def fill(self, vector_BD: Tensor) -> Tensor:
        """The vectors at their positions (G, U, D), zero elsewhere."""
        filled_GUD = vector_BD.new_zeros(len(self.length_G), int(self.length_G.max()), vector_BD.shape[-1])
        filled_GUD[self.row_B, self.column_B] = vector_BD
        return filled_GUD


class DialogueContext(nn.Module):
    """One modality over a dialogue: BiGRU, dropout, multi-head self-attention, h = Drop(ReLU(W ·)).

    The GRU's backward direction starts at a dialogue's last turn, and empty positions are masked in the attention.

    Raises:
        ConfigError: The heads do not divide the GRU's width.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        gru, heads = config.perspective.gru, config.perspective.heads
        if 2 * gru % heads:
            raise ConfigError(
                f"{heads} heads do not divide a width of 2 · {gru}",
                where="model.perspective.heads",
                remedy="Use a number that divides 2 · model.perspective.gru",
            )
        self.gru = nn.GRU(config.width, gru, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(config.dropout)
        self.attention = nn.MultiheadAttention(2 * gru, heads, batch_first=True)
        self.hidden = nn.Sequential(nn.Linear(2 * gru, config.hidden), nn.ReLU(), nn.Dropout(config.dropout))

    def forward(self, vector_BD: Tensor, table: DialogueTable) -> Tensor:
        """Vectors (B, H) of the utterances in their dialogues."""
        lengths = table.length_G.cpu()
        packed = pack_padded_sequence(table.fill(vector_BD), lengths, batch_first=True, enforce_sorted=False)
        states_GUP, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True)
        states_GUP = self.dropout(states_GUP)
        empty_GU = ~frame_mask(table.length_G, states_GUP.shape[1])
        mixed_GUP, _ = self.attention(states_GUP, states_GUP, states_GUP, key_padding_mask=empty_GU, need_weights=False)
        return self.hidden(mixed_GUP[table.row_B, table.column_B])


class Fuse(nn.Module):
    """Two vectors of width D become one.

    `add`: x_a + x_t; `concat`: W [x_a; x_t] + b; `attention`, AT-fusion (Poria et al., ICDM 2017 [text]): Σ_m α_m x_m,
    α = softmax_m(wᵀ tanh(W x_m)).
    """

    def __init__(self, operator: str, width: int) -> None:
        super().__init__()
        self._operator = operator
        if operator == "concat":
            self.mix = nn.Linear(2 * width, width)
        elif operator == "attention":
            self.look, self.weigh = nn.Linear(width, width, bias=False), nn.Linear(width, 1, bias=False)

    def forward(self, audio_BD: Tensor, text_BD: Tensor) -> Tensor:
        """Fuse to (B, D)."""
        if self._operator == "add":
            return audio_BD + text_BD
        if self._operator == "concat":
            return self.mix(torch.cat([audio_BD, text_BD], dim=-1))
        both_BMD = torch.stack([audio_BD, text_BD], dim=1)
        share_BM1 = self.weigh(self.look(both_BMD).tanh()).softmax(dim=1)
        return (share_BM1 * both_BMD).sum(1)


class SoundStatistics(nn.Module):
    """W [μ; σ]: mean and standard deviation (population) of a clip's features over time, projected [ours].

    Raises:
        ConfigError: The front-end gives waveforms.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.encoder.kind == "ssl":
            raise ConfigError(
                "statistics of a waveform over time are meaningless",
                where="model.perspective.sound",
                remedy="Use model.perspective.sound=encoder, or model.encoder.kind=logmel",
            )
        self.project = nn.Linear(2 * feature_width(config.encoder), config.width)

    def forward(self, batch: Batch) -> Tensor:
        """One vector (B, D) per clip."""
        mask_BT = frame_mask(batch.lengths_B, batch.features_BTF.shape[1])
        return self.project(mean_deviation(batch.features_BTF, mask_BT))
