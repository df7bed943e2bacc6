"""DVC's cache and remote, by content: check that a release's files are present and intact, and copy them."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self
from uuid import uuid4

import yaml

from ..errors import UserError, one_line
from ..params import SAFE_LOADER
from . import pipeline

if TYPE_CHECKING:
    from dvc.repo import Repo

CHUNK = 2**20


@dataclass(frozen=True)
class Output:
    """An output of the pipeline, as dvc.lock names it. The MD5 of a folder ends in `.dir`."""

    path: str
    md5: str
    size: int

    @classmethod
    def of(cls, out: dict[str, Any]) -> Self:
        """Return an entry of `outs` in dvc.lock as an output."""
        return cls(out["path"], out["md5"], out["size"])


@dataclass(frozen=True)
class File:
    """One file of an output: its path in the project, and its MD5 in DVC."""

    path: str
    md5: str


@dataclass(frozen=True)
class Problem:
    """A file that a release needs and that is missing or altered. `where`: cache or remote."""

    path: str
    md5: str
    what: Literal["missing", "altered"]
    where: str

    def __str__(self) -> str:
        return f"{self.path} ({self.md5[:8]}) is {self.what} in the {self.where}"


class RemoteError(UserError):
    """The DVC remote cannot be used now."""

    for_good = False


class Store:
    """The DVC cache of this project and its remote."""

    @cached_property
    def _repo(self) -> "Repo":
        from dvc.repo import Repo

        return Repo(".")

    @cached_property
    def cache(self) -> Path:
        """The folder of the local cache. Several projects may share it."""
        return Path(self._repo.cache.local.path)

    @property
    def root(self) -> Path:
        """The folder with the local cache and the run-cache, laid out like a DVC remote."""
        return Path(self._repo.cache.local_cache_dir)

    def is_own(self) -> bool:
        """Return whether the cache is inside this project, so that no other project uses it."""
        return self.cache.resolve().is_relative_to(Path.cwd().resolve())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold DVC's lock, so that no stage writes to the cache.

        Raises:
            UserError: another process holds it.
        """
        from dvc.exceptions import DvcException

        try:
            self._repo.lock.lock()
        except DvcException as error:
            raise UserError(one_line(error)) from None
        try:
            yield
        finally:
            self._repo.lock.unlock()

    def object_path(self, md5: str) -> Path:
        """Return where the cache keeps an object."""
        return self.cache / md5[:2] / md5[2:]

    def files(self, outputs: Iterable[Output]) -> list[File]:
        """Return every file of these outputs, from the listings in the cache.

        Raises:
            UserError: a listing is missing or altered.
        """
        return [file for output in outputs for file in self._files(output)]

    def _files(self, output: Output) -> Iterator[File]:
        if not output.md5.endswith(".dir"):
            yield File(output.path, output.md5)
            return
        listing = self.object_path(output.md5)
        try:
            content = listing.read_bytes()
        except FileNotFoundError:
            raise UserError(f"the listing of {output.path} ({output.md5}) is not in DVC's cache") from None
        if f"{hashlib.md5(content, usedforsecurity=False).hexdigest()}.dir" != output.md5:
            raise UserError(f"the listing of {output.path} ({output.md5}) in DVC's cache is altered")
        for entry in json.loads(content):
            yield File(f"{output.path}/{entry['relpath']}", entry["md5"])

    def fetch(self, outputs: Iterable[Output]) -> list[Problem]:
        """Fetch missing or altered cache files from the remote. Return what is still wrong.

        Hashes every file that is present, regardless of its modification time.
        """
        outputs = list(outputs)
        if not (wrong := self.check(outputs)):
            return []
        for problem in wrong:
            if problem.what == "altered":
                # DVC trusts existing files and only fetches missing ones.
                self.object_path(problem.md5).unlink(missing_ok=True)
        self._pull([output.md5 for output in outputs if output.md5.endswith(".dir")])
        with suppress(UserError):  # no remote or cache has the listing: the check below reports it
            self._pull([file.md5 for file in self.files(outputs)])
        return self.check(outputs)

    def push(self, outputs: Iterable[Output]) -> list[Problem]:
        """Push to the remote what it lacks. Return what is missing there afterwards."""
        outputs = list(outputs)
        # Files before listings: DVC takes a listing in the remote as proof that its files are there.
        self._transfer(self._local(), self._remote(), [file.md5 for file in self.files(outputs)])
        self._transfer(self._local(), self._remote(), [output.md5 for output in outputs])
        return self.check(outputs, where="remote", rehash=False)

    def _pull(self, md5s: list[str]) -> None:
        self._transfer(self._remote(), self._local(), [md5 for md5 in md5s if not self.object_path(md5).exists()])

    def _transfer(self, source: Any, target: Any, md5s: list[str]) -> None:
        """Copy objects that the target lacks. DVC's own push and pull use an index that may be out of date."""
        from dvc.exceptions import DvcException
        from dvc_data.hashfile.hash_info import HashInfo
        from dvc_data.hashfile.transfer import transfer

        if not md5s:
            return
        try:
            transfer(source, target, {HashInfo("md5", md5) for md5 in md5s}, shallow=True)
        except FileNotFoundError:
            return  # the check below reports which
        except (DvcException, OSError) as error:
            raise RemoteError(f"the DVC remote cannot be used: {one_line(error)}") from None

    def _local(self) -> Any:
        return self._repo.cache.local

    def check(self, outputs: Iterable[Output], where: str = "cache", rehash: bool = True) -> list[Problem]:
        """Return missing or altered files of these outputs. Without `rehash`, only compares name and size."""
        found: list[Problem] = []
        digest = self._digest_in(where, rehash)
        for output in outputs:
            listing = digest(output.md5)
            if listing != output.md5.removesuffix(".dir"):
                found.append(Problem(output.path, output.md5, "altered" if listing else "missing", where))
                continue
            if not output.md5.endswith(".dir"):
                continue
            if where != "cache" and not self.object_path(output.md5).exists():
                continue  # without the listing its files are unknown
            for file in self._files(output):
                actual = digest(file.md5)
                if actual != file.md5:
                    found.append(Problem(file.path, file.md5, "altered" if actual else "missing", where))
        return found

    def check_one(self, md5: str) -> Literal["missing", "altered"] | None:
        """Return what is wrong with one object in the remote, or None if it is present and intact."""
        actual = self._digest_in("remote", rehash=True)(md5)
        if actual is None:
            return "missing"
        return None if actual == md5.removesuffix(".dir") else "altered"

    def fetch_listing(self, output: Output) -> str:
        """Fetch the listing of a folder from the remote. Return what is wrong with it, or an empty string."""
        if wrong := self.check_one(output.md5):
            return f"it is {wrong} in the remote"
        self._pull([output.md5])
        return "" if self.object_path(output.md5).exists() else "it could not be fetched"

    def _digest_in(self, where: str, rehash: bool) -> Callable[[str], str | None]:
        if where == "cache":

            @cache  # files of several outputs may be the same
            def local(md5: str) -> str | None:
                path = self.object_path(md5)
                try:
                    return file_md5(path) if rehash else md5.removesuffix(".dir")
                except FileNotFoundError:
                    return None

            return local
        remote = self._remote()

        def far(md5: str) -> str | None:
            path = remote.oid_to_path(md5)
            try:
                if not rehash:
                    here, size = self.object_path(md5), remote.fs.size(path)
                    right = not here.exists() or here.stat().st_size == size
                    return md5.removesuffix(".dir") if right else "of another size"
                digest = _md5()
                with remote.fs.open(path, "rb") as file:  # hashlib does not accept every remote's file objects
                    while chunk := file.read(CHUNK):
                        digest.update(chunk)
                return digest.hexdigest()
            except FileNotFoundError:
                return None
            except Exception as error:  # every remote raises its own errors
                raise RemoteError(f"the DVC remote cannot be read: {one_line(error)}") from None

        return far

    def remote_place(self) -> tuple[str, str, bool]:
        """Return the remote's name and URL, and whether it is outside of this project.

        Raises:
            UserError: the project has no DVC remote.
        """
        remote = self._of_cloud(lambda cloud: cloud.get_remote())
        is_inside = remote.fs.protocol == "local" and Path(remote.path).is_relative_to(Path.cwd())
        return remote.name, remote.config.get("url", remote.path), not is_inside

    def try_remote(self) -> None:
        """Write a small file to the remote, read it and delete it.

        Raises:
            UserError: one of these is not possible.
        """
        remote = self._remote()
        probe = remote.fs.join(remote.path, "tmp", uuid4().hex)
        try:
            remote.fs.makedirs(remote.fs.parent(probe), exist_ok=True)
            with tempfile.NamedTemporaryFile() as file:
                remote.fs.put_file(file.name, probe)
            remote.fs.size(probe)
            remote.fs.remove(probe)
        except Exception as error:  # every remote raises its own errors
            raise UserError(f"you may not read and write the DVC remote: {one_line(error)}") from None

    def push_run(self, key: str) -> None:
        """Push the run-cache's entries for a key; see Pipeline.run_cache_key.

        Raises:
            UserError: the remote cannot be written.
        """
        remote, folder = self._remote_runs(key)
        for entry in self._runs(key):
            target = remote.fs.join(folder, entry.name)
            try:
                if remote.fs.exists(target):
                    continue
                # Under its own name only when it is whole: a reader takes any file there for an entry.
                part = remote.fs.join(remote.path, "tmp", uuid4().hex)
                remote.fs.makedirs(remote.fs.parent(part), exist_ok=True)
                remote.fs.makedirs(folder, exist_ok=True)
                remote.fs.put_file(str(entry), part)
                remote.fs.move(part, target)
            except Exception as error:  # every remote raises its own errors
                raise RemoteError(f"the DVC remote cannot be written: {one_line(error)}") from None

    def fetch_run(self, key: str) -> dict[str, Any] | None:
        """Return the run-cache's newest entry for a key, fetched from the remote if there is none here, or None.

        Raises:
            UserError: the remote cannot be read.
        """
        if not self.run(key):
            remote, folder = self._remote_runs(key)
            local = self._run_folder(key)
            try:
                for path in sorted(remote.fs.find(folder)) if remote.fs.exists(folder) else []:
                    local.mkdir(parents=True, exist_ok=True)
                    # Not beside it: DVC, too, takes any file in this folder for an entry.
                    with tempfile.TemporaryDirectory(dir=local.parent) as scratch:
                        part = Path(scratch, "entry")
                        remote.fs.get_file(path, str(part))
                        part.replace(local / remote.fs.name(path))
            except Exception as error:  # every remote raises its own errors
                raise RemoteError(f"the DVC remote cannot be read: {one_line(error)}") from None
        return self.run(key)

    def run(self, key: str) -> dict[str, Any] | None:
        """Return the run-cache's newest entry for a key on this machine, or None."""
        found = self._runs(key)
        return dict(yaml.load(found[-1].read_bytes(), SAFE_LOADER)) if found else None  # noqa: S506

    def _run_folder(self, key: str) -> Path:
        return Path(self._repo.stage_cache.cache_dir, key[:2], key)

    def _runs(self, key: str) -> list[Path]:
        return sorted(self._run_folder(key).glob("*"), key=lambda path: path.stat().st_mtime)

    def _remote_runs(self, key: str) -> tuple[Any, str]:
        """Return the remote as `dvc push --run-cache` uses it, and the folder there with the entries of a key."""
        remote = self._remote(hash_name="md5-dos2unix")
        return remote, remote.fs.join(remote.path, "runs", key[:2], key)

    def _remote(self, **options: str) -> Any:
        return self._of_cloud(lambda cloud: cloud.get_remote_odb(**options))

    def _of_cloud(self, get: Callable[[Any], Any]) -> Any:
        from dvc.exceptions import DvcException

        try:
            return get(self._repo.cloud)
        except DvcException as error:
            raise UserError(f"there is no DVC remote to use: {one_line(error)}") from None

    def copy(self, outputs: Iterable[Output], folder: Path) -> None:
        """Write these outputs below `folder`, hashing each file while copying.

        Raises:
            UserError: a file is missing or altered; the message names it.
        """
        for file in self.files(outputs):
            target = folder / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(self.object_path(file.md5), target)
            except FileNotFoundError:
                raise UserError(f"{file.path} ({file.md5}) is not in DVC's cache") from None
            if file_md5(target) != file.md5:
                raise UserError(f"{file.path} ({file.md5}) is altered in DVC's cache")
            with target.open("rb") as written:
                os.fsync(written.fileno())

    def checkout(self, outputs: Iterable[Output]) -> None:
        """Check out these outputs to the paths that dvc.lock names.

        Raises:
            UserError: DVC cannot check them out.
        """
        from dvc.exceptions import DvcException
        from dvc.repo import Repo
        from dvc_data.index import DataIndex

        try:
            # A new repository object: dvc.yaml and dvc.lock may have changed since the other one was opened.
            repo = Repo(".")
            # An index in memory. If DVC is killed while it writes the index on disk, outputs are missing from it, and a
            # checkout with that index deletes them.
            repo._data_index = DataIndex()
            paths = sorted(output.path for output in outputs)
            # DVC reads its files again for each target: pass none to mean all.
            everything = paths == sorted(out["path"] for out in pipeline.outputs())
            repo.checkout(targets=None if everything else paths, force=True)
        except DvcException as error:
            raise UserError(f"`dvc checkout` failed: {one_line(error)}") from None

    def objects(self) -> Iterator[tuple[str, int]]:
        """Yield every object in the cache: its MD5 and its size in bytes."""
        for path in sorted(self.cache.glob("??/*")):
            yield path.parent.name + path.name, path.stat().st_size


def file_md5(path: Path) -> str:
    """Return the MD5 of a file, as DVC computes it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, _md5).hexdigest()


def _md5() -> "hashlib._Hash":
    return hashlib.md5(usedforsecurity=False)


def both_digests(path: Path) -> tuple[str, str]:
    """Return the MD5 and SHA-256 of a file, reading it once."""
    md5, sha256 = _md5(), hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            md5.update(chunk)
            sha256.update(chunk)
    return md5.hexdigest(), sha256.hexdigest()
