"""What is asked: frozen, validated records, their canonical JSON and their content ids.

A spec names work; two equal specs are the same work, whoever asks. Its id is the name of the finished
work on disk, so anything that can change the numbers by more than rounding belongs in the spec, and
nothing else does.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from critmass.errors import InputError

ID_LENGTH = 16
MOST_REPEATS = 1_000_000
"""Parts of each size that may be asked for: many more than anyone needs, and few enough to be counted."""


def canonical_json(value: Any) -> str:
    """Return the one JSON text of `value`: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def content_id(value: Any) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:ID_LENGTH]


class Spec(BaseModel):
    """Base of the records: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def id(self) -> str:
        """Content id of this record."""
        return content_id(self.model_dump(mode="json"))


class MeasureSpec(Spec):
    """One cell of results: which score, of which parts, of which features."""

    features: str = Field(description="fingerprint of the features")
    score: str
    parts: str
    parts_settings: dict[str, Any] = Field(default={}, description="of the family, by name")
    content: str | None = Field(default=None, description="content id of orders, masks or matrices given")
    seeding: Literal["critmass", "authors"] = "critmass"
    sizes: tuple[int, ...]
    repeats: int = Field(ge=1, le=MOST_REPEATS)
    seed: int = Field(ge=0)
    settings: dict[str, Any] = Field(default={}, description="of the score, by name")


class ExtractSpec(Spec):
    """One features store: which layer of which model on which samples. Not in it: the batch size."""

    model: dict[str, Any]
    dataset: dict[str, Any]
    selection: dict[str, Any] = Field(default={}, description="splits, classes, samples and further tests")
    layer: str
    pooling: str
    dtype: Literal["float16", "float32"]
    views: int = Field(ge=0, le=1000)
    seed: int = Field(ge=0)
    shard_rows: int = Field(ge=1)


def validated(spec: type[Spec], **values: Any) -> Any:
    """Build a spec; turn the first thing wrong with it into one InputError."""
    try:
        return spec(**values)
    except ValidationError as error:
        raise first_fault(error) from None


def first_fault(error: ValidationError, name: str = "") -> InputError:
    """Return the first thing that is wrong with a record as one line; by default named as its field."""
    first = error.errors()[0]
    bounds = first.get("ctx", {})
    words = {
        "greater_than_equal": f"{bounds.get('ge')} or more",
        "less_than_equal": f"at most {bounds.get('le')}",
    }
    where = name or ".".join(map(str, first["loc"]))
    return InputError(where, first["input"], words.get(first["type"], first["msg"].lower()))
