"""A bundle measures on a Python that has numpy and the runtime only, and refuses what is not as it was bundled."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from bitwright.foundation.errors import UsageError
from deploy.engine import Runtime
from deploy.environment import Environment, machine_differences
from deploy.remote import Results
from deploy.remote.archive import MANIFEST, Archive
from deploy.remote.bundle import RUNNER_MODULES
from deploy.remote.manifest import Manifest
from deploy.remote.sample_log import SAMPLES
from tests.deploy.bundle_helpers import SEED, SHAPE, Bundle, make_bundle, start
from tests.deploy.far_machine import HOSTILE, await_rounds, bare_python, clean_environment, kill, runners
from tests.deploy.runtimes import IN_BUNDLES

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bare_python(tmp_path_factory.mktemp("far") / "venv", "onnxruntime", "openvino", "ai_edge_litert")


def rewritten(bundle: Path, target: Path, **changes: bytes | None) -> Path:
    """The bundle with other contents for some files (None: left out), each with a checksum that fits."""
    with zipfile.ZipFile(bundle) as source, zipfile.ZipFile(target, "w") as copy:
        contents = {name: source.read(name) for name in source.namelist()} | changes
        for name, content in contents.items():
            if content is not None:
                copy.writestr(name, content)
    return target


def imported_modules(path: Path) -> set[str]:
    """Modules that a source file imports, wherever in it; of a package, what is taken from it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            is_package = (ROOT / node.module.replace(".", "/")).is_dir()
            found |= names if is_package else {node.module}
    return found


def test_the_runner_s_modules_import_nothing_but_each_other_python_and_numpy() -> None:
    reached = set()
    for module in RUNNER_MODULES:
        for name in imported_modules(ROOT / (module.replace(".", "/") + ".py")):
            if name.partition(".")[0] in ("bitwright", "deploy"):
                reached.add(name)
            else:
                # pynvml is taken where it is there; without it GPUs are no rails.
                assert name.partition(".")[0] in {*sys.stdlib_module_names, "numpy", "__future__", "pynvml"}, module
    assert reached | {"deploy.remote.runner"} == set(RUNNER_MODULES)


@pytest.mark.parametrize("runtime", IN_BUNDLES)
def test_a_bundle_measures_with_numpy_and_the_runtime_alone(
    runtime: Runtime, python: Path, quantized_file: Path, float_file: Path, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path, quantized_file, float_file, runtime)
    ended = start(python, bundle.file, tmp_path / "out")
    assert ended.returncode == 0, ended.stderr
    assert "measuring latency, interleaved: step 10 of about" in ended.stdout
    result = Results.read(tmp_path / "out").comparison(bundle.manifest)
    there = result.environment
    here = Environment.record()
    present = ("numpy", "onnxruntime", "openvino", "ai-edge-litert")
    assert there.libraries == {name: here.libraries[name] for name in present}
    assert machine_differences(there.model_copy(update={"libraries": here.libraries}), here) == ()
    assert result.elsewhere is not None
    assert result.elsewhere.bundle == bundle.manifest.digest
    assert result.elsewhere.sessions == 1
    assert result.elsewhere.output_differences == {"engine": 0.0, "float": 0.0}
    for name, spec in (("engine", runtime), ("float", Runtime.ONNXRUNTIME)):
        measurement = result.measurement(name)
        assert measurement.spec.runtime is spec
        assert measurement.environment_fingerprint == there.fingerprint
        assert len(measurement.samples_ms) >= 29
        assert measurement.input_shape == SHAPE
        assert measurement.output_shape == (1, 3, 48, 64)
        assert measurement.warm_up_ms
        assert measurement.peak_rss_bytes is not None
        assert measurement.peak_rss_bytes < 600 << 20
    generator = np.random.default_rng(SEED)
    expected = [tuple(("engine", "float")[i] for i in generator.permutation(2)) for _ in result.order]
    assert list(result.order) == expected
    assert result.speedup("engine", "float").blocks == len(result.order)
    assert not list((tmp_path / "out").glob("files-*")), "the unpacked engines are removed"


