"""The README of a bundle: a model card made from the run, every figure in it from a file of the run."""

from __future__ import annotations

from pathlib import Path

from trialign.evaluate.record import EvaluationRecord
from trialign.export.certificate import Certificate
from trialign.export.files.replay import TOLERANCE
from trialign.export.form import Form, Source
from trialign.foreign import Json
from trialign.manifest import MANIFEST, Manifest, code_revision
from trialign.record import read_record

_SHOWN = ("recall@10", "ndcg@10")


def card(form: Form, source: Source, folder: Path, certificate: Certificate) -> str:
    """Return the README of a bundle.

    Args:
        form: says how the bundle is loaded.
        source: what it was made from.
        folder: of the bundle, written but for this file.
        certificate: what was compared.
    """
    made = Manifest.read(source.folder)
    base = _base_model(made)
    parts = [
        _head(form.LIBRARY, base, _licence(base)),
        f"# A recommender of {source.sids.num_items:,} items\n\n"
        "It reads the items that a person chose, oldest first, and writes the semantic IDs of those that come next: "
        f"{source.sids.num_levels} codes of {source.sids.codebook_size} for each item, the coarsest first. Trained and "
        f"exported by trialign (revision {code_revision()}) from the stage `{made.stage}` {made.hash[:12]}.",
        form.commands(folder),
        _checked(form.COMPARED, certificate),
        _evaluated(source.folder, made),
        _licensed(base),
        "The prompts in parity.json are histories of the interaction log, without names of users.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _base_model(made: Manifest) -> str | None:
    train: Json = made.config.get("train")
    if not isinstance(train, dict):  # the stage rl: the generator it started from was built by train
        return _base_model(Manifest.read(Path(made.inputs["train"]["path"]))) if "train" in made.inputs else None
    backbone = train["backbone"]
    assert isinstance(backbone, dict)
    model = backbone.get("model")
    return None if model is None else str(model)


def _licence(base: str | None) -> str | None:
    """Return the licence that the README of a base model in a folder states in its head."""
    path = Path(base or "") / "README.md"
    if base is None or not path.is_file():
        return None
    lines = path.read_text(errors="replace").splitlines()
    end = lines.index("---", 1) if lines[:1] == ["---"] and "---" in lines[1:] else 0
    found = [line.partition(":")[2].strip() for line in lines[1:end] if line.startswith("license:")]
    return found[0] if found else None


def _head(library: str, base: str | None, licence: str | None) -> str:
    lines = [f"library_name: {library}", "tags: [recommendation, semantic-ids]"]
    lines += [f"base_model: {Path(base).name if Path(base).is_absolute() else base}"] if base else []
    lines += [f"license: {licence}"] if licence else []
    return "\n".join(["---", *lines, "---"])


def _licensed(base: str | None) -> str:
    if base is None:
        return "## Licence\n\nThe weights were trained from scratch: no base model's licence applies."
    licence = _licence(base)
    known = f"its README names the licence `{licence}`" if licence else "read its licence there"
    return f"## Licence\n\nThe weights continue those of `{base}`; {known}."


def _checked(compared: str, certificate: Certificate) -> str:
    lines = [
        "## Check it\n\n```bash\npython replay.py\n```\n",
        f"asks for the {len(certificate.prompts)} prompts of parity.json again, and ends with status 1 where an item "
        f"differs or a score by more than {TOLERANCE}. `python replay.py URL` asks a service.",
        f"When the folder was written, all of it was read again and compared with the generator: "
        f"{certificate.rows} {compared}, whose largest difference is {certificate.largest_difference:.2g}.",
    ]
    if certificate.bfloat16 is not None:
        kept = certificate.bfloat16
        lines.append(
            f"In bfloat16 the lists keep {kept.items:.1%} of the top 10 of the generator in float32, and "
            f"{kept.order:.1%} of the lists its order; parity.json holds the answers in bfloat16."
        )
    lines += [
        f"A search with {beams} beams finds {share:.1%} of the top 10 of the exhaustive search."
        for beams, share in certificate.exhaustive.items()
    ]
    return "\n".join(lines)


def _evaluated(stage: Path, made: Manifest) -> str:
    folder = stage.parent / "evaluate" / "test"
    known = (folder / MANIFEST).exists() and Manifest.read(folder).lineage.get(made.stage) == made.hash
    if not known:
        return "## How good it is\n\nIt was not evaluated before it was exported: `trialign evaluate run=DIR`."
    record = read_record(EvaluationRecord, folder / "metrics.json")
    stated = record.stated
    rows = {"this model": stated.model, **stated.baselines, **({"oracle": stated.oracle} if stated.oracle else {})}
    lines = [
        f"| {name} | " + " | ".join(f"{figures[metric]:.4f}" for metric in _SHOWN) + " |"
        for name, figures in rows.items()
        if set(_SHOWN) <= figures.keys()
    ]
    rule = "filtered" if stated.exclude_seen else "kept"
    return (
        f"## How good it is\n\nThe whole catalogue ranked for {record.num_users:,} of {record.num_users_in_split:,} "
        f"users of the split `{record.split}`, items that a user chose before {rule}:\n\n| | {' | '.join(_SHOWN)} |\n"
        f"|---|{'---|' * len(_SHOWN)}\n" + "\n".join(lines)
    )
