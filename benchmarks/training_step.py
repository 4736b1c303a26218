"""Time and memory of one adversarial train step: plain `fit`, `AdvTrain`, floors and peers.

    python -m benchmarks.training_step --peer=art=/path/to/venv/bin/python --peer=torch=...

PGD-7 at batch 128 on 28 x 28 images, two 5 x 5 convolutions (32, 64) and a dense layer of 1024.
Each contestant is a process of its own, and they take turns, an epoch each, so that noise of the
machine hits all of them. The table shows medians and the range of the middle half of the epochs,
the median of the ratios to plain `fit` within a round, and the peak memory of the process. The
floor of a step is a plain step and `num_steps` passes forward and back to the input.

Peers need environments of their own, made once (Python 3.11):

    python -m venv art && art/bin/pip install tensorflow-cpu==2.21.0 keras==3.15.1
    art/bin/pip install adversarial-robustness-toolbox==1.20.1

likewise `cleverhans` with cleverhans==4.0.0, `foolbox` with foolbox==3.3.4, and `torch` with
numpy and torch==2.13.0 instead of all these. Those not given with `--peer` are left out, which the
table says. `--growth` measures over batch size, steps and image size instead. Takes about seven
minutes on two CPU cores, and writes benchmarks/results/; a part that is there is not run again.
"""

import pathlib
import statistics

from absl import app
from absl import flags
from rich.console import Console
from rich.table import Table

from benchmarks import results
from benchmarks import workers

_ROUNDS = flags.DEFINE_integer("rounds", 7, "Epochs of each contestant that count.")
_STEPS = flags.DEFINE_integer("steps", 5, "Steps in an epoch.")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "Examples in a batch.")
_NUM_STEPS = flags.DEFINE_integer("num_steps", 7, "Steps of PGD.")
_PEERS = flags.DEFINE_multi_string("peer", [], "name=python of its environment; repeatable.")
_GROWTH = flags.DEFINE_bool("growth", False, "Growth over batch size, steps and image size.")
_ONLY = flags.DEFINE_list("only", [], "Names of contestants; all if empty.")
_FRESH = flags.DEFINE_bool("fresh", False, "Runs parts again that the JSON file has.")
_OUTPUT = flags.DEFINE_string(
    "output", str(pathlib.Path(__file__).parent / "results" / "training_step.json"), "JSON file."
)

_PLAIN = {"contestant": "fit"}
_ADV = {"contestant": "fit", "attack": "pgd"}
_LOW = {**_ADV, "attack_dtype": "bfloat16"}
_FAST = {"contestant": "fit", "attack": "random_start_fgsm"}
_PASS = {"contestant": "tensorflow_loop", "only": "input gradient"}
# The first of each part is what the others are compared with.
PARTS = {
    "peers": {
        "plain fit": _PLAIN,
        "one attack pass": _PASS,
        "AdvTrain": _ADV,
        "AdvTrain, bfloat16 attack": _LOW,
        "AdvTrain, PGD-10": {**_ADV, "num_steps": 10},
        "AdvTrain, PGD-10, bfloat16 attack": {**_LOW, "num_steps": 10},
        "hand-written TensorFlow loop": {"contestant": "tensorflow_loop"},
        "CleverHans": {"contestant": "cleverhans", "peer": "cleverhans"},
        "CleverHans, compiled by hand": {
            "contestant": "cleverhans",
            "peer": "cleverhans",
            "compiled": True,
        },
        "Foolbox": {"contestant": "foolbox", "peer": "foolbox"},
        "ART": {"contestant": "art", "peer": "art", "steps": 2},
        "ART, tuned by hand": {
            "contestant": "art",
            "peer": "art",
            "steps": 2,
            "compiled": True,
        },
        "hand-written PyTorch loop": {"contestant": "torch_loop", "peer": "torch"},
    },
    "modes": {
        "plain fit, again": _PLAIN,
        "AdvTrain, again": _ADV,
        "steps_per_execution=5": {**_ADV, "compile": {"steps_per_execution": 5}},
        "gradient accumulation over 5": {**_ADV, "accumulate": 5},
        "mixed_bfloat16 model": {**_ADV, "policy": "mixed_bfloat16"},
        "TRADES": {**_ADV, "objective": "trades"},
        "TRADES, bfloat16 attack": {**_LOW, "objective": "trades"},
        "one step, random start": _FAST,
        "one step, bfloat16 attack": {**_FAST, "attack_dtype": "bfloat16"},
        "Free(7), 7 optimizer steps": {**_ADV, "objective": "free", "replays": 7},
    },
}
_GROWING = {"batch_size": (32, 64, 256), "num_steps": (1, 3, 14), "size": (40, 56)}
_GROWTH_KINDS = {
    "plain fit": _PLAIN,
    "AdvTrain": _ADV,
    "AdvTrain, bfloat16 attack": _LOW,
}


