"""Small published models as Hugging Face keeps them: the frozen ones, with a tokenizer of as many rows."""

import json
import shutil
import string
from pathlib import Path

FAMILIES = Path(__file__).parents[1] / "fixtures" / "families"
WORDS = "the a cat dog sat on mat old man sea fish".split()
ROLES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def published_folder(to: Path, family: str = "bert") -> Path:
    """Its weights with a WordPiece vocabulary: roles, letters, endings, words, and names for the rest."""
    shutil.copytree(FAMILIES / family, to)
    rows = json.loads((to / "config.json").read_text())["vocab_size"]
    pieces = [*ROLES, *string.ascii_lowercase, *(f"##{c}" for c in string.ascii_lowercase), *WORDS, ".", ","]
    pieces += [f"[unused{i}]" for i in range(rows - len(pieces))]
    (to / "vocab.txt").write_text("\n".join(pieces[:rows]) + "\n")
    (to / "tokenizer_config.json").write_text('{"do_lower_case": true, "tokenizer_class": "BertTokenizer"}')
    return to
