"""The benchmark runs, and judges as it says. No test is about how fast anything is."""

import json
import subprocess
import sys

import pytest
from support.gateways import ROOT
from support.servers import needs


@pytest.fixture
def bench_modules(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "bench"))


def bench(*arguments):
    return subprocess.run(
        [sys.executable, "bench/run.py", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_scenarios_measure_every_call_and_stream(tmp_path):
    needs("wrk"), needs("nginx")
    done = bench("calls-1", "fast-streams", "bad-keys", "--rounds=1", "--seconds=1", "--warm=1", f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "### Whole calls, 1 client" in done.stdout
    found = json.loads((tmp_path / "results.json").read_text())["scenarios"]
    for name, subject in (("calls-1", "hello"), ("calls-1", "gateway"), ("fast-streams", "gateway")):
        assert found[name][subject]["calls"][0] > 0
        assert found[name][subject]["cpu_us"][0] > 0
    assert found["bad-keys"]["beside bad keys"]["other_per_s"][0] > 0


def test_an_unknown_scenario_is_told():
    done = bench("calls-33")
    assert done.returncode == 2
    assert "no such scenario: calls-33" in done.stderr


def test_a_quarter_more_beside_hello_fails(bench_modules):
    from check import worse

    committed = {"call": 600.0, "token": 40.0, "hello": 200.0}
    assert worse({"call": 1180.0, "token": 80.0, "hello": 400.0}, committed) == []  # a machine half as fast
    assert worse({"call": 600.0, "token": 51.0, "hello": 200.0}, committed) == ["token"]
    assert worse({"call": 760.0, "token": 40.0, "hello": 200.0}, committed) == ["call"]


def test_a_table_compares_medians_of_the_same_rounds(bench_modules):
    from report import table

    values = {"gateway": {"calls_per_s": [100.0, 200.0, 400.0]}, "other": {"calls_per_s": [50.0, 50.0, 50.0]}}
    assert table(values, ["calls_per_s"]).splitlines()[2:] == ["| gateway | 200 | – |", "| other | 50 | 4.00× |"]


@pytest.mark.parametrize("language", ["en", "pt-BR"])
def test_the_document_has_the_figures_that_were_measured(bench_modules, language):
    import document

    assert document.fill(language) == document.DOCUMENTS[language].read_text()


def test_every_title_and_subject_of_a_table_has_its_portuguese(bench_modules):
    from report import COLUMNS, PORTUGUESE
    from scenarios import SCENARIOS

    titles = {scenario.title for scenario in SCENARIOS.values()}
    headings = {COLUMNS[column][0] for scenario in SCENARIOS.values() for column in scenario.columns}
    the_same = {"p50 ms", "p99 ms", "/v1/usage ms"}
    assert titles | headings - the_same <= PORTUGUESE.keys()
