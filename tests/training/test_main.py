import subprocess
import sys
from pathlib import Path

import pytest

import training
from training.__main__ import main

IMPORTS = """
import sys
sys.path.insert(0, sys.argv[1])
import training.__main__, training.config.fit_config
assert training.FitConfig is training.config.fit_config.FitConfig
print({"torch", "plotly", "torchvision", "yaml"} & set(sys.modules))
import training.fitting.loop, training.metrics.elbo
print({"plotly", "matplotlib"} & set(sys.modules))
"""
"""The help needs no torch, the training loop no plots."""


def test_imports_are_few_and_write_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", IMPORTS, str(Path(__file__).parents[2])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, cwd=tmp_path)
    assert done.stdout.splitlines() == ["set()", "set()"]
    assert list(tmp_path.iterdir()) == []


def test_the_package_has_its_public_names() -> None:
    assert all(hasattr(training, name) for name in training.__all__)
    assert not hasattr(training, "nothing")


@pytest.mark.parametrize("arguments", [[], ["train"], ["evaluate"], ["plot", "a.safetensors", "--seed", "x"]])
def test_a_wrong_command_is_an_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    printed = capsys.readouterr().err
    assert stop.value.code == 2
    assert "--help" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("command", ["fit", "evaluate", "plot"])
def test_an_unknown_data_set_is_an_error(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, *([] if command == "fit" else ["a.safetensors"]), "--dataset", "foo"])
    printed = capsys.readouterr().err
    assert stop.value.code == 2
    assert printed.startswith(f"vae-train {command}: --dataset is foo; it must be one of: mnist, fashion-mnist, ")


def test_an_interrupt_without_a_message_exits_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.__main__._run", interrupted)
    assert main(["evaluate", "a.safetensors"]) == 130
    assert capsys.readouterr().err.strip() == "Interrupted."
