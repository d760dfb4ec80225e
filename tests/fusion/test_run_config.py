"""config.yml of runs: those of our methods come back as they were written, and nothing that stands in one is run."""

from __future__ import annotations

import copy
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.instant_ngp_dataparser import InstantNGPDataParserConfig

from genfusion_ns.fusion.run_config import RunConfigError, load_run, read_run_config
from genfusion_ns.methods import genfusion, genfusion_completion, genfusion_masked
from genfusion_ns.moved import MOVED

METHODS = {spec.config.method_name: spec.config for spec in (genfusion, genfusion_masked, genfusion_completion)}


def config_of(method: str) -> Any:
    config: Any = copy.deepcopy(METHODS[method])
    config.data, config.output_dir = Path("/photos of/mäuse"), Path("runs") / "a"
    config.load_dir = Path("../b")
    config.pipeline.repairer = replace(config.pipeline.repairer, resolution=(256, 144))
    config.timestamp = "2026-01-02_030405"
    return config


def written(tmp_path: Path, config: Any) -> Path:
    path = tmp_path / "config.yml"
    path.write_text(config if isinstance(config, str) else yaml.dump(config), encoding="utf-8")
    return path


@pytest.mark.parametrize("method", METHODS)
def test_a_config_comes_back_as_yaml_reads_it(tmp_path: Path, method: str) -> None:
    path = written(tmp_path, config_of(method))
    found, expected = read_run_config(path), yaml.load(path.read_text(), Loader=yaml.Loader)
    assert found == expected == config_of(method)
    assert yaml.dump(found) == yaml.dump(expected) == path.read_text()
    # Aliases give one object, as they do there.
    names = ("means", "opacities")
    assert len({id(found.optimizers[name]["optimizer"]._target) for name in names}) == 1


@pytest.mark.parametrize("parser", [ColmapDataParserConfig, BlenderDataParserConfig, InstantNGPDataParserConfig])
def test_every_dataparser_may_stand_in_one(tmp_path: Path, parser: type) -> None:
    config = config_of("genfusion")
    config.pipeline.datamanager.dataparser = parser()
    path = written(tmp_path, config)
    assert read_run_config(path) == yaml.load(path.read_text(), Loader=yaml.Loader)


def test_modules_that_have_moved_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of("genfusion")
    text = yaml.dump(config).replace("genfusion_ns.fusion.seeding.", "genfusion_ns.elsewhere.old_seeding.")
    path = written(tmp_path, text)
    with pytest.raises(RunConfigError, match=r"config\.yml, line \d+: the tag !!python/object:genfusion_ns\.elsewhere"):
        read_run_config(path)
    monkeypatch.setitem(MOVED, "genfusion_ns.elsewhere", "genfusion_ns.fusion")
    monkeypatch.setitem(MOVED, "genfusion_ns.elsewhere.old_seeding", "genfusion_ns.fusion.seeding")
    assert read_run_config(path) == config


def test_fields_that_have_gone_are_kept(tmp_path: Path) -> None:
    path = written(tmp_path, yaml.dump(config_of("genfusion")).replace(" test_every: 8", " tests_of_old: 8"))
    found: Any = read_run_config(path)
    assert found.pipeline.datamanager.tests_of_old == 8


PAYLOADS = {
    "call": "!!python/object/apply:os.system [touch {trace}]",
    "call-with-words": "!!python/object/apply:os.system {{args: [touch {trace}]}}",
    "call-of-ours": "!!python/object/apply:nerfstudio.utils.scripts.run_command [touch {trace}]",
    "call-of-a-class": "!!python/object/apply:nerfstudio.configs.base_config.MachineConfig []",
    "new": "!!python/object/new:subprocess.Popen [[touch, {trace}]]",
    "new-with-state": "!!python/object/new:type {{args: [z, !!python/tuple [], {{extend: "
    "!!python/name:exec }}], listitems: \"open('{trace}', 'w')\"}}",
    "object": "!!python/object:subprocess.Popen {{}}",
    "builtin": "!!python/name:eval ''",
    "builtins": "!!python/name:builtins.exec ''",
    "function-of-nerfstudio": "!!python/name:nerfstudio.utils.scripts.run_command ''",
    "borrowed-class": "!!python/name:nerfstudio.configs.base_config.Path ''",
    "borrowed-module": "!!python/name:nerfstudio.utils.eval_utils.os ''",
    "module": "!!python/module:antigravity ''",
    "unknown-module": "!!python/name:{module}.Anything ''",
    "program": "!!python/name:nerfstudio.scripts.train.Trainer ''",
    "operator": "!!python/object/apply:_operator.getitem [[1], 0]",
    "numpy": "!!python/object/apply:numpy.core.multiarray.scalar [1]",
    "path-of-numbers": "!!python/object/apply:pathlib.PosixPath [1]",
    "path-of-paths": "!!python/object/apply:pathlib.PosixPath [!!python/object/apply:os.system [touch {trace}]]",
    "enum": "!!python/object/apply:nerfstudio.utils.writer.EventName [no event]",
    "no-dataclass": "!!python/object:nerfstudio.utils.writer.LocalWriter {{}}",
    "foreign-tag": "!shell {{touch: {trace}}}",
    "unknown": "!!python/unheard-of:x 1",
    "dunder": "!!python/object:nerfstudio.configs.base_config.MachineConfig {{__class__: 1}}",
    "method": "!!python/object:nerfstudio.configs.base_config.LocalWriterConfig {{setup: "
    "!!python/name:nerfstudio.utils.writer.LocalWriter ''}}",
    "target": "!!python/object:nerfstudio.configs.base_config.LocalWriterConfig {{_target: "
    "!!python/name:nerfstudio.engine.trainer.Trainer ''}}",
    "text-target": "!!python/object:nerfstudio.configs.base_config.LocalWriterConfig {{_target: os.system}}",
}


