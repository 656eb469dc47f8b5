"""What the doctor tries in processes of their own."""

from __future__ import annotations

import json

from s3prl_melhubert.doctor import probes


def test_probes_tell_in_json(capsys):
    probes.tell("hook")
    line = capsys.readouterr().out.strip()
    assert "active" in json.loads(line.removeprefix(probes.TOLD))
    probes.tell("modules", "", "json", "a_module_that_nobody_has")
    assert "ModuleNotFoundError" in capsys.readouterr().out
