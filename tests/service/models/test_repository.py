"""Which files are models, and what models.yaml may say."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from service.models.catalogue import Catalogue
from service.models.models_file import ModelsFileError, read_models_file
from service.models.planning import Planner
from service.models.repository import Repository, check_hash


def touch(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def plan(folder: Path, memory_limit: int | None = None) -> tuple[Planner, Catalogue]:
    planner = Planner(Repository(folder), memory_limit)
    return planner, planner.plan(Catalogue(0, ()), at_once=True)


def test_names_and_versions(tmp_path: Path) -> None:
    touch(
        tmp_path,
        *("digits.safetensors", "digits.latents.safetensors", "digits.state.pt", "digits.md", ".hidden.safetensors"),
        *("faces/2.safetensors", "faces/10.pt", "faces/notes.safetensors", "kl/config.json", "kl/weights.safetensors"),
        *("sd/3/config.json", "empty/readme.md", "article.pt"),
    )
    _, catalogue = plan(tmp_path)
    assert [str(entry) for entry in catalogue.entries] == [
        *("article/1", "digits/1", "faces/2", "faces/10", "kl/1", "sd/3"),
    ]
    assert catalogue.find("faces", None) == ("faces", "10")
    assert catalogue.find(None, None) == ("article", "1")


def test_a_name_that_no_path_can_have_is_told(tmp_path: Path) -> None:
    touch(tmp_path, "two words.safetensors", "good.safetensors", "good/1.safetensors")
    planner, catalogue = plan(tmp_path)
    assert [str(entry) for entry in catalogue.entries] == ["good/1"]
    assert "letters, digits" in planner.rejected["two words"].reason
    assert "Two files" in planner.rejected["good/1"].reason


def test_aliases_and_options(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.safetensors", "a/2.safetensors", "b.safetensors")
    (tmp_path / "models.yaml").write_text(
        "aliases: {default: b, stable: a/1}\nmodels: {a: {load: first-use, batch_limit: 7, dtype: float16}}"
    )
    _, catalogue = plan(tmp_path)
    assert catalogue.find(None, None) == catalogue.find("default", None) == ("b", "1")
    assert catalogue.find("stable", None) == ("a", "1")
    assert [(str(entry), entry.is_lazy) for entry in catalogue.entries] == [
        ("a/1", True),
        ("a/2", True),
        ("b/1", False),
    ]
    options = catalogue.by_key["a", "2"].options
    assert (options.batch_limit, options.dtype) == (7, "float16")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("alias: {}", "alias is not a key; the keys are aliases, models."),
        (
            "models: {a: {divice: cpu}}",
            "divice is not a key of models.a; the keys are device, dtype, batch_limit",
        ),
        ("models: {a: {dtype: half}}", "models.a.dtype: Input should be 'float32', 'bfloat16' or 'float16'"),
        ("models: {a: {load: never}}", "models.a.load: Input should be 'start' or 'first-use'"),
        ("aliases: {x: a/new}", "aliases.x"),
        ("[1", "is not YAML"),
        ("- 1", "the file: Input should be a valid dictionary"),
    ],
)
def test_a_wrong_key_is_a_sentence(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "models.yaml").write_text(content)
    with pytest.raises(ModelsFileError) as caught:
        read_models_file(tmp_path / "models.yaml")
    assert sentence in str(caught.value)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("aliases: {stable: a/3}", "aliases.stable is a/3, which is not served"),
        ("aliases: {a: b}", "aliases.a is the name of a model"),
        ("models: {c: {}}", "models.c is not in the folder"),
    ],
)
def test_what_models_yaml_names_has_to_be_there(tmp_path: Path, content: str, sentence: str) -> None:
    touch(tmp_path, "a/1.safetensors", "b.safetensors")
    (tmp_path / "models.yaml").write_text(content)
    planner, catalogue = plan(tmp_path)
    assert sentence in planner.rejected["models.yaml"].reason
    assert catalogue.aliases == {}


def test_a_wrong_models_yaml_leaves_the_one_before_in_force(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.safetensors", "a/2.safetensors")
    (tmp_path / "models.yaml").write_text("aliases: {stable: a/1}")
    planner, first = plan(tmp_path)
    (tmp_path / "models.yaml").write_text("aliases: {stable: a/9}")
    assert planner.plan(first, at_once=True) is first
    (tmp_path / "models.yaml").write_text("aliases: {stable: a/2}")
    moved = planner.plan(first, at_once=True)
    assert moved.find("stable", None) == ("a", "2")
    assert planner.rejected == {}


def test_files_count_once_two_looks_found_them_the_same(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.safetensors")
    planner, first = plan(tmp_path)
    touch(tmp_path, "a/2.safetensors")
    assert planner.plan(first, at_once=False) is first
    (tmp_path / "a/2.safetensors").write_text("more")
    assert planner.plan(first, at_once=False) is first
    second = planner.plan(first, at_once=False)
    assert second.find("a", None) == ("a", "2")
    (tmp_path / "a/2.safetensors").unlink()
    assert planner.plan(second, at_once=False) is second  # perhaps it is being replaced
    assert planner.plan(second, at_once=False).find("a", None) == ("a", "1")


def test_what_is_served_stays_when_the_folder_is_gone_or_empty(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    touch(folder, "a.safetensors")
    planner, first = plan(folder)
    (folder / "a.safetensors").unlink()
    for _ in range(3):
        assert planner.plan(first, at_once=False) is first
    folder.rmdir()
    assert planner.plan(first, at_once=False) is first
    assert "cannot be read" in planner.rejected[str(folder)].reason


def test_models_that_do_not_fit_into_the_memory_are_told(tmp_path: Path) -> None:
    touch(tmp_path, "a.safetensors", "b.safetensors")
    size = len("a.safetensors")
    planner, catalogue = plan(tmp_path, memory_limit=size)
    assert len(catalogue.entries) == 1
    (rejection,) = planner.rejected.values()
    assert "VAE_MODELS_MEMORY has no room" in rejection.reason


def test_a_hash_beside_a_file_is_compared(tmp_path: Path) -> None:
    touch(tmp_path, "a.safetensors")
    _, catalogue = plan(tmp_path)
    (entry,) = catalogue.entries
    beside = tmp_path / "a.safetensors.sha256"
    assert check_hash(entry) is None
    beside.write_text("0" * 64 + "  a.safetensors\n")
    assert "another one" in (check_hash(entry) or "")
    beside.write_text(hashlib.sha256(b"a.safetensors").hexdigest() + "  a.safetensors\n")
    assert check_hash(entry) is None
