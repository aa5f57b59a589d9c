"""What `deploy/` ships keeps to the code, and works where it can be tried: units, image, compose file, alerts.

Programs that judge them (systemd-analyze, nginx, docker compose, promtool) are asked where they are installed.
"""

import ctypes.util
import http.client
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import requests
import yaml
from support.gateways import ROOT, clean_environment, free_port, stop
from support.shipped import IMAGE, SETTINGS, exported, gunicorn_settings, last

DEPLOY = ROOT / "deploy"
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in DEPLOY.iterdir() if path.is_file()}


def needs(program):
    """The program, or a skipped test."""
    if not (found := shutil.which(program)):
        pytest.skip(f"{program} is not installed")
    return found


def ran(*command, **kwargs):
    """A finished process, its two outputs in one."""
    out = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "timeout": 60}
    return subprocess.run(list(map(str, command)), check=False, **out, **kwargs)


REQUIREMENTS = (ROOT / "requirements.txt").read_text()
COMPOSE = yaml.safe_load(TEXTS["compose.yaml"])
SERVICES = COMPOSE["services"]


# --- systemd


def unit(name):
    """Section → key → every value it was given: systemd's files repeat keys, which no parser of INI files keeps."""
    sections, section = {}, None
    for line in TEXTS[name].splitlines():
        if line.startswith("["):
            section = sections.setdefault(line.strip("[]"), {})
        elif "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            section.setdefault(key, []).append(value)
    return sections


SERVICE, SOCKET = unit("chatapi.service"), unit("chatapi.socket")
[LISTEN] = SOCKET["Socket"]["ListenStream"]


def only(key, section="Service"):
    [value] = SERVICE[section][key]
    return value


def rendered(folder):
    """The two units as files whose programs exist: systemd-analyze looks for them."""
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("gunicorn", "flask"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    for name in ("chatapi.service", "chatapi.socket"):
        (folder / name).write_text(TEXTS[name].replace("/opt/chatapi", str(folder)))
    return folder / "chatapi.service", folder / "chatapi.socket"


def test_systemd_finds_nothing_wrong_with_the_units(tmp_path):
    said = ran(needs("systemd-analyze"), "verify", "--man=no", *rendered(tmp_path)).stdout
    # Units of the machine itself may be told of as well.
    assert [line for line in said.splitlines() if "chatapi" in line] == []


def test_systemd_finds_the_service_hardly_exposed(tmp_path):
    program = needs("systemd-analyze")
    if int(ran(program, "--version").stdout.split()[1]) < 250:
        pytest.skip("systemd-analyze judges files from 250 on")
    done = ran(program, "security", "--offline=yes", "--threshold=15", "--no-pager", rendered(tmp_path)[0])
    assert done.returncode == 0, done.stdout[-500:]


LOCKED_IN = {
    "Type": "notify",
    "KillMode": "process",
    "Restart": "always",
    "OOMPolicy": "continue",
    "UMask": "0077",
    "ProtectSystem": "strict",
    "ProtectProc": "invisible",
    "StateDirectory": "chatapi",
    "MemoryMax": "80%",
    **dict.fromkeys(("DynamicUser", "ProtectHome", "PrivateTmp", "PrivateDevices", "NoNewPrivileges"), "yes"),
    **dict.fromkeys(("RestrictNamespaces", "LockPersonality", "MemoryDenyWriteExecute"), "yes"),
    "CapabilityBoundingSet": "",
    "AmbientCapabilities": "",
    "SystemCallArchitectures": "native",
    "EnvironmentFile": "/etc/chatapi.env",
    "LimitNOFILE": "65536",
    "TasksMax": "1024",
    "RestrictAddressFamilies": "AF_UNIX AF_INET AF_INET6",
    "SystemCallFilter": ["@system-service", "~@privileged @resources"],
}


@pytest.mark.parametrize("key, value", LOCKED_IN.items(), ids=LOCKED_IN)
def test_the_service_is_locked_in(key, value):
    assert SERVICE["Service"][key] == ([value] if isinstance(value, str) else value)


def test_a_stop_waits_for_the_master_alone():
    """Its workers end by themselves, when their calls have: see tests/wire/test_drain.py."""
    assert int(only("TimeoutStopSec")) >= 10
    assert f"graceful_timeout ({gunicorn_settings()['graceful_timeout']} s)" in TEXTS["chatapi.service"]


def test_nginx_and_systemd_mean_the_same_socket_which_outlives_the_service():
    assert f"server unix:{LISTEN};" in TEXTS["nginx.conf"]
    [user] = re.findall(r"^user (\S+);", TEXTS["nginx.conf"], re.MULTILINE)
    assert SOCKET["Socket"]["SocketGroup"] == [user]
    assert SOCKET["Socket"]["SocketMode"] == ["0660"]
    assert "chatapi.socket" in only("Requires", "Unit").split()
    assert "RuntimeDirectory" not in SERVICE["Service"], "it would be removed, with the socket, at every stop"
    # A service that systemd gives up takes its socket with it.
    assert only("StartLimitIntervalSec", "Unit") == "0"
    assert int(SOCKET["Socket"]["Backlog"][0]) >= gunicorn_settings()["backlog"]


UNIT_ENVIRONMENT = dict(line.split("=", 1) for line in SERVICE["Service"]["Environment"])
IMAGE_ENVIRONMENT = dict(pair.split("=", 1) for pair in shlex.split(last("ENV")))


def test_the_service_sets_what_the_gateway_reads():
    assert set(UNIT_ENVIRONMENT) <= SETTINGS
    assert UNIT_ENVIRONMENT["DATABASE_URL"] == f"sqlite:////var/lib/{only('StateDirectory')}/chatapi.db"


# --- the image's files, and gunicorn started from them


def copied():
    """What is copied from the repository."""
    return [
        source
        for name, rest in IMAGE
        if name == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]


def tracked():
    done = ran("git", "ls-files", cwd=ROOT)
    return done.stdout.split("\n") if done.returncode == 0 else pytest.skip("not a git repository")


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """What the image holds, and nothing else of the repository."""
    folder = tmp_path_factory.mktemp("opt") / "chatapi"
    folder.mkdir()
    for source in copied():
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, folder / source, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, folder)
    return folder


