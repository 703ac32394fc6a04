"""What a person installs is whole: the wheel runs outside the clone, the demo inside it."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_wheel_runs_outside_the_clone(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)

    code = "import app, assets; print(app.__file__); print(assets.DEMO_DIR)"
    # -P and -S-like isolation is not enough: the clone may be an editable install of this venv.
    env = {**os.environ, "PYTHONPATH": str(site), "MC_CHAT_HOME": str(tmp_path / "home")}
    where = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=env, check=True, capture_output=True
    ).stdout.decode()
    assert where.count(str(site)) == 2, f"the wheel's packages were not used: {where}"

    plan = subprocess.run(
        [sys.executable, "-m", "app.cli", "plan", "demo", "--json"],
        cwd=tmp_path,
        env=env,
        check=True,
        capture_output=True,
    )
    assert json.loads(plan.stdout)["choices"]
    stylesheets = {path.name for path in (ROOT / "app").rglob("*.tcss")}
    assert stylesheets == {path.name for path in (site / "app").rglob("*.tcss")}
    assert (site / "assets" / "demo" / "model.safetensors").stat().st_size > 1_000_000
