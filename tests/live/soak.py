#!/usr/bin/env python3
"""soak.py [--kvqd PROGRAM] [--minutes N] [--seed N]: the daemon under a random life for a while, on the tiny model.

Rounds of work, each a burst of prompts of random lengths, parameters and sessions over a pool that holds few of them, some cancelled at
once, some malformed; now and then the daemon is killed with SIGKILL or the broker restarted in the middle. After each round: every
prompt has had its final, the reference prompts their reference texts whatever ran beside them, no KV block is in use. At the
end resident memory may not have grown by more than GROWTH over what it was after the first quarter (of the daemon's longest life).
Run by scripts/test --long.
"""
import argparse
import os
import pathlib
import random
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
parser.add_argument("--kvqd", default=str(HERE.parent.parent / "build" / "release" / "kvqd"))
parser.add_argument("--minutes", type=float, default=10)
parser.add_argument("--seed", type=int, default=1)
args = parser.parse_args()
os.environ["KVQD"] = os.path.abspath(args.kvqd)
sys.path.insert(0, str(HERE.parent / "daemon"))
from world import World, answered, check, equal, until  # noqa: E402

CONFIG = "[engine]\ncache_max_entry_count = 256K\nsession_len = 512\nmax_batch_size = 6\nquant_policy = 4\n[limits]\nmax_queue = 200\n"
GROWTH, SETTLED_MIB = 1.10, 4
BAD = ['{"prompt": 5}', '{"prompt":"x","top_p":7}', b"\xff\xfe", "", '{"id":"a b","prompt":"x"}']


class Life:
    def __init__(self, w):
        self.w, self.random = w, random.Random(args.seed)
        self.count, self.kills, self.restarts = 0, 0, 0
        self.reference, self.resident = {}, []

    def reference_prompt(self, i):
        return {"prompt": f"reference {i} " + "and so on " * i, "max_tokens": 24 + i, "temperature": 1, "seed": 1000 + i}

    def random_prompt(self):
        r = self.random
        prompt = {"prompt": "".join(r.choice("abc def \n\u00e9") for _ in range(r.randint(1, 300))), "max_tokens": r.randint(1, 120),
                  "temperature": r.choice([0, 0.7, 1.5]), "top_k": r.choice([0, 1, 40]), "top_p": r.choice([1, 0.9]),
                  "priority": r.randint(0, 9)}
        if r.random() < 0.3:
            prompt["session"] = f"s{r.randint(0, 4)}"
        if r.random() < 0.2:
            prompt["stop"] = ["e", "zz"]
        return prompt

    def publish_round(self):
        """Returns {name: what its final has to be}."""
        expected = {}
        for _ in range(self.random.randint(5, 25)):
            name, draw = f"r{self.count}", self.random.random()
            self.count += 1
            if draw < 0.1:
                self.w.pub(f"prompt/{name}", self.random.choice(BAD))
                expected[name] = "refused"
            elif draw < 0.4:
                i = self.random.randint(0, 7)
                self.w.pub(f"prompt/{name}", self.reference_prompt(i))
                expected[name] = i
            else:
                self.w.pub(f"prompt/{name}", self.random_prompt())
                expected[name] = "any"
                if draw > 0.9:
                    self.w.pub(f"cancel/{name}", "")
        return expected

    def disturb(self):
        draw = self.random.random()
        if draw < 0.04:
            self.kills += 1
            self.w.kill()
            self.w.start_daemon()
            self.resident.clear()  # a new life
        elif draw < 0.06:
            self.restarts += 1
            self.w.broker.stop()
            for listener in self.w.listeners:
                listener.stop()
            self.w.listeners, self.w.out = [], None
            self.w.broker.start()
            self.w.listen(f"kvqd/{self.w.node}/#")
            self.w.wait("status", lambda m: m.payload == "online")

    def check_finals(self, expected):
        """A final may come twice; each must be right."""
        missing = dict(expected)
        while missing:
            m = self.w.out.wait(lambda m: "/response/" in m.topic and not m.topic.endswith("/delta"), f"finals of {sorted(missing)[:5]}")
            name = m.topic.rsplit("/", 1)[1]
            want = expected.get(name)
            missing.pop(name, None)
            if want == "refused":
                check(m.json()["error"] is not None, f"not refused: {m}")
            elif isinstance(want, int):
                equal(answered(m.json())["text"], self.reference[want], f"text of reference prompt {want}")

    def check_rest(self):
        telemetry = self.w.command("dump")["data"]["telemetry"]
        equal(telemetry["kv_blocks_used"], 0, "blocks used")
        equal(telemetry["num_requests_running"] + telemetry["num_requests_waiting"], 0, "requests left")
        self.resident.append(telemetry["process_resident_memory_bytes"] / 1048576)

    def live(self):
        for i in range(8):
            self.reference[i] = answered(self.w.ask(f"alone{i}", self.reference_prompt(i)))["text"]
        end, rounds = time.monotonic() + args.minutes * 60, 0
        while time.monotonic() < end:
            restarts = self.restarts
            expected = self.publish_round()
            self.disturb()
            if self.restarts != restarts:
                # What was published while nobody listened is gone for us, not for kvqd: it must still come to rest.
                until(lambda: self.w.command("dump")["data"]["telemetry"]["num_requests_running"] == 0, "rest after the broker's restart")
                continue
            self.check_finals(expected)
            self.check_rest()
            rounds += 1
        quarter = max(self.resident[:max(1, len(self.resident) // 4)])
        print(f"{rounds} rounds, {self.count} prompts, {self.kills} kills, {self.restarts} restarts of the broker; "
              f"resident {quarter:.1f} MiB after the first quarter of the last life, {self.resident[-1]:.1f} MiB at its end")
        check(rounds > 0, "no round")
        check(self.resident[-1] <= quarter * GROWTH + SETTLED_MIB, "resident memory grows")


with World(CONFIG) as w:
    w.start()
    Life(w).live()
