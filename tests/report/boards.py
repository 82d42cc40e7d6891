"""Boards to draw: a realistic one of any size, as leaderboard.json holds it."""

import math
import random

TASKS = [
    ("sst2", "SequenceClassification", "accuracy", 67349, 872),
    ("trec", "SequenceClassification", "accuracy", 4952, 500),
    ("rte", "SequenceClassification", "accuracy", 2490, 277),
    ("wikiann-en", "TokenClassification", "span_f1", 20000, 10000),
    ("conll2000", "TokenClassification", "span_f1", 8936, 2012),
    ("xquad-en", "QuestionAnswering", "f1", 952, 238),
    ("stdlib-package", "SequenceClassification", "macro_f1", 3300, 410),
    ("stdlib-kinds", "TokenClassification", "accuracy", 1200, 240),
    ("stdlib-returns", "QuestionAnswering", "exact_match", 900, 210),
    ("blimp", "MinimalPairs", "accuracy", 0, 67000),
]
NAMES = [
    "minilm, imported",
    "mlm, 12 M tokens",
    "hybrid, 12 M tokens",
    "rtd, 12 M tokens",
    "causal, 12 M tokens",
    "same shape, from scratch",
    "frozen minilm + probe",
    "plm, 12 M tokens",
    "diffusion, 12 M tokens",
    "majority",
]
RATES = (1e-5, 3e-5, 1e-4)


def board(submissions: int = 6, tasks: int = 6, seeds: int = 3, incomplete: bool = True, failed: int = 2) -> dict:
    """A board with two submissions tied for the lead, and from three on the last one incomplete if so asked."""
    random.seed(5)
    chosen = TASKS[:tasks]
    base = {name: random.uniform(0.6, 0.9) for name, *_ in chosen}
    ranked = []
    for k in range(submissions):
        skill = 0.04 - 0.4 * (1 - math.exp(-max(k - 1, 0) / 10)) + (0.006 if k == 0 else 0)
        name = NAMES[k] if k < len(NAMES) else f"{NAMES[k % len(NAMES)]} ({k})"
        lacking = [chosen[-1][0]] if incomplete and submissions > 2 and k == submissions - 1 and tasks > 1 else []
        results = {task[0]: _result(task, base[task[0]] + skill, seeds) for task in chosen if task[0] not in lacking}
        means = [r["mean"] for r in results.values()]
        mean = sum(means) / max(len(means), 1)
        half = 0.018 / math.sqrt(max(tasks, 1))
        handed_in = name == "majority"
        ranked.append(
            {
                "name": name,
                "complete": not lacking,
                "missing": lacking,
                "score": None if lacking else {"mean": mean, "low": mean - half, "high": mean + half * 0.9},
                "tasks": results,
                "cost": {
                    "parameters": None if handed_in else 22_713_216 + 100_000 * k,
                    "learning_parameters": None if handed_in else 22_713_216 if k != 6 else 1_154,
                    "flops": None if handed_in else 3.1e15 * (1 + k / 7),
                    "tokens": None if handed_in else 41_200_000,
                    "seconds": None if handed_in else 5200.0 + 731 * k,
                },
                "pretraining": _pretraining(name, k) if "tokens" in name else None,
                "config": _config(name, k),
                "difference": [] if k == 0 else [[key, _config(name, k)[key], v] for key, v in _differing(name, k)],
            }
        )
    whole = sorted((r for r in ranked if r["score"]), key=lambda r: -r["score"]["mean"])
    ranked = whole + [r for r in ranked if not r["score"]]
    for k, row in enumerate(ranked):
        row["rank"] = 1 if k < 2 else k + 1
        row["versus_next"] = None
        if row["score"] and k + 1 < len(whole):
            d = row["score"]["mean"] - whole[k + 1]["score"]["mean"]
            tie = k == 0
            half = abs(d) * (2.4 if tie else 0.6)
            row["versus_next"] = {
                "name": whole[k + 1]["name"],
                "difference": d,
                "low": d - half,
                "high": d + half,
                "p": 0.412 if tie else 0.0004,
                "tie": tie,
            }
    return {
        "suite": {
            "name": "Small English",
            "tasks": [
                {
                    "name": name,
                    "kind": kind,
                    "metric": metric,
                    "split": "test",
                    "examples": {"train": train, "validation": test, "test": test},
                }
                for name, kind, metric, train, test in chosen
            ],
        },
        "confidence": 0.95,
        "resamples": 1000,
        "made": {"ptjax": "0.1.0", "date": "2026-11-22T12:00:00+00:00", "python": "3.11.9", "jax": "0.10.1"},
        "submissions": ranked,
        "failed": [
            {
                "submission": ranked[-1]["name"],
                "task": chosen[-1][0],
                "cell": f"lr1e-04-seed{seed}",
                "error": 'Traceback (most recent call last):\n  File "ptjax/loop.py", line 101, in run\n'
                "ptjax.loop.NonFinite: the loss is nan at step 340; examples 12, 871, 3",
            }
            for seed in range(failed)
        ]
        if ranked and chosen
        else [],
    }


