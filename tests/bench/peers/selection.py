"""What k-center selection is benchmarked beside: greedy core-sets (arXiv 1708.00489) as others have them, on the CPU.

    make bench-python
    .venv-bench/bin/python tests/bench/peers/selection.py PEER --pool FILE --rows N --dim D --labelled L --picks K

The file holds N x D little-endian float32; its first L rows are labelled already, and K of the others are picked, each
the farthest from its nearest row that is labelled or picked before it. The peers:

    scikit-activeml  k_greedy_center, which its CoreSet calls
    small-text       greedy_coreset, euclidean; it measures all distances anew for each pick, so its time grows with K^2
    distil           CoreSet.furthest_first of decile-distil, whose running minimum is a loop in Python
    torch            the plain algorithm: for each pick one matrix-vector product, with norms found once

Each gets what makes it fastest and leaves the distance Euclidean. Reading the file and bringing the rows into the
order that a peer wants are not measured. A call on a corner of the pool warms up, `--repeat` are measured. Standard
output is one line of JSON:

    peer, version, threads
    seconds      of the selection alone, the median of the repeats; cpu_seconds: of all threads, which a busy machine
                 disturbs less
    picks        rows of the file, in the order of the picks

Candidates that are equally far, to float32's last digits, may change places: all peers find their distances as
|a|^2 - 2ab + |b|^2, and round differently on the way. Picks after such a pair may differ altogether, so of two
selections compare the radius and not only the picks.
"""

import argparse
import contextlib
import gc
import importlib
import importlib.metadata
import importlib.util
import json
import os
import statistics
import sys
import time
from pathlib import Path

os.environ.update(CUDA_VISIBLE_DEVICES="")

import numpy as np

# Rows whose distances to all labelled ones the plain algorithm finds at once.
ROWS_PER_BLOCK = 4096


def module_alone(name):
    """A module, without its packages' __init__: distil's want apricot and numba, small-text's load transformers."""
    packages = name.split(".")[:-1]
    for package in (".".join(packages[:length]) for length in range(1, len(packages) + 1)):
        if package not in sys.modules:
            sys.modules[package] = importlib.util.module_from_spec(importlib.util.find_spec(package))
    return importlib.import_module(name)


# Each peer takes the pool and the number of its labelled rows and returns the work, which takes the number of picks and
# returns rows of the pool.


def scikit_activeml(pool, labelled):
    from skactiveml.pool._core_set import k_greedy_center

    labels = np.full(len(pool), np.nan)  # nan: no label yet
    labels[:labelled] = 0
    return lambda picks: k_greedy_center(pool, labels, batch_size=picks, random_state=0)[0]


def small_text(pool, labelled):
    greedy_coreset = module_alone("small_text.query_strategies.coresets").greedy_coreset
    # It counts its picks among the unlabelled rows and then takes them for rows of the pool: with the labelled ones
    # last, the two are the same.
    unlabelled = len(pool) - labelled
    pool = np.concatenate([pool[labelled:], pool[:labelled]])
    rows = np.arange(len(pool))
    # One batch, as long as the distances fit: the fewer, the faster.
    return lambda picks: labelled + greedy_coreset(
        pool, rows[:unlabelled], rows[unlabelled:], picks, distance_metric="euclidean", batch_size=unlabelled)


def distil(pool, labelled):
    core_set = module_alone("distil.active_learning_strategies.core_set").CoreSet
    # The method needs nothing of its object, which wants a network.
    return lambda picks: labelled + np.array(core_set.furthest_first(None, pool[labelled:], pool[:labelled], picks))


def torch(pool, labelled):
    import torch

    pool = torch.from_numpy(pool)
    known, rows = pool[:labelled], pool[labelled:]

    @torch.inference_mode()
    def work(picks):
        # The squared distance to a centre c is |row|^2 + (|c|^2 - 2 row.c).
        norms = torch.linalg.vecdot(rows, rows)
        known_norms = torch.linalg.vecdot(known, known)
        nearest = norms + torch.cat([torch.addmm(known_norms, block, known.T, alpha=-2).amin(1)
                                     for block in rows.split(ROWS_PER_BLOCK)])
        distance = torch.empty_like(nearest)
        picked = []
        for _ in range(picks):
            row = nearest.argmax().item()
            picked.append(labelled + row)
            torch.addmv(norms, rows, rows[row], alpha=-2, out=distance).add_(norms[row])
            torch.minimum(nearest, distance, out=nearest)
            nearest[row] = -torch.inf
        return picked
    return work


# By name: the work, and whose version is told.
PEERS = {"scikit-activeml": (scikit_activeml, "scikit-activeml"), "small-text": (small_text, "small-text"),
         "distil": (distil, "decile-distil"), "torch": (torch, None)}


@contextlib.contextmanager
def settings(peer, threads):
    if peer == "torch":
        import torch

        torch.set_num_threads(threads)
        yield
        return
    import sklearn
    from threadpoolctl import threadpool_limits

    # The distances of the others are scikit-learn's, which would look for a nan in the whole pool at each pick.
    with sklearn.config_context(assume_finite=True), threadpool_limits(threads):
        yield


def run(args):
    prepare, package = PEERS[args.peer]
    pool = np.fromfile(args.pool, dtype="<f4", count=args.rows * args.dim).reshape(args.rows, args.dim)
    corner = min(args.labelled, 100)
    seconds, cpu_seconds = [], []
    # The peer is imported first: the number of threads is set in what is loaded by then.
    work = prepare(pool, args.labelled)
    small = prepare(np.concatenate([pool[:corner], pool[args.labelled:][:1000]]), corner)
    with settings(args.peer, args.threads):
        small(min(2, args.picks))
        for _ in range(args.repeat):
            gc.collect()
            start, cpu = time.perf_counter(), time.process_time()
            picks = work(args.picks)
            seconds.append(time.perf_counter() - start)
            cpu_seconds.append(time.process_time() - cpu)
    version = importlib.metadata.version(package) if package else sys.modules["torch"].__version__
    return {"version": str(version), "threads": args.threads, "seconds": statistics.median(seconds),
            "cpu_seconds": statistics.median(cpu_seconds), "picks": [int(row) for row in picks]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--dim", type=int, required=True)
    parser.add_argument("--labelled", type=int, required=True, help="at least 1: without, each peer starts elsewhere")
    parser.add_argument("--picks", type=int, required=True)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="as many as the machine has")
    args = parser.parse_args()
    if not 1 <= args.labelled < args.rows:
        parser.error("--labelled must be at least 1 and less than --rows")
    if not 1 <= args.picks <= args.rows - args.labelled:
        parser.error("--picks must be at least 1 and at most the rows that are not labelled")
    if args.repeat < 1:
        parser.error("--repeat must be at least 1")
    if args.pool.stat().st_size != args.rows * args.dim * 4:
        parser.error(f"{args.pool} is not {args.rows} x {args.dim} float32")
    with contextlib.redirect_stdout(sys.stderr):
        measured = run(args)
    print(json.dumps({"peer": args.peer, **measured}))
