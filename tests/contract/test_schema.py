"""The JSON schema is the contract's other form: it may not drift from the classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from models import manifest as contract

SCHEMA = Path(contract.__file__).parent / "manifest.schema.json"


def test_schema_is_what_the_classes_say() -> None:
    text = SCHEMA.read_text(encoding="utf-8")
    assert text == contract.schema(), "run: python -m models.manifest > models/manifest.schema.json"


def test_schema_refuses_unknown_keys_in_every_part() -> None:
    schema: dict[str, Any] = json.loads(SCHEMA.read_text(encoding="utf-8"))
    parts = {"Manifest": schema, **schema["$defs"]}
    objects = {name for name, part in parts.items() if "properties" in part}
    assert len(objects) >= 9
    assert {name for name in objects if parts[name].get("additionalProperties") is not False} == set()
