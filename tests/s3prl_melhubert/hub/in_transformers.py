"""Run by a test in a process without s3prl_melhubert: hidden states of a Hub folder by transformers alone.

    python in_transformers.py WAVEFORMS.npz FOLDER...

It writes NAME.npz and a folder NAME for each.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

for name in [name for name in sys.modules if name.startswith("s3prl_melhubert")]:
    del sys.modules[name]
sys.modules["s3prl_melhubert"] = None  # type: ignore[assignment]  # to import it is an error from here on

import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

source, *folders = sys.argv[1:]
arrays = np.load(source)
waveforms = [arrays[name] for name in sorted(arrays.files)]
for folder in map(Path, folders):
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
    inputs = extractor(waveforms, sampling_rate=16000, return_tensors="pt")
    pretrained = transformers.AutoModelForPreTraining.from_pretrained(folder, trust_remote_code=True).eval()
    model = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    with torch.no_grad():
        output = model(**inputs, output_hidden_states=True)
        logits = pretrained(**inputs).logits
    model.save_pretrained(folder.name)
    extractor.save_pretrained(folder.name)
    np.savez(
        f"{folder.name}.npz",
        last=output.last_hidden_state.numpy(),
        logits=logits.numpy(),
        attention_mask=inputs["attention_mask"].numpy(),
        **{f"hidden_{i}": hidden.numpy() for i, hidden in enumerate(output.hidden_states)},
    )
    for snippet in re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL):
        if "AutoModel" in snippet:
            exec(snippet.replace(f'"{folder.name}"', repr(str(folder))))
