"""Does ptjax fine-tune as PyTorch does? The same model, head, batches and AdamW through both, dropout off.

    python benchmarks/parity_finetune/run.py --model=FOLDER --data=FOLDER --out=runs/parity --torch-python=PYTHON

--model: a Hugging Face folder of a BERT. --data: with sst2/, wikiann-en/ and xquad/. PYTHON is that of an environment
of its own: pip install torch==2.13.0 transformers==5.23.0 numpy. Prints the largest difference of the losses of each
task, absolute and relative.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--model", "--data", "--torch-python"):
        parser.add_argument(name, required=True)
    parser.add_argument("--out", type=Path, required=True, help="scratch folder, with result.json at the end")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--tasks", default="sequence,token,question")
    args = parser.parse_args()
    env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(HERE.parents[1])}
    results = {}
    for task in args.tasks.split(","):
        folder = args.out / task
        ours = [sys.executable, HERE / "ours.py", folder, args.model, task, args.data, str(args.steps)]
        subprocess.run(ours, env=env, check=True)
        subprocess.run([args.torch_python, HERE / "theirs.py", folder], env=env, check=True)
        a, b = (json.loads((folder / f"{side}.json").read_text()) for side in ("ours", "theirs"))
        pairs = list(zip(a["losses"], b["losses"], strict=True))
        results[task] = {
            "steps": len(pairs),
            "first and last loss": [pairs[0][0], pairs[-1][0]],
            "largest difference": max(abs(x - y) for x, y in pairs),
            "largest relative difference": max(abs(x - y) / y for x, y in pairs),
            "seconds a step": {"ptjax": a["seconds_per_step"], "torch": b["seconds_per_step"]},
            "versions": a["versions"] | b["versions"],
        }
        print(task, json.dumps(results[task], indent=1), flush=True)
    (args.out / "result.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