def test_the_same_engines_and_input_make_the_same_bundle(
    bundle: Bundle, quantized_file: Path, float_file: Path
) -> None:
    first = bundle.file.read_bytes()
    again = make_bundle(bundle.file.parent, quantized_file, float_file)
    assert again.manifest == bundle.manifest
    assert again.file.read_bytes() == first
    assert Archive(again.file).digest == bundle.manifest.digest
    other = make_bundle(bundle.file.parent, quantized_file, float_file, seconds=0.06)
    assert other.manifest.digest != bundle.manifest.digest
    bundle.file.write_bytes(first)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"engines/0.onnx": b"another network"}, "engines/0.onnx is not the file that was bundled"),
        ({"input.npy": None}, "input.npy is missing"),
        ({"deploy/heat.py": b"def read_heat():\n    return None\n"}, "deploy/heat.py is not the file that was bundled"),
        ({"extra.py": b""}, "extra.py is not in its manifest"),
        ({MANIFEST: b"{}"}, "is not a whole bundle"),
    ],
)
def test_a_tampered_bundle_is_refused_by_the_name_of_the_file(
    bundle: Bundle, tmp_path: Path, changes: dict[str, bytes | None], told: str
) -> None:
    file = rewritten(bundle.file, tmp_path / "tampered.pyz", **changes)
    ended = start(sys.executable, file, tmp_path / "out")
    assert ended.returncode == 2
    assert told in ended.stderr
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_damaged_bytes_are_refused_by_the_name_of_the_file(bundle: Bundle, tmp_path: Path) -> None:
    content = bytearray(bundle.file.read_bytes())
    with zipfile.ZipFile(bundle.file) as archive:
        entry = archive.getinfo("engines/1.onnx")
    content[entry.header_offset + 200] ^= 0xFF
    (tmp_path / "damaged.pyz").write_bytes(content)
    with pytest.raises(UsageError, match=r"engines/1\.onnx is not the file that was bundled"):
        Archive(tmp_path / "damaged.pyz")


def test_a_missing_runtime_is_named_with_its_version(bundle: Bundle, tmp_path: Path) -> None:
    ended = start(bare_python(tmp_path / "venv"), bundle.file, tmp_path / "out")
    version = bundle.manifest.arms[0].spec.runtime_version
    assert ended.returncode == 2
    assert "onnxruntime is not installed (No module named 'onnxruntime')" in ended.stderr
    assert f"pip install 'onnxruntime=={version}'" in ended.stderr


def test_another_version_of_the_runtime_is_refused(quantized_file: Path, float_file: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, quantized_file, float_file)
    with zipfile.ZipFile(bundle.file) as archive:
        manifest = Manifest.model_validate_json(archive.read(MANIFEST))
    old = manifest.arms[0].spec.model_copy(update={"runtime_version": "1.2.3"})
    arms = (manifest.arms[0].model_copy(update={"spec": old}), manifest.arms[1])
    changed = manifest.model_copy(update={"arms": arms}).to_bytes()
    ended = start(sys.executable, rewritten(bundle.file, tmp_path / "old.pyz", **{MANIFEST: changed}), tmp_path / "out")
    assert ended.returncode == 2
    assert "built and audited with onnxruntime 1.2.3 and" in ended.stderr
    assert "pip install 'onnxruntime==1.2.3'" in ended.stderr


