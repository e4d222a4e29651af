"""How long a feed takes to open and to give its first batch, at step 0 and at step 1,000,000. The two take turns.

python benchmarks/open_feed.py --dataset=fashion_mnist --data_dir=... --feed=streaming
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from loopwright import data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="mnist_5k")
    parser.add_argument("--data_dir")
    parser.add_argument("--feed", default="streaming", choices=data.FEEDS)
    parser.add_argument("--augment", default="flip,translate:2")
    parser.add_argument("--repeats", type=int, default=25)
    arguments = parser.parse_args()
    dataset = data.load(arguments.dataset, data_dir=arguments.data_dir, feed=arguments.feed)
    feed = dataset.train_feed(32, augment=arguments.augment)
    next(iter(feed()))
    seconds: dict[int, list[float]] = {0: [], 1_000_000: []}
    for _ in range(arguments.repeats):
        for step, times in seconds.items():
            start = time.perf_counter()
            next(iter(feed(step)))
            times.append(time.perf_counter() - start)
    ratio = statistics.median(late / early for early, late in zip(*seconds.values(), strict=True))
    medians = {f"ms_at_{step}": round(1e3 * statistics.median(times), 1) for step, times in seconds.items()}
    print(json.dumps({"feed": arguments.feed, **medians, "ratio": round(ratio, 3)}))


if __name__ == "__main__":
    main()
