import os
from pathlib import Path

import pytest


@pytest.fixture
def test_data() -> Path:
    """The folder of real photographs, which are not part of this repository."""
    folder = os.environ.get("SVCO_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("real photographs are not here: set SVCO_TEST_DATA to the folder that holds hands/ and objects/")
    return Path(folder)
