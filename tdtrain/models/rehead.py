"""A student that writes with its teacher's tokens, so that their logits can be compared one by one.

Source: FVT, Gee et al. 2022, "Fast Vocabulary Transfer for Language Model Compression", arXiv 2402.09977: a token both
know keeps its row, another gets the mean of the rows of what the old tokenizer writes for it. They do it for the
embedding and forget whether a token begins a word; here the head is done alike, and a word start stays one.
"""

from __future__ import annotations

import copy
from functools import partial

import torch
from tokenizers import Tokenizer, pre_tokenizers
from torch import Tensor
from torch.nn import functional
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from tdtrain.models.spans import METASPACE, is_unigram, token_bytes
from tdtrain.models.trim import with_vocabulary
from tdtrain.models.trocr import TrOCRReader
from tdtrain.models.trocr_inputs import TrOCRCodec

ROLES = ("bos", "pad", "eos", "unk", "cls", "sep", "mask")
MODEL_ROLES = ("bos", "pad", "eos", "unk")
"""The roles that the model's own configuration knows by their ids."""
INCOMPLETE = "\ufffd"
"""What bytes that are no whole character decode to."""


def rehead(student: TrOCRReader, teacher_codec: TrOCRCodec) -> TrOCRReader:
    """A copy of a student with the teacher's tokenizer; embedding and head are made of its own rows, all else stays.

    The longest label and reading become the teacher's, as far as the student's positions go: the same text takes
    another number of tokens than before.

    Raises: ValueError where a special token has another id than the teacher's, or for tokenizers of another kind.
    """
    for role in MODEL_ROLES:
        mine, theirs = (_special_id(codec.tokenizer, role) for codec in (student.codec, teacher_codec))
        if mine != theirs:
            raise ValueError(f"{role}_token_id is {mine} in {student.name} and {theirs} in the teacher; must be equal")
    positions = student.module.model.config.decoder.max_position_embeddings
    codec = TrOCRCodec(teacher_codec.tokenizer, teacher_codec.tokens, min(teacher_codec.max_target_tokens, positions))
    pieces = old_pieces(student.codec, teacher_codec)
    reader = with_vocabulary(student, f"{student.name}-reheaded", codec, partial(_mean_rows, pieces))
    reader.module.model.generation_config.max_new_tokens = codec.max_target_tokens
    return reader


def old_pieces(old: TrOCRCodec, new: TrOCRCodec) -> list[list[int]]:
    """For each new token, the old ids that say the same.

    Special tokens say their role. Between tokenizers of one kind, a token that both have is itself. Any other token is
    what the old tokenizer writes for its text: as a word's start where it begins with a space, else within a word,
    without characters that it does not know. Where nothing is left, as of half a character's bytes, the list is empty.
    """
    roles = {_special_id(new.tokenizer, role): _special_id(old.tokenizer, role) for role in ROLES}
    alike = is_unigram(old.tokenizer) is is_unigram(new.tokenizer)
    own = {token: i for i, token in enumerate(old.tokens)} if alike else {}
    written = _mid_text(old.tokenizer).encode_batch(_texts(new), add_special_tokens=False)
    pieces = []
    for i, (token, encoding) in enumerate(zip(new.tokens, written, strict=True)):
        if i in roles:
            ids = [roles[i]]
        elif token in own:
            ids = [own[token]]
        else:
            ids = [piece for piece in encoding.ids if piece != old.tokenizer.unk_token_id]
        pieces.append([piece for piece in ids if piece is not None])
    return pieces


def _special_id(tokenizer: PreTrainedTokenizerBase, role: str) -> int | None:
    return getattr(tokenizer, f"{role}_token_id")


def _texts(codec: TrOCRCodec) -> list[str]:
    """What each token adds to a text; nothing for special tokens, logits without a token, and incomplete characters."""
    written = ((raw or b"").decode(errors="replace") for raw in token_bytes(codec))
    return ["" if INCOMPLETE in text else text for text in written]


def _mid_text(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """The tokenizer as it goes on within a text: a word begins only where there is a space."""
    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    if is_unigram(tokenizer):
        backend.pre_tokenizer = pre_tokenizers.Metaspace(METASPACE, prepend_scheme="never")
    else:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    # A tokenizer remembers how it was last called.
    backend.no_padding()
    backend.no_truncation()
    return backend


def _mean_rows(pieces: list[list[int]], rows: Tensor) -> Tensor:
    """The mean of each list's rows, of all rows where a list is empty; summed in fp32 at least."""
    wide = rows.to(torch.promote_types(rows.dtype, torch.float32)).reshape(len(rows), -1)
    counts = torch.tensor([len(ids) for ids in pieces])
    flat = torch.tensor([piece for ids in pieces for piece in ids], device=rows.device)
    starts = (counts.cumsum(0) - counts).to(rows.device)
    means = functional.embedding_bag(flat, wide, starts, mode="mean")
    means[(counts == 0).to(rows.device)] = wide.mean(dim=0)
    return means.reshape(len(pieces), *rows.shape[1:]).to(rows.dtype)
