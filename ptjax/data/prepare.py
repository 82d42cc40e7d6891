"""From a text source to a prepared corpus: tokenizer, TFDS data set of token blocks, metadata, manifest.

Text is encoded by threads (tokenizers leave Python's lock alone) in batches whose limits depend on the text only,
and written in order; so any number of threads, and any number of kills and resumptions, give the same bytes.
"""

import collections
import contextlib
import dataclasses
import errno
import functools
import hashlib
import heapq
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import chz
import numpy as np

import ptjax
from ptjax.config import Config, UserError, to_json
from ptjax.data.blocks import SHARD, Blocks, token_dtype, token_features, write_blocks
from ptjax.data.documents import INDEX, write_index
from ptjax.data.manifest import Manifest
from ptjax.data.sources import Document, Source
from ptjax.data.tokenizers import MAIN_FILES, SentencePiece, Side, Tokenizer, TokenizerSource, open_tokenizer

METADATA = "metadata.json"
_SHARD_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}"  # blocks.SHARD, as TFDS writes it
_SEGMENT = 1 << 15  # characters encoded at a time: SentencePiece slows down on longer texts
_BATCH = 1 << 20  # characters that a thread takes at a time
_CHUNK = 1 << 16  # characters: grain of the tokenizer's training sample


@chz.chz
class Corpus(Config):
    """A prepared text corpus: the folder, and what it is made of."""

    path: str = chz.field(doc="folder of the prepared corpus; `python -m experiments.prepare` writes it")
    source: Source | None = chz.field(
        default=None,
        meta_factory=chz.factories.subclass(Source),
        doc="documents to train on; None reads a folder that is prepared already, whatever it was made from",
    )
    validation: Source | None = chz.field(
        default=None,
        meta_factory=chz.factories.subclass(Source),
        doc="documents to validate on; None holds out validation_fraction of the source",
    )
    validation_fraction: float = chz.field(default=0.05, doc="share of the documents held out, by a stable hash")
    tokenizer: TokenizerSource = chz.field(
        default_factory=SentencePiece,
        meta_factory=chz.factories.subclass(TokenizerSource, SentencePiece),
        doc="SentencePiece, which is trained on the text, or Imported, of a published model",
    )
    block: int = chz.field(default=1024, doc="tokens a record; row lengths divide it or are multiples of it")
    boundary: Side = chz.field(default="end", doc="between documents: 'end' writes eos after each, 'begin' bos before")
    shard_blocks: int = chz.field(default=8192, doc="records a file; a killed preparation loses less than one file")

    @chz.validate
    def _possible(self) -> None:
        if not 0 <= self.validation_fraction < 1:
            raise UserError(f"validation_fraction={self.validation_fraction} has to be at least 0 and less than 1")
        for name in ("block", "shard_blocks"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} has to be at least 1")

    def inputs(self) -> dict:
        """All that decides what is in the folder, flat; not where the folder is, or that of an imported tokenizer."""
        flat = {k: v for k, v in json.loads(to_json(self)).items() if k not in ("", "path", "tokenizer.path")}
        return flat | {f"tokenizer.{key}": value for key, value in self.tokenizer.inputs().items()}


@dataclasses.dataclass(frozen=True)
class Report:
    """What `prepare` did.

    Attributes:
        metadata: contents of metadata.json.
        seconds: wall time of each phase: 'read', 'tokenizer', 'encode'. Empty when everything was prepared already.
        encoded_bytes: bytes of text encoded in phase 'encode' of this run.
    """

    metadata: dict
    seconds: dict[str, float]
    encoded_bytes: int

    def __rich__(self):
        """What there is, a column a split."""
        from rich.table import Table

        splits = self.metadata["splits"]
        table = Table("", *splits)
        for column in table.columns[1:]:
            column.justify = "right"
        rows = {
            "documents": lambda s: f"{s['documents']:,}",
            "text": lambda s: f"{s['bytes'] / 1e6:,.2f} MB",
            "tokens": lambda s: f"{s['tokens']:,}",
            "tokens a word": lambda s: f"{s['tokens'] / max(s['words'], 1):.2f}",
            "bytes a token": lambda s: f"{s['bytes'] / s['tokens']:.2f}",
            "unknown": lambda s: f"{s['unknown'] / s['tokens']:.3%}",
        }
        for name, show in rows.items():
            table.add_row(name, *(show(split) for split in splits.values()))
        return table


