"""The command `ptjax`: `ptjax pretrain ...` is `python -m experiments.pretrain ...`, from any folder."""

import ast
import difflib
import runpy
import sys
from pathlib import Path


def main() -> None:
    """Runs the experiment named by the first argument; lists them for --help."""
    known = commands()
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-h"):
        print("usage: ptjax COMMAND --config=FILE --workdir=DIR [key.path=value ...]\n\ncommands:")
        for command, summary in known.items():
            print(f"  {command:<12}{summary}")
        print("\nptjax COMMAND --help says more.")
    elif name in known:
        del sys.argv[1]
        runpy.run_module(f"{__package__}.{name}", run_name="__main__", alter_sys=True)
    else:
        near = difflib.get_close_matches(name, known, 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        print(f"Error: there is no command {name!r}.{hint} Commands: {', '.join(known)}.", file=sys.stderr)
        sys.exit(2)


def commands() -> dict[str, str]:
    """Name -> first line of the docstring, of every module beside this one with a `main`; imports none of them."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            found[path.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


if __name__ == "__main__":
    main()
