"""What `experiments.plan` prints."""

from rich.table import Table

from ptjax.plan import Plan

from .show import console

UNITS = (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3))


def show(p: Plan) -> None:
    where = f"{p.topology}: {p.devices:,} x {p.device}" if p.topology else f"{p.devices:,} x {p.device}, here"
    mesh = " x ".join(f"{axis}={size}" for axis, size in p.mesh.items() if size > 1) or "one device"
    console.print(f"[bold]{p.model}, {p.objective}[/bold] on {where}, mesh {mesh}")
    console.print(
        f"{_si(p.parameters)} parameters, {p.rows:,} rows of {p.length:,} tokens a step, "
        f"{p.microbatch:,} at a time on a chip; vocabulary {p.vocabulary}"
    )
    versions = ", ".join(f"{name} {version}" for name, version in p.versions.items())
    console.print(f"compiled in {p.compile_seconds:.0f} s with {versions}" if p.fits else versions, style="dim")
    _memory(p)
    if p.cost:
        _work(p)
        _collectives(p)
        _time(p)


def too_large(p: Plan) -> str:
    """One line: by how much the step does not fit, and what would."""
    text = (
        f"this does not fit: a chip would hold {p.used / 2**30:.1f} GiB ({p.memory['temporaries'] / 2**30:.1f} of them "
        f"temporaries), and has {p.available / 2**30:.2f}"
    )
    if not p.suggestions:
        return f"{text}; no fsdp, remat or accumulation would do: take more chips, or divide by mesh.tensor too"
    ways = [f"{' '.join(s.overrides)} (about {s.bytes / 2**30:.1f} GiB; {s.price})" for s in p.suggestions]
    return f"{text}; by arithmetic these would fit: {'; or '.join(ways)}"


def _table(title: str, *heads: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, show_header=bool(heads))
    for i, head in enumerate(heads or ("", "", "")):
        table.add_column(head, justify="right" if i else "left")
    return table


def _memory(p: Plan) -> None:
    table = _table("\nmemory of a chip")
    share = lambda size: f"{size / p.available:.1%}" if p.available else ""
    for kind, size in p.memory.items():
        table.add_row(kind, _bytes(size), share(size))
    table.add_row("in all", _bytes(p.used), share(p.used))
    if p.available:
        table.add_row("there is", _bytes(p.available), "" if p.fits else "does not fit", style="bold")
    console.print(table)


def _work(p: Plan) -> None:
    table, own = _table("\nwork of a chip and step"), p.flops / p.devices
    table.add_row("matrix products by the formula", f"{_si(own)}FLOP")
    more = f"{p.cost.flops / own:.2f} of that" if own else ""
    table.add_row("as compiled, with what is computed again", f"{_si(p.cost.flops)}FLOP", more)
    table.add_row("to and from memory", _bytes(p.cost.bytes))
    console.print(table)
    for loop in p.cost.loops:
        said = f"{p.cost.turns:,.0f} turns, with which products come to the formula's; the data decides: loop in {loop}"
        console.print(said, style="yellow", markup=False)
    for kernel in p.cost.kernels:
        console.print(f"not counted, as it does not say what it computes: {kernel}", style="yellow", markup=False)


def _collectives(p: Plan) -> None:
    if not p.traffic:
        return
    heads = ("along", "chips", "times", "bytes") + ("time",) * bool(p.chip)
    table = _table("\ncollectives of a chip and step", "kind", *heads)
    for t in p.traffic:
        row = [t.kind, " x ".join(t.axes), f"{t.group:,}", f"{t.count:,}", _bytes(t.bytes)]
        table.add_row(*row, *([_seconds(t.seconds)] if p.chip else []))
    console.print(table)


def _time(p: Plan) -> None:
    if p.times is None:
        console.print(f"\nno time is estimated: the peaks of a {p.device} are not in the table (docs/plan.md)")
        return
    table, t = _table("\ntime of a step at best (roofline)"), p.times
    table.add_row("products at the chip's peak", _seconds(t.compute))
    table.add_row("bytes at its memory's bandwidth", _seconds(t.memory))
    table.add_row("instruction by instruction, the slower", _seconds(t.work))
    table.add_row("collectives, on the links of the torus", _seconds(t.interconnect))
    for name, seconds in (
        ("step, all collectives beside other work", t.overlapped),
        ("step, none beside other work", t.exposed),
    ):
        speed = f"MFU {p.mfu(seconds):.1%}, {_si(p.tokens_per_second(seconds))}tokens/s"
        table.add_row(name, _seconds(seconds), speed, style="bold")
    console.print(table)


def _si(number: float) -> str:
    for unit, size in UNITS:
        if abs(number) >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g} "


def _bytes(size: float) -> str:
    for unit, one in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= one:
            return f"{size / one:.2f} {unit}"
    return f"{size:.0f} B"


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.2f} ms"
