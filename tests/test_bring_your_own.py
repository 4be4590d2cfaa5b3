"""The guide's code runs as it is printed."""

import re
from pathlib import Path

import numpy as np

from fmjax.run import Run, fit
from fmjax.train import main

GUIDE = Path(__file__).parents[1] / "docs" / "bring_your_own.md"


def test_the_guide_trains_evaluates_resumes_and_predicts(tmp_path, capsys):
    code = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.S)
    config = tmp_path / "my_experiment.py"
    config.write_text(code[0])
    folder = tmp_path / "run"
    run = fit(str(config), workdir=folder, progress=False)
    assert run.numbers["held_out/accuracy"] > 0.95
    again = Run.load(folder)
    scores = again.predict({"features": np.array([[0.0, 1.0], [1.0, -0.5]], np.float32)})["score"]
    assert scores[0] < 0 < scores[1]
    main([f"--workdir={folder}", "--quiet"])
    assert "finished at step 300" in capsys.readouterr().out
