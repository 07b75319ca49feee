"""python -m nanlab -> the list of commands."""

COMMANDS = {
    "nanlab.sweep": "train every run that a grid file asks for; say what made each NaN",
    "nanlab.worker": "run a share of a sweep on another machine",
    "nanlab.report": "write what people read and cite of a study: pages, figures, tables",
    "nanlab.verify": "run a study again, whole or a sample; say what reproduces",
    "nanlab.diff": "tell which runs of two studies ended otherwise, or failed otherwise",
    "nanlab.claims": "settle published claims about NaN by measurement; list the verdicts",
    "nanlab.replay": "bring a failed run back to its failing step",
    "nanlab.debug": "run a script of yours; say what made its first inf or NaN",
    "nanlab.parts": "list what a training can be made of, with sources",
    "nanlab.reporting": "write the data dictionary, what every column of the tables means",
    "nanlab.grid": "print the JSON Schema of grid files, for completion in editors",
}

if __name__ == "__main__":
    print("nanlab: a laboratory for numerical failure in neural-network training")
    for name, sentence in COMMANDS.items():
        print(f"  python -m {name:16} {sentence}")