def ours(command, *more):
    """`command` with the program that is installed here in place of the one that it names."""
    program = Path(command[0]).name
    assert program in ("gunicorn", "flask")
    return [sys.executable, "-m", program, *command[1:], *more]


def environment(home, given):
    """`given`, with the database where we may write; no module of the repository's own folder."""
    clean = clean_environment(str(home))
    del clean["PYTHONPATH"]
    database = {"DATABASE_URL": f"sqlite:///{home}/chatapi.db", "WEB_CONCURRENCY": "1", "HUGGINGFACE_API_KEY": "hf_x"}
    return {**clean, **{name: value for name, value in given.items() if name != "PATH"}, **database}


RELOADS = [line.split() for line in SERVICE["Service"]["ExecReload"]]
COMMANDS = {
    "service": (only("ExecStart").split(), UNIT_ENVIRONMENT),
    "reload": (RELOADS[0], UNIT_ENVIRONMENT),
    "image": (json.loads(last("CMD")), IMAGE_ENVIRONMENT),
    "upgrade of the service": (only("ExecStartPre").split(), UNIT_ENVIRONMENT),
    "upgrade of a reload": (RELOADS[1], UNIT_ENVIRONMENT),
    "upgrade of compose": (SERVICES["upgrade"]["command"], IMAGE_ENVIRONMENT),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_gunicorn_takes_the_command_and_the_database_is_brought_up_to_date_first(name, stage, tmp_path):
    command, given = COMMANDS[name]
    upgrades = name.startswith("upgrade")
    for _ in range(2 if upgrades else 1):
        done = ran(
            *ours(command, *([] if upgrades else ["--check-config"])), cwd=stage, env=environment(tmp_path, given)
        )
        assert done.returncode == 0, done.stdout
    assert (tmp_path / "chatapi.db").is_file() or not upgrades


# Becomes gunicorn as systemd starts it: the socket is descriptor 3, and whatever the unit denies is denied. Arguments:
# the socket, the numbers of the system calls (none: no limits), that of socket(2), the address families, the command.
SHIM = """
import ctypes, errno, json, os, sys
listening, allowed, socket_call, families = map(json.loads, sys.argv[1:5])
os.dup2(listening, 3)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}

class Argument(ctypes.Structure):
    _fields_ = [("number", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]

if allowed:
    seccomp = ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    rules = ctypes.c_void_p(seccomp.seccomp_init(0x00050000 | errno.EPERM))
    for call in allowed:
        seccomp.seccomp_rule_add_array(rules, 0x7FFF0000, call, 0, None)
    for family in families:
        seccomp.seccomp_rule_add_array(rules, 0x7FFF0000, socket_call, 1, ctypes.byref(Argument(0, 4, family, 0)))
    ctypes.CDLL(None).prctl(65, 1, 0, 0, 0)  # PR_SET_MDWE: as MemoryDenyWriteExecute; kernels before 6.3 know it not
    assert seccomp.seccomp_load(rules) == 0
os.execv(sys.argv[5], sys.argv[5:])
"""


def allowed_calls():
    """The numbers of the system calls that the unit allows, and that of socket(2); none where nobody can tell."""
    if not (shutil.which("systemd-analyze") and ctypes.util.find_library("seccomp")):
        return [], 0
    groups, group = {}, ""
    for line in ran("systemd-analyze", "syscall-filter", "--no-pager").stdout.splitlines():
        if line.startswith("@"):
            group = line.strip()
        elif line.startswith(" ") and not line.strip().startswith("#"):
            groups.setdefault(group, []).append(line.strip())

    def members(name):
        return {call for inner in groups[name] for call in (members(inner) if inner in groups else [inner])}

    calls = set()
    for line in SERVICE["Service"]["SystemCallFilter"]:
        named = set().union(*map(members, line.lstrip("~").split()))
        calls = calls - named if line.startswith("~") else calls | named
    resolve = ctypes.CDLL("libseccomp.so.2").seccomp_syscall_resolve_name
    # Negative: another architecture's.
    numbers = {name: number for name in calls if (number := resolve(name.encode())) >= 0}
    socket_call = numbers.pop("socket")
    return sorted(numbers.values()), socket_call


@contextmanager
def as_service(stage, home, listening, notify):
    """The service's own command under its own limits, with systemd's socket; ready when it has said so."""
    families = [int(getattr(socket, name)) for name in only("RestrictAddressFamilies").split()]
    limits = [json.dumps(value) for value in (listening.fileno(), *allowed_calls(), families)]
    command = [sys.executable, "-c", SHIM, *limits, *ours(only("ExecStart").split())]
    env = {**environment(home, UNIT_ENVIRONMENT), "NOTIFY_SOCKET": notify.getsockname()}
    log = Path(home, "gunicorn.log")
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, cwd=stage, env=env, stdout=out, stderr=subprocess.STDOUT, pass_fds=[listening.fileno()]
        )
    try:
        assert notify.recv(4096).startswith(b"READY=1"), log.read_text()
        yield process
        process.terminate()  # as systemd does
        process.wait(15)
    finally:
        stop(process)