def prepare(
    corpus: Corpus, *, workers: int | None = None, progress: Callable[[str, int], None] = lambda phase, text_bytes: None
) -> Report:
    """Prepares `corpus` in its folder, going on where a killed run left off; does nothing when all is there.

    Args:
        corpus: with a source.
        workers: encoding threads; None for one a core.
        progress: is called now and then with the phase and the bytes of text that have passed through it.

    Raises:
        UserError: no or unreadable text; a folder prepared from other inputs, or damaged; no space or permission.
    """
    if corpus.source is None:
        raise UserError("corpus.source is None: name the text to prepare, source=TextFiles source.glob='texts/*.txt'")
    folder = Path(corpus.path).expanduser()
    with _plain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        manifest = Manifest.load(folder)
        if manifest is not None:
            check_inputs(manifest, corpus.inputs(), folder)
        else:
            corpus.tokenizer.check(corpus.boundary)
        seconds, clock = {}, time.perf_counter()

        contents, sample = _survey(corpus, progress)
        inputs = corpus.inputs() | {"contents": contents}
        if manifest is None:
            manifest = Manifest(inputs)
        elif manifest.inputs["contents"] != contents:
            raise UserError(
                f"{folder} was prepared from other text: files of the source have changed since. "
                "Choose another folder (corpus.path), or delete this one"
            )
        manifest.check(folder)
        if manifest.complete:
            _index_documents(corpus, folder, manifest, open_tokenizer(folder, corpus.boundary))
            return Report(json.loads((folder / METADATA).read_text()), {}, 0)
        seconds["read"], clock = time.perf_counter() - clock, time.perf_counter()

        if not manifest.files.keys() & set(MAIN_FILES):
            progress("tokenizer", 0)
            for name, data in corpus.tokenizer.files(sample).items():
                _write(folder, manifest, name, data)
        tokenizer = open_tokenizer(folder, corpus.boundary)
        seconds["tokenizer"], clock = time.perf_counter() - clock, time.perf_counter()

        encoded = 0
        threads = workers or _cores()
        with ThreadPoolExecutor(threads) as pool:
            encode = functools.partial(_encode, tokenizer, token_dtype(tokenizer.vocab.size))
            for split in _splits(corpus):
                in_order = functools.partial(_in_order, pool, 8 * threads, encode)
                encoded += _write_split(corpus, split, folder, manifest, tokenizer, in_order, progress)
        _index_documents(corpus, folder, manifest, tokenizer)
        metadata = _finish(corpus, folder, manifest, tokenizer)
        seconds["encode"] = time.perf_counter() - clock
        return Report(metadata, seconds, encoded)


def verify(path: str) -> int:
    """Checks sizes and hashes of all files of a prepared corpus; their number. Raises UserError naming a bad one."""
    folder = Path(path).expanduser()
    manifest = Manifest.load(folder)
    if manifest is None or not manifest.complete:
        raise UserError(f"{folder} holds no prepared corpus, or only part of one: run `python -m experiments.prepare`")
    manifest.check(folder, hashes=True)
    return len(manifest.files)


