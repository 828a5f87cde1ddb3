"""The Python of the guide runs on the embedded model as it stands there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from documents import ROOT, blocks

NANO = ROOT / "src" / "llada_uni" / "nano"


@pytest.mark.slow
@pytest.mark.skipif(not NANO.is_dir(), reason="the embedded model src/llada_uni/nano is not built yet")
def test_the_guide_runs(tmp_path: Path) -> None:
    code = "\n".join(one.code for one in blocks(ROOT / "docs/guides/integrations.md") if one.language == "python")
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "integrations")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["(4, 128, 192, 3)", "torch.Size([1, 128, 128, 3])"]
    assert Image.open(tmp_path / "apples.png").size == Image.open(tmp_path / "star.png").size == (128, 128)
