"""Write docs/settings.md from the settings class: `python scripts/settings_table.py [--check]`."""

from __future__ import annotations

import sys
from pathlib import Path

from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from jobs.secret_files import SECRETS_DIR, secret_fields
from jobs.settings import Settings

TARGET = Path(__file__).resolve().parents[1] / "docs" / "settings.md"
SECRETS = ", ".join(f"`PORTRAITS_{name.upper()}`" for name in secret_fields(Settings))
HEAD = f"""# Settings

Every setting is an environment variable `PORTRAITS_<NAME>`, or a line of a `.env` file in the working folder.
`portraits doctor` shows what is in force, with secrets masked. This table is written by `scripts/settings_table.py`.

Secrets ({SECRETS}) may come from files instead: `PORTRAITS_DATABASE_URL_FILE` names the file that holds
`PORTRAITS_DATABASE_URL`, and so on; or the file `portraits_database_url` lies in `PORTRAITS_SECRETS_DIR`, by default
`{SECRETS_DIR}`, where Docker puts secrets. The AWS keys are boto3's to find: `AWS_SHARED_CREDENTIALS_FILE` names a file
of them, `AWS_WEB_IDENTITY_TOKEN_FILE` one of a role. Keys to sign with are always files.

| variable | default | meaning |
|---|---|---|
"""


def table() -> str:
    """The whole page."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = field.default
        if isinstance(default, SecretStr):
            default = default.get_secret_value()
        if default is PydanticUndefined and field.default_factory is not None:
            default = field.get_default(call_default_factory=True, validated_data={})
        shown = "" if default in (None, "", ()) else f"`{default}`"
        rows.append(f"| `PORTRAITS_{name.upper()}` | {shown} | {field.description} |")
    return HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        if not TARGET.exists() or TARGET.read_text(encoding="utf-8") != table():
            sys.exit("docs/settings.md is not what the settings say; run python scripts/settings_table.py")
    else:
        TARGET.write_text(table(), encoding="utf-8")