@pytest.mark.parametrize(
    "place", ["{}", "- [1, {{a: {}}}]", "a: 1\nb:\n  - {}", "? {}\n: 1"], ids=["whole", "list", "map", "key"]
)
@pytest.mark.parametrize("name", PAYLOADS)
def test_nothing_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, place: str) -> None:
    trace = tmp_path / "trace"
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "hostile_module.py").write_text(f"open({str(trace)!r}, 'w')")
    payload = PAYLOADS[name].format(trace=trace, module="hostile_module")
    before = set(sys.modules)
    text = "# a comment\n" + place.format(payload)
    with pytest.raises(RunConfigError, match=r"config\.yml, line [2-4]: ") as caught:
        read_run_config(written(tmp_path, text))
    assert not trace.exists()
    assert not {"antigravity", "hostile_module"} & (set(sys.modules) - before)
    assert "Give the config.yml that ns-train wrote" in str(caught.value)
    tag = re.match(r"!\S+", payload)
    assert tag and (
        tag.group() in str(caught.value)
        or name in ("dunder", "method", "target", "text-target", "enum")
        or name.startswith("path")
    )


def test_the_payloads_work_where_tags_are_called(tmp_path: Path) -> None:
    """Otherwise the test above shows nothing."""
    for name in ("call", "call-of-ours", "new-with-state"):
        trace = tmp_path / name
        yaml.load(PAYLOADS[name].format(trace=trace), Loader=yaml.UnsafeLoader)
        assert trace.exists(), name


def test_a_payload_within_a_real_config_is_found(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    lines = yaml.dump(config_of("genfusion")).splitlines()
    row = next(i for i, line in enumerate(lines) if line.endswith("seed: 42"))
    lines[row] = lines[row].replace("42", PAYLOADS["call"].format(trace=trace))
    with pytest.raises(
        RunConfigError, match=rf"line {row + 1}: the tag !!python/object/apply:os\.system is not allowed"
    ):
        load_run(written(tmp_path, "\n".join(lines)))
    assert not trace.exists()


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(f'*{before}' for _ in range(9))}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds a NoneType, not the config of a run"),
        ("just: text", "holds a dict, not the config of a run"),
        ("a: [1", "line 1: expected"),
        ("a: 1\n---\nb: 2", "line 2: but found another document"),
        ("[" * 100_000, "is nested too deeply"),
        ("a: " + "9" * 5000, "line 1: Exceeds the limit"),
        ("a: 2026-99-99", "line 1: month must be in"),
        ('a: 1\nb: !!timestamp "x"', "line 2: no value of its kind"),
        ("a: 1\nb: 2\na: 3", "line 3: the key 'a' stands twice"),
        ("a: &a [*a]", "line 1: a value that contains itself"),
        ("a: &a {x: 1}\nb: {<<: *a}", "line 2: merge keys"),
        (BOMB, r"line 5: more than 50000 values"),
        ("x" * 2**21, "more than any file of settings"),
        ("a: \x07", "special characters are not allowed"),
    ],
    ids=[
        "empty",
        "map",
        "cut",
        "two",
        "deep",
        "number",
        "date",
        "time",
        "twice",
        "itself",
        "merge",
        "bomb",
        "size",
        "bell",
    ],
)
def test_files_that_are_no_configs(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(RunConfigError, match=said) as caught:
        read_run_config(written(tmp_path, text))
    assert str(tmp_path / "config.yml") in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RunConfigError, match=r"gone\.yml cannot be read: No such file"):
        read_run_config(tmp_path / "gone.yml")
    with pytest.raises(RunConfigError, match="cannot be read: Is a directory"):
        read_run_config(tmp_path)
    (tmp_path / "config.yml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(RunConfigError, match="no text in UTF-8"):
        read_run_config(tmp_path / "config.yml")


def test_runs_of_other_methods_are_named(tmp_path: Path) -> None:
    with pytest.raises(RunConfigError, match=r"a run of another method \(splatfacto\); render it with ns-render"):
        load_run(written(tmp_path, all_methods["splatfacto"]))