def check_inputs(manifest: Manifest, inputs: dict, folder: Path) -> None:
    """Raises UserError that shows the fields in which `inputs` are not what the folder was prepared from."""
    keys = dict.fromkeys([*manifest.inputs, *inputs])
    keys.pop("contents", None)
    if "tokenizer.sha256" not in inputs and inputs.get("tokenizer") == manifest.inputs.get("tokenizer"):
        keys.pop("tokenizer.sha256", None)  # the imported one is no more where it was
    differing = [key for key in keys if manifest.inputs.get(key) != inputs.get(key)]
    if differing:
        rows = [f"  {key}: {manifest.inputs.get(key)!r} there, {inputs.get(key)!r} asked for\n" for key in differing]
        raise UserError(
            f"{folder} was prepared from other inputs:\n{''.join(rows)}"
            "Choose another folder (corpus.path), delete this one, or ask for what is there (to train on it as "
            "it is: corpus.source=None)"
        )


def _splits(corpus: Corpus) -> tuple[str, ...]:
    return ("train",) if corpus.validation is None and corpus.validation_fraction == 0 else ("train", "validation")


def _documents(corpus: Corpus, split: str) -> Iterator[Document]:
    if corpus.validation is not None:
        yield from (corpus.source if split == "train" else corpus.validation).read()
        return
    for document in corpus.source.read():
        if document.held_out(corpus.validation_fraction) == (split == "validation"):
            yield document


# Reading it all once: what the text is, and a sample of it for the tokenizer.


def _survey(corpus: Corpus, progress: Callable[[str, int], None]) -> tuple[str, list[str]]:
    """SHA-256 of all documents in order, and `tokenizer.sample()` bytes of the training text: the chunks with the
    smallest hashes of their numbers, in order."""
    digest, heap, kept, chunks, passed, reported = hashlib.sha256(), [], 0, 0, 0, 0
    for split in _splits(corpus):
        documents = 0
        for document in _documents(corpus, split):
            documents += 1
            data = document.text.encode()
            digest.update(len(data).to_bytes(8, "big") + data)
            passed += len(data)
            if passed - reported >= _BATCH:
                progress("read", reported := passed)
            if split != "train":
                continue
            for start in range(0, len(document.text), _CHUNK):
                chunk = document.text[start : start + _CHUNK]
                size = len(chunk) if chunk.isascii() else len(chunk.encode())
                rank = int.from_bytes(hashlib.blake2b(chunks.to_bytes(8, "big"), digest_size=8).digest(), "big")
                heapq.heappush(heap, (-rank, chunks, size, chunk))
                chunks, kept = chunks + 1, kept + size
                while len(heap) > 1 and kept - heap[0][2] >= corpus.tokenizer.sample():
                    kept -= heapq.heappop(heap)[2]
        if not documents:
            raise UserError(_no_documents(corpus, split))
    return digest.hexdigest(), [chunk for *_, chunk in sorted(heap, key=lambda entry: entry[1])]


def _no_documents(corpus: Corpus, split: str) -> str:
    source = corpus.source if split == "train" or corpus.validation is None else corpus.validation
    if split == "train" and not any(True for _ in source.read()):
        return f"no text in {source}"
    if corpus.validation is not None:
        return f"no text to validate on in {source}"
    return (
        f"validation_fraction={corpus.validation_fraction} leaves the {split} split without a document of "
        f"{source}: use smaller documents (TextFiles: (data.corpus.)source.documents=blank_line) or name a validation "
        "source"
    )


# Encoding in parallel, in order.


@dataclasses.dataclass(frozen=True)
class _Encoded:
    """One batch of text: its tokens, boundaries included, and counts of its text."""

    tokens: np.ndarray
    counts: dict[str, int]


_Segment = tuple[str, bool, bool]  # text, whether a document begins and ends with it


