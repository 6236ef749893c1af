"""`dualebm runs`: the state of each run of a sweep or of a selection."""

import json

from dualebm.cli.commands import Runs
from dualebm.sweeps.folder import manifest
from dualebm.sweeps.identity import in_words
from dualebm.sweeps.selection import sweeps_of
from dualebm.training import presence


def run(settings: Runs) -> None:
    """Print the manifest of a sweep, or of the sweeps of a selection, and the status of its processes."""
    folders = sweeps_of(settings.folder)
    members = [member for folder in folders for member in manifest(folder)]
    for member in members:
        if settings.json:
            print(json.dumps(member))
        else:
            about = in_words(member["settings"])
            print(f"{member['state']:9} {member['step']:>7}  {about}" + (f"  ({member['why']})" if member["why"] else ""))
    statuses = [status for folder in folders for status in presence.processes(folder)]
    for status in statuses:
        if settings.json:
            print(json.dumps(status))
        elif status["state"] != "lost":
            why = f" ({status['why']})" if status["why"] else ""
            print(f"process {status['process']} of {status['of']}: {status['state']}{why}")
    if not settings.json:
        if lost := presence.describe_lost(statuses):
            print(f"{lost}; the same command on all processes continues the sweep")
        states = [member["state"] for member in members]
        print(", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)))
