"""HTML as a tree of elements: every text and attribute is escaped where it is written, every tag is closed.

There is no way to write markup as text here, so that a label or a reason that holds `<script>` stays text. That is why
neither a template engine nor f-strings make the report: with both, safety hangs on each place being written right.
"""

import html
import unicodedata
from collections.abc import Iterator
from xml.etree.ElementTree import Element

Child = Element | str | None

# Embeddings, overrides and isolates of the writing direction: with them a text could show its digits in another order.
BIDIRECTIONAL = frozenset(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))
VOID = frozenset(("meta", "link"))  # of the tags that have no end, those that the report uses
KEPT = frozenset("\n\t")  # of the control characters
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def el(tag: str, *children: Child, **attributes: str) -> Element:
    """Return an element. `class_` is the attribute class, `stroke_width` is stroke-width; a child of None is left out.

    The children of `style` are not escaped, as HTML has it: give it constants only.
    """
    element = Element(tag, {name.rstrip("_").replace("_", "-"): clean(value) for name, value in attributes.items()})
    for child in children:
        if isinstance(child, Element):
            element.append(child)
        elif child is not None and len(element):
            element[-1].tail = (element[-1].tail or "") + clean(child)
        elif child is not None:
            element.text = (element.text or "") + clean(child)
    return element


def clean(text: str) -> str:
    """Replace what HTML may not hold or what hides what a text says: control characters, surrogates, text direction."""
    return "".join(REPLACEMENT if _hides(letter) else letter for letter in text)


def document(root: Element) -> str:
    """Return the page of an `html` element."""
    return f"<!doctype html>\n{''.join(_written(root))}\n"


def _written(element: Element) -> Iterator[str]:
    """Write an element and all in it. The standard library's own HTML writer leaves `<` in attributes as it is."""
    yield f"<{element.tag}"
    for name, value in element.items():
        yield f' {name}="{html.escape(value)}"'
    yield ">"
    if element.tag not in VOID:
        text = element.text or ""
        yield text if element.tag == "style" else html.escape(text)
        for child in element:
            yield from _written(child)
        yield f"</{element.tag}>"
    yield html.escape(element.tail or "")


def _hides(letter: str) -> bool:
    if letter in BIDIRECTIONAL:
        return True
    return unicodedata.category(letter) in ("Cc", "Cs", "Cn") and letter not in KEPT
