"""Models from the Hub: their download, and what a person is told when there is none."""

import os
import pty
import subprocess
import termios
from contextlib import suppress
from pathlib import Path

import pytest
from support.gateways import free_port, python
from support.hub import TOKEN, Hub

pytest.importorskip("huggingface_hub")
REPO = "acme/small-GGUF"
SMALL, LARGE = b"GGUF" + os.urandom(300_000), b"GGUF" + os.urandom(900_000)
FILES = {"small-Q4_0.gguf": SMALL, "small-Q8_0.gguf": LARGE, "README.md": b"# small"}


PARTS = [f"q4_k_m/big-Q4_K_M-0000{n}-of-00003.gguf" for n in (1, 2, 3)]


# ---------------------------------------------------------------- its download
FETCH = """
from chatapi.embedded import EngineError, hub
from chatapi.settings import Settings, SettingsError
import sys
import termios
try:
    settings = Settings.from_env()
    print(*hub.find_files(settings.embedded_model, settings), sep="\\n")
except (EngineError, SettingsError) as error:
    sys.exit(str(error))
"""


@pytest.fixture
def hub():
    with Hub({REPO: FILES}) as running:
        yield running


def fetch(home, endpoint, model=REPO, code=FETCH, stderr=subprocess.PIPE, **env):
    """The files that a start would serve: what a process of its own prints."""
    settings = {"CHATAPI_EMBEDDED_MODEL": model, "HF_ENDPOINT": endpoint, "HF_HOME": str(home / "hf"), **env}
    return python(code, folder=home, stderr=stderr, **settings)


def told(ended):
    """What a failed start says: one line or two, never a traceback."""
    assert ended.returncode == 1, ended
    assert "Traceback" not in ended.stderr
    return ended.stderr.splitlines()[-1]


def test_a_model_is_downloaded_once(hub, tmp_path):
    first = fetch(tmp_path, hub.url)
    assert Path(first.stdout.strip()).read_bytes() == SMALL, first.stderr
    asked = len(hub.asked)
    again = fetch(tmp_path, hub.url)
    assert again.stdout == first.stdout
    assert len(hub.asked) == asked, "nobody is asked for what is here"


def test_it_lies_where_hugging_face_s_own_tools_look_for_it(hub, tmp_path):
    assert fetch(tmp_path, hub.url).returncode == 0
    find = f"from huggingface_hub import try_to_load_from_cache as t; print(t({REPO!r}, 'small-Q4_0.gguf'))"
    found = python(find, folder=tmp_path, HF_HOME=str(tmp_path / "hf"))
    assert Path(found.stdout.strip()).read_bytes() == SMALL


def test_what_another_tool_has_downloaded_is_not_downloaded_again(hub, tmp_path):
    get = f"from huggingface_hub import hf_hub_download as h; h({REPO!r}, 'small-Q8_0.gguf')"
    assert python(get, folder=tmp_path, HF_HOME=str(tmp_path / "hf"), HF_ENDPOINT=hub.url).returncode == 0
    asked = len(hub.asked)
    assert Path(fetch(tmp_path, hub.url, f"{REPO}:Q8_0").stdout.strip()).read_bytes() == LARGE
    assert len(hub.asked) == asked


def test_a_cached_model_needs_no_network(hub, tmp_path):
    assert fetch(tmp_path, hub.url).returncode == 0
    assert fetch(tmp_path, f"http://127.0.0.1:{free_port()}").returncode == 0
    assert fetch(tmp_path, hub.url, HF_HUB_OFFLINE="1").returncode == 0


def test_a_line_that_is_cut_is_taken_up_where_it_broke(tmp_path):
    large = LARGE * 25  # huggingface_hub writes ten megabytes at a time
    with Hub({REPO: {"a-Q4_0.gguf": large}}) as hub:
        hub.cut_after = 15_000_000
        assert Path(fetch(tmp_path, hub.url).stdout.strip()).read_bytes() == large
        first, second = (one.range for one in hub.asked_of_store())
    assert first is None and second == f"bytes={10 * 1024 * 1024}-"