def _result(task: tuple, center: float, seeds: int) -> dict:
    name, kind, metric, train, test = task
    zero_shot = not train
    center = min(center, 0.985)
    values = [min(1.0, random.gauss(center, 0.006)) for _ in range(1 if zero_shot else seeds)]
    mean = sum(values) / len(values)
    half = 1.96 * math.sqrt(max(mean * (1 - mean), 0.001) / test) + 0.002
    grid, curves = [], []
    for rate in () if zero_shot else RATES:
        for seed in range(seeds):
            grid.append([rate, seed, random.gauss(center - 0.03 * abs(math.log(rate / 3e-5)), 0.005)])
            steps = range(10, 1510, 10)
            fall = [2.2 * math.exp(-s / 300) + 1.1 * (1 - center) + random.gauss(0, 0.05) for s in steps]
            loss = [[s, max(0.01, value)] for s, value in zip(steps, fall)]
            rise = [[s, center - 0.3 * math.exp(-s / 250) + random.gauss(0, 0.004)] for s in range(150, 1510, 150)]
            curves.append({"learning_rate": rate, "seed": seed, "loss": loss, "validation": rise})
    return {
        "mean": mean,
        "low": mean - half,
        "high": min(1.0, mean + half),
        "spread": math.sqrt(sum((v - mean) ** 2 for v in values) / max(len(values) - 1, 1)),
        "seeds": values,
        "learning_rate": None if zero_shot else 3e-5,
        "metrics": {metric: mean},
        "grid": grid,
        "curves": curves,
    }


def _pretraining(name: str, k: int) -> dict:
    floor = 2.0 + 0.2 * k
    return {
        "steps": 6000,
        "tokens": 12_288_000,
        "flops": 1.9e15,
        "objective": {"mlm": "MLM", "causal": "CausalLM", "hybrid": "Hybrid", "rtd": "RTD"}.get(
            name.split(",")[0], "PLM"
        ),
        "curve": [[s, floor + 4 * math.exp(-s / 1200) + random.gauss(0, 0.01)] for s in range(100, 6001, 100)],
    }


def _config(name: str, k: int) -> dict:
    fields = {f"recipe.field_{j}": str(j) for j in range(12)}
    return fields | {
        "init_from": f"runs/{name.split(',')[0]}",
        "recipe.learning_rates": "(1e-05, 3e-05, 0.0001)",
        "recipe.seeds": "(0, 1, 2)",
        "recipe.epochs": str(3 + k % 2),
        "recipe.batch_size": "32",
        "recipe.optimizer": "AdamW(weight_decay=0.01, b2=0.999)",
        "tuning": "Probe()" if k == 6 else "Full()",
    }


def _differing(name: str, k: int) -> list[tuple[str, str]]:
    winner = _config(NAMES[0], 0)
    return [(key, winner[key]) for key, value in _config(name, k).items() if winner[key] != value]
