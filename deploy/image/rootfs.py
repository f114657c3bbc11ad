"""Copies what the service needs from this file system to a folder that becomes the image.

    python rootfs.py VENV ROOT

It copies the interpreter, its standard library, VENV and the shared libraries that they are linked with; the image thus
has no shell, package manager or compiler. ROOT/usr/share/sbom lists the packages. The service's own files are moved to
the folder `application` beside ROOT, for a layer of their own.
"""

from __future__ import annotations

import json
import os
import py_compile
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

USER = "vae:x:10001:10001::/tmp:/sbin/nologin\n"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
UNUSED_MODULES = (
    *("config-*", "ensurepip", "idlelib", "lib2to3", "test", "tkinter", "turtledemo", "turtle.py"),
    *("_ctypes_test*", "_pydecimal.py", "_test*", "_xx*", "audioop.*", "distutils", "doctest.py", "mailbox.py"),
    *("ossaudiodev.*", "pydoc_data", "xml", "xmlrpc", "xxlimited*"),
    # encodings: the service decodes UTF-8, ASCII and Latin-1
    *("_codecs_*", "_multibytecodec.*", "cp1*.py", "cp7*.py", "cp8*.py", "iso8859_*.py", "mac_*.py"),
    # and the system's libraries that only these are linked with
    *("_crypt*", "_curses*", "_dbm*", "_gdbm*", "_sqlite3*", "_tkinter*", "nis.*", "readline.*"),
    *("crypt.py", "curses", "dbm", "sqlite3"),
)
SBOM = Path("usr/share/sbom/vae-service.cdx.json")
OWN = ("pictures", "service", "vae", "weights", "vae_service-*")
IMPORTS = """
import asyncio, importlib.util, os, signal, socket, sys, urllib.request
import service.__main__, service.processes.supervisor
from service.processes.server import Server
from service.settings import Settings
class Start(Server):
    async def main_loop(self):
        for path in ('metrics', 'openapi.json'):
            await asyncio.to_thread(urllib.request.urlopen, f'http://{ADDRESS}:{PORT}/{path}')
        files = {getattr(module, '__file__', None) or '' for module in sys.modules.values()}
        print(*[file for file in files if file.startswith('/') and file.endswith('.py')], sep='\\n')
        signal.raise_signal(signal.SIGTERM)
        await super().main_loop()
os.environ['OTEL_TRACES_SAMPLER'] = 'always_off'  # there is no collector
if importlib.util.find_spec('torch'):
    import service.inference.torch_loading
with socket.create_server(('127.0.0.1', 0)) as listener:
    ADDRESS, PORT = listener.getsockname()
    sys.exit(Start(Settings(tracing=True)).serve_forever(listener))
"""
WITH_SOURCE = ("pictures", "service", "torch", "vae", "weights")
"""Packages that keep the source of compiled modules: tracebacks show lines of the service, and torch reads its own."""


