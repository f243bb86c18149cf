"""Installing: what is patched, that it is all or nothing, and the way back."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from typing import Any

import pytest
import sources
from kit import engine_environment
from stage_sglang import Sglang

import mooncake
from mooncake.integrations import sglang as integration
from mooncake.integrations.sglang._points import group_patches, page_patches


def state(version: str) -> dict[str, Any]:
    found = {}
    for patch in page_patches() + group_patches(version):
        owner, name = patch.target.find()
        found[patch.target.path] = vars(owner).get(name)
    return found


def test_install_and_back(sglang: Sglang) -> None:
    before = state(sglang.version)
    integration.install()
    assert integration.installed() == ("pages", "groups")
    integration.install("groups", "pages")  # again: nothing
    patched = [path for path, what in state(sglang.version).items() if what is not before[path]]
    assert len(patched) == 10
    with pytest.raises(mooncake.InvalidArgument, match=r"uninstall\(\) first"):
        integration.install("pages")
    integration.uninstall()
    integration.uninstall()
    assert integration.installed() == ()
    assert state(sglang.version) == before


@pytest.mark.parametrize(
    "path",
    [
        "mem_cache.allocation:alloc_for_decode",
        "disaggregation.decode:DecodeReqToTokenPool",
        "disaggregation.mooncake.conn:MooncakeKVManager.send_kvcache_slice",
    ],
)
@pytest.mark.parametrize("change", ["gone", "other"])
def test_a_changed_sglang_is_refused_whole(
    sglang: Sglang, monkeypatch: pytest.MonkeyPatch, path: str, change: str
) -> None:
    before = state(sglang.version)
    module, _, names = path.partition(":")
    owner = sglang.module(module)
    *outer, name = names.split(".")
    for part in outer:
        owner = getattr(owner, part)
    if change == "gone":
        monkeypatch.delattr(owner, name)
    else:
        monkeypatch.setattr(owner, name, lambda something, different: None)
    with pytest.raises(mooncake.Unsupported, match=name):
        integration.install()
    assert integration.installed() == ()
    monkeypatch.undo()
    assert state(sglang.version) == before


def test_unknown_releases_are_refused(sglang: Sglang, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.4.7")
    with pytest.raises(mooncake.Unsupported, match=r"0\.4\.7 .*0\.5\.21, 0\.5\.22, 0\.5\.23"):
        integration.install()
    monkeypatch.setattr("importlib.metadata.version", lambda name: f"{sglang.version}+cu130")
    integration.install()
    integration.uninstall()


def test_sglang_finds_and_calls_the_plugin(sglang: Sglang, monkeypatch: pytest.MonkeyPatch) -> None:
    (entry,) = [e for e in entry_points(group="sglang.srt.plugins") if e.name == "mooncake"]
    assert entry.load() is integration.plugin
    plugins = sglang.module("plugins")

    def load(value: str | None) -> tuple[str, ...]:
        monkeypatch.setattr(plugins, "_plugins_loaded", False)
        monkeypatch.setattr(plugins.envs.SGLANG_PLUGINS, "get", lambda: "", raising=False)
        monkeypatch.setattr(plugins.envs.SGLANG_PLATFORM, "get", lambda: "", raising=False)
        if value is None:
            monkeypatch.delenv("MC_SGLANG", raising=False)
        else:
            monkeypatch.setenv("MC_SGLANG", value)
        try:
            plugins.load_plugins()
            return integration.installed()
        finally:
            integration.uninstall()

    assert [load(value) for value in (None, "", "0", "off")] == [()] * 4
    assert load("1") == load("ON") == load("groups, pages") == ("pages", "groups")
    assert load("groups") == ("groups",)
    for value in ("yes", "pages,blocks"):
        with pytest.raises(SystemExit, match=f"MC_SGLANG={value}: .* is no part"):
            load(value)
    monkeypatch.setattr("importlib.metadata.version", lambda name: "9.9")
    with pytest.raises(SystemExit, match=r"MC_SGLANG=1: sglang 9\.9 is not one that"):
        load("1")


PROGRAM = """
import multiprocessing, os, sys
from importlib.metadata import entry_points

def child(answers):
    (entry,) = [e for e in entry_points(group="sglang.srt.plugins") if e.name == "mooncake"]
    answers.put((entry.value, os.environ["MC_SGLANG"], sys.argv[1:]))

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    answers = multiprocessing.Queue()
    process = multiprocessing.Process(target=child, args=(answers,))
    process.start()
    print(answers.get(timeout=30))
    process.join(30)
"""


@pytest.mark.parametrize("how", ["module", "script"])
def test_the_launcher_reaches_spawned_processes(sglang: Sglang, tmp_path: Any, how: str) -> None:
    (tmp_path / "server.py").write_text(PROGRAM)
    program = ["-m", "server"] if how == "module" else ["server.py"]
    done = launch(sglang.version, tmp_path, "--parts", "groups", *program, "--port", "1")
    assert (done.stderr, done.returncode) == ("", 0)
    plugin = "mooncake.integrations.sglang:plugin"
    assert done.stdout.strip() == str((plugin, "groups", ["--port", "1"]))


def test_the_launcher_says_what_is_wrong(sglang: Sglang, tmp_path: Any) -> None:
    def failure(*given: str, **env: str) -> str:
        done = launch(sglang.version, tmp_path, *given, **env)
        assert done.returncode != 0
        return done.stdout + done.stderr

    assert "is no part" in failure("--parts", "blocks", "-m", "server")
    assert "python -m mooncake" in failure()
    assert "python -m mooncake" in failure("-m")
    out = failure("-m", "server", SGLANG_PLUGINS="other")
    assert "SGLANG_PLUGINS=other keeps it out: add mooncake" in out
    out = failure("-m", "server", PYTHONPATH="")  # no sglang there
    assert "sglang is not installed" in out
    assert "python -m" in launch(sglang.version, tmp_path, "--help").stdout


def launch(version: str, folder: Any, *given: str, **env: str) -> subprocess.CompletedProcess[str]:
    paths = {"PYTHONPATH": f"{sources.WHEELS / version}:{folder}"}
    return subprocess.run(
        [sys.executable, "-m", "mooncake.integrations.sglang", *given],
        cwd=folder,
        env={**engine_environment(), **paths, **env},
        capture_output=True,
        text=True,
        timeout=60,
    )
