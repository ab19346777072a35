"""Finding ComfyUI, linking, stamps and error texts; nothing is downloaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import installation
from installation import QuickstartError


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the repository's own .venv and the caller's ComfyUI out of these tests."""
    venv = tmp_path / "venv"
    monkeypatch.setattr(installation, "VENV", venv)
    monkeypatch.setattr(installation, "LOG", venv / "quickstart.log")
    monkeypatch.setattr(installation, "STAMPS", venv / "installed.json")
    monkeypatch.delenv("COMFYUI_PATH", raising=False)


def make_comfyui(folder: Path) -> Path:
    (folder / "custom_nodes").mkdir(parents=True)
    (folder / "main.py").touch()
    return folder


def make_file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


class TestFindComfyUI:
    def test_option_wins_over_variable(self, tmp_path, monkeypatch) -> None:
        first, second = make_comfyui(tmp_path / "a"), make_comfyui(tmp_path / "b")
        monkeypatch.setenv("COMFYUI_PATH", str(second))
        assert installation.find_comfyui(first) == first
        assert installation.find_comfyui(None) == second

    def test_without_any_there_is_none(self) -> None:
        assert installation.find_comfyui(None) is None

    def test_a_clone_in_custom_nodes_finds_its_comfyui(self, tmp_path, monkeypatch) -> None:
        comfyui = make_comfyui(tmp_path / "ComfyUI")
        monkeypatch.setattr(installation, "ROOT", comfyui / "custom_nodes" / "animesketchnet")
        assert installation.find_comfyui(None) == comfyui

    def test_a_folder_without_main_py_is_refused(self, tmp_path) -> None:
        with pytest.raises(QuickstartError, match=r"no main\.py"):
            installation.find_comfyui(tmp_path)


class TestOwnPython:
    @pytest.mark.parametrize("name", [".venv", "venv"])
    def test_of_a_virtual_environment(self, tmp_path, name) -> None:
        comfyui = make_comfyui(tmp_path / "ComfyUI")
        python = make_file(installation.venv_python(comfyui / name))
        assert installation.own_python(comfyui) == python

    def test_of_the_portable_build(self, tmp_path) -> None:
        comfyui = make_comfyui(tmp_path / "ComfyUI")
        python = make_file(tmp_path / "python_embeded" / "python.exe")
        assert installation.own_python(comfyui) == python

    @pytest.mark.parametrize(("found", "expected"), [(None, None), ("spec", Path(sys.executable))])
    def test_of_the_environment_that_runs_us(self, tmp_path, monkeypatch, found, expected) -> None:
        monkeypatch.setattr(installation.importlib.util, "find_spec", lambda name: found)
        assert installation.own_python(make_comfyui(tmp_path / "ComfyUI")) == expected


