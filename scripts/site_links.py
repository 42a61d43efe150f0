"""MkDocs hook: links of a page to files beside docs/ go to the repository, and must be there.

The pages are read on the repository's site too, where such links work as they are.
"""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import normpath
from typing import Any

from mkdocs.exceptions import PluginError

_LINK = re.compile(r"(?<=\]\()(\.\.?/[^)#\s]*)")
BRANCH = "blob/main"


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """The page's text with links out of docs/ made absolute. Raises PluginError for a file that is not there."""
    root = Path(config["docs_dir"]).parent

    def outside(match: re.Match[str]) -> str:
        target = normpath(f"docs/{Path(page.file.src_uri).parent.as_posix()}/{match[1]}")
        if target.startswith("docs/") or target == "docs":
            return match[1]
        if target.startswith("..") or not (root / target).exists():
            raise PluginError(f"{page.file.src_uri} links to {match[1]}, which is not in the repository")
        return f"{config['extra']['repository']}/{BRANCH}/{target}"

    return _LINK.sub(outside, markdown)
