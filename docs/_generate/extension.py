"""The Sphinx extension: fills in the generated parts, links what is named in the text, and sets formulas as MathML."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

from _generate import PAGES
from _generate.commands import commands
from _generate.configuration import configuration

MARKER = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)


def fill_in(_app: Sphinx, _docname: str, source: list[str]) -> None:
    """Replace the markers of a page by what is generated."""
    source[0] = MARKER.sub(lambda found: PAGES[found[1]](), source[0])


def always_read(app: Sphinx, *_: Any) -> list[str]:
    """Pages with generated parts: the code may have changed though the page has not."""
    return [name for name in app.env.found_docs if MARKER.search(app.env.doc2path(name).read_text(encoding="utf-8"))]


def link_names(app: Sphinx, document: nodes.document, docname: str) -> None:
    """Link commands and configuration keys that stand in the text as code to their place in the reference.

    Guides stay plain Markdown that way: `train.epochs` and `emoray annotate --plan` are links on the site, and code
    wherever else the file is read.
    """
    domain = app.env.domains.standard_domain
    sections = {section.path: section.label for section in configuration().walk() if "." in section.path}
    labels = {command.name: command.label for command in commands()}
    for literal in list(document.findall(nodes.literal)):
        if isinstance(literal.parent, (nodes.reference, nodes.title)):
            continue
        name = literal.astext().partition("=")[0]
        command = next((one for one in labels if f"{name} ".startswith(f"{one} ")), None)
        if ("confval", name) in domain.objects:
            place = domain.objects["confval", name]
        elif name in sections:
            place = domain.anonlabels[sections[name]]
        elif command:
            place = domain.anonlabels[labels[command]]
        else:
            continue
        page, anchor = place
        address = f"{app.builder.get_relative_uri(docname, page)}#{anchor}" if page != docname else f"#{anchor}"
        link = nodes.reference("", "", internal=True, refuri=address)
        literal.replace_self(link)
        link += literal


def _inline_math(self: HTML5Translator, node: nodes.math) -> None:
    self.body.append(tex2mathml(node.astext(), as_block=False))
    raise nodes.SkipNode


def _block_math(self: HTML5Translator, node: nodes.math_block) -> None:
    self.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("source-read", fill_in)
    app.connect("env-get-outdated", always_read)
    app.connect("doctree-resolved", link_names)
    # MathML, which browsers draw themselves: MathJax would come from a CDN, or as megabytes of scripts.
    app.add_html_math_renderer("mathml", inline_renderers=(_inline_math, None), block_renderers=(_block_math, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
