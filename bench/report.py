"""Results as tables for people, in English and Portuguese: medians, and how the gateway compares in the same rounds."""

import statistics
from collections.abc import Mapping, Sequence

Values = Mapping[str, Sequence[float]]  # what was measured → a value for each round

# Name of a column → its heading and how a value is written.
COLUMNS: dict[str, tuple[str, str]] = {
    "calls_per_s": ("calls/s", "{:,.0f}"),
    "other_per_s": ("other calls/s", "{:,.1f}"),
    "cpu_us": ("CPU µs", "{:,.0f}"),
    "cpu_us_stream": ("CPU µs a stream", "{:,.0f}"),
    "p50_ms": ("p50 ms", "{:,.2f}"),
    "p99_ms": ("p99 ms", "{:,.1f}"),
    "max_ms": ("max ms", "{:,.0f}"),
    "usage_ms": ("/v1/usage ms", "{:,.1f}"),
    "lost": ("lost", "{:.0f}"),
    "first_p50_s": ("first token p50 s", "{:.3f}"),
    "first_p99_s": ("first token p99 s", "{:.3f}"),
    "gap_p50_s": ("gap p50 s", "{:.3f}"),
    "gap_p99_s": ("gap p99 s", "{:.3f}"),
    "rss_mb": ("memory MB", "{:.0f}"),
    "load_core": ("load's core busy", "{:.0%}"),
    "ready_s": ("first answer s", "{:.2f}"),
    "connections": ("new connections", "{:.0f}"),
    "resumed": ("sessions resumed", "{:.0f}"),
}
COMPARED = "{} does"
PORTUGUESE = {
    "calls/s": "chamadas/s",
    "other calls/s": "outras chamadas/s",
    "CPU µs": "CPU µs",
    "CPU µs a stream": "CPU µs por stream",
    "lost": "perdidos",
    "first token p50 s": "primeiro token p50 s",
    "first token p99 s": "primeiro token p99 s",
    "gap p50 s": "intervalo p50 s",
    "gap p99 s": "intervalo p99 s",
    "max ms": "máx. ms",
    "memory MB": "memória MB",
    "load's core busy": "núcleo da carga ocupado",
    "first answer s": "primeira resposta s",
    "new connections": "conexões novas",
    "sessions resumed": "sessões retomadas",
    COMPARED: "{} faz",
    "Whole calls, 1 client": "Chamadas inteiras, 1 cliente",
    "Whole calls, 32 clients": "Chamadas inteiras, 32 clientes",
    "Whole calls, 256 clients": "Chamadas inteiras, 256 clientes",
    "Prompts of 20 KB, 32 clients": "Prompts de 20 KB, 32 clientes",
    "Prompts of 200 KB, 32 clients": "Prompts de 200 KB, 32 clientes",
    "Streams of 102 events as fast as they go": "Streams de 102 eventos na maior velocidade possível",
    "100 live streams opened at once": "100 streams ao vivo abertos de uma vez",
    "500 live streams opened at once": "500 streams ao vivo abertos de uma vez",
    "1,000 live streams opened at once": "1.000 streams ao vivo abertos de uma vez",
    "2,000 live streams opened at once": "2.000 streams ao vivo abertos de uma vez",
    "A flood of bad keys": "Uma enxurrada de chaves inválidas",
    "A slow body of 20 MB": "Um corpo lento de 20 MB",
    "Start": "Início",
    "500 streams opened at once, by the upstream's protocol": (
        "500 streams abertos de uma vez, pelo protocolo do servidor de modelos"
    ),
    "Behind nginx, 32 clients": "Atrás do nginx, 32 clientes",
    "Keys and calls in the database, 32 clients": "Chaves e chamadas no banco de dados, 32 clientes",
    "Where limits and ledger are, 150 clients of one key": "Onde ficam limites e chamadas, 150 clientes de uma chave",
    "1,000 clients of one key at once": "1.000 clientes de uma chave ao mesmo tempo",
    "good traffic alone": "tráfego bom sozinho",
    "beside bad keys": "ao lado de chaves inválidas",
    "beside a slow 20 MB body": "ao lado de um corpo lento de 20 MB",
    "http, first burst": "http, primeira leva",
    "http, second burst": "http, segunda leva",
    "https, first burst": "https, primeira leva",
    "https, second burst": "https, segunda leva",
    "direct": "direto",
    "through nginx on a unix socket": "pelo nginx em um socket unix",
    "10 keys, empty ledger": "10 chaves, nenhuma chamada",
    "1,000,000 keys, 10,000,000 calls": "1.000.000 de chaves, 10.000.000 de chamadas",
}


def median(values: Values, column: str) -> float | None:
    """The median of all rounds; None where it was not measured."""
    found = [value for value in values.get(column, []) if value is not None]
    return statistics.median(found) if found else None


def ratio(one: Values, other: Values, column: str) -> float | None:
    """The median of `one` / `other` in the same round."""
    pairs = [(a, b) for a, b in zip(one.get(column, []), other.get(column, []), strict=False) if a and b]
    return statistics.median(a / b for a, b in pairs) if pairs else None


def table(subjects: Mapping[str, Values], columns: Sequence[str], language: str = "en") -> str:
    """Markdown. The last column is how many calls the first subject does in the time in which another does one."""
    compared = "calls_per_s" in columns and len(subjects) > 1
    first = next(iter(subjects))
    head = ["", *(translate(COLUMNS[column][0], language) for column in columns)]
    head += [translate(COMPARED, language).format(translate(first, language))] if compared else []
    rows = [head, [":--", *["--:"] * (len(head) - 1)]]
    for name, values in subjects.items():
        row = [translate(name, language)]
        row += [format_number(COLUMNS[column][1], median(values, column), language) for column in columns]
        if compared:
            times = ratio(values, subjects[first], "calls_per_s") if name != first else None
            row.append(format_number("{:,.2f}×", 1 / times if times else None, language))
        rows.append(row)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def translate(text: str, language: str) -> str:
    """`text` in `language`."""
    return PORTUGUESE.get(text, text) if language == "pt-BR" else text


def format_number(form: str, value: float | None, language: str) -> str:
    """`value` as people of `language` write it."""
    if value is None:
        return "–"
    text = form.format(value)
    return text.translate(str.maketrans(",.", ".,")) if language == "pt-BR" else text
