"""The TrOCR family: a ViT or DeiT encoder and an autoregressive text decoder (Li et al. 2021, arXiv 2109.10282).

Shapes: B lines, C channels, H height, W width, T target positions, V vocabulary, S columns of encoder patches, D width.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList

from tdtrain.models.ctc_codec import CTCCodec
from tdtrain.models.reader import IGNORED, ReaderOutput, Reading, evaluating
from tdtrain.models.trocr_inputs import Processor, TrOCRCodec, TrOCRPixels, pair

CTC_WEIGHTS = "ctc_head.safetensors"
CTC_TOKENS = "ctc_head.json"
_INNER = "model."

Model: TypeAlias = Any
"""A VisionEncoderDecoderModel. Its annotations contradict its use: config's parts may be None, generate has no self."""


class TrOCRModule(nn.Module):
    """The network: teacher-forced logits, and those of an optional CTC head on the encoder.

    Attributes:
        model: what plain transformers loads and saves.
        ctc_head: from an encoder column to the corpus's characters, or None. It teaches small encoders to look.
    """

    def __init__(self, model: Model, start_id: int, pad_id: int) -> None:
        super().__init__()
        self.model = model
        self.start_id = start_id
        self.pad_id = pad_id
        self.ctc_head: nn.Linear | None = None
        encoder = model.config.encoder
        rows_columns = zip(pair(encoder.image_size), pair(encoder.patch_size), strict=True)
        self.num_rows, self.num_columns = (size // patch for size, patch in rows_columns)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, widths: Tensor | None = None) -> ReaderOutput:
        """One pass over whole targets.

        Args:
            pixel_values: float B,C,H,W of `TrOCRPixels.normalize`.
            labels: int64 B,T of `TrOCRCodec.encode`; None gives the logits of the first token only.
            widths: not needed, every line is as wide as the encoder takes.

        Returns: logits B,T,V, position t for label t (do not shift again), and encoder_logits B,S,V_ctc with a CTC
            head, every column of which is real.
        """
        output = self.hidden_states(pixel_values, labels, widths)
        assert output.hidden is not None
        output.logits = self.head(output.hidden)
        return output

    @property
    def head(self) -> nn.Linear:
        """From the decoder's hidden states to logits; its weight may be the embedding's."""
        return self.model.decoder.output_projection

    def hidden_states(
        self, pixel_values: Tensor, labels: Tensor | None = None, widths: Tensor | None = None
    ) -> ReaderOutput:
        """As `forward`, but for the logits: `hidden` B,T,D with `head`, and the encoder's patches B,S,D."""
        inputs = self.decoder_inputs(labels, len(pixel_values), pixel_values.device)
        seen = self.model.encoder(pixel_values=pixel_values).last_hidden_state
        told = self.model.enc_to_dec_proj(seen) if hasattr(self.model, "enc_to_dec_proj") else seen
        decoder = self.model.decoder.model.decoder
        hidden = decoder(input_ids=inputs, encoder_hidden_states=told, use_cache=False).last_hidden_state
        patches = self._patches(seen)
        by_column = None if self.ctc_head is None else self.ctc_head(self._columns(patches))
        return ReaderOutput(None, None, by_column, hidden, self.head, patches)

    def encode(self, pixel_values: Tensor) -> Tensor:
        """The encoder's patches B,S,D alone."""
        return self._patches(self.model.encoder(pixel_values=pixel_values).last_hidden_state)

    def decoder_inputs(self, labels: Tensor | None, num_lines: int, device: torch.device) -> Tensor:
        """Labels B,T -> what the decoder sees before each: the start token, then labels 0..T-2, pads where ignored."""
        start = torch.full((num_lines, 1), self.start_id, dtype=torch.int64, device=device)
        if labels is None:
            return start
        return torch.cat([start, labels[:, :-1].masked_fill(labels[:, :-1] == IGNORED, self.pad_id)], dim=1)

    @property
    def encoder_width(self) -> int:
        """Of the encoder's hidden states."""
        return self.model.config.encoder.hidden_size

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the encoder's patches."""
        return self.num_rows, self.num_columns

    def _patches(self, hidden: Tensor) -> Tensor:
        # ViT has one token before the patches, DeiT two.
        return hidden[:, hidden.shape[1] - self.num_rows * self.num_columns :]

    def _columns(self, patches: Tensor) -> Tensor:
        return patches.unflatten(1, (self.num_rows, self.num_columns)).mean(dim=1)


class TrOCRReader:
    """A TrOCR with all it needs to learn, to read and to be saved. Implements `tdtrain.models.reader.Reader`."""

    kind: Literal["autoregressive"] = "autoregressive"

    def __init__(
        self,
        name: str,
        module: TrOCRModule,
        pixels: TrOCRPixels,
        codec: TrOCRCodec,
        processor: Processor,
        ctc_codec: CTCCodec | None = None,
    ) -> None:
        self.name = name
        self.module = module
        self.pixels = pixels
        self.codec = codec
        self.processor = processor
        self.ctc_codec = ctc_codec

    @property
    def max_target_tokens(self) -> int:
        """The longest label and the longest reading, end token included."""
        return self.codec.max_target_tokens

    def add_ctc_head(self, alphabet: Sequence[str], seed: int = 0) -> nn.Linear:
        """Puts a fresh CTC head over a corpus's characters on the encoder; replaces one that is there.

        A line can only be learned through it where it has no more characters than the encoder has columns
        (`module.num_columns`: 40 for 32x160 in patches of 32x4, but only 24 for the 384x384 of the published models).

        Args:
            alphabet: characters, in any order; duplicates count once.
            seed: of the head's first weights.

        Returns: the head.
        """
        codec = CTCCodec(("", *sorted(set(alphabet))))
        weight = next(self.module.model.decoder.parameters())
        head = nn.Linear(self.module.model.config.encoder.hidden_size, len(codec.tokens))
        generator = torch.Generator().manual_seed(seed)
        nn.init.trunc_normal_(head.weight, std=0.02, generator=generator)
        nn.init.zeros_(head.bias)
        self.module.ctc_head = head.to(weight.device, weight.dtype)
        self.ctc_codec = codec
        return self.module.ctc_head

    @torch.inference_mode()
    def read(self, batch: dict[str, Tensor]) -> list[Reading]:
        """Reads a collated batch greedily, without dropout, at most `max_target_tokens` tokens a line.

        Confidence is the mean probability of the tokens written, the end token included: an empty reading is as sure
        as its end token.
        """
        recorder = _TopProbability()
        ids_BT = self._generate(batch, logits_processor=LogitsProcessorList([recorder]))
        real_BT = self._real(ids_BT)
        probability_BT = torch.stack(recorder.steps, dim=1)
        confidence_B = (probability_BT * real_BT).sum(dim=1) / real_BT.sum(dim=1)
        lines = [ids[real] for ids, real in zip(ids_BT.cpu().numpy(), real_BT.cpu().numpy(), strict=True)]
        return [
            Reading(self.codec.decode(ids), min(confidence, 1.0))
            for ids, confidence in zip(lines, confidence_B.tolist(), strict=True)
        ]

    @torch.no_grad()
    def draw(self, batch: dict[str, Tensor]) -> Tensor:
        """Labels B,T drawn token by token from the reader's own distribution, without dropout; IGNORED after end."""
        ids_BT = self._generate(batch, do_sample=True, temperature=1.0, top_k=0)
        return ids_BT.masked_fill(~self._real(ids_BT), IGNORED)

    def _generate(self, batch: dict[str, Tensor], **how: Any) -> Tensor:
        weight = next(self.module.model.decoder.parameters())
        pixel_values = self.pixels.normalize(
            batch["pixels"].to(weight.device), batch["widths"].to(weight.device), weight.dtype
        )
        with evaluating(self.module):
            return self.module.model.generate(pixel_values, **how)[:, 1:]

    def _real(self, ids_BT: Tensor) -> Tensor:
        """bool B,T: up to the first end token, which is included."""
        is_end_BT = ids_BT == self.codec.end_id
        return is_end_BT.cumsum(dim=1) - is_end_BT.long() == 0

    def frozen(self) -> TrOCRReader:
        """Itself: most of its time is generation, step by step."""
        return self

    def save(self, folder: Path, state: dict[str, Tensor] | None = None) -> None:
        """Writes model, tokenizer, image processor and generation config as the hub has them, and the CTC head beside.

        Args:
            folder: is made where it is not there; files of the same names are replaced.
            state: weights under the module's own names, in place of those it has (ZeRO-3 gathers them elsewhere).

        Raises: ValueError for names the module does not have.
        """
        weights = self.module.state_dict()
        if strangers := sorted((state or {}).keys() - weights.keys()):
            raise ValueError(f"state has names that {self.name} does not: {strangers[:5]}; give the module's own names")
        weights |= state or {}
        model = self.module.model
        inner = {name.removeprefix(_INNER): value for name, value in weights.items() if name.startswith(_INNER)}
        if model.decoder.config.tie_word_embeddings:
            del inner["decoder.output_projection.weight"]
        model.save_pretrained(folder, state_dict={name: value.detach().contiguous() for name, value in inner.items()})
        self.codec.tokenizer.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        self.save_ctc_head(folder, weights)

    def save_ctc_head(self, folder: Path, weights: dict[str, Tensor] | None = None) -> None:
        """Writes the CTC head beside a model, and nothing else; takes away one that is there and no longer is here."""
        for name in (CTC_WEIGHTS, CTC_TOKENS):
            (Path(folder) / name).unlink(missing_ok=True)
        if self.ctc_codec is None:
            return
        weights = self.module.state_dict() if weights is None else weights
        head = {name: weights[f"ctc_head.{name}"].detach().cpu().contiguous() for name in ("weight", "bias")}
        save_file(head, Path(folder) / CTC_WEIGHTS, metadata={"format": "pt"})
        tokens = json.dumps({"tokens": self.ctc_codec.tokens}, ensure_ascii=False)
        (Path(folder) / CTC_TOKENS).write_text(tokens, encoding="utf-8")


class _TopProbability(LogitsProcessor):
    """Notes at each step the probability of the likeliest token, the one greedy reading takes."""

    def __init__(self) -> None:
        self.steps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        logits = scores.float()
        self.steps.append((logits.amax(dim=-1) - logits.logsumexp(dim=-1)).exp())
        return scores