def _batches(documents: Iterable[Document]) -> Iterator[list[_Segment]]:
    """Segments of about `_BATCH` characters in all."""
    batch, size = [], 0
    for document in documents:
        text, start = document.text, 0
        while start < len(text):
            # Cut behind newlines, where tokens end anyway (of imported tokenizers: nearly always).
            stop = len(text) if len(text) - start <= _SEGMENT else text.rfind("\n", start, start + _SEGMENT) + 1
            if not stop:
                stop = text.find("\n", start + _SEGMENT) + 1 or len(text)
            batch.append((text[start:stop], start == 0, stop == len(text)))
            size, start = size + stop - start, stop
            if size >= _BATCH:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _encode(tokenizer: Tokenizer, dtype: np.dtype, batch: list[_Segment]) -> _Encoded:
    boundary = np.array([tokenizer.vocab.boundary_id], np.int32)
    at_end = tokenizer.vocab.boundary_side == "end"
    parts, text_bytes, words, unknown = [], 0, 0, 0
    for tokens, (text, begins, ends) in zip(tokenizer.encode_batch([text for text, *_ in batch]), batch):
        unknown += int(np.count_nonzero(tokens == tokenizer.vocab.unk_id))
        parts += [boundary] * (begins and not at_end) + [tokens] + [boundary] * (ends and at_end)
        data = np.frombuffer(text.encode(), np.uint8)
        blank = data <= 32  # ASCII white space and control characters
        text_bytes += data.size
        words += int(np.count_nonzero(blank[:-1] > blank[1:]) + (not blank[0]))
    return _Encoded(
        np.concatenate(parts).astype(dtype),
        {
            "documents": sum(ends for *_, ends in batch),
            "bytes": text_bytes,
            "words": words,
            "unknown": unknown,
        },
    )


def _in_order(pool: ThreadPoolExecutor, ahead: int, function: Callable, items: Iterable) -> Iterator:
    """`map` over the pool's threads that reads only so many `items` ahead."""
    pending = collections.deque()
    for item in items:
        pending.append(pool.submit(function, item))
        if len(pending) > ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _write_split(
    corpus: Corpus,
    split: str,
    folder: Path,
    manifest: Manifest,
    tokenizer: Tokenizer,
    encode: Callable[[Iterable], Iterator[_Encoded]],
    progress: Callable[[str, int], None],
) -> int:
    """Encodes and writes what is missing of a split; bytes of text encoded."""
    # After a shard: 'position' is how many whole batches of text are behind it, and how many tokens of the next one,
    # and the counts are of those batches. After the last: position None, counts of all.
    state = manifest.progress.get(split) or {
        "position": [0, 0],
        "shard_blocks": [],
        "documents": 0,
        "bytes": 0,
        "words": 0,
        "unknown": 0,
    }
    if state["position"] is None:
        return 0
    first, skip = state["position"]
    shard_tokens = corpus.shard_blocks * corpus.block
    batches = _batches(_documents(corpus, split))
    for _ in range(first):
        next(batches)
    counts = {key: state[key] for key in ("documents", "bytes", "words", "unknown")}
    already = counts["bytes"]
    pieces, size = [], 0

    def write_shard(stream: np.ndarray, **after) -> None:
        blocks = stream.reshape(-1, corpus.block)
        index = len(state["shard_blocks"])
        state.update(after, shard_blocks=[*state["shard_blocks"], len(blocks)])
        manifest.progress[split] = dict(state)
        name = SHARD.format(split=split, index=index)
        manifest.commit(folder, write_blocks(folder / f"{name}.partial", blocks))

    for number, encoded in enumerate(encode(batches), start=first):
        pieces.append(encoded.tokens[skip:])
        size, skip = size + len(pieces[-1]), 0
        while size >= shard_tokens:
            stream = np.concatenate(pieces)
            pieces, size = [stream[shard_tokens:]], size - shard_tokens
            write_shard(stream[:shard_tokens], position=[number, len(encoded.tokens) - size], **counts)
        counts = {key: counts[key] + encoded.counts[key] for key in counts}
        progress(split, counts["bytes"])
    tokens = sum(state["shard_blocks"]) * corpus.block + size
    end = dict(counts, tokens=tokens, position=None)
    if size:
        padding = np.full(-size % corpus.block, tokenizer.vocab.pad_id, pieces[0].dtype)
        write_shard(np.concatenate([*pieces, padding]), **end)
    else:
        manifest.progress[split] = state | end
        manifest.commit(folder)
    return counts["bytes"] - already


