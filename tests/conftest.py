"What the tests share: one thread each, and a small set that is drawn once."
import os

import pytest

# before torch is imported; sums then come out the same however many cores there are
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """28 clips to train on and two tests of 14, ten frames of 32 pixels.
    The frame cache lies in it; whoever wants to write more, or none to be there, takes a copy."""
    from micacl.data.synfew.generate import generate
    root = tmp_path_factory.mktemp("synfew")
    generate(root, n_train=28, n_test=14, n_frames=10, size=32, workers=1, progress=False)
    return root
