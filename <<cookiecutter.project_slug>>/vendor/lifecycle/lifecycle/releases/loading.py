"""Load a release: extract its model and code to a separate folder, verify and test them."""

import hashlib
import importlib
import importlib.util
import io
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..errors import UserError, one_line
from ..files import sha256, write_text
from . import git
from .record import Release, same_predictions
from .store import Store

if TYPE_CHECKING:
    from ..contract import ModelModule

RELEASES = Path(".lifecycle/releases")
RECORD = "record.json"


def materialise(release: Release, store: Store) -> Path:
    """Create or check the folder with the release's model and code. Return the folder.

    Raises:
        UserError: something it needs is missing or altered, both here and in the remote.
    """
    folder = RELEASES / release.id
    if folder.exists():
        if not wrong_files(release, folder):
            return folder
        shutil.rmtree(folder)
    outputs = release.outputs(release.model["path"])
    if wrong := store.fetch(outputs):
        raise UserError(
            f"{release.id} cannot be used: {wrong[0]}, and the DVC remote does not have it either. "
            f"If another machine has it, `dvc push` there; else choose another release"
        )
    RELEASES.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{release.id}.", dir=RELEASES))
    try:
        store.copy(outputs, aside)
        extract(release.commit, aside, "src")
        write_text(aside / RECORD, release.to_bytes().decode())
        if wrong_names := wrong_files(release, aside):
            raise UserError(f"{release.id} cannot be used: {wrong_names[0]} is not what its record says")
        try:
            aside.rename(folder)
        except OSError:
            if wrong_files(release, folder):  # another process created it in the meantime, or tried to
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def need(commit: str) -> None:
    """Check that a commit is in this clone.

    Raises:
        UserError: it is not.
    """
    if git.resolve(commit) is None:
        raise UserError(f"the commit {commit[:12]} is not in this repository: `git fetch --tags` may bring it")


def extract(commit: str, folder: Path, *names: str) -> None:
    """Write the project's files at a commit, or only those below some names, to `folder`.

    Raises:
        UserError: the commit is not in this clone.
    """
    need(commit)
    tree = git.project_tree(commit)
    if names:
        tree_names = [entry.split("\t")[1] for entry in git.git("ls-tree", "--full-tree", tree).splitlines()]
        names = tuple(name for name in names if name in tree_names)
    unpack(git.archive(tree, *names), folder)


def unpack(packed: bytes, folder: Path) -> None:
    """Extract a tar archive into a folder."""
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")


def pack(folder: Path) -> bytes:
    """Return a release's folder as one archive, for another machine."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(folder, ".")
    return packed.getvalue()


def wrong_files(release: Release, folder: Path) -> list[str]:
    """Return files of the model or code in a release's folder that are missing, altered or unexpected."""
    wrong = [name for name, digest in release.model["files"].items() if _digest(folder / name) != digest]
    code = _code(release)
    wrong += [name for name, blob in code.items() if _blob(folder / name) != blob]
    there = {str(path.relative_to(folder)) for path in (folder / "src").rglob("*.py")}
    return wrong + sorted(there - code.keys())


def _code(release: Release) -> dict[str, str]:
    tree = git.git("ls-tree", "-r", "-z", "--full-tree", release.materials["git"]["tree"], "src").split("\0")
    return {path: meta.split()[2] for meta, path in (line.split("\t", 1) for line in tree if line)}


def _digest(path: Path) -> str | None:
    return sha256(path) if path.is_file() else None


def _blob(path: Path) -> str | None:
    """Return git's hash of a file."""
    if not path.is_file():
        return None
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def load_module(release: Release, folder: Path) -> "ModelModule":
    """Import the module of a release's model as it was released, regardless of the project's current code.

    Raises:
        UserError: it cannot be imported with the packages installed here.
    """
    code = f"_{release.id.replace('-', '_')}"
    package = folder.resolve() / "src" / release.model["package"]  # Python caches the absolute form of a relative path
    spec = importlib.util.spec_from_file_location(
        code, package / "__init__.py", submodule_search_locations=[str(package)]
    )
    assert spec is not None and spec.loader is not None
    for name in [name for name in sys.modules if name.split(".")[0] == code]:  # the folder may have been recreated
        del sys.modules[name]
    try:
        module = sys.modules[code] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        # Releases before 0.2 do not name their module: it was `model`.
        name = release.model.get("module", "package.model").partition(".")[2]
        return cast("ModelModule", importlib.import_module(f"{code}.{name}"))
    except Exception as error:  # old code can fail in any way
        raise _not_here(release, error) from None


def load_model(release: Release, folder: Path) -> Any:
    """Load a release's model with the release's own code.

    Raises:
        UserError: it does not load with the installed packages.
    """
    module = load_module(release, folder)
    try:
        return module.load(folder / release.model["path"])
    except Exception as error:  # old code can fail in any way
        raise _not_here(release, error) from None


def _not_here(release: Release, error: Exception) -> UserError:
    return UserError(
        f"the model of {release.id} does not load here ({type(error).__name__}: {one_line(error)}). "
        f"Its packages are those of requirements.lock at {release.commit[:12]}: `make setup` there, then try again"
    )


def try_out(release: Release, folder: Path) -> Any:
    """Load the model and check that its predictions for the probe rows match those in the release.

    Returns the model. Raises UserError if they differ.
    """
    import pyarrow as pa

    loaded = load_model(release, folder)
    features = release.model["features"]
    wants = [feature.name for feature in loaded.features]
    if missing := sorted(set(wants) - features.keys()):
        raise UserError(f"the model of {release.id} wants {', '.join(missing)}, which its feature table does not have")
    schema = pa.schema([(name, pa.type_for_alias(features[name])) for name in wants])
    probe = release.model["probe"]
    predicted = loaded.predict(pa.Table.from_pylist(probe["rows"], schema=schema)).tolist()
    if not same_predictions(probe["predictions"], predicted):
        raise UserError(
            f"the model of {release.id} does not predict here what it did when it was released: the packages differ "
            f"from requirements.lock at {release.commit[:12]}. `make setup` there, then try again"
        )
    return loaded


def clean_up(keep: set[str]) -> list[str]:
    """Delete the folders of other releases and leftovers of dead processes. Return their names."""
    gone = [path for path in RELEASES.glob("*") if path.name not in keep] if RELEASES.exists() else []
    for path in gone:
        shutil.rmtree(path, ignore_errors=True)
    return [path.name for path in gone]
