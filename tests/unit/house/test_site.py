"""The documentation as a site: it builds strictly, fetches nothing, and shows commands and settings that exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_docker import COMMANDS, require_command, require_settings

ROOT = Path(__file__).resolve().parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHOWN = [page for page in PAGES if "decisions" not in page.parts]
_BLOCK = re.compile(r"^```(?:sh|console)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
# What is no setting of the product: the tests' and the compose file's own variables.
_OTHERS = ("PORTRAITS_TEST", "PORTRAITS_FAKE", "PORTRAITS_CHAOS", "PORTRAITS_VERSION")


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Build strictly. Not quietly: then MkDocs' strictness sees no warning."""
    command = [str(Path(sys.executable).parent / "mkdocs"), "build", "--strict", "-f", str(config), "-d", str(site)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; every link, anchor and page of the navigation holds, else it is not built."""
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT / "mkdocs.yml", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.parametrize(
    ("link", "words"),
    [
        ("missing.md", "'missing.md', but the target is not found"),
        ("index.md#nowhere", "no such anchor"),
        ("../not-in-the-repository.md", "not in the repository"),
    ],
)
def test_a_link_that_leads_nowhere_ends_the_build(tmp_path: Path, link: str, words: str) -> None:
    # Given one page with one link, and our configuration but for its navigation
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("not_in_nav:")[0]
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# Page\n\n[link]({link})\n")
    config = tmp_path / "mkdocs.yml"
    config.write_text(text.replace("scripts/site_links.py", str(ROOT / "scripts" / "site_links.py")))

    # When it is built, then the link is named
    done = build(config, tmp_path / "site")
    assert done.returncode != 0 and words in done.stdout + done.stderr


def test_every_page_is_built(site: Path) -> None:
    built = {file.parent.relative_to(site).as_posix() for file in site.rglob("index.html")}
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").with_suffix("").as_posix()
        assert re.sub(r"(^|/)(index|README)$", "", name) in built | {"", "."}, name


def test_no_page_fetches_anything_from_elsewhere(site: Path) -> None:
    # Given what makes a browser fetch something by itself
    fetched = re.compile(
        r"<(?:script|img|iframe|source)[^>]*?\ssrc=[\"']?(https?:)?//|<link[^>]*?\srel=[\"']?stylesheet[^>]*?//"
    )
    for file in site.rglob("*.html"):
        assert not fetched.search(file.read_text(encoding="utf-8")), file


def commands_of(page: Path) -> list[str]:
    """Every line of the page's shell blocks that begins with `portraits`, continued lines joined."""
    lines = []
    for block in _BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            text = re.sub(r"^\$ ", "", line)
            if re.match(r"portraits [a-z]", text) and not re.match(
                r"portraits (lora|db|dataset|tenants)? *\.\.\.", text
            ):
                lines.append(text)
    return lines


@pytest.mark.parametrize("page", SHOWN, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_command_that_is_shown_exists(page: Path) -> None:
    for line in commands_of(page):
        words = re.split(r"\s+#|\s*(?:\|\||&&|[;|>&])", line)[0].replace("[", "").replace("]", "").split()
        require_command(words)


def test_the_commands_are_found_at_all() -> None:
    assert sum(len(commands_of(page)) for page in SHOWN) > 60
    with pytest.raises(AssertionError, match="no such command"):
        require_command(["portraits", "paint"])
    with pytest.raises(AssertionError, match="--colour"):
        require_command(["portraits", "status", "--colour"])
    assert len(COMMANDS) > 30


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_setting_that_is_named_exists(page: Path) -> None:
    named = set(re.findall(r"\bPORTRAITS_[A-Z0-9_]*[A-Z0-9]", page.read_text(encoding="utf-8")))
    require_settings({name for name in named if not name.startswith(_OTHERS)})


@pytest.mark.parametrize(
    "script", ["settings_table", "cli_reference", "error_table", "database_reference", "http_reference"]
)
def test_pages_that_are_made_from_the_code_are_fresh(script: str) -> None:
    command = [sys.executable, str(ROOT / "scripts" / f"{script}.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