def main(venv: Path, root: Path) -> None:
    """Fill `root` and the folder `application` beside it."""
    _copy_interpreter(root)
    shutil.copytree(venv, _in(root, venv), symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    libraries = {library for file in list(_elf_files(root)) for library in _linked(file, root)}
    for library in libraries:
        _copy_library(library, root)
    _write_etc(root)
    subprocess.run(["ldconfig", "-r", root], check=True)
    packages = _record_packages(libraries, root)
    _write_sbom(_in(root, venv), packages, root / SBOM)
    _compile_imports(venv, root)
    _move_own(_in(root, venv), root)


def _in(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def _copy_interpreter(root: Path) -> None:
    for name in ("bin", "lib", "lib64", "sbin"):  # merged /usr, as in Debian: the ELF loader is in /lib64
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    executable = Path(sys.executable).resolve()
    _in(root, executable.parent).mkdir(parents=True, exist_ok=True)
    shutil.copy2(executable, _in(root, executable))
    for name in ("python", "python3"):  # targets of the venv's links
        link = executable.with_name(name)
        if link.is_symlink():
            _in(root, link).symlink_to(executable.name)
    unused = shutil.ignore_patterns("__pycache__", "dist-packages", "site-packages", "*.a", *UNUSED_MODULES)
    library = Path(sysconfig.get_path("stdlib"))
    shutil.copytree(library, _in(root, library), symlinks=True, ignore=unused)


def _elf_files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    yield path


def _linked(file: Path, root: Path) -> Iterator[Path]:
    """Yield the system's libraries that `file` is linked with, directly or indirectly, as the loader finds them."""
    output = subprocess.run(["ldd", file], capture_output=True, text=True, check=False).stdout
    for word in output.split():
        path = Path(word)
        if path.is_absolute() and path.exists() and not path.is_relative_to(root):
            yield path


def _copy_library(library: Path, root: Path) -> None:
    real = library.resolve()
    target = _in(root, library.parent.resolve())
    target.mkdir(parents=True, exist_ok=True)
    _in(root, real.parent).mkdir(parents=True, exist_ok=True)
    shutil.copy2(real, _in(root, real))
    if not (target / library.name).exists():
        (target / library.name).symlink_to(os.path.relpath(real, library.parent.resolve()))


def _write_etc(root: Path) -> None:
    etc = root / "etc"
    (etc / "ssl/certs").mkdir(parents=True)
    if CERTIFICATES.exists():
        shutil.copy2(CERTIFICATES, etc / "ssl/certs")
    (etc / "passwd").write_text(f"root:x:0:0::/:/sbin/nologin\n{USER}")
    (etc / "group").write_text("root:x:0:\nvae:x:10001:\n")
    (etc / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")
    shutil.copy2("/etc/os-release", etc)
    shutil.copytree("/etc/ld.so.conf.d", etc / "ld.so.conf.d")
    shutil.copy2("/etc/ld.so.conf", etc)
    (root / "tmp").mkdir(mode=0o1777)
    (root / "tmp").chmod(0o1777)


def _record_packages(libraries: set[Path], root: Path) -> list[dict[str, str]]:
    """Write the Debian packages of `libraries` where scanners look for them, and return them as SBOM components."""
    names = {name for library in libraries for name in _owners(library)} | {"base-files", "ca-certificates"}
    status = root / "var/lib/dpkg/status.d"
    status.mkdir(parents=True)
    components = []
    for name in sorted(names):
        text = subprocess.run(["dpkg-query", "--status", name], capture_output=True, text=True, check=False).stdout
        fields = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line and not line.startswith(" "))
        if not fields:
            continue
        (status / fields["Package"]).write_text(text)
        purl = f"pkg:deb/debian/{fields['Package']}@{fields['Version']}?arch={fields['Architecture']}"
        component = {"type": "library", "name": fields["Package"], "version": fields["Version"]}
        components.append({**component, "purl": purl, "bom-ref": purl})
    return components


def _owners(library: Path) -> Iterator[str]:
    """Yield the packages of `library`, also by its path from before /lib became a link to /usr/lib."""
    real = library.resolve()
    for path in (real, Path("/", *real.parts[2:])):
        found = subprocess.run(["dpkg", "--search", path], capture_output=True, text=True, check=False)
        if found.returncode == 0:
            yield found.stdout.split(": ")[0]


def _write_sbom(venv: Path, packages: list[dict[str, str]], path: Path) -> None:
    command = ["/opt/tools/bin/cyclonedx-py", "environment", "--output-reproducible", str(venv / "bin/python")]
    sbom = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    version = sys.version.split()[0]
    python = {"type": "platform", "name": "python", "version": version, "purl": f"pkg:generic/python@{version}"}
    sbom["components"] += [{**python, "bom-ref": python["purl"]}, *packages]
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(sbom, indent=1))


def _compile_imports(venv: Path, root: Path) -> None:
    """Replace the modules that a start and the first requests import by their bytecode."""
    command = [str(venv / "bin/python"), "-c", IMPORTS]
    imported = subprocess.run(command, cwd="/", check=True, stdout=subprocess.PIPE, text=True).stdout
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    kept = [site / package for site in _in(root, venv).glob("lib/python3*/site-packages") for package in WITH_SOURCE]
    for file in imported.splitlines():
        source = _in(root, Path(file))
        has_source = any(source.is_relative_to(package) for package in kept)
        compiled = None if has_source else f"{source}c"  # None: in __pycache__
        py_compile.compile(str(source), compiled, dfile=file, doraise=True, invalidation_mode=mode)
        if not has_source:
            source.unlink()


def _move_own(venv: Path, root: Path) -> None:
    application = root.with_name("application")
    for site in venv.glob("lib/python3*/site-packages"):
        target = application / site.relative_to(root)
        target.mkdir(parents=True)
        for pattern in OWN:
            for path in site.glob(pattern):
                path.rename(target / path.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
