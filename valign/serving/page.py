"""The files of the page at `/`, and what a browser may do there and with any other answer.

They load nothing from afar.
"""

import importlib.resources

FILES = {
    "page.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
}
SEALED = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
"""Headers of every answer."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def file(name: str) -> tuple[bytes, str]:
    """Return a file's bytes and media type.

    Raises:
        LookupError: it is none of the page's.
    """
    if name not in FILES:
        raise LookupError(f"{name} is no file of the page")
    folder = importlib.resources.files("valign.serving").joinpath("web")
    return folder.joinpath(name).read_bytes(), FILES[name]