def asked(path, what="/healthz"):
    """A connection over the socket that has sent a request, and not yet looked for the answer."""
    connection = http.client.HTTPConnection("localhost", timeout=20)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(20)
    connection.sock.connect(str(path))
    connection.request("GET", what, headers={"Authorization": "Bearer nobody's"})
    return connection


def answer(connection):
    try:
        with connection.getresponse() as response:
            return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_a_restart_refuses_nobody(stage):
    with (
        TemporaryDirectory(prefix="chatapi-") as home,  # pytest's are too long for a Unix socket's name
        socket.socket(socket.AF_UNIX) as listening,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify,
    ):
        path = Path(home, "chatapi.sock")
        listening.bind(str(path))
        listening.listen(int(SOCKET["Socket"]["Backlog"][0]))
        notify.bind(str(Path(home, "notify")))
        notify.settimeout(20)
        with as_service(stage, home, listening, notify) as process:
            status, refusal = answer(asked(path, "/v1/models"))  # looks the key up in the database
            assert (status, refusal["error"]["code"]) == (401, "invalid_api_key")
            process.terminate()
            assert process.wait(15) == 0
        waiting = [asked(path) for _ in range(5)]
        with as_service(stage, home, listening, notify):
            assert [answer(connection) for connection in waiting] == [(200, {"status": "ok"})] * 5
        assert "Traceback" not in Path(home, "gunicorn.log").read_text()


# --- the image


def test_the_image_is_built_from_pinned_images_and_tracked_files():
    bases = [rest.split()[0] for name, rest in IMAGE if name == "FROM"]
    assert len(bases) == 2
    assert all(re.fullmatch(r"docker\.io/library/python:\d+\.\d+\.\d+-slim-\w+", base) for base in bases)
    files = tracked()
    for source in copied():
        assert any(file == source or file.startswith(source + "/") for file in files), source


