"""Stands in for `experiments.finetune --workdir=DIR` where only what surrounds it is tested: writes cells by rule.

The folder it begins from has rule.json: {"skill": share of right answers, "crash": seeds whose cells fail, "die": exit
code of the whole, "wait": seconds before each cell}. A fresh body is right half as often. Standard library alone.
"""

import json
import os
import random
import sys
import time
import traceback
from pathlib import Path


def main(workdir: Path) -> None:
    config = json.loads((workdir / "config.json").read_text())
    start = Path(config["init_from"])
    rule = {"skill": 1.0, "crash": [], "die": 0, "wait": 0} | json.loads((start / "rule.json").read_text())
    with open(start / "started.txt", "a") as file:
        file.write(f"{workdir.parent.name}/{workdir.name} {os.getpid()}\n")
    if rule["die"]:
        print("Error: it ends at once")
        sys.exit(rule["die"])
    skill = rule["skill"] / (2 if config["fresh"] else 1)
    failed = {}
    rates, seeds = config["recipe.learning_rates"], config["recipe.seeds"]
    for rate in rates:
        for seed in seeds:
            folder = workdir / "cells" / f"lr{rate:.12g}-seed{seed}"
            if (folder / "cell.json").exists():
                continue
            time.sleep(rule["wait"])
            folder.mkdir(parents=True, exist_ok=True)
            try:
                if seed in rule["crash"]:
                    raise RuntimeError(f"seed {seed} diverged")
                write_cell(folder, config, rate, seed, skill)
            except RuntimeError:
                failed[folder.name] = traceback.format_exc()
                (folder / "error.txt").write_text(failed[folder.name])
    result = {"learning_rate": max(rates), "failed": failed, "parameters": 1000, "learning_parameters": 10}
    (workdir / "result.json").write_text(json.dumps(result))


def write_cell(folder: Path, config: dict, rate: float, seed: int, skill: float) -> None:
    """Right with the share `skill`, on validation as much more as the rate is higher."""
    draw, scores = random.Random(f"{seed} {skill} {config['task.name']}"), {}
    for split in ("validation", "test"):
        examples = [json.loads(line) for line in Path(config[f"task.examples.{split}"]).read_text().splitlines()]
        answers = []
        for example in examples:
            right = example.get("label", "good")
            other = "bad" if right == "good" else "good"
            answers.append({"id": str(example["id"]), "prediction": right if draw.random() < skill else other})
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in answers))
        scores[split] = {"accuracy": min(skill + rate, 1)}
    cell = {
        "learning_rate": rate,
        "seed": seed,
        "scores": scores,
        "steps": 2,
        "best_step": 2,
        "loss": [[1, 2.0], [2, 1.0]],
    }
    cell |= {"validation": [[2, skill]], "seconds": 1.5, "tokens": 100, "flops": 1e6}
    temporary = folder / "cell.tmp"
    temporary.write_text(json.dumps(cell))
    temporary.replace(folder / "cell.json")


if __name__ == "__main__":
    [argument] = sys.argv[1:]
    main(Path(argument.removeprefix("--workdir=")))
