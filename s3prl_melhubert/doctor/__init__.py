"""What is wrong with this environment, and the command that mends it: `melhubert doctor`.

    report.py          the checks in their order, and their findings as lines
    findings.py        what a finding is, and what checks learn from one another
    environment.py     checks of Python, of this package and of the folder for downloads
    libraries.py       checks of torch, torchaudio and the other libraries
    hub.py             checks of the .pth file, and of s3prl with it
    probes.py          what is tried in a process of its own, so that a crash there is a finding here
    requirements.py    the versions that are needed, and how versions are compared
    mending.py         the commands that mend

Nothing here imports torch, or anything else that may be broken, but inside a probe.
"""