def test_a_start_that_was_killed_is_taken_up_by_the_next(hub, tmp_path):
    partial = tmp_path / "hf/hub/models--acme--small-GGUF/blobs"
    partial.mkdir(parents=True)
    blob = fetch(tmp_path / "..", hub.url, HF_HOME=str(tmp_path / "other"))
    name = Path(blob.stdout.strip()).resolve().name
    (partial / f"{name}.incomplete").write_bytes(SMALL[:123_456])
    hub.asked.clear()
    assert Path(fetch(tmp_path, hub.url).stdout.strip()).read_bytes() == SMALL
    assert [one.range for one in hub.asked_of_store()] == ["bytes=123456-"]


def test_damage_is_found_and_removed(hub, tmp_path):
    hub.damage = True
    assert "damaged" in told(fetch(tmp_path, hub.url))
    hub.damage = False
    assert Path(fetch(tmp_path, hub.url).stdout.strip()).read_bytes() == SMALL


def test_a_split_model_comes_whole(tmp_path):
    with Hub({REPO: {name: b"GGUF" + name.encode() for name in PARTS}}) as hub:
        paths = fetch(tmp_path, hub.url).stdout.split()
    assert [Path(path).name for path in paths] == [name.partition("/")[2] for name in PARTS]
    assert len({Path(path).parent for path in paths}) == 1


def test_progress_is_shown_at_a_terminal(hub, tmp_path):
    mine, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    assert fetch(tmp_path, hub.url, stderr=theirs).returncode == 0
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # how a terminal's end is told
        while data := os.read(mine, 100_000):
            shown += data
    assert b"small-Q4_0.gguf: 100%" in shown


def test_the_token_goes_to_the_hub_and_not_to_its_store(tmp_path):
    with Hub({REPO: FILES}, gated=[REPO]) as hub:
        (tmp_path / ".env").write_text(f"HF_TOKEN={TOKEN}\nHF_ENDPOINT={hub.url}\n")
        assert Path(fetch(tmp_path, hub.url).stdout.strip()).read_bytes() == SMALL
        assert {one.authorization for one in hub.asked_of_store()} == {None}


# ---------------------------------------------------------------- what a person is told


def test_a_gated_model_says_where_to_accept_its_conditions(tmp_path):
    with Hub({REPO: FILES}, gated=[REPO]) as hub:
        said = told(fetch(tmp_path, hub.url))
        assert f"{hub.url}/{REPO}" in said and "HF_TOKEN" in said


@pytest.mark.parametrize(
    "model, status, env, said",
    [
        ("acme/nope", None, {}, "acme/nope, or it is private"),
        (f"{REPO}:Q5_K_M", None, {}, "small-Q8_0.gguf"),
        (f"{REPO}:x.gguf", None, {}, "no x.gguf"),
        *((REPO, status, {}, str(status)) for status in (429, 500, 503)),
        (REPO, 200, {}, "HF_ENDPOINT"),  # a website in the Hub's place
        (REPO, None, {"HF_TOKEN": "hf_nonsense"}, "HF_TOKEN"),
        (REPO, None, {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE"),
        (REPO, None, {"HF_ENDPOINT": "http://127.0.0.1:9"}, "is not reached"),
        (REPO, None, {"HF_ENDPOINT": "http://127.0.0.1:9"}, "network"),
    ],
)
def test_why_there_is_no_model_is_told(hub, tmp_path, model, status, env, said):
    hub.status = status
    line = told(fetch(tmp_path, hub.url, model, **env))
    assert said in line and "nonsense" not in line


def test_a_disk_without_room_is_told_before_anything_is_sent(hub, tmp_path):
    small = "import shutil; from collections import namedtuple as n; "
    small += "shutil.disk_usage = lambda path: n('Usage', 'total used free')(10**6, 10**6 - 1000, 1000)\n"
    said = told(fetch(tmp_path, hub.url, code=small + FETCH))
    assert "0 MB left" in said and "HF_HOME" in said
    assert hub.asked_of_store() == []


def test_a_folder_that_cannot_be_written_is_told(hub, tmp_path):
    (tmp_path / "hf").write_text("a file in its place")
    assert "HF_HOME" in told(fetch(tmp_path, hub.url)) or str(tmp_path) in told(fetch(tmp_path, hub.url))
