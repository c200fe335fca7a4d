"""Artefacts on disk: whole or not at all, the same bytes for the same content, readable by plain xarray."""

from __future__ import annotations

import contextlib
import datetime
import errno
import glob
import hashlib
import json
import os
import platform
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciflow.data.sink import sink
from sciflow.errors import InputError, is_passing

if TYPE_CHECKING:
    import h5py
    import xarray as xr

SCHEMA_VERSION = 1
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
ALIGNED = {"alignment_threshold": 2**16, "alignment_interval": 64}  # bytes: else large arrays are read a fifth slower
STRUCTURE = 2**14  # bytes for a variable besides its numbers, ample
INFLATION, HARMLESS = 100, 256 * 2**20  # bytes declared for a byte of file, and bytes that are never too many


@dataclass(frozen=True)
class Header:
    """What an artefact says about its making: the attributes of a `.nc` file.

    Args:
        run: name of the run.
        stage: dataset, train, sample or evaluate.
        section: the run's own section of that stage, YAML text.
        source_digest: of the modules that the stage used.
        seed: of the run.
        versions: package -> version.
        inputs: input artefact -> SHA-256.
        sciflow_schema: version of this layout.
    """

    run: str
    stage: str
    section: str = ""
    source_digest: str = ""
    seed: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    sciflow_schema: int = SCHEMA_VERSION

    def attributes(self) -> dict[str, str | int]:
        """As netCDF attributes: mappings become JSON text."""
        facts = asdict(self)
        return {name: _json(value) if isinstance(value, dict) else value for name, value in facts.items()}

    @classmethod
    def of(cls, attributes: Mapping[str, object], path: str | Path) -> Header:
        """Read back from attributes.

        Raises:
            InputError: they were not written by sciflow, or by another version of the layout.
        """
        if "sciflow_schema" not in attributes or "stage" not in attributes or "run" not in attributes:
            raise InputError(f"{path} was not written by sciflow: it has no attribute 'sciflow_schema'. Run its stage.")
        version = int(str(attributes["sciflow_schema"]))
        if version != SCHEMA_VERSION:
            raise InputError(
                f"{path} has layout {version}, this sciflow reads layout {SCHEMA_VERSION}. "
                "Delete it and run its stage again, or install the sciflow that wrote it."
            )
        facts: dict[str, Any] = {name: str(attributes.get(name, "")) for name in ("section", "source_digest")}
        facts |= {name: json.loads(str(attributes.get(name, "{}"))) for name in ("versions", "inputs")}
        seed = int(str(attributes.get("seed", 0)))
        return cls(str(attributes["run"]), str(attributes["stage"]), seed=seed, **facts)


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it when the block ends well, and vanishes when it does not.

    The name is unique to this process, so that an orphan and its duplicate never write the same file. File and
    directory reach the disk before the block is left; a reader sees the old file or the new one, never a part.

    Args:
        path: where the artefact belongs; missing directories are made.

    Raises:
        OSError: of the writer; a full disk says that the previous file is whole.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_path(path)
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    except OSError as error:
        if error.errno not in FULL:
            raise
        message = "disk full; the previous file, if any, is whole. Free space and run the same command again"
        raise OSError(error.errno, message, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
    """A name beside `path` that no other process uses; deletes what processes that are gone left under such names."""
    _remove_orphans(path)
    return path.with_name(f".tmp-{_host()}-{os.getpid()}-{secrets.token_hex(4)}-{path.name}")


def remove_temporaries(path: Path) -> None:
    """Delete temporary files of an artefact, of its facts and of its arrays, whoever wrote them.

    For whoever holds the lock of its stage: nobody else is writing. A node that was lost never comes back to delete
    its own.
    """
    for name in {path.name, provenance_path(path).name, path.with_suffix(".nc").name}:
        own = re.compile(rf"\.tmp-[^-]+-\d+-[0-9a-f]+-{re.escape(name)}")
        for left in path.parent.glob(f".tmp-*-{glob.escape(name)}"):
            if own.fullmatch(left.name):
                with contextlib.suppress(OSError):  # it costs space alone
                    left.unlink()


def _flush(path: Path) -> None:
    """Wait until a file or directory is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _host() -> str:
    return platform.node().replace("-", "_").replace("/", "_") or "localhost"


def _remove_orphans(path: Path) -> None:
    """Delete temporary files of the same artefact whose process on this host is gone."""
    for orphan in path.parent.glob(f".tmp-{glob.escape(_host())}-*-{glob.escape(path.name)}"):
        process = orphan.name.split("-")[2]
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            with contextlib.suppress(PermissionError):  # another user's, where a folder is shared
                orphan.unlink(missing_ok=True)
        except (PermissionError, ValueError):
            continue


def write_dataset(path: str | Path, dataset: xr.Dataset, header: Header | None = None) -> None:
    """Write netCDF4, atomically; the same content gives the same bytes.

    Cost: that of h5py alone. A disk that is too small is refused before anything is written.

    Args:
        path: where to write.
        dataset: named arrays; encodings are dropped, variables and attributes sorted by name.
        header: added to the attributes.

    Raises:
        OSError: of the disk; the previous file is whole.
    """
    import xarray as xr

    content = _canonical(dataset, header.attributes() if header else {})
    size = content.nbytes + STRUCTURE * (4 + len(content.variables))
    with atomic_path(path) as temporary, sink(temporary, size) as file:
        store = xr.backends.H5NetCDFStore.open(file, mode="w", driver_kwds=ALIGNED)
        with contextlib.closing(store):
            content.dump_to_store(store)


def _canonical(dataset: xr.Dataset, attributes: Mapping[str, object]) -> xr.Dataset:
    """The same data set in one fixed order and encoding."""
    import xarray as xr

    variables = {}
    for name in sorted(dataset.variables, key=str):
        variable = dataset.variables[name]
        encoding = {"_FillValue": None} if variable.dtype.kind == "f" else {}
        attrs = dict(sorted(variable.attrs.items()))
        variables[name] = xr.Variable(variable.dims, variable.data, attrs, encoding)
    attrs = dict(sorted({**dataset.attrs, **attributes}.items()))
    return xr.Dataset(variables, attrs=attrs).set_coords(list(dataset.coords))


def open_dataset(
    path: str | Path, *, stage: str | None = None, run: str | None = None, load: bool = True
) -> xr.Dataset:
    """Open a netCDF file, and check that it is what the caller thinks.

    Args:
        path: of the file.
        stage: the stage that must have written it; None accepts any netCDF4 file.
        run: the run that must have written it; None accepts any.
        load: read everything and close the file; false reads on demand.

    Raises:
        InputError: missing, truncated, no netCDF4 file, or an artefact of another stage, run or layout.
    """
    import xarray as xr

    with _readable(path) as attributes:
        header = Header.of(attributes, path) if stage is not None or run is not None else None
        for name, wanted in (("stage", stage), ("run", run)):
            got = getattr(header, name, None)
            if wanted is not None and got != wanted:
                raise InputError(
                    f"{path} belongs to {name} {got!r}, needs {name} {wanted!r}. "
                    f"Give the right file, or run that {name}."
                )
        opened = xr.open_dataset(path, engine="h5netcdf")
        if not load:
            return opened
        with opened:
            return opened.load()


def read_header(path: str | Path) -> Header:
    """The header of a `.nc` artefact, without its arrays. Raises InputError as `open_dataset`."""
    with _readable(path) as attributes:
        return Header.of(attributes, path)


@contextlib.contextmanager
def _readable(path: str | Path) -> Iterator[dict[str, Any]]:
    """The attributes of a file that may be opened; what HDF5 says about a bad one becomes one message."""
    import h5py
    import numpy as np

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} does not exist. Run the stage that writes it: snakemake --cores all {path}")
    with path.open("rb") as file:
        if file.read(len(HDF5_SIGNATURE)) != HDF5_SIGNATURE:
            raise InputError(f"{path} is no netCDF4 file. Give a file that was written by its stage, or convert it.")
    try:
        with h5py.File(path, "r") as content:
            _check_declared(path, content)
            stored = dict(content.attrs)  # numbers are arrays of one entry, as netCDF has it
            attributes = {name: np.ravel(value)[0] if np.size(value) == 1 else value for name, value in stored.items()}
        yield attributes
    except InputError:
        raise
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        if is_passing(error):
            raise
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path} is truncated or damaged ({reason}). Delete it and run its stage again.") from error


def _check_declared(path: Path, content: h5py.File) -> None:
    """Refuse a small file that declares large arrays, which would fill the memory; artefacts are not compressed."""
    import h5py

    declared: list[int] = []

    def count(_: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and item.shape is not None:
            declared.append(item.size * item.dtype.itemsize)

    content.visititems(count)
    total, size = sum(declared), path.stat().st_size
    if total > max(HARMLESS, INFLATION * size):
        raise InputError(
            f"{path} declares {total / 1e9:.3g} GB in a file of {size / 1e6:.3g} MB, more than {INFLATION} times its "
            "size. Give a file that was written by its stage, or one that is compressed less."
        )


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal; of a folder, that of the names and the SHA-256 of all files below it."""
    path = Path(path)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        listed = "".join(f"{file.relative_to(path).as_posix()} {sha256(file)}\n" for file in files)
        return hashlib.sha256(listed.encode()).hexdigest()
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checked_sha256(path: str | Path, beside: str | Path | None = None, fact: str = "sha256") -> str:
    """SHA-256 of an artefact, compared with the one that its stage wrote beside it, if it did.

    Args:
        path: of the artefact.
        beside: the artefact in whose volatile facts the sum stands; None: in its own.
        fact: under which name.

    Raises:
        InputError: they differ: a bad disk, a broken copy, or another hand. HDF5 itself notices only what breaks its
            structure, not a number that changed.
    """
    signed = path if beside is None else beside
    found, written, sidecar = sha256(path), read_provenance(signed).get(fact), provenance_path(signed).name
    if written is not None and written != found:
        raise InputError(
            f"{path} is not the file that its stage wrote: its SHA-256 is {found[:12]}…, {sidecar} "
            f"says {str(written)[:12]}…. It was damaged, edited or replaced. Delete it and run its stage again; "
            "deleting the latter alone takes it as it is."
        )
    return found


def provenance_path(path: str | Path) -> Path:
    """Where the volatile facts of an artefact stand: `<artefact>.provenance.json`."""
    path = Path(path)
    return path.with_name(f"{path.name}.provenance.json")


def write_provenance(path: str | Path, facts: Mapping[str, object]) -> None:
    """Write the volatile facts of an artefact (cost, device, seconds, …) beside it, with time and host.

    Args:
        path: of the artefact.
        facts: anything that JSON can hold.
    """
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with atomic_path(provenance_path(path)) as temporary:
        temporary.write_text(_json({"written": now, "host": platform.node(), **facts}, indent=2) + "\n")


def read_provenance(path: str | Path) -> dict[str, object]:
    """The volatile facts of an artefact; empty if there are none.

    Raises:
        InputError: what lies there is none of ours, or was cut short.
    """
    sidecar = provenance_path(path)
    if not sidecar.is_file():
        return {}
    try:
        facts = json.loads(sidecar.read_text())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{sidecar} is no JSON ({error}). Delete it, or run its stage again.") from None
    if not isinstance(facts, dict):
        raise InputError(f"{sidecar} must hold an object, got {facts!r}. Delete it, or run its stage again.")
    return facts


def _json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, sort_keys=True, indent=indent, ensure_ascii=False)