def test_the_image_runs_as_nobody_and_is_told_to_stop_gently():
    user, group = last("USER").split(":")
    assert int(user) >= 1000 <= int(group)
    after = [name for name, _ in IMAGE[[name for name, _ in IMAGE].index("USER") :]]
    assert not {"RUN", "COPY", "ADD"} & set(after)
    assert last("STOPSIGNAL") == "SIGTERM"
    assert last("VOLUME") in IMAGE_ENVIRONMENT["DATABASE_URL"]
    assert set(IMAGE_ENVIRONMENT) <= SETTINGS


def installed():
    """The requirements that the image installs, without their versions."""
    [script] = re.findall(r"sed '(\S+ \S+)'", last_run("pip install"))
    left = ran("sed", script, ROOT / "requirements.txt").stdout.splitlines()
    return {re.split(r"[=\[]", line)[0] for line in left if re.match(r"\w", line)}


def last_run(words):
    return [rest for name, rest in IMAGE if name == "RUN" and words in rest][-1]


def test_the_image_has_what_the_service_needs_and_nothing_for_its_tests():
    """And it leaves it out as the requirements themselves say."""
    named = {re.split(r"[=\[]", line)[0] for line in REQUIREMENTS.splitlines() if re.match(r"\w", line)}
    assert named - installed() == {"pytest", "responses"}
    assert "sed '/^# Only/,$d' requirements.txt" in last_run("pip install")
    assert "sed '/^# Only/,$d' requirements.txt | pip install -r /dev/stdin" in REQUIREMENTS
    assert {"sqlalchemy", "psycopg", "redis"} <= installed()


@contextmanager
def as_container(stage, home):
    """The image's command on a free port; gives the port."""
    port = free_port()
    command = [part.replace("0.0.0.0:8000", f"127.0.0.1:{port}") for part in json.loads(last("CMD"))]
    with Path(home, "log").open("wb") as log:
        process = subprocess.Popen(
            ours(command), cwd=stage, env=environment(home, IMAGE_ENVIRONMENT), stdout=log, stderr=log
        )
    try:
        yield port
    finally:
        stop(process)


def health(test, port):
    """Whether a health check's command finds the gateway at `port` well, with a proxy in the environment."""
    command = [sys.executable if part == "python" else part.replace("8000", str(port)) for part in test]
    return ran(*command, env={**os.environ, "http_proxy": "http://127.0.0.1:9"}).returncode == 0


HEALTH_CHECKS = [json.loads(last("HEALTHCHECK").partition("CMD ")[2]), SERVICES["chatapi"]["healthcheck"]["test"][1:]]


def test_the_image_runs_reads_its_own_health_and_writes_nothing_into_itself(stage, tmp_path):
    before = sorted(stage.rglob("*"))
    with as_container(stage, tmp_path) as port:
        deadline = time.monotonic() + 20
        while not all(health(test, port) for test in HEALTH_CHECKS):
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        # The guides come along, and callers need a key.
        assert requests.get(f"http://127.0.0.1:{port}/docs/migration", timeout=10).ok
        assert requests.get(f"http://127.0.0.1:{port}/v1/models", timeout=10).status_code == 401
    assert not any(health(test, port) for test in HEALTH_CHECKS)
    assert sorted(stage.rglob("*")) == before


def ignored(path):
    """Whether .dockerignore keeps `path` out: the last line that matches it, or a folder above it, decides."""
    out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = re.escape(line.lstrip("!")).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
        if re.fullmatch(f"{pattern}(?:/.*)?", path):
            out = not line.startswith("!")
    return out


@pytest.mark.parametrize(
    "path",
    [
        *(".env", ".env.local", ".venv/bin/python", ".git/config", "instance/chatapi.db", "chatapi.db", "deploy/.env"),
        *("tests/conftest.py", "chatapi/.env", "chatapi/__pycache__/chat.cpython-311.pyc", "secrets.txt"),
    ],
)
def test_what_is_private_stays_out_of_the_image(path):
    assert ignored(path)


def test_what_the_image_copies_gets_in():
    files = [file for file in tracked() if any(f"{file}/".startswith(f"{source}/") for source in copied())]
    assert len(files) > 20
    assert [file for file in files if ignored(file)] == []


# --- compose

EACH = pytest.mark.parametrize("name", SERVICES)
FROM_OUTSIDE = r"\$\{[A-Z_]+(:\?[^}]+|:-)\}"  # must be given, or may be empty; never a value of its own


