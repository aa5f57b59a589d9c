"""Write results.json into docs/performance.md and its Portuguese twin: `python bench/document.py [RESULTS]`.

With RESULTS, that file becomes bench/results.json first, of which the documents tell.
"""

import json
import shutil
import sys
from pathlib import Path

from report import table, translate
from scenarios import SCENARIOS

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).with_name("results.json")
DOCUMENTS = {"en": ROOT / "docs/performance.md", "pt-BR": ROOT / "docs/performance.pt-BR.md"}
MEASURED = {
    "en": "Measured at {at} on {cpu}, Python {python}, commit {commit}.",
    "pt-BR": "Medido em {at} em {cpu}, Python {python}, commit {commit}.",
}
CHART = {
    "en": "![Calls and streams per second beside others, and the delay of live streams](images/performance.png)",
    "pt-BR": "![Chamadas e streams por segundo ao lado de outros, e demora dos ao vivo](images/performance.pt-BR.png)",
}
SECTION = {"en": "\n## Results\n", "pt-BR": "\n## Resultados\n"}


def tables(language: str) -> str:
    """All tables, each under its title."""
    results = json.loads(RESULTS.read_text())
    parts = [MEASURED[language].format(**results["machine"]), CHART[language]]
    for name, scenario in SCENARIOS.items():
        if name in results["scenarios"]:
            found = results["scenarios"][name]
            parts.append(f"### {translate(scenario.title, language)}\n\n{table(found, scenario.columns, language)}")
    return "\n" + "\n\n".join(parts) + "\n"


def fill(language: str) -> str:
    """The document with the tables in their section."""
    before, title, after = DOCUMENTS[language].read_text().partition(SECTION[language])
    _, heading, rest = after.partition("\n## ")
    return before + title + tables(language) + heading + rest


if __name__ == "__main__":
    if sys.argv[1:]:
        shutil.copyfile(sys.argv[1], RESULTS)
    for language, path in DOCUMENTS.items():
        path.write_text(fill(language))
