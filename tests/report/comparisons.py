"""Comparisons to draw: a realistic one of any size, as comparison.json holds it."""

import math
import random

TASKS = [
    ("sst2", "SequenceClassification", "accuracy", 872),
    ("trec", "SequenceClassification", "accuracy", 500),
    ("conll2000", "TokenClassification", "span_f1", 2012),
    ("blimp", "MinimalPairs", "accuracy", 6700),
    ("stdlib-packages", "SequenceClassification", "macro_f1", 410),
    ("stdlib-tokens", "TokenClassification", "accuracy", 240),
    ("stdlib-answers", "QuestionAnswering", "exact_match", 367),
    ("stdlib-swaps", "MinimalPairs", "accuracy", 521),
]
# name, changes, question, of 100 tokens predicted, skill, about
ARMS = [
    ("causal", ["objective=CausalLM"], "CausalLM", 0.992, 0.022, "the next token"),
    ("mlm", [], "MLM(rate=0.15)", 0.151, 0.0, "15 % of tokens from both sides"),
    (
        "causal-then-mlm-with-a-long-name",
        ["optimizer.peak_lr=0.003", "objective.rate=0.4"],
        "MLM(rate=0.15)",
        0.4,
        0.002,
        "",
    ),
    ("hybrid", ["objective=Hybrid"], "Hybrid", 0.55, 0.004, "half of the rows each"),
]
HASH = "9f3a12c07be455d1a0c4f6e2d3b18a77"
OTHER = "04bb6f19e8812d5c6a70913fcc20e5ab"


def comparison(arms: int = 3, seeds: int = 3, tasks: int = 8, match: str = "tokens") -> dict:
    """Three of its arms branch, are at the edge of their grid, or failed once; the first two can be told apart."""
    random.seed(7)
    chosen = TASKS[:tasks]
    base = {name: random.uniform(0.55, 0.88) for name, *_ in chosen}
    made = [_arm(k, seeds, chosen, base) for k in range(arms)]
    for k, arm in enumerate(made):
        arm["rate"]["edge"] = k == 2
    pairs = [_difference(made[a], made[b], chosen, seeds) for a in range(arms) for b in range(a + 1, arms)]
    return {
        "name": "objectives",
        "question": "Is it better to predict the next token, or masked ones, at equal tokens?",
        "match": match,
        "amount": 1.2e6,
        "seeds": list(range(seeds)),
        "rates": [0.5, 1, 2],
        "select": "loss",
        "confidence": 0.95,
        "resamples": 1000,
        "made": {"ptjax": "0.2.0", "date": "2026-11-22T16:02:11+00:00", "python": "3.11.9", "jax": "0.10.1"},
        "complete": True,
        "left": {"runs": 0, "cells": 0},
        "base": _config(),
        "arms": made,
        "curves": _curves(made),
        "suite": {
            "name": "small",
            "tasks": [
                {
                    "name": name,
                    "kind": kind,
                    "metric": metric,
                    "split": "test",
                    "examples": {"train": 4 * test, "validation": test, "test": test},
                }
                for name, kind, metric, test in chosen
            ],
        }
        if tasks
        else None,
        "differences": pairs if tasks else [],
        "pretraining_differences": _validated(made, seeds),
        "pairing": _pairing([arm["name"] for arm in made], seeds),
        "scaling": [_scaling(made, "score"), _scaling(made, "bits_per_byte")] if arms > 1 else [],
        "failed": [
            {
                "arm": made[-1]["name"],
                "run": "rate2-seed0",
                "task": chosen[-1][0],
                "error": 'Traceback (most recent call last):\n  File "ptjax/loop.py", line 101, in run\n'
                "ptjax.loop.NonFinite: the loss is nan at step 340; examples 12, 871, 3",
            }
        ]
        if arms > 1 and tasks
        else [],
    }


def incomplete() -> dict:
    """After the first hour: two arms, of one of which half is done."""
    made = comparison(2, 3, 4)
    made |= {"complete": False, "left": {"runs": 2, "cells": 14}, "differences": [], "scaling": [], "failed": []}
    made["arms"][1] |= {"score": None, "pretraining": None, "runs": [], "cost": None}
    made["arms"][1]["tasks"] = {}
    made["arms"][1]["rate"] |= {"selected": None, "peak_lr": None, "edge": None}
    made["curves"] = made["curves"][:1]
    made["pairing"] = {"proven": None, "items": []}
    return made


