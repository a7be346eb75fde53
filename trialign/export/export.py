"""Write a bundle, read all of it again, and certify that it answers as the generator does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from trialign.config.export import ExportConfig
from trialign.data.dataset import Dataset
from trialign.enrich.evidence import load_evidence
from trialign.export.card import card
from trialign.export.certificate import certify
from trialign.export.form import Source, copy_file, form_of
from trialign.export.items import write_items
from trialign.foreign import Json
from trialign.generate.task import ItemTexts
from trialign.record import write_record
from trialign.semid.table import SIDTable


def open_source(folders: Mapping[str, Path], generator: str) -> Source:
    """Return what a bundle is made from, of the finished stages by verb."""
    dataset = Dataset(folders["prepare"])
    texts = ItemTexts(dataset.items, load_evidence(folders["enrich"]) if "enrich" in folders else None)
    return Source(dataset, texts, SIDTable.load(folders["assign"]), folders[generator])


def export(source: Source, folder: Path, settings: ExportConfig) -> dict[str, Json]:
    """Write the bundle and check it; return the counts for its manifest.

    Raises:
        ConfigError: the generator cannot be exported exactly.
        StageError: what was read again answers otherwise than the generator.
    """
    trained = source.load()
    encoding = trained.generator.items.name
    form = form_of(encoding)
    facts = {"max_history": trained.max_history, **form.facts(trained, settings)}
    write_items(folder, source.dataset, source.sids, facts)
    form.write(source, folder, settings)
    certificate = certify(form, source, folder, settings)
    write_record(folder / "parity.json", certificate)
    copy_file("replay.py", folder)
    (folder / "README.md").write_text(card(form, source, folder, certificate))
    return {"encoding": encoding, "items": source.sids.num_items, "sids": source.sids.digest}
