"""What pip installs is what stands in the checkout.

The tests import the checkout's netd (`pythonpath` in setup.cfg), installed or not: so they say
something about an installed netd if, and only if, the two are the same."""

from __future__ import annotations

import sysconfig
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest

import netd

CHECKOUT = Path(__file__).parents[1]


@pytest.fixture
def installed() -> Distribution:
    """The distribution, where there is one."""
    # Not `distribution()`: a build leaves metadata in the checkout, where it would be found first.
    found = list(distributions(name="pynetd", path=[sysconfig.get_path("purelib")]))
    if not found:
        pytest.skip("pynetd is not installed: pip install '.[test]'")
    return found[0]


def contents(folder: Path) -> dict[str, bytes]:
    """The files below a folder, without what Python makes of them."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and "__pycache__" not in file.parts
    }


def test_the_tests_import_the_checkout() -> None:
    """However pytest was started."""
    assert Path(netd.__file__) == CHECKOUT / "netd" / "__init__.py"


def test_all_of_the_package_is_installed(installed: Distribution) -> None:
    """Every module and every other file, as they are in the checkout, and nothing from before."""
    package = Path(str(installed.locate_file("netd")))
    ours, theirs = contents(CHECKOUT / "netd"), contents(package)
    assert sorted(theirs) == sorted(ours), "pip install '.[test]' again (without build/)"
    different = [name for name in ours if ours[name] != theirs[name]]
    assert not different, "pip install '.[test]' again"


@pytest.mark.parametrize("name", ["netd", "netctl"])
def test_the_commands_are_installed(installed: Distribution, name: str) -> None:
    """Each is a script that calls its entry point, and the version is the package's."""
    (script,) = (s for s in installed.entry_points.select(group="console_scripts", name=name))
    assert script.value == f"netd.cli.{name}:main"
    assert installed.version == netd.__version__
