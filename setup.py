"""What pyproject.toml cannot say: the wheel holds a library built for this platform, and no
extension module, so it is tagged py3-none-<platform>; and without the library there is none."""

from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

LIBRARY = Path(__file__).parent / "python" / "mooncake" / "libmooncake.so"


class PlatformDistribution(Distribution):
    """Installed where compiled code belongs."""

    def has_ext_modules(self):
        return True


class PlatformWheel(bdist_wheel):
    """A wheel for any Python 3 on this platform."""

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


class BuildWithLibrary(build_py):
    """Refuses to build a package that could not run."""

    def run(self):
        if not LIBRARY.is_file():
            raise SystemExit(f"error: {LIBRARY} is missing: run `make lib` first")
        super().run()


setup(
    distclass=PlatformDistribution,
    cmdclass={"bdist_wheel": PlatformWheel, "build_py": BuildWithLibrary},
)