def seconds(text):
    return int(re.fullmatch(r"(\d+)s", text)[1])


def test_compose_has_the_whole():
    assert set(SERVICES) == {"nginx", "chatapi", "upgrade", "postgres", "redis"}
    assert SERVICES["chatapi"]["deploy"]["replicas"] >= 2
    assert "container_name" not in SERVICES["chatapi"], "replicas need names of their own"


@EACH
def test_each_container_is_locked_in_pinned_watched_and_stopped_gently(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert any(mount.split(":")[0] == "/tmp" for mount in service["tmpfs"])
    assert re.search(r":\d+\.\d+(\.\d+)?(-[a-z0-9.]+)?$", service["image"])
    if name == "upgrade":  # is over in a moment
        assert service["restart"] == "no"
        return
    assert service["healthcheck"]["test"]
    assert seconds(service["stop_grace_period"]) > gunicorn_settings()["graceful_timeout"]


def test_each_waits_for_what_it_needs():
    waits = {name: service.get("depends_on", {}) for name, service in SERVICES.items()}
    healthy, done = {"condition": "service_healthy"}, {"condition": "service_completed_successfully"}
    assert waits == {
        "nginx": {"chatapi": healthy},
        "chatapi": {"upgrade": done, "redis": healthy},
        "upgrade": {"postgres": healthy},
        "postgres": {},
        "redis": {},
    }


def test_only_the_gateway_reaches_the_databases():
    assert COMPOSE["networks"]["back"] == {"internal": True}
    assert {name: set(service["networks"]) for name, service in SERVICES.items()} == {
        "nginx": {"front"},
        "chatapi": {"front", "back"},
        "upgrade": {"front", "back"},
        "postgres": {"back"},
        "redis": {"back"},
    }
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["nginx"]
    kept = {mount.split(":")[0] for name in ("postgres", "redis") for mount in SERVICES[name]["volumes"]}
    assert kept == set(COMPOSE["volumes"])


@EACH
def test_compose_holds_no_secret(name):
    for key, value in SERVICES[name].get("environment", {}).items():
        if re.search("KEY|PASSWORD|TOKEN|SECRET|REDISCLI_AUTH", key):
            assert re.fullmatch(FROM_OUTSIDE, value), key
        if password := re.search(r"://[^@/:]*:(.*)@", str(value)):
            assert re.fullmatch(FROM_OUTSIDE, password[1]), key
    for password in re.findall(r"--requirepass (.*)", str(SERVICES[name].get("command"))):
        assert re.fullmatch(FROM_OUTSIDE, password)


@pytest.mark.parametrize("name", TEXTS)
def test_nothing_in_the_folder_looks_like_a_secret(name):
    assert not re.search(r"hf_\w{8}|chatapi_[0-9a-f]{16}|\b[0-9a-f]{40,}\b|://[^/\s$]*:[^@/\s$]+@", TEXTS[name])


def test_compose_sets_what_the_gateway_reads():
    given = SERVICES["chatapi"]["environment"]
    assert set(given) <= SETTINGS
    assert given["CHATAPI_AUTH"] == "required"
    assert SERVICES["upgrade"]["environment"] == given
    assert given["DATABASE_URL"].startswith("postgresql+psycopg://")
    # A value that may be left out is left empty, which means the default: one place alone knows defaults.
    optional = {key: re.findall(r":-([^}]*)\}", str(value)) for key, value in given.items()}
    assert {key for key, found in optional.items() if any(found)} == {"CHATAPI_TRUSTED_PROXIES", "WEB_CONCURRENCY"}


def test_compose_builds_this_image():
    build = SERVICES["chatapi"]["build"]
    assert (DEPLOY / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).is_file()
    [version] = re.findall(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert SERVICES["chatapi"]["image"] == f"chatapi:{version}"
    assert f"-t {SERVICES['chatapi']['image']} " in TEXTS["Containerfile"]


def test_composes_nginx_is_mounted_and_waits_for_the_longest_call():
    [mount] = SERVICES["nginx"]["volumes"]
    source, _, mode = mount.split(":")
    assert (DEPLOY / source).is_file()
    assert mode == "ro"
    longest_s = 120  # CHATAPI_MAX_TIME's default
    text = TEXTS["compose.nginx.conf"]
    for time_limit in re.findall(r"(?:proxy_read_timeout|worker_shutdown_timeout) (\d+)s;", text):
        assert int(time_limit) > longest_s
    assert seconds(SERVICES["nginx"]["stop_grace_period"]) > longest_s


def test_nginx_takes_composes_configuration(tmp_path):
    # nginx before 1.27.3 knows no `resolve`, and no Docker is here that would know the name.
    text = TEXTS["compose.nginx.conf"].replace(" resolve ", " ").replace("chatapi:8000", "127.0.0.1:8000")
    (tmp_path / "nginx.conf").write_text(text.replace("/tmp/", f"{tmp_path}/"))
    done = ran(needs("nginx"), "-t", "-p", tmp_path, "-c", tmp_path / "nginx.conf")
    assert done.returncode == 0, done.stdout


def test_compose_itself_takes_the_file():
    docker = needs("docker")
    if ran(docker, "compose", "version").returncode:
        pytest.skip("docker has no compose")
    wanted = set(re.findall(r"\$\{([A-Z_]+):\?", TEXTS["compose.yaml"]))
    given = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **dict.fromkeys(wanted, "x")}
    command = [docker, "compose", "--env-file", "/dev/null", "-f", DEPLOY / "compose.yaml", "config", "--quiet"]
    done = ran(*command, env=given)
    assert done.returncode == 0, done.stdout
    for name in wanted:
        missing = {key: value for key, value in given.items() if key != name}
        assert name in ran(*command, env=missing).stdout


# --- dashboard and alerts

DASHBOARD = json.loads(TEXTS["grafana.json"])
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
RULES = [rule for group in yaml.safe_load(TEXTS["alerts.yml"])["groups"] for rule in group["rules"]]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
VARIABLES = [variable["definition"] for variable in DASHBOARD["templating"]["list"]]
EXPRESSIONS = [*QUERIES, *VARIABLES, *(rule["expr"] for rule in RULES)]
ALWAYS = {"instance", "job", "le"}


def metrics(expression):
    """(metric, its {selectors}) of each metric in an expression."""
    return re.findall(r"\b((?:chatapi|process)_\w+)(?:\{([^}]*)\})?", expression)


@pytest.mark.parametrize("expression", sorted(set(EXPRESSIONS)))
def test_every_metric_and_label_is_exported(expression, client):
    known = exported(client)
    labels = set(ALWAYS)
    for name, selectors in metrics(expression):
        assert name in known
        own = known[name]
        for label in re.findall(r"(\w+)\s*(?:=|!)", selectors):
            assert own is None or label in own | ALWAYS, f"{name} has no label {label}"
        labels |= own if own is not None else {"model"}
    for named in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression):
        assert set(named.replace(",", " ").split()) <= labels


