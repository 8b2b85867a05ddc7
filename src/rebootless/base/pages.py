"""HTML pages that need nothing else: templates that escape what they are given, style and script
inside, and a policy that lets no other script run."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from typing import Any


def render(
    templates: Traversable, name: str, context: Mapping[str, Any], *, style: str, script: str
) -> str:
    """The page of the template `name` with `context`, in which every name must be there.

    Raises jinja2.UndefinedError when one is not.
    """
    import jinja2  # late: most commands show no page
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda file: (templates / file).read_text()),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name).render(
        context,
        style=Markup(style),
        script=Markup(script),
        policy=f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'",
    )


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
