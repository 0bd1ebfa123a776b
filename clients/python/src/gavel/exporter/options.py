"""What a caller of gavel.export may say, checked before anything is computed."""

import pathlib
from dataclasses import dataclass

from ..bundle import MODEL_NAME
from .errors import ExportError
from .specs import normalised

STORED = {"f32": "f32", "f16": "f16", "int8": "int8_rowwise", "int4": "int4_rowwise", "int2": "int2_rowwise"}


@dataclass
class Options:
    """As gavel.export documents them. `features`: specs, normalised here."""

    features: object = ()
    out: object = "bundle"
    overwrite: bool = False
    name: str | None = None
    description: str | None = None
    output_names: object = None
    output_kinds: object = None
    context: object = ()
    tables: str = "f32"
    selftest_rows: int = 128
    selftest_inputs: object = None
    labels: object = None
    atol: float | None = None

    def __post_init__(self):
        if self.tables not in STORED:
            raise ExportError(f"tables={self.tables!r}", f"use one of {', '.join(STORED)}")
        if not 1 <= self.selftest_rows <= 65536:
            raise ExportError(f"selftest_rows={self.selftest_rows}", "use 1 to 65536, 128 are plenty")
        if self.name is not None and not MODEL_NAME.fullmatch(self.name):
            raise ExportError(f"the name {self.name!r}", "use 1 to 64 of A-Z a-z 0-9 _ - ., not starting with a dot")
        out = pathlib.Path(self.out)
        if not self.overwrite and out.exists() and not (out.is_dir() and not any(out.iterdir())):
            raise ExportError(f"{self.out} exists already", "name another place, remove it, or pass overwrite=True")
        self.context = [self.context] if isinstance(self.context, str) else list(self.context)
        self.features = normalised(self.features or [])
