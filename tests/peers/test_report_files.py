"""junit.xml and chunks.jsonl of a replay as others read them. The files are those that tests/report writes into target/tmp/report."""

import json
from pathlib import Path

import pytest
from junitparser import Failure, JUnitXml

REPORTS = Path(__file__).parents[2] / "target/tmp/report"
EVERY = ["different", "same", "recorded", "untested", "hostile"]


def cases(name: str) -> dict[str, list]:
    """Failures by class and name of the test case."""
    suites = JUnitXml.fromfile(str(REPORTS / name / "junit.xml"))
    assert len(list(suites)) == 1
    (suite,) = suites
    found = {f"{case.classname}: {case.name}": list(case.result) for case in suite}
    assert len(found) == suite.tests == suites.tests, "every test case has a name of its own"
    assert suite.failures == suites.failures == sum(bool(result) for result in found.values())
    assert suite.errors == 0
    return found


@pytest.mark.parametrize("name", EVERY)
def test_test_cases_fail_exactly_when_the_run_does(name):
    lines = [json.loads(line) for line in (REPORTS / name / "chunks.jsonl").read_text().splitlines()]
    failed = any(cases(name).values())
    assert failed == (lines[-1]["exit_code"] != 0)


def test_a_failed_joint_names_stamp_row_values_and_tolerance():
    found = cases("different")
    last = json.loads((REPORTS / "different/chunks.jsonl").read_text().splitlines()[-1])
    first = last["first"]
    (failure,) = found[f"replay.joints: {first['joint']}: actions within across_backends"]
    assert isinstance(failure, Failure)
    stamp = f"{first['stamp'] // 10**9}.{first['stamp'] % 10**9:09}"
    for part in (stamp, first["joint"], f"row {first['row']} of chunk {first['chunk']}", f"{first['baseline']:.4f}", f"{first['current']:.4f}", "0.0200 rad"):
        assert part in failure.message
    assert not found["replay.joints: right_waist: actions within across_backends"]
    assert found["replay.stages: model actions: as in the baseline"]
    assert not found["replay.stages: noise: as in the baseline"]


@pytest.mark.parametrize("name", EVERY)
def test_lines_are_a_header_the_chunks_and_a_verdict(name):
    def no_constants(name):
        raise AssertionError(f"{name} is not JSON")

    text = (REPORTS / name / "chunks.jsonl").read_text()
    lines = [json.loads(line, parse_constant=no_constants) for line in text.splitlines()]
    assert [line["line"] for line in lines] == ["header"] + ["chunk"] * (len(lines) - 2) + ["verdict"]
    header, *chunks, last = lines
    assert header["format"] == 1 and header["verdict"] == "not_tested", "a file that was cut off says so"
    assert last["chunks"] == len(chunks)
    verdicts = {"different": "different", "same": "same", "recorded": None, "untested": "not_tested", "hostile": "different"}
    assert last["verdict"] == verdicts[name]
    for chunk in chunks:
        assert chunk["seed"] == header["setup"]["seed"]
        assert {"stamp", "samples", "skew", "outcome", "times", "difference"} <= chunk.keys()
