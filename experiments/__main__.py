"""The command `ptjax`: `ptjax pretrain ...` is `python -m experiments.pretrain ...`, from any folder."""

import ast
import difflib
import pkgutil
import runpy
import sys
from pathlib import Path

_FOLDER = Path(__file__).parent


def main() -> None:
    """Runs the experiment named by the first argument; lists them for --help."""
    names = [m.name for m in pkgutil.iter_modules([str(_FOLDER)]) if m.name not in ("__main__", "cli")]
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-h"):
        print("usage: ptjax COMMAND --config=FILE --workdir=DIR [key.path=value ...]\n\ncommands:")
        for known in names:
            print(f"  {known:<12}{_summary(known)}")
        print("\nptjax COMMAND --help says more.")
        return
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        print(f"Error: there is no command {name!r}.{hint} Commands: {', '.join(names)}.", file=sys.stderr)
        sys.exit(2)
    del sys.argv[1]
    runpy.run_module(f"{__package__}.{name}", run_name="__main__", alter_sys=True)


def _summary(name: str) -> str:
    """First line of the module's docstring, without importing it."""
    docstring = ast.get_docstring(ast.parse((_FOLDER / f"{name}.py").read_text())) or ""
    return docstring.partition("\n")[0]


if __name__ == "__main__":
    main()