class TestLinkPack:
    @pytest.fixture
    def nodes(self, tmp_path: Path) -> Path:
        return make_comfyui(tmp_path / "ComfyUI") / "custom_nodes"

    @pytest.fixture
    def root(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        root = tmp_path.resolve() / "the pack"
        make_file(root / "__init__.py")
        monkeypatch.setattr(installation, "ROOT", root)
        return root

    def test_links_once(self, nodes, root) -> None:
        installation.link_pack(nodes)
        installation.link_pack(nodes)
        assert [path.name for path in nodes.iterdir()] == ["AnimeSketchNet"]
        assert (nodes / "AnimeSketchNet").resolve() == root
        assert (nodes / "AnimeSketchNet" / "__init__.py").is_file()

    def test_a_link_of_another_name_is_enough(self, nodes, root) -> None:
        (nodes / "mine").symlink_to(root, target_is_directory=True)
        installation.link_pack(nodes)
        assert [path.name for path in nodes.iterdir()] == ["mine"]

    @pytest.mark.parametrize("exists", [True, False], ids=["elsewhere", "dangling"])
    def test_an_old_link_is_renewed(self, nodes, root, tmp_path, capsys, exists) -> None:
        old = tmp_path / "old clone"
        if exists:
            old.mkdir()
        (nodes / "AnimeSketchNet").symlink_to(old, target_is_directory=True)
        installation.link_pack(nodes)
        assert (nodes / "AnimeSketchNet").resolve() == root
        assert "old clone; it points here now" in capsys.readouterr().out

    def test_a_folder_of_that_name_is_left_alone(self, nodes, root) -> None:
        make_file(nodes / "AnimeSketchNet" / "theirs.py")
        with pytest.raises(QuickstartError, match="a folder of its own"):
            installation.link_pack(nodes)
        assert (nodes / "AnimeSketchNet" / "theirs.py").is_file()

    @pytest.mark.skipif(os.name == "nt", reason="junctions fail otherwise")
    def test_a_link_that_cannot_be_made_says_what_to_do(self, nodes, root) -> None:
        nodes.rmdir()
        with pytest.raises(QuickstartError, match="Move this folder into"):
            installation.make_link(nodes / "AnimeSketchNet")

    def test_a_clone_inside_custom_nodes_needs_no_link(self, nodes, monkeypatch) -> None:
        inside = nodes.resolve() / "animesketchnet-main"
        inside.mkdir()
        monkeypatch.setattr(installation, "ROOT", inside)
        installation.link_pack(nodes)
        assert list(nodes.iterdir()) == [nodes / "animesketchnet-main"]


class TestInstall:
    @pytest.fixture
    def runs(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        titles: list[str] = []

        def run(title: str, command: list[str]) -> None:
            titles.append(title)
            installation.VENV.mkdir(exist_ok=True)

        monkeypatch.setattr(installation, "run_logged", run)
        return titles

    def test_the_same_is_installed_once(self, runs) -> None:
        python = Path("python")
        for packages in (["a"], ["a"], ["a", "b"], ["a", "b"]):
            installation.install(python, "things", packages)
        assert runs == ["Installing things"] * 2

    def test_a_changed_file_is_installed_again(self, runs, tmp_path) -> None:
        project = tmp_path / "pyproject.toml"
        for text in ("one", "one", "two"):
            project.write_text(text)
            installation.install(Path("python"), "things", ["-e", "."], project)
        assert len(runs) == 2

    def test_each_interpreter_has_its_own_stamp(self, runs) -> None:
        for python in ("a/python", "b/python", "a/python"):
            installation.install(Path(python), "things", ["x"])
        assert len(runs) == 2

    def test_a_failed_step_is_tried_again(self, runs, monkeypatch) -> None:
        monkeypatch.setattr(installation, "pip_install", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            installation.install(Path("python"), "things", ["x"])
        assert not installation.STAMPS.exists()


def test_requirements_are_read_without_comments_and_templates(tmp_path) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text(
        "# head\ntorch\n\ncomfyui-workflow-templates==0.7.25\nav>=14.2.0  # video\n-r x\n"
    )
    assert installation.requirements(path) == ["torch", "av>=14.2.0"]


def test_our_requirements_pin_nothing() -> None:
    lines = installation.requirements(installation.REQUIREMENTS)
    named = {line.split(">=")[0] for line in lines}
    card = {"torch", "diffusers", "transformers", "safetensors", "open_clip_torch", "numpy"}
    assert named == card | {"pillow", "einops"}
    assert all(">=" in line and "==" not in line and "," not in line for line in lines)


def test_a_command_shows_its_last_words_and_where_the_rest_is() -> None:
    command = [sys.executable, "-c", "print('first'); print('last'); raise SystemExit(7)"]
    with pytest.raises(QuickstartError, match=r"Doing it failed(.|\n)*last(.|\n)*quickstart\.log"):
        installation.run_logged("Doing it", command)
    assert installation.LOG.read_text().splitlines() == ["first", "last"]


@pytest.mark.skipif(os.name == "nt", reason="the console does it there")
def test_an_interruption_reaches_the_child() -> None:
    code = (
        "import signal, time\n"
        # A background job of a shell is started with interrupts ignored, and so are its children.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "try: print(flush=True); time.sleep(60)\n"
        "except KeyboardInterrupt: raise SystemExit(5)"
    )

    def wait_and_interrupt(process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        process.stdout.readline()
        raise KeyboardInterrupt

    command, options = [sys.executable, "-c", code], {"stdout": subprocess.PIPE}
    with pytest.raises(KeyboardInterrupt), installation.child(command, **options) as process:
        wait_and_interrupt(process)
    assert process.returncode == 5


@pytest.mark.parametrize(
    ("output", "advice"),
    [
        ("Failed to establish a new connection: [Errno -3]\nERROR: No matching", "HTTPS_PROXY"),
        ("OSError: [Errno 28] No space left on device", "disk"),
        ("The virtual environment was not created: ensurepip is not", "python3-venv"),
        ("ERROR: No matching distribution found for torch==2.14.1", "no build for Python"),
        ("anything else", "anything else"),
    ],
)
def test_failures_are_explained(output, advice) -> None:
    assert advice in installation.explain_failure("Installing", output.splitlines())


def test_a_broken_environment_says_how_to_mend_it() -> None:
    python = make_file(installation.venv_python(installation.VENV))
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    for step in (installation.make_venv, lambda: installation.has_accelerator(python)):
        with pytest.raises(QuickstartError, match="Delete the folder"):
            step()


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a shell script")
def test_the_users_torch_is_pinned(tmp_path) -> None:
    python = make_file(tmp_path / "python")
    listed = '[{"name": "torch", "version": "2.9.0+cu128"}, {"name": "torchsde", "version": "1"}]'
    python.write_text(f"#!/bin/sh\necho '{listed}'\n")
    python.chmod(0o755)
    assert installation.installed_torch(python) == ["torch==2.9.0+cu128"]
