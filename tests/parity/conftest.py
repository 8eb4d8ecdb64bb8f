"""After the parity tests: how far from the recorded numbers each fixture was."""

from parity.fixture import ERRORS


def pytest_terminal_summary(terminalreporter):
    if not ERRORS:
        return
    terminalreporter.section("largest absolute error per fixture")
    for name, errors in sorted(ERRORS.items()):
        key = max(errors, key=errors.__getitem__)
        terminalreporter.line(f"{name}: {errors[key]:.1e} ({key}, of {len(errors)} arrays)")