def main(_):
    pythons = dict(peer.split("=", 1) for peer in _PEERS.value)
    settings = {
        "steps": _STEPS.value,
        "batch_size": _BATCH_SIZE.value,
        "num_steps": _NUM_STEPS.value,
        "size": 28,
        "epsilon": 0.1,
    }
    if _GROWTH.value:
        parts = growth_parts(settings)
        path = pathlib.Path(_OUTPUT.value).with_name("training_step_growth.json")
    else:
        parts, path = PARTS, pathlib.Path(_OUTPUT.value)
    result = results.load(path, {**settings, "rounds": _ROUNDS.value}, fresh=_FRESH.value)
    for part, contestants in parts.items():
        specs = {name: {**settings, **spec} for name, spec in contestants.items()}
        specs, absent = choose(specs, pythons, result["rows"])
        result["absent"] = sorted({*result.get("absent", []), *absent} - specs.keys())
        if len(specs) > 1:
            found = workers.race(
                specs,
                {name: pythons[s["peer"]] for name, s in specs.items() if "peer" in s},
                _ROUNDS.value,
            )
            result["rows"].update(rows_of(found, next(iter(specs))))
            results.save(path, result)
        print(f"{part}: done", flush=True)
    show(result)


def growth_parts(settings):
    """Returns parts in each of which one setting has another value."""
    changes = [{}] + [{key: value} for key, values in _GROWING.items() for value in values]
    parts = {}
    for change in changes:
        at = {**settings, **change}
        label = f"batch {at['batch_size']}, PGD-{at['num_steps']}, {at['size']} x {at['size']}"
        parts[label] = {
            f"{label}: {kind}": {**spec, **change} for kind, spec in _GROWTH_KINDS.items()
        }
    return parts


def choose(specs, pythons, done):
    """Returns what there is to run, the reference first, and the names of absent peers."""
    chosen = {name: s for name, s in specs.items() if not _ONLY.value or name in _ONLY.value}
    absent = [name for name, s in chosen.items() if s.get("peer", "") not in ("", *pythons)]
    todo = [name for name in chosen if name not in absent and name not in done]
    reference = next(iter(specs))
    names = dict.fromkeys([reference, *todo]) if set(todo) - {reference} else {}
    return {name: specs[name] for name in names}, absent


def rows_of(found, reference):
    """Returns a row for each contestant."""
    base, rows = found[reference], {}
    for name, worker in found.items():
        if worker.failure is not None:
            rows[name] = {"failure": worker.failure}
            continue
        spec = worker.spec
        times = sorted(1e3 * t / spec["steps"] for t in worker.seconds)
        cpu = statistics.median(1e3 * t / spec["steps"] for t in worker.cpu_seconds)
        pairs = zip(worker.seconds, base.seconds, strict=True)
        share = base.spec["steps"] / spec["steps"]
        milliseconds = statistics.median(times)
        rows[name] = {
            "milliseconds": round(milliseconds, 2),
            "middle_half": [round(t, 1) for t in _quartiles(times)],
            "fastest": round(times[0], 2),
            "cpu_milliseconds": round(cpu, 2),
            "ratio": round(statistics.median(share * t / b for t, b in pairs), 3),
            "images_per_second": round(1e3 * spec["batch_size"] / milliseconds, 1),
            "peak_mebibytes": round(worker.peak_mebibytes),
            "memory_ratio": round(worker.peak_mebibytes / base.peak_mebibytes, 2),
            "versions": worker.versions,
            **shares_of_floor(found, name),
        }
    return rows


def _quartiles(times):
    return statistics.quantiles(times, n=4, method="inclusive")[::2]


def shares_of_floor(found, name):
    """Returns the medians of the shares of the floor, by wall and by CPU time, if it is known."""
    attacks = name.startswith("AdvTrain") and "again" not in name
    single, plain = found.get("one attack pass"), found.get("plain fit")
    if not attacks or not single or not plain or single.failure or plain.failure:
        return {}
    shares = {}
    for key in ("seconds", "cpu_seconds"):
        rounds = zip(*(getattr(w, key) for w in (found[name], plain, single)), strict=True)
        count = found[name].spec["num_steps"]
        shares[f"{key}_of_floor"] = round(
            statistics.median(t / (p + count * s) for t, p, s in rounds), 3
        )
    return shares


def show(result):
    table = Table(title=f"batch {_BATCH_SIZE.value}, medians of {_ROUNDS.value} epochs")
    headings = ("", "ms a step", "middle half", "of plain fit", "of the floor", "images/s")
    for heading in (*headings, "CPU ms", "of the floor", "peak MiB", "of plain fit"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, row in result["rows"].items():
        if "failure" in row:
            table.add_row(name, "failed: " + row["failure"].strip().splitlines()[-1][:60])
            continue
        shares = [
            f"{row[key]:.2f}" if key in row else ""
            for key in ("seconds_of_floor", "cpu_seconds_of_floor")
        ]
        table.add_row(
            name,
            f"{row['milliseconds']:.1f}",
            "{:.0f}-{:.0f}".format(*row["middle_half"]),
            f"{row['ratio']:.2f}",
            shares[0],
            f"{row['images_per_second']:.0f}",
            f"{row['cpu_milliseconds']:.0f}",
            shares[1],
            str(row["peak_mebibytes"]),
            f"{row['memory_ratio']:.2f}",
        )
    for name in sorted({*result.get("absent", [])} - result["rows"].keys()):
        table.add_row(name, "no --peer")
    Console(width=150).print(table)


if __name__ == "__main__":
    app.run(main)
