"""The report as one HTML file that asks for nothing beside itself."""

from __future__ import annotations

import base64
import hashlib
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from deblur_deploy import __version__
from deblur_deploy.report.canvas import draw_svg
from deblur_deploy.report.content import Content
from deblur_deploy.report.photographs import encode_photographs


def render_page(content: Content) -> str:
    """A page with inline style, script, charts and pictures, below 5 MB.

    All text is escaped. The page's content security policy lets nothing be loaded, and no script run but its own.

    Args:
        content: What it says.
    """
    script = _templates().loader.get_source(_templates(), "report.js")[0]  # type: ignore[union-attr]
    photographs = encode_photographs(content.photographs)
    return (
        _templates()
        .get_template("report.html")
        .render(
            content=content,
            photographs=photographs,
            left_out=len(content.photographs) - len(photographs),
            # Matplotlib and ElementTree have escaped every name in a chart.
            svg={chart.slug: Markup(draw_svg(chart)) for chart in content.charts},
            script=Markup(script),
            script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            version=__version__,
        )
    )


@cache
def _templates() -> Environment:
    return Environment(
        autoescape=True,
        loader=PackageLoader("deblur_deploy.report"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
