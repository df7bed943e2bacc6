"""What tests need of a machine, beyond the project's environment."""

import os
from typing import NoReturn

import pytest


def lacking(part: str, why: str) -> NoReturn:
    """Skip the test, and say why. In CI it fails, unless TESTS_WITHOUT names the part."""
    if os.environ.get("CI") and part not in os.environ.get("TESTS_WITHOUT", "").split():
        pytest.fail(f"{why}: install it, or set TESTS_WITHOUT={part} to skip these", pytrace=False)
    pytest.skip(why)
