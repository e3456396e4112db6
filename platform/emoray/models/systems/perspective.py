"""The perspective loss over dialogues: utterances heard in their order, and each modality judged beside the fusion.

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
from emoray.models.heads import LABEL_CENTER, ClassHead, PooledSound
from emoray.schema import DIMENSIONS


class Perspective(nn.Module):
    """Dialogues under the perspective loss (arXiv 2304.03899 [code]); a clip scored alone is a dialogue of one turn.

    That is how clips are scored online and in bulk: without the turns around them. Per modality m (sound, text):
    x_m = W_m e_m; BiGRU over the dialogue's turns; dropout; self-attention of some heads over the dialogue's turns;
    h_m = Drop(ReLU(W ·)); logits l_m = W h_m. Sound and text meet, by one of three operators (`Fuse`), in one of three
    places:

    - `late`: l_f = fuse(l_a, l_t), with `add` the published proposal;
    - `hidden`: l_f = W fuse(h_a, h_t);
    - `early`: the fused x_a, x_t have a GRU, an attention and an output of their own.

    In each of them the modalities keep logits of their own, which δ (CE(p_a) + CE(p_t)) judges (`Objective`).
    e_t are the text vectors (the published system: BERT's of the transcript), the learned "absent" one where there are
    none [ours]; e_a is taken from the packed features, since the release's own audio vectors are not made here [ours].
    V, A and D are linear outputs in the place of the logits, fused likewise, and judged by CCC where the objective has
    it [ours].

    Args:
        config: Widths, granularities, classes and what `perspective` says.

    Raises:
        ConfigError: No granularity is left, the heads do not share the GRU's width evenly, or `statistics` are wanted
            of a waveform.
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
        """Score a batch; the turns of one dialogue hear each other, whatever their order in the batch."""
        seats = Seats.of(batch)
        audio_BD, text_BD = self.sound(batch), self.project_text(self.text(batch))
        audio_BH, text_BH = self.context_audio(audio_BD, seats), self.context_text(text_BD, seats)
        logits_BC, own = None, [self.classify_audio(audio_BH), self.classify_text(text_BH)]
        if self._fusion == "late":
            scores_B3 = self.fuse_scores(self.score_audio(audio_BH), self.score_text(text_BH))
            if self.fuse_logits is not None:
                logits_BC = self.fuse_logits(*own)
        else:
            hidden = self._fusion == "hidden"
            fused_BH = (
                self.fuse(audio_BH, text_BH) if hidden else self.context_fused(self.fuse(audio_BD, text_BD), seats)
            )
            scores_B3, logits_BC = self.score(fused_BH), self.classify(fused_BH)
        modalities = None if logits_BC is None else torch.stack(own, dim=1)
        return Output(LABEL_CENTER + scores_B3, logits_BC, modality_logits_BMC=modalities)


@dataclass(frozen=True)
class Seats:
    """Where each utterance of a batch sits in a table of dialogues, one row each.

    Attributes:
        row_B: Its dialogue.
        column_B: Its place among the dialogue's turns that are there, from 0.
        length_G: Turns of each dialogue.
    """

    row_B: Tensor
    column_B: Tensor
    length_G: Tensor

    @classmethod
    def of(cls, batch: Batch) -> Seats:
        """Seat a batch; without dialogues each clip has a row of its own."""
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

    def table(self, vector_BD: Tensor) -> Tensor:
        """The vectors in their seats (G, U, D), zero where nobody sits."""
        shape = (len(self.length_G), int(self.length_G.max()), vector_BD.shape[-1])
        table_GUD = vector_BD.new_zeros(shape)
        table_GUD[self.row_B, self.column_B] = vector_BD
        return table_GUD


class DialogueContext(nn.Module):
    """One modality over a dialogue: BiGRU, dropout, multi-head self-attention, h = Drop(ReLU(W ·)).

    The GRU's way back begins at a dialogue's own last turn, and nobody attends to an empty seat.

    Args:
        config: `width` of what comes in, `hidden`, `dropout`, and the GRU and heads of `perspective`.

    Raises:
        ConfigError: The heads do not share the GRU's width evenly.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        gru, heads = config.perspective.gru, config.perspective.heads
        if 2 * gru % heads:
            raise ConfigError(
                f"{heads} heads cannot share a width of 2 · {gru}",
                where="model.perspective.heads",
                remedy="Use a number that divides 2 · model.perspective.gru",
            )
        self.gru = nn.GRU(config.width, gru, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(config.dropout)
        self.attention = nn.MultiheadAttention(2 * gru, heads, batch_first=True)
        self.hidden = nn.Sequential(nn.Linear(2 * gru, config.hidden), nn.ReLU(), nn.Dropout(config.dropout))

    def forward(self, vector_BD: Tensor, seats: Seats) -> Tensor:
        """Vectors (B, H) of the utterances in their dialogues."""
        lengths = seats.length_G.cpu()
        packed = pack_padded_sequence(seats.table(vector_BD), lengths, batch_first=True, enforce_sorted=False)
        states_GUP, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True)
        states_GUP = self.dropout(states_GUP)
        empty_GU = ~frame_mask(seats.length_G, states_GUP.shape[1])
        mixed_GUP, _ = self.attention(states_GUP, states_GUP, states_GUP, key_padding_mask=empty_GU, need_weights=False)
        return self.hidden(mixed_GUP[seats.row_B, seats.column_B])


class Fuse(nn.Module):
    """Two vectors of a width become one.

    `add`: x_a + x_t; `concat`: W [x_a; x_t] + b; `attention`, AT-fusion (Poria et al., ICDM 2017 [text]):
    Σ_m α_m x_m, α = softmax_m(wᵀ tanh(W x_m)).

    Args:
        operator: Which.
        width: Width D of both and of what comes out.
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
    """W [μ; σ]: mean and standard deviation (population) of a clip's log-mels over time, projected [ours].

    Args:
        config: The encoder, whose front-end makes the log-mels; the encoder itself is not used.

    Raises:
        ConfigError: The front-end gives waveforms.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.encoder.kind == "ssl":
            raise ConfigError(
                "statistics of a waveform over time say nothing",
                where="model.perspective.sound",
                remedy="Use model.perspective.sound=encoder, or model.encoder.kind=logmel",
            )
        mels = (config.encoder.logmel if config.encoder.kind == "logmel" else config.encoder.cnn14).mels
        self.project = nn.Linear(2 * mels, config.width)

    def forward(self, batch: Batch) -> Tensor:
        """One vector (B, D) per clip."""
        mask_BT1 = frame_mask(batch.lengths_B, batch.features_BTF.shape[1]).unsqueeze(-1)
        frames_B1 = batch.lengths_B.unsqueeze(-1)
        mean_BF = batch.features_BTF.masked_fill(~mask_BT1, 0).sum(1) / frames_B1
        residual_BTF = (batch.features_BTF - mean_BF.unsqueeze(1)).masked_fill(~mask_BT1, 0)
        deviation_BF = (residual_BTF.square().sum(1) / frames_B1).sqrt()
        return self.project(torch.cat([mean_BF, deviation_BF], dim=-1))