def _arm(k: int, seeds: int, chosen: list, base: dict) -> dict:
    name, changes, question, share, skill, about = ARMS[k % len(ARMS)]
    name = name if k < len(ARMS) else f"{name}-{k}"
    predicted = round(1024 * share)
    branch = {"arm": "causal", "step": 586, "share": 0.5} if k == 2 else None
    floor = 1.9 + 0.12 * k
    runs = [
        {
            "seed": seed,
            "rate": 1.0,
            "folder": f"{name}/rate1-seed{seed}",
            "validation": {"loss": floor + 0.01 * seed, "bits_per_byte": floor / 1.7},
            "seconds": 140.0 + seed,
            "curve": [
                [s, s * 1024, floor / 1.7 + 3 * math.exp(-s / 250) + random.gauss(0, 0.008)]
                for s in range(12, 1173, 20)
            ],
        }
        for seed in range(seeds)
    ]
    values = {t[0]: [min(1.0, random.gauss(base[t[0]] + skill, 0.007)) for _ in range(seeds)] for t in chosen}
    results = {task: _result(v, 0.015) | {"metrics": {"accuracy": sum(v) / len(v)}} for task, v in values.items()}
    scores = [sum(values[t[0]][s] for t in chosen) / len(chosen) for s in range(seeds)] if chosen else []
    return {
        "name": name,
        "about": about,
        "changes": changes,
        "seeds": list(range(seeds)),
        "share": 1.0,
        "after": branch,
        "curve": "sizes",
        "objective": question,
        "difference": [[change.split("=")[0], change.split("=")[1], "MLM"] for change in changes],
        "config": _config() | dict(change.split("=") for change in changes),
        "budget": {
            "steps": 1172,
            "tokens": 1172 * 1024,
            "predicted_tokens": 1172 * predicted,
            "flops": 2.1e12 * (1 + 0.02 * k),
            "seconds": 131.0 + 9 * k,
            "step": {
                "tokens": 1024,
                "predicted_tokens": predicted,
                "flops": 1.79e9 * (1 + 0.02 * k),
                "flops_compiled": 1.92e9 * (1 + 0.02 * k),
                "seconds": 0.112 + 0.008 * k,
            },
            "terms": {"mlm": predicted} if k else {"causal": predicted},
            "parameters": 1_134_592,
        },
        "rate": {
            "selected": 1.0 if k != 2 else 2.0,
            "peak_lr": 0.005 * (1 if k != 2 else 2),
            "edge": False,
            "grid": [
                {
                    "rate": rate,
                    "peak_lr": 0.005 * rate,
                    "seed": 0,
                    "loss": floor + 0.08 * abs(math.log2(rate if k != 2 else rate / 2)),
                    "score": 0.72 - 0.02 * abs(math.log2(rate)) + skill,
                }
                for rate in (0.5, 1.0, 2.0)
            ],
        },
        "runs": runs,
        "pretraining": {"metric": "bits_per_byte"}
        | _result([floor / 1.7 + random.gauss(0, 0.01) for _ in range(seeds)], 0.02),
        "score": _result(scores, 0.008) if chosen else None,
        "tasks": results,
        "cost": {
            "runs": seeds + 2,
            "pretraining_seconds": 702.0 + 40 * k,
            "pretraining_flops": 1.05e13,
            "tuning_seconds": 1311.0 + 17 * k if chosen else 0.0,
            "tuning_flops": 4.4e12 if chosen else 0.0,
        },
    }


def _result(values: list[float], half: float) -> dict:
    mean = sum(values) / len(values)
    return {"mean": mean, "low": mean - half, "high": mean + half, "seeds": values}


def _difference(a: dict, b: dict, chosen: list, seeds: int) -> dict:
    def between(this, that, half):
        mean = (this or {"mean": 0})["mean"] - (that or {"mean": 0})["mean"]
        return {"mean": mean, "low": mean - half, "high": mean + half}

    score = between(a["score"], b["score"], 0.011)
    tie = score["low"] <= 0 <= score["high"]
    tasks = {t[0]: between(a["tasks"][t[0]], b["tasks"][t[0]], 0.012) | {"p": 0.2} for t in chosen}
    p = {"p": 0.31 if tie else 0.018, "p_holm": 0.62 if tie else 0.036}
    return (
        {"a": a["name"], "b": b["name"], "tie": tie, "paired": True, "seeds": [seeds] * 2, "tasks": tasks} | score | p
    )


