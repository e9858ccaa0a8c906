"""The generated documents: whole, loadable, and noticed when stale."""

import re
from pathlib import Path

from config.load import load_policy, load_settings
from config.reference import EXAMPLE_RESIDENCY, EXAMPLE_SETTINGS, ROOT, documents, main
from config.residency import Residency
from config.settings import Settings
from config.tables import TableMap, TableOf, TablesOf, shape


def keys(table: type) -> set[str]:
    found: set[str] = set()
    for field in shape(table).fields.values():
        found.add(field.key)
        kind = field.setting.kind
        if isinstance(kind, TableOf | TablesOf | TableMap):
            found |= keys(kind.table)
    return found


def test_every_key_is_in_the_reference_with_its_meaning() -> None:
    text = documents()["docs/configuration.md"]
    for key in keys(Settings) | keys(Residency):
        assert re.search(rf"^(\| `{key}` \| [^|]+\| [^|]*\| [^|]{{5,}}\||### `\[+{key}[.\]])", text, re.MULTILINE), key


def test_every_key_is_in_the_examples() -> None:
    made = documents()
    for name, document in (("docs/examples/domicile.toml", Settings), ("docs/examples/residency.toml", Residency)):
        for key in keys(document) - {"password_file", "refuse"}:  # has no place beside what the example shows
            assert re.search(rf"^(# )?{key} = |[{{,] {key} = |^\[+{key}[.\]]", made[name], re.MULTILINE), key


def test_the_examples_load_and_mean_what_they_were_made_from(tmp_path: Path) -> None:
    for name, text in documents().items():
        (tmp_path / Path(name).name).write_text(text, "utf-8")
    settings = load_settings(tmp_path / "domicile.toml", environ={})
    assert settings.rate_limits == EXAMPLE_SETTINGS.rate_limits
    assert settings.limits == EXAMPLE_SETTINGS.limits
    assert settings.media == EXAMPLE_SETTINGS.media
    assert settings.listeners == EXAMPLE_SETTINGS.listeners
    assert settings.public_base_url == EXAMPLE_SETTINGS.public_base_url
    assert load_policy(tmp_path / "residency.toml", environ={}).residency == EXAMPLE_RESIDENCY


def test_comments_in_the_example_are_values_that_load(tmp_path: Path) -> None:
    text = documents()["docs/examples/domicile.toml"]
    uncommented = re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE)
    assert uncommented != text
    file = tmp_path / "domicile.toml"
    file.write_text(uncommented, "utf-8")
    assert load_settings(file, environ={}).operator.contact == "mailto:abuse@example.org"


def test_the_files_of_the_project_are_fresh() -> None:
    for name, text in documents().items():
        assert (ROOT / name).read_text("utf-8") == text, f"{name} is stale: run python -m config.reference"


def test_check_notices_what_is_stale(tmp_path: Path) -> None:
    assert main(["--check"], tmp_path) == 1
    assert not (tmp_path / "docs").exists()
    assert main([], tmp_path) == 0
    assert main(["--check"], tmp_path) == 0
    (tmp_path / "docs/configuration.md").write_text("old")
    assert main(["--check"], tmp_path) == 1
    assert main(["--chek"], tmp_path) == 2
