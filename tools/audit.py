"""`make audit`: compares what is installed with known vulnerabilities, by pip-audit, and says what could not be.

    python tools/audit.py PIP_AUDIT FOLDER     the program, and the site-packages to look at

pip-audit passes what its source does not know, which a mirror without advisories does of everything: so it is counted.
Status 0: nothing known; 1: vulnerabilities; 2: nothing could be compared.
"""

import json
import subprocess
import sys
from typing import Any


def main(program: str, folder: str) -> int:
    """Run the comparison, and print what it found."""
    command = [program, "--path", folder, "--progress-spinner", "off", "--format", "json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        print(f"No advisory source is reached: nothing was compared.\n{done.stderr.strip()[-500:]}")
        return 2
    compared = [package for package in packages if "skip_reason" not in package]
    if not compared:
        print(f"The advisory source knows none of the {len(packages)} packages: nothing was compared.")
        return 2
    for package in compared:
        for found in package["vulns"]:
            fixed = ", ".join(found["fix_versions"]) or "no version yet"
            print(f"{package['name']} {package['version']}: {found['id']}, fixed in {fixed}")
    left = sorted(package["name"] for package in packages if "skip_reason" in package)
    print(f"{len(compared)} packages compared" + (f"; not known to the source: {', '.join(left)}" if left else ""))
    return int(any(package["vulns"] for package in compared))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
