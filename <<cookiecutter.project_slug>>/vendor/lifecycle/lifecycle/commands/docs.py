"""`docs`: dbt's page on every table and column."""

from .command import Result, command


@command("docs")
def docs() -> Result:
    """Write dbt's page on every table and column.

    The file is transform/target/static_index.html.
    """
    from ..stages.transform import generate_docs

    page = generate_docs()
    return Result({"page": str(page)}, f"open {page}")
