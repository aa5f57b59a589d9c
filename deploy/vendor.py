"""Restores the pages' libraries, which are kept in the repository, from their npm packages: `make vendor`.

`vendor.toml` beside them names each package's version, the integrity of its archive, and the SHA-256 of each file
taken from it. A file that had been changed, or was missing, is named and put back. With --pin the checksums are
written anew: after a version was changed by hand.
"""

import base64
import hashlib
import re
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory

FOLDER = Path(__file__).resolve().parents[1] / "chatapi" / "web" / "static" / "vendor"
MANIFEST = FOLDER / "vendor.toml"


def main(arguments: list[str]) -> int:
    """The exit status: 0 when every file is there as its package has it."""
    packages = tomllib.loads(MANIFEST.read_text(encoding="utf-8"))["package"]
    if arguments not in ([], ["--pin"]):
        print("usage: python deploy/vendor.py [--pin]", file=sys.stderr)
        return 2
    for path in changed(packages):
        print(f"vendor: {path.relative_to(FOLDER)} {'has been changed' if path.exists() else 'is missing'}")
    try:
        for package in packages:
            restore(package, pin=bool(arguments))
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        print(f"vendor: {error}", file=sys.stderr)
        return 1
    return 0


def changed(packages: list[dict]) -> list[Path]:
    """The files that are not as the manifest has them."""
    files = [
        (FOLDER / p["folder"] / Path(member).name, digest) for p in packages for member, digest in p["files"].items()
    ]
    return [path for path, digest in files if not path.is_file() or sha256(path.read_bytes()) != digest]


def sha256(content: bytes) -> str:
    """In hex."""
    return hashlib.sha256(content).hexdigest()


def restore(package: dict, pin: bool) -> None:
    """Fetch one package and put its files in place. Raises ValueError where it is not the one that was pinned."""
    name, version, checksums = package["name"], package["version"], package["files"]
    with TemporaryDirectory(prefix="vendor-") as scratch:
        command = ["npm", "pack", f"{name}@{version}", "--silent", "--pack-destination", scratch]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        archive = next(Path(scratch).glob("*.tgz"))
        integrity = "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        contents = read(archive, list(checksums))
    if pin:
        repin(package["integrity"], integrity)
    elif integrity != package["integrity"]:
        raise ValueError(f"{name} {version}: the archive is not the one that vendor.toml names: {integrity}")
    for member, content in contents.items():
        found = sha256(content)
        if pin:
            repin(checksums[member], found)
        elif found != checksums[member]:
            raise ValueError(f"{name} {version}: {member} is not the file that vendor.toml names: {found}")
        path = FOLDER / package["folder"] / Path(member).name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    print(f"vendor: {name} {version}: {len(contents)} files verified, and in place")


def read(archive: Path, members: list[str]) -> dict[str, bytes]:
    """The contents of `members`, named without the folder that every npm package has."""
    found = {}
    with tarfile.open(archive) as tar:
        for member in members:
            file = tar.extractfile(f"package/{member}")
            if file is None:
                raise ValueError(f"{archive.name} has no file {member}")
            found[member] = file.read()
    return found


def repin(old: str, new: str) -> None:
    """One checksum in the manifest, changed where it differs."""
    text = MANIFEST.read_text(encoding="utf-8")
    MANIFEST.write_text(re.sub(re.escape(f'"{old}"'), f'"{new}"', text), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