def _validated(arms: list[dict], seeds: int) -> list[dict]:
    """Of arms that were asked the same."""
    found = []
    for k, a in enumerate(arms):
        for b in arms[k + 1 :]:
            if a["objective"] == b["objective"]:
                mean = a["pretraining"]["mean"] - b["pretraining"]["mean"]
                tie = abs(mean) <= 0.04
                about = {"question": a["objective"], "metric": "bits_per_byte", "paired": True, "seeds": [seeds] * 2}
                p = {"p": 0.2 if tie else 0.004, "p_holm": 0.4 if tie else 0.008, "tie": tie}
                of = {"a": a["name"], "b": b["name"], "mean": mean, "low": mean - 0.04, "high": mean + 0.04}
                found.append(of | about | p)
    return found


def _curves(arms: list[dict]) -> list[dict]:
    questions: dict[str, list] = {}
    for arm in arms:
        for run in arm["runs"]:
            points = [[x, value] for _, x, value in run["curve"]]
            questions.setdefault(arm["objective"], []).append(
                {"arm": arm["name"], "seed": run["seed"], "points": points}
            )
    return [{"question": q, "metric": "bits_per_byte", "x": "tokens", "lines": lines} for q, lines in questions.items()]


def _pairing(names: list[str], seeds: int) -> dict:
    runs, of_body = f"{len(names)} arms x {seeds} seeds", "every leaf before the first step"

    def item(what, status, about, groups, checked=runs):
        return {"what": what, "status": status, "about": about, "checked": checked, "groups": groups}

    def value(text):
        return [{"arms": names, "value": text}]

    two = [{"arms": names[:1], "value": HASH}, {"arms": names[1:], "value": OTHER}] if names[1:] else value(HASH)
    software = "ptjax 0.2.0, jax 0.10.1, python 3.11.9, cpu x1, 1 process"
    why = "not the same in all arms, which differ in model.width, the shape of body/embed/tokens"
    return {
        "proven": True,
        "items": [
            item("tokenizer", "equal", "the files of its model: the same in all arms", value(HASH)),
            item("data", "equal", "files and rows of the training split: the same in all arms", value(HASH)),
            item(
                "batches", "equal", "the rows of each step: the same in all arms", value(HASH), f"{runs}, 1,172 steps"
            ),
            item("initial body", "declared", f"{of_body}: {why}", two),
            item("initial heads", "shown", "leaves of heads: not the same in all arms, which differ in objective", two),
            item(
                "code",
                "equal",
                "files of ptjax and of configs' own classes: the same in all runs",
                value(f"ptjax {HASH[:16]}"),
            ),
            item("software", "equal", "versions and devices, of which rounding depends: the same", value(software)),
        ],
    }


def _scaling(arms: list[dict], y: str) -> dict:
    points, rise = [], 0.03 if y == "score" else -0.21
    for k, arm in enumerate(arms):
        for run in arm["runs"]:
            flops = 2.1e12 * 3**k
            value = (0.7 if y == "score" else 1.6) + rise * math.log10(flops / 2e12) + random.gauss(0, 0.004)
            points.append({"arm": arm["name"], "seed": run["seed"], "flops": flops, "value": value})
    low, high = (f(point["flops"] for point in points) for f in (min, max))
    at = [low * (high / low) ** (k / 12) for k in range(13)]
    mid = [(0.7 if y == "score" else 1.6) + rise * math.log10(x / 2e12) for x in at]
    return {
        "curve": "sizes",
        "y": y,
        "form": f"{y} = a + b log10(FLOPs)",
        "points": points,
        "slope": rise,
        "low": rise - 0.01,
        "high": rise + 0.01,
        "p": 0.0004,
        "sizes": len(arms),
        "r2": 0.93,
        "band": [[x, m, m - 0.008, m + 0.008] for x, m in zip(at, mid)],
    }


def _config() -> dict:
    fields = {f"body.field_{j}": str(j) for j in range(60)}
    return fields | {
        "objective": "MLM",
        "objective.rate": "0.15",
        "optimizer": "AdamW(weight_decay=0.01, b2=0.98)",
        "optimizer.peak_lr": "0.005",
        "data.files": "('data/books/train.txt',)",
        "steps": "1172",
    }