def test_every_value_of_a_label_is_one_that_the_code_sets():
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "chatapi").rglob("*.py"))
    for expression in EXPRESSIONS:
        for values in re.findall(r'\b(?:ending|code|decision|kind|limit)\s*(?:=|!)[=~]?\s*"([^"]+)"', expression):
            for value in values.split("|"):
                assert f'"{value}"' in code, value


def test_the_dashboard_and_the_alerts_leave_no_metric_out(client):
    used = {name for expression in EXPRESSIONS for name, _ in metrics(expression)}
    suffix = r"(?<!_start_time_seconds)_(total|bucket|sum|count|created)$"
    family = {re.sub(suffix, "", name) for name in exported(client)}
    assert family - {re.sub(suffix, "", name) for name in used} == set()


def test_the_dashboard_asks_for_its_data_source():
    assert [given["name"] for given in DASHBOARD["__inputs"]] == ["DS_PROMETHEUS"]
    assert DASHBOARD["id"] is None
    for asking in [*PANELS, *(t for p in PANELS for t in p["targets"]), *DASHBOARD["templating"]["list"]]:
        assert asking["datasource"] == {"type": "prometheus", "uid": "${DS_PROMETHEUS}"}


def test_the_dashboards_panels_are_told_apart_and_lie_beside_each_other():
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["title"] and panel["description"] and panel["targets"] for panel in PANELS)
    taken = set()
    for at in (panel["gridPos"] for panel in panels):
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        taken |= cells


@pytest.mark.parametrize("rule", RULES, ids=[rule.get("alert", "?") for rule in RULES])
def test_an_alert_says_what_is_and_what_to_do(rule):
    assert rule["alert"].startswith("Chatapi")
    assert [other["alert"] for other in RULES].count(rule["alert"]) == 1
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert set(rule["annotations"]) == {"summary", "action"}
    assert len(rule["annotations"]["summary"]) < 120
    assert len(rule["annotations"]["action"]) > 60


