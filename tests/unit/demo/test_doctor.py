import argparse
import json

import pytest

from internvla_a1 import doctor
from internvla_a1.doctor import Finding


def run(monkeypatch: pytest.MonkeyPatch, findings: list[Finding], as_json: bool = False) -> int:
    monkeypatch.setattr(doctor, "CHECKS", (lambda: iter(findings),))
    return doctor.run(argparse.Namespace(json=as_json))


def test_only_a_required_part_that_does_not_work_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, [Finding("a", "x", "ok", ""), Finding("a", "y", "missing", "", "pip install y")]) == 0
    assert run(monkeypatch, [Finding("a", "x", "broken", "")]) == 1


def test_what_is_missing_stands_beside_how_to_get_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(monkeypatch, [Finding("Optional", "y", "missing", "not there", "pip install y")])
    said = capsys.readouterr().out
    assert "not there" in said and "pip install y" in said


def test_findings_can_be_read_by_a_program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(monkeypatch, [Finding("a", "x", "broken", "why", "how")], as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told == {"ok": False, "findings": [{"area": "a", "name": "x", "state": "broken", "detail": "why", "fix": "how"}]}


def test_a_probe_that_crashes_is_a_finding() -> None:
    found = doctor._probe("a", "x", "import os; os.abort()", "mend it")
    assert (found.state, found.fix) == ("broken", "mend it")
    assert doctor._probe("a", "x", "raise SystemExit('no such thing')", "").detail == "no such thing"
