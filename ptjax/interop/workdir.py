"""A published model as the workdir of a run, for all that is done with runs: generate, embed, begin another with it."""

from collections.abc import Collection
from pathlib import Path

import chz

from ptjax.checkpoint import CONFIG, CORPUS, Checkpoints, disk_errors
from ptjax.config import UserError, to_json
from ptjax.data.pipeline import Data
from ptjax.data.prepare import write_tokenizer
from ptjax.data.tokenizers import open_tokenizer
from ptjax.embed import POOLING
from ptjax.interop.published import Published, look
from ptjax.interop.sentences import pooling_of
from ptjax.interop.tensors import new_folder, read_json
from ptjax.train import Experiment

LONGEST = 512  # tokens of a row, as the config has it: a run of one's own says what it wants


def import_workdir(folder: str | Path, workdir: str | Path, *, only: Collection[str] | None = None) -> Published:
    """Makes `workdir` that of a run whose checkpoint of step 0 holds the weights of a Hugging Face folder.

        workdir/config.json    an Experiment: their body, with the objective that it was pre-trained with
        workdir/corpus/        their tokenizer, and no text
        workdir/checkpoints/0/ {"params": what parts there are}
        workdir/pooling.json   how they make a vector of a sentence, where they do (sentence-transformers)

    only: parts to take beside the body; None: all. Returns what was found. Raises UserError: what `look` and
    `open_tokenizer` raise; a workdir that exists.
    """
    folder, workdir = Path(folder).expanduser(), Path(workdir).expanduser().absolute()
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    _check_empty(workdir)
    if (folder / CONFIG).is_file() and "" in read_json(folder / CONFIG):
        raise UserError(f"{folder} is a run already: --to=FOLDER writes it out")
    tokenizer = open_tokenizer(folder)
    found = look(folder, only=only)
    objective = found.objective
    found = look(folder, vocab_size=objective.vocabulary(tokenizer.vocab).size, only=only)
    pooling = pooling_of(folder)
    with disk_errors(workdir), new_folder(workdir) as temporary:
        corpus = chz.replace(write_tokenizer(temporary / CORPUS, tokenizer), path=str(workdir / CORPUS))
        length = min(found.config.max_length, LONGEST)
        config = Experiment(
            model=found.config,
            objective=objective,
            data=Data(corpus=corpus, length=length, batch_size=8),
            steps=1,
        )
        (temporary / CONFIG).write_text(to_json(config))
        checkpoints = Checkpoints(temporary / "checkpoints")
        checkpoints.save(0, {"params": found.params()}, config_json=to_json(config))
        checkpoints.close()
        if pooling:
            (temporary / POOLING).write_text(to_json(pooling))
        _check_empty(workdir)  # a large model takes its time
    return found


def _check_empty(workdir: Path) -> None:
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise UserError(f"{workdir} is not empty: name another --workdir, or move it away")
