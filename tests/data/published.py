"""Tiny tokenizers in the formats of published models, trained on the spot, each in a folder with what comes with it."""

import io
import json
from pathlib import Path
from pydoc_data.topics import topics

import sentencepiece
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

LINES = [line[:500] for name in sorted(topics)[::6] for line in topics[name].split("\n") if line.strip()]
LINES += ['is it so? it is! "yes"; is it? so: it is.', "a < b > c [d] e | f _ g"] * 10
_BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def write(folder: Path, files: dict[str, object]) -> Path:
    folder.mkdir(parents=True)
    for name, value in files.items():
        (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))
    return folder


def _trained(tokenizer: Tokenizer, trainer) -> Tokenizer:
    tokenizer.train_from_iterator(LINES, trainer)
    return tokenizer


def _byte_level(special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=_BYTES, special_tokens=special, show_progress=False)
    return _trained(tokenizer, trainer)


def bert(folder: Path) -> Path:
    """WordPiece as BERT's: lower-cased; padding and truncation as a sentence encoder's file has them."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    _trained(tokenizer, trainers.WordPieceTrainer(vocab_size=500, special_tokens=special, show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return write(
        folder,
        {
            "tokenizer.json": tokenizer.to_str(),
            "tokenizer_config.json": settings | {"pad_token": "[PAD]", "mask_token": "[MASK]", "unk_token": "[UNK]"},
            "config.json": {"model_type": "bert", "vocab_size": tokenizer.get_vocab_size(), "pad_token_id": 0},
        },
    )


def gpt2(folder: Path) -> Path:
    """Byte-level BPE whose one special token plays all roles that it has."""
    tokenizer = _byte_level(["<|endoftext|>"])
    end = "<|endoftext|>"
    settings = {"tokenizer_class": "GPT2Tokenizer", "bos_token": end, "eos_token": end, "unk_token": end}
    config = {"model_type": "gpt2", "vocab_size": tokenizer.get_vocab_size(), "bos_token_id": 0, "eos_token_id": 0}
    write(folder, {"tokenizer.json": tokenizer.to_str(), "tokenizer_config.json": settings, "config.json": config})
    tokenizer.model.save(str(folder))
    return folder


def roberta(folder: Path) -> Path:
    """Byte-level BPE, and nothing beside tokenizer.json but config.json, which gives ids of roles."""
    tokenizer = _byte_level(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    config = {"model_type": "roberta", "vocab_size": tokenizer.get_vocab_size(), **ids}
    write(folder, {"tokenizer.json": tokenizer.to_str(), "config.json": config})
    tokenizer.model.save(str(folder))
    return folder


def qwen2(folder: Path) -> Path:
    """Byte-level BPE with tokens added behind, of which one is not special; the end pads; the table has spare rows."""
    tokenizer = _byte_level([])
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>"])
    tokenizer.add_tokens(["<tool_call>"])
    settings = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "bos_token": None, "add_bos_token": False}
    config = {"model_type": "qwen2", "vocab_size": 520}
    return write(
        folder, {"tokenizer.json": tokenizer.to_str(), "tokenizer_config.json": settings, "config.json": config}
    )


def t5_json(folder: Path) -> Path:
    """Unigram with T5's roles: no begin, no mask."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=500, special_tokens=special, unk_token="<unk>", show_progress=False)
    _trained(tokenizer, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    config = {"model_type": "t5", "vocab_size": 512, "pad_token_id": 0, "eos_token_id": 1}
    return write(folder, {"tokenizer.json": tokenizer.to_str(), "config.json": config})


def sentencepiece_model(folder: Path, name: str, config: dict, **options) -> Path:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(LINES), model_writer=model, vocab_size=500, minloglevel=2, **options
    )
    write(folder, {"config.json": config})
    (folder / name).write_bytes(model.getvalue())
    return folder


def t5(folder: Path) -> Path:
    config = {"model_type": "t5", "vocab_size": 608}
    return sentencepiece_model(folder, "spiece.model", config, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)


def albert(folder: Path) -> Path:
    options = dict(pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, control_symbols=["[CLS]", "[SEP]", "[MASK]"])
    config = {"model_type": "albert", "vocab_size": 500}
    return sentencepiece_model(folder, "spiece.model", config, pad_piece="<pad>", **options)


def xlnet(folder: Path) -> Path:
    control = ["<cls>", "<sep>", "<pad>", "<mask>", "<eod>"]
    options = dict(unk_id=0, bos_id=1, eos_id=2, control_symbols=control, user_defined_symbols=["<eop>"])
    folder = sentencepiece_model(folder, "spiece.model", {"model_type": "xlnet", "vocab_size": 500}, **options)
    settings = {"tokenizer_class": "XLNetTokenizer", "additional_special_tokens": ["<eop>", "<eod>"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def deberta(folder: Path) -> Path:
    pieces = dict(pad_piece="[PAD]", bos_piece="[CLS]", eos_piece="[SEP]", unk_piece="[UNK]")
    config = {"model_type": "deberta-v2", "vocab_size": 540}
    return sentencepiece_model(folder, "spm.model", config, pad_id=0, bos_id=1, eos_id=2, unk_id=3, **pieces)


def llama(folder: Path) -> Path:
    exact = dict(normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True)
    config = {"model_type": "llama", "vocab_size": 500, "bos_token_id": 1, "eos_token_id": 2}
    return sentencepiece_model(folder, "tokenizer.model", config, model_type="bpe", byte_fallback=True, **exact)


def xlm_roberta(folder: Path) -> Path:
    config = {"model_type": "xlm-roberta", "vocab_size": 502}
    return sentencepiece_model(folder, "sentencepiece.bpe.model", config)


JSON = (bert, gpt2, roberta, qwen2, t5_json)
MODELS = (t5, albert, xlnet, deberta, llama, xlm_roberta)
