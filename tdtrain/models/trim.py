"""A TrOCR cut to the tokens that a corpus uses: the corpus is written as before, the logits that stay are as before.

Embedding and head are half of trocr-small's weights, and a timetable corpus writes some hundreds of its 64,044 tokens.
"""

from __future__ import annotations

import copy
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tokenizers import Tokenizer, pre_tokenizers
from torch import Tensor, nn
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from tdtrain.models.spans import is_unigram
from tdtrain.models.trocr import TrOCRReader
from tdtrain.models.trocr_inputs import TrOCRCodec

SPECIAL_IDS = [0, 1, 2, 3]
"""<s>, <pad>, </s>, <unk> in all TrOCRs; the model's own configuration speaks of them by these ids."""


def trim(reader: TrOCRReader, texts: Iterable[str]) -> TrOCRReader:
    """A copy of a reader that knows only the tokens a corpus needs, see `kept_tokens`.

    Its logits are the reader's own at the kept tokens (a single position may round otherwise), so that two readers of
    one vocabulary, trimmed by the same texts, may still be compared logit by logit. Its probabilities are the reader's
    given that a kept token is written.

    Args:
        texts: all that it shall read or learn, in any order; other texts may take more tokens than before.

    Raises: ValueError for no texts, or a tokenizer of another kind.
    """
    kept = kept_tokens(reader.codec, texts)
    tokenizer = trim_tokenizer(reader.codec.tokenizer, kept)
    codec = TrOCRCodec(tokenizer, tuple(reader.codec.tokens[i] for i in kept), reader.max_target_tokens)
    return with_vocabulary(reader, f"{reader.name}-{len(kept)}", codec, lambda rows: rows[kept])


def kept_tokens(codec: TrOCRCodec, texts: Iterable[str]) -> list[int]:
    """The ids that must stay for the texts to be written with the same tokens, sorted.

    Special and other added tokens stay, <mask> among them: transformers would add it again. Beyond what the texts
    are written with, byte-level BPE keeps its 256 bytes, so that every text can be spelled, and all tokens that a kept
    one is merged from. Unigram keeps the texts' single characters, the metaspace among them, so that other texts of
    these characters can be spelled, and the least likely piece: an unknown character costs ten nats more than it.

    Raises: ValueError for no texts, or a tokenizer of another kind.
    """
    tokenizer = codec.tokenizer
    written = {i for ids in codec.ids(sorted(set(texts))) for i in ids}
    if not written:
        raise ValueError("texts are empty; give the texts that the model shall read")
    needs = _unigram_needs if is_unigram(tokenizer) else _byte_level_needs
    added = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    return sorted(written | added | needs(_serialized(tokenizer)["model"], written))


def trim_tokenizer(tokenizer: PreTrainedTokenizerBase, kept: Sequence[int]) -> PreTrainedTokenizerBase:
    """A tokenizer of the same class with the tokens of `kept_tokens`, numbered in their order.

    Raises: ValueError where a special token would change its id, or for a tokenizer of another kind.
    """
    if list(kept[: len(SPECIAL_IDS)]) != SPECIAL_IDS:
        raise ValueError(f"kept begins with {list(kept[:4])}; <s>, <pad>, </s>, <unk> must keep the ids {SPECIAL_IDS}")
    new_ids = {old: new for new, old in enumerate(kept)}
    data = _serialized(tokenizer)
    model = data["model"]
    if is_unigram(tokenizer):
        model["vocab"] = [model["vocab"][i] for i in kept if i < len(model["vocab"])]
    else:
        model["vocab"] = {token: new_ids[i] for token, i in model["vocab"].items() if i in new_ids}
        model["merges"] = [pair for pair in model["merges"] if {*pair, "".join(pair)} <= model["vocab"].keys()]
    data["added_tokens"] = [entry | {"id": new_ids[entry["id"]]} for entry in data["added_tokens"]]
    backend = Tokenizer.from_str(json.dumps(data))
    return type(tokenizer)(**{**tokenizer.init_kwargs, "tokenizer_object": backend})


def with_vocabulary(
    reader: TrOCRReader, name: str, codec: TrOCRCodec, new_rows: Callable[[Tensor], Tensor]
) -> TrOCRReader:
    """A copy of a reader with another vocabulary, and all else as it was.

    Args:
        name: of the copy.
        codec: of the copy.
        new_rows: from the weights of the old tokens, a row each, to those of `codec.tokens`; it is applied to the
            embedding V,D, and to the head's weight V,D and bias V where they are its own.
    """
    module = copy.deepcopy(reader.module)
    decoder = module.model.decoder
    embedding, head = decoder.get_input_embeddings(), decoder.get_output_embeddings()

    def renewed(old: nn.Parameter) -> nn.Parameter:
        return nn.Parameter(new_rows(old.detach()), requires_grad=old.requires_grad)

    tied = head.weight is embedding.weight
    embedding.weight = renewed(embedding.weight)
    head.weight = embedding.weight if tied else renewed(head.weight)
    if head.bias is not None:
        head.bias = renewed(head.bias)
    embedding.num_embeddings = head.out_features = decoder.config.vocab_size = len(codec.tokens)
    return TrOCRReader(name, module, reader.pixels, codec, reader.processor, reader.ctc_codec)


def _serialized(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    return json.loads(tokenizer.backend_tokenizer.to_str())


def _byte_level_needs(model: dict[str, Any], written: set[int]) -> set[int]:
    """A word is merged lowest rank first, and each merge on the way ends in a token written: none may be missing."""
    parts: dict[str, set[str]] = defaultdict(set)
    for left, right in model["merges"]:
        parts[left + right] |= {left, right}
    needed: set[str] = set()
    waiting = {token for token, i in model["vocab"].items() if i in written} | set(pre_tokenizers.ByteLevel.alphabet())
    while waiting:
        token = waiting.pop()
        needed.add(token)
        waiting |= parts[token] - needed
    return {model["vocab"][token] for token in needed}


def _unigram_needs(model: dict[str, Any], written: set[int]) -> set[int]:
    """The best segmentation stays the best among fewer, as long as unknown characters cost the same."""
    vocab = model["vocab"]
    # Pieces, not texts, hold the characters as normalization leaves them.
    known = written - {model["unk_id"]}
    characters = set("".join(piece for i, (piece, _) in enumerate(vocab) if i in known))
    least_likely = min(range(len(vocab)), key=lambda i: vocab[i][1])
    return {i for i, (piece, _) in enumerate(vocab) if piece in characters} | {least_likely}
