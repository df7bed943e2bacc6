"""`release` and `approve`."""

from typing import Annotated

import typer

from .command import Reason, Release, Result, command, with_repairs


@command("release --reason 'October data'")
def release(reason: Reason = "") -> Result:
    """Release the current pipeline result.

    Pushes its bytes and writes its record to the ledger.
    Commits dvc.lock and the other files that `run` writes. Refuses other changes, stale stages and failed gates.
    """
    from ..lineage import openlineage
    from ..lineage.mlflow_pages import attach
    from ..releases import operations
    from ..releases.store import Store

    released = operations.release(reason)
    made = released.result
    record = made.release
    lineage, unattached = attach(record, Store())
    notes = [*released.notes, *unattached, *openlineage.tell_of_ledger()]
    metrics = record.evidence["metrics"]
    lines = [f"{record.id} {'released' if made.new else 'is released already: the same content'}"]
    lines.append(f"  commit   {record.commit[:12]}" + (f", with {', '.join(made.committed)}" if made.committed else ""))
    size = sum(output.size for output in record.outputs())
    lines.append(f"  content  {len(record.outputs())} outputs, {size / 1e6:.1f} MB, in the DVC remote")
    names = [gate["name"] for gate in record.evidence["gates"]]
    lines.append("  gates    " + ", ".join(f"{name} {metrics[name]:.3f}" for name in names))
    comparison = record.observed.get("comparison")
    if comparison and "problem" in comparison:
        lines.append(
            f"  champion {comparison['champion']}, not compared: {comparison['problem']}. Where against_champion in "
            "params.yaml asks for it, `promote` tries again, and needs a person where it fails again"
        )
    elif comparison:
        changes = [f"{name} {each['change']:+.4f}" for name, each in comparison["metrics"].items() if name in names]
        lines.append(f"  champion {comparison['champion']}, on the same holdout: {', '.join(changes)}")
    data = {
        "release": record.id,
        "digest": record.digest,
        "new": made.new,
        "commit": record.commit,
        "committed": made.committed,
        "metrics": metrics,
        "comparison": comparison,
        "lineage": lineage,
        "notes": notes,
    }
    return Result(data, with_repairs(notes, "\n".join(lines)))


@command("approve r-3f2a --comment 'slices look right'")
def approve(
    release: Release,
    comment: Annotated[str, typer.Option(metavar="TEXT", help="Recorded with the approval.")] = "",
    key: Annotated[
        str, typer.Option(metavar="FILE", help="SSH key to sign with; default: git's user.signingKey.")
    ] = "",
) -> Result:
    """Approve a release in your git name. The approval is signed if the project has a file allowed_signers."""
    from ..releases import approvals, operations

    done = operations.approve(release, comment, key)
    approval = done.result
    signed = approvals.allowed_signers() is not None
    kind = ", ".join(word for word, true in (("own release", approval.own), ("signed", signed)) if true)
    text = f"{approval.release} approved by {approval.by}{f' ({kind})' if kind else ''}"
    return Result({**approval.model_dump(), "signed": signed, "notes": done.notes}, with_repairs(done.notes, text))
