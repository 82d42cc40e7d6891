"""The files of a tokenizer that transformers reads."""

import json
from collections.abc import Mapping
from typing import Any

from ptjax.data.tokenizers.roles import SETTINGS, Roles

TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP = SETTINGS[:2]


def tokenizer_config(tokenizer_class: str, pieces: Mapping[str, str]) -> bytes:
    """A tokenizer_config.json. pieces: role -> what it is called."""
    tokens = {f"{role}_token": piece for role, piece in pieces.items()}
    if tokenizer_class == "LlamaTokenizer":
        tokens |= {"add_bos_token": True, "add_eos_token": False}
    return to_json({"tokenizer_class": tokenizer_class, "clean_up_tokenization_spaces": False} | tokens)


def settings(tokenizer_class: str, roles: Roles, others: Mapping[str, bytes], added: bool) -> dict[str, bytes]:
    """What stands beside the tokenizer's own file: as it was published, but for the roles that are `added`."""
    files = dict(others)
    if TOKENIZER_CONFIG not in files:
        files[TOKENIZER_CONFIG] = tokenizer_config(
            tokenizer_class, {role: roles.names[i] for role, i in roles.ids.items() if role in roles.named}
        )
    new = {f"{role}_token": roles.names[i] for role, i in roles.ids.items() if i >= roles.rows}
    for name in (TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP):
        if added and new and name in files:
            files[name] = to_json(json.loads(files[name]) | new)
    return files


def with_pieces(tokenizer: dict[str, Any], pieces: Mapping[int, str]) -> bytes:
    """A tokenizer.json with more special tokens. pieces: id -> name, of the ids that come next."""
    token = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    new = [{"id": i, "content": piece} | token for i, piece in pieces.items()]
    return to_json(tokenizer | {"added_tokens": [*(tokenizer.get("added_tokens") or []), *new]})


def to_json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def of_sentencepiece(model: bytes, begin: str | None) -> bytes | None:
    """The tokenizer.json of a SentencePiece model that ptjax trained, or None where there can be none.

    It gives the same ids, but that a Unigram model chooses otherwise between segmentations that are equally likely but
    for rounding (in runs of one character, mostly). Only models that spell unknown characters in bytes and leave the
    text as it is have one: the library merges unknown characters, and normalises in another way.

    begin: the piece that transformers puts before a text, if any.
    """
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import AddedToken, Tokenizer, decoders, models, processors

    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    kinds = proto.SentencePiece
    if not proto.trainer_spec.byte_fallback or proto.normalizer_spec.precompiled_charsmap:
        return None
    # A space is written as itself, so that the sign that SentencePiece has for it is a character like others.
    names = [piece.piece.replace("\u2581", " ") for piece in proto.pieces]
    if proto.trainer_spec.model_type == proto.trainer_spec.UNIGRAM:
        scored = [(name, piece.score) for name, piece in zip(names, proto.pieces)]
        tokenizer = Tokenizer(models.Unigram(scored, unk_id=proto.trainer_spec.unk_id, byte_fallback=True))
    else:
        merged = {name: i for i, name in enumerate(names) if proto.pieces[i].type == kinds.NORMAL}
        cuts = [(name[:k], name[k:]) for name in merged for k in range(1, len(name))]
        merges = [(a, b) for a, b in cuts if a in merged and b in merged]
        merges.sort(key=lambda pair: (-proto.pieces[merged["".join(pair)]].score, merged[pair[0]], merged[pair[1]]))
        unknown = names[proto.trainer_spec.unk_id]
        vocabulary = {name: i for i, name in enumerate(names)}
        tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    for name, piece in zip(names, proto.pieces):
        if piece.type in (kinds.CONTROL, kinds.UNKNOWN):
            tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False)])
        elif piece.type == kinds.USER_DEFINED:
            tokenizer.add_tokens([AddedToken(name, normalized=False)])
    if begin is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", pair=f"{begin} $A {begin} $B", special_tokens=[(begin, names.index(begin))]
        )
    return tokenizer.to_str(pretty=True).encode()
