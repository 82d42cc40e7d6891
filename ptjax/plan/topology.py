"""The devices of a TPU slice that is not here, to compile for."""

import importlib.metadata
import os

import jax
from jax.experimental import topologies

from ptjax.config import UserError
from ptjax.plan.chips import Chip, slice_of

# libtpu looks for the machine that it is on, and a lock for chips that it does not have; and it logs both.
SETTINGS = {
    "TPU_SKIP_MDS_QUERY": "1",  # asks no metadata server
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # any will do: it says nothing of what is compiled for
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # several plans at once
    "TPU_LOG_DIR": "disabled",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
}


def libtpu_version() -> str:
    """Raises UserError where it is not installed."""
    for name in ("libtpu", "libtpu-nightly"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    raise UserError(
        "compiling for a TPU that is not here wants its compiler, libtpu: pip install 'ptjax[plan]' (in a clone: "
        "pip install '.[plan]')"
    )


def devices_of(topology: str) -> tuple[Chip, list[jax.Device]]:
    """The chip and the devices, one a chip, of a slice such as `v5p:8x16x16`, for ahead-of-time compilation alone.

    Raises UserError where the slice cannot be, or libtpu is missing.
    """
    chip, sides = slice_of(topology)
    libtpu_version()
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    options = {}
    if chip.name == "v4":
        options["chip_config_name"] = "megacore"  # its two cores as one device, as jax has them
    if all(side == 1 for side in sides):
        options["chips_per_host_bounds"] = (1,) * 3
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology, **options)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"--topology={topology}: the compiler knows no such slice ({str(error).splitlines()[0]})"
        ) from None
    return chip, found.devices
