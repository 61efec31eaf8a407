"""A finished report in another form: what `autocaft report RUN --format ... --figures ...` writes.

In: report.json. Out: files in a folder. The decision a reader would question: every form is made from report.json
alone, so none can say what another does not.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autocaft.errors import ConfigError
from autocaft.report.build import dump_report
from autocaft.report.figures import figures_of, standalone
from autocaft.report.html import render_html
from autocaft.report.markdown import render_markdown
from autocaft.report.plain import guard_cell, visible
from autocaft.report.tables import arm_rows, contrast_rows, direction_rows
from autocaft.rundir.files import replacing, write_text

FORMATS = ("html", "md", "json", "csv", "parquet")
FIGURE_FORMATS = ("svg", "png")
PNG_ZOOM = 4.0
"""640 units become 2560 pixels: a full text width at 300 dots an inch and more."""


def check_forms(form: str | None, figures: str | None) -> None:
    """Before anything is run for them.

    Raises:
        ConfigError: no such form.
    """
    if form is not None and form not in FORMATS:
        raise ConfigError(f"--format {form!r}: must be one of {', '.join(FORMATS)}")
    if figures is not None and figures not in FIGURE_FORMATS:
        raise ConfigError(f"--figures {figures!r}: must be {' or '.join(FIGURE_FORMATS)}")


def export_report(report: Mapping[str, Any], form: str, folder: Path) -> list[Path]:
    """Write the report in one of `FORMATS` into the folder; gives the files."""
    assert form in FORMATS, form
    if form in ("html", "md", "json"):
        render = {"html": render_html, "md": render_markdown, "json": lambda found: dump_report(dict(found))}[form]
        path = folder / f"report.{form}"
        write_text(path, render(report))
        return [path]
    paths = []
    tables = {"arms": arm_rows(report), "directions": direction_rows(report), "differences": contrast_rows(report)}
    for name, rows in tables.items():
        path = folder / f"{name}.{form}"
        if form == "csv":
            write_text(path, _as_csv(rows))
        else:
            _write_parquet(path, rows)
        paths.append(path)
    return paths


def export_figures(report: Mapping[str, Any], form: str, folder: Path) -> list[Path]:
    """Write each figure of the report into `figures/` of the folder, for a page or a paper.

    Raises:
        ConfigError: PNG without the library that draws it.
    """
    assert form in FIGURE_FORMATS, form
    paths = []
    for name, svg in figures_of(report).items():
        path = folder / "figures" / f"{name}.{form}"
        if form == "svg":
            write_text(path, standalone(svg))
        else:
            drawn = _png(standalone(svg))
            with replacing(path) as temporary:
                temporary.write_bytes(drawn)
        paths.append(path)
    return paths


def _as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Opens with a byte order mark, which spreadsheets want for UTF-8."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {key: guard_cell(visible(value)) if isinstance(value, str) else value for key, value in row.items()}
        )
    return "\ufeff" + file.getvalue()


def _write_parquet(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    import pandas

    # seeds and counts are whole numbers also where some are missing
    frame = pandas.DataFrame(rows).convert_dtypes()
    with replacing(path) as temporary:
        frame.to_parquet(temporary, engine="pyarrow", index=False)


def _png(svg: str) -> bytes:
    try:
        import resvg_py
    except ImportError:
        raise ConfigError(
            "--figures png needs a library that draws SVG: pip install 'autocaft[figures]'. --figures svg needs none."
        ) from None
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, zoom=PNG_ZOOM, background="#ffffff"))
