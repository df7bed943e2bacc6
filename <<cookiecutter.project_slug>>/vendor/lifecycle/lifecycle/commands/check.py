"""`check`: check a project against the contract."""

from dataclasses import asdict

from .command import Result, command

PAGE = "vendor/lifecycle/docs/contract.md"


@command("check")
def check() -> Result:
    """Check that the project meets the contract. Runs nothing.

    Looks at the model, tables, stages and parameters.
    """
    from ..contract_check import look

    found = look()
    lines = [f"- {problem}" for problem in found.problems]
    head = f"{len(lines)} of {found.looked_at} checks fail; {PAGE} explains them"
    text = "\n".join([head, *lines]) if lines else f"all {found.looked_at} checks pass"
    return Result(asdict(found), text, code=bool(lines))
