"""What the doctor sees of this machine without asking anybody."""

import os

import pytest

from chatapi.operations.doctor.machine import check_permissions


@pytest.mark.parametrize("mode, ok", [(0o600, True), (0o640, True), (0o644, False), (0o602, False), (0o601, False)])
def test_a_database_that_everybody_here_may_open_is_told(tmp_path, mode, ok):
    file = tmp_path / "chatapi.db"
    file.touch()
    os.chmod(file, mode)
    fine, message, _fix = check_permissions(file)
    assert (fine, f"{mode:o}" in message) == (ok, True)