# Files.


def _write(folder: Path, manifest: Manifest, name: str, data: bytes) -> None:
    partial = folder / f"{name}.partial"
    partial.write_bytes(data)
    manifest.commit(folder, partial)


def _index_documents(corpus: Corpus, folder: Path, manifest: Manifest, tokenizer: Tokenizer) -> None:
    """Writes what is missing of the document indexes, also for a corpus that was prepared before there were any."""
    for split, state in manifest.progress.items():
        name = INDEX.format(split=split)
        if name not in manifest.files:
            dtype = token_dtype(tokenizer.vocab.size)
            blocks = Blocks(folder, split, state["shard_blocks"], corpus.block, dtype, capacity=0)
            manifest.commit(folder, write_index(folder / f"{name}.partial", blocks, tokenizer.vocab.boundary_id))


def _finish(corpus: Corpus, folder: Path, manifest: Manifest, tokenizer: Tokenizer) -> dict:
    """Writes what TFDS wants to know, then our metadata; the metadata."""
    import tensorflow_datasets as tfds

    dtype = token_dtype(tokenizer.vocab.size)
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name="tokens", filetype_suffix="array_record", template=_SHARD_TEMPLATE
    )
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=token_features(corpus.block, dtype),
        filename_template=template,
        check_data=False,
        description=f"Token stream in blocks of {corpus.block}, prepared by ptjax {ptjax.__version__}.",
        split_infos=[
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=state["shard_blocks"],
                filename_template=template,
                num_bytes=sum(state["shard_blocks"]) * corpus.block * dtype.itemsize,
            )
            for split, state in manifest.progress.items()
        ],
    )
    for name in ("dataset_info.json", "features.json"):
        _write(folder, manifest, name, (folder / name).read_bytes())
    return _complete(folder, manifest, tokenizer, corpus.block)


def write_tokenizer(folder: str | os.PathLike, tokenizer: Tokenizer) -> Corpus:
    """Makes `folder` a prepared corpus without splits: a tokenizer for a model whose training text is elsewhere.

    Raises UserError where there is a prepared corpus already, or no permission.
    """
    folder = Path(folder).expanduser()
    with _plain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if Manifest.load(folder) is not None:
            raise UserError(f"{folder} holds a prepared corpus already: choose another folder, or delete this one")
        manifest = Manifest({"tokenizer": "", "tokenizer.sha256": tokenizer.hash})
        for name, data in tokenizer.files().items():
            _write(folder, manifest, name, data)
        corpus = Corpus(path=str(folder), boundary=tokenizer.boundary_side)
        _complete(folder, manifest, tokenizer, corpus.block)
    return corpus


def _complete(folder: Path, manifest: Manifest, tokenizer: Tokenizer, block: int) -> dict:
    vocab = tokenizer.vocab
    keys = ("documents", "tokens", "words", "bytes", "unknown", "shard_blocks")
    metadata = {
        "ptjax": ptjax.__version__,
        "inputs": manifest.inputs,
        "block": block,
        "dtype": token_dtype(vocab.size).name,
        "tokenizer": {"sha256": tokenizer.hash, "vocab_size": vocab.size},
        "boundary_id": vocab.boundary_id,
        "boundary_side": vocab.boundary_side,
        "splits": {split: {key: state[key] for key in keys} for split, state in manifest.progress.items()},
    }
    manifest.complete = True
    _write(folder, manifest, METADATA, (json.dumps(metadata, indent=1, sort_keys=True) + "\n").encode())
    return metadata


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _plain_os_errors(folder: Path):
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"no space left for {folder} ({error.strerror}): free some, or choose another folder "
                "(corpus.path); the same command goes on where this one stopped"
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise UserError(
                f"cannot write {error.filename or folder}: {error.strerror}; choose another folder (corpus.path)"
            ) from error
        raise
