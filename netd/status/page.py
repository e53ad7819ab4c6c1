"""The page: one file of HTML with its style and its script, and the policy that allows no other."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from pathlib import Path

_FOLDER = Path(__file__).parent


class Page:
    """The page as it is sent, and its Content-Security-Policy."""

    def __init__(self) -> None:
        frame = (_FOLDER / "page.html").read_text()
        style, script = (_FOLDER / "style.css").read_text(), (_FOLDER / "script.js").read_text()
        self.html = frame.replace("/*style*/", style).replace("/*script*/", script).encode()
        self.policy = "; ".join(
            [
                "default-src 'none'",
                f"style-src '{_digest(style)}'",
                f"script-src '{_digest(script)}'",
                "connect-src 'self'",
                "img-src data:",
                "base-uri 'none'",
                "form-action 'none'",
                "frame-ancestors 'none'",
                "require-trusted-types-for 'script'",
                "trusted-types 'none'",
            ]
        )


def _digest(text: str) -> str:
    """What names a script or a style in a policy (CSP Level 3)."""
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"