def test_a_python_without_numpy_is_told_what_to_install(bundle: Bundle, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-I", "-S", str(bundle.file)], capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 2
    assert "numpy is not installed" in ended.stderr
    assert "pip install numpy" in ended.stderr


@pytest.fixture
def long_bundle(quantized_file: Path, float_file: Path, tmp_path: Path) -> Bundle:
    """One that takes a while: 400 samples of each engine in blocks of a hundredth of a second."""
    return make_bundle(tmp_path, quantized_file, float_file, seconds=1.0, min_samples=400)


def begin(bundle: Bundle, out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, str(bundle.file), "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(),
    )


def test_a_runner_that_was_killed_goes_on_where_it_was(long_bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with begin(long_bundle, out) as first:
        await_rounds(out / SAMPLES, 3)
        kill(first)
    cut = (out / SAMPLES).read_bytes()
    (out / SAMPLES).write_bytes(cut + b'{"record": "round", "ord')
    ended = start(sys.executable, long_bundle.file, out)
    assert ended.returncode == 0, ended.stderr
    assert "going on after" in ended.stdout
    content = (out / SAMPLES).read_bytes()
    assert content.startswith(cut[: cut.rfind(b"\n") + 1]), "nothing that was measured is lost"
    result = Results.read(out).comparison(long_bundle.manifest)
    assert result.elsewhere is not None
    assert result.elsewhere.sessions == 2
    generator = np.random.default_rng(SEED)
    expected = [tuple(("engine", "float")[i] for i in generator.permutation(2)) for _ in result.order]
    assert list(result.order) == expected, "both sessions together run the orders that one would have"
    assert min(len(m.samples_ms) for m in result.measurements) >= 400
    assert not list(out.glob("files-*"))


def test_a_second_runner_follows_the_one_that_is_at_work(long_bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with begin(long_bundle, out) as first:
        await_rounds(out / SAMPLES, 2)
        second = start(sys.executable, long_bundle.file, out)
        assert first.wait(120) == 0
    assert second.returncode == 0, second.stderr
    assert "another runner is at work here" in second.stdout
    assert "measured already" in second.stdout
    result = Results.read(out).comparison(long_bundle.manifest)
    assert result.elsewhere is not None
    assert result.elsewhere.sessions == 1


def test_a_runner_survives_whoever_reads_its_output(long_bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with begin(long_bundle, out) as runner:
        await_rounds(out / SAMPLES, 1)
        assert runner.stdout is not None
        assert runner.stderr is not None
        runner.stdout.close()
        runner.stderr.close()
        runner.send_signal(1)
        assert runner.wait(120) == 0
    assert Results.read(out).comparison(long_bundle.manifest).target_reached
    assert runners(tmp_path) == []


def test_samples_of_another_bundle_are_not_gone_on_with(bundle: Bundle, long_bundle: Bundle, tmp_path: Path) -> None:
    assert start(sys.executable, bundle.file, tmp_path / "out").returncode == 0
    content = (tmp_path / "out" / SAMPLES).read_bytes()
    whole = content[: content.rfind(b"\n", 0, -1) + 1]
    (tmp_path / "out" / SAMPLES).write_bytes(whole)
    ended = start(sys.executable, long_bundle.file, tmp_path / "out")
    assert ended.returncode == 2
    assert "holds samples of another bundle" in ended.stderr
    assert (tmp_path / "out" / SAMPLES).read_bytes() == whole


def test_a_full_disk_is_told_and_loses_nothing(bundle: Bundle, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("a small file system cannot be mounted here")
    try:
        ended = start(sys.executable, bundle.file, disk / "out")
        assert ended.returncode == 2
        assert "the disk is full" in ended.stderr
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        assert start(sys.executable, bundle.file, disk / "out").returncode == 0
        assert Results.read(disk / "out").comparison(bundle.manifest).target_reached
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("name", [HOSTILE, "-rf"])
def test_hostile_names_are_names(bundle: Bundle, tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    file = folder / "x.pyz"
    file.write_bytes(bundle.file.read_bytes())
    ended = start(sys.executable, file, folder / name)
    assert ended.returncode == 0, ended.stderr
    assert Results.read(folder / name).comparison(bundle.manifest).target_reached
    assert not list(tmp_path.rglob("pwned"))


def test_an_engine_that_no_runner_can_open_is_not_bundled(
    quantized_file: Path, float_file: Path, tmp_path: Path
) -> None:
    make_bundle(tmp_path, quantized_file, float_file)
    stamp = tmp_path / "engine" / "engine.json"
    stamp.write_text(stamp.read_text().replace('"runtime": "onnxruntime"', '"runtime": "torch"', 1))
    with pytest.raises(
        UsageError, match="a bundle carries engines of onnxruntime, openvino, litert, tensorrt-rtx, tensorrt"
    ):
        make_bundle(tmp_path, quantized_file, float_file)