QUIET = {
    'up{job="chatapi",instance="a"}': "1+0x60",
    'chatapi_calls_total{instance="a",route="/v1/chat/completions",model="m",ending="completed",code=""}': "0+60x60",
    'chatapi_calls_total{instance="a",route="/v1/chat/completions",model="m",ending="refused",code="x"}': "0+600x60",
    'chatapi_limit_decisions_total{instance="a",limit="",decision="admitted"}': "0+60x60",
    'chatapi_ledger_pending{instance="a"}': "3+0x60",
    'chatapi_ledger_lag_seconds{instance="a"}': "1+0x60",
    'chatapi_open_streams{instance="a"}': "500+0x60",
    'chatapi_legacy_calls_total{instance="a",key="billing"}': "0+1x60",
    'chatapi_legacy_sunset_timestamp_seconds{instance="a"}': "1000000+0x60",
    'chatapi_gateway_seconds_bucket{instance="a",le="0.005"}': "0+60x60",
    'chatapi_gateway_seconds_bucket{instance="a",le="+Inf"}': "0+60x60",
}
ALL_WRONG = {
    'up{job="chatapi",instance="a"}': "0+0x60",
    'chatapi_calls_total{ending="completed",code=""}': "0+60x60",
    'chatapi_calls_total{ending="failed",code="internal_error"}': "0+10x60",
    'chatapi_calls_total{ending="failed",code="upstream_auth"}': "0+1x60",
    'chatapi_calls_total{ending="worker_lost",code=""}': "0+1x60",
    'chatapi_first_token_seconds_bucket{model="m",le="5"}': "0+0x60",
    'chatapi_first_token_seconds_bucket{model="m",le="10"}': "0+60x60",
    'chatapi_first_token_seconds_bucket{model="m",le="+Inf"}': "0+60x60",
    'chatapi_first_token_seconds_count{model="m"}': "0+60x60",
    'chatapi_gateway_seconds_bucket{le="0.25"}': "0+0x60",
    'chatapi_gateway_seconds_bucket{le="1.0"}': "0+60x60",
    'chatapi_gateway_seconds_bucket{le="+Inf"}': "0+60x60",
    'chatapi_limit_decisions_total{limit="rpm",decision="refused"}': "0+60x60",
    'chatapi_limit_decisions_total{limit="",decision="admitted"}': "0+60x60",
    'chatapi_circuit_open_seconds{model="m"}': "3+0x60",
    'chatapi_fallbacks_total{model="m"}': "0+20x60",
    'chatapi_attempts_total{model="m"}': "0+60x60",
    "chatapi_malformed_events_total": "0+5x60",
    "chatapi_open_streams": "1900+0x60",
    'chatapi_legacy_calls_total{key="billing"}': "0+1x60",
    "chatapi_legacy_sunset_timestamp_seconds": "86400+0x60",
    "chatapi_limit_store_errors_total": "0+1x60",
    "chatapi_ledger_errors_total": "0+1x60",
    "chatapi_ledger_lag_seconds": "300+0x60",
}


@pytest.mark.parametrize("series, firing", [(QUIET, 0), (ALL_WRONG, len(RULES) - 1), ({}, 1)])
def test_alerts_fire_when_they_should(series, firing, tmp_path):
    """All quiet: none. All wrong: all but the one about Prometheus having no target at all. Nothing there: that one."""
    promtool = needs("promtool")
    assert ran(promtool, "check", "rules", DEPLOY / "alerts.yml").returncode == 0
    # A rule of rules: how many of ours fire.
    count = {"record": "firing", "expr": 'count(count by (alertname) (ALERTS{alertstate="firing"})) or vector(0)'}
    (tmp_path / "count.yml").write_text(yaml.safe_dump({"groups": [{"name": "zz", "rules": [count]}]}))
    check = {"expr": "firing", "eval_time": "55m", "exp_samples": [{"labels": "firing", "value": firing}]}
    given = [{"series": name, "values": values} for name, values in series.items()]
    case = {
        "rule_files": [str(DEPLOY / "alerts.yml"), "count.yml"],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": given, "promql_expr_test": [check]}],
    }
    (tmp_path / "case.yml").write_text(yaml.safe_dump(case))
    done = ran(promtool, "test", "rules", "case.yml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
