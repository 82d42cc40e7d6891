#!/usr/bin/env bash
# Training on one GPU beside its peers: benchmarks/gpu.sh OUT [--tiny] (see benchmarks/gpu/__main__.py, or --help).
# Has not run on a GPU yet: none could be had. Its code has, with --tiny, on a CPU.
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" -m benchmarks.gpu "$@"
