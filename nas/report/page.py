"""The page from its template. Every word that comes from outside is escaped: names of models are anybody's."""

from collections.abc import Sequence

from nas.report.view import View

_TEMPLATE = "page.html.jinja"
OVERVIEW = ("model", "target", "workload", "budget", "winner", "of the parent", "quality", "parameters", "verdict")


def render(views: Sequence[View]) -> str:
    """The HTML of one or several searches."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("nas.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    title = views[0].title if len(views) == 1 else f"{len(views)} searches"
    return environment.get_template(_TEMPLATE).render(views=views, title=title, overview=OVERVIEW)
