"""The report of a comparison: comparison.json, and the same as a page and as Markdown."""

from typing import Any

from ptjax.checkpoint import disk_errors
from ptjax.compare.results import Results
from ptjax.compare.study import Study
from ptjax.files import write_json, write_text
from ptjax.report import comparison_markdown, comparison_page

JSON, PAGE, MARKDOWN = "comparison.json", "comparison.html", "comparison.md"


def report(study: Study) -> dict[str, Any]:
    """Writes what there is so far, and returns the contents of comparison.json. Raises UserError: arms that are not
    paired; files that are damaged."""
    contents = Results(study).contents()
    with disk_errors(study.workdir):
        write_json(study.workdir / JSON, contents)
        write_text(study.workdir / PAGE, comparison_page(contents))
        write_text(study.workdir / MARKDOWN, comparison_markdown(contents))
    return contents
