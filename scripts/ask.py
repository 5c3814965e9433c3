#!/usr/bin/env python3
"""ask.py PORT NODE PROMPT: publishes a prompt with mosquitto_pub and shows the streamed answer. Called by scripts/demo.

mosquitto_sub subscribes first; that it is there is known when the retained status arrives, so nothing waits for a time. Exit status 0
only if text was streamed and the final message came without an error.
"""
import json
import subprocess
import sys
import time

port, node, prompt = sys.argv[1:]
broker = ["-h", "127.0.0.1", "-p", port]
topic = f"kvqd/{node}"
answer_topics = ["-t", f"{topic}/status", "-t", f"{topic}/response/first", "-t", f"{topic}/response/first/delta"]
subscriber = subprocess.Popen(["mosquitto_sub", *broker, "-v", "-W", "120", *answer_topics], stdout=subprocess.PIPE, text=True)
published = first = None
try:
    for line in subscriber.stdout:
        name, payload = line.rstrip("\n").split(" ", 1)
        if name.endswith("/status"):
            if published is None:
                published = time.monotonic()
                subprocess.run(["mosquitto_pub", *broker, "-q", "1", "-t", f"{topic}/prompt/first", "-m", prompt], check=True)
            continue
        message = json.loads(payload)
        if name.endswith("/delta"):
            if first is None:
                first = time.monotonic()
                print(f"        first token {first - published:.2f} s after mosquitto_pub\n\n    ", end="")
            print(message["text"].replace("\n", "\n    "), end="", flush=True)
            continue
        if message.get("error"):
            sys.exit(f"\nask.py: the request failed: {message['error']}")
        print(f"\n\n        {message['usage']['completion_tokens']} tokens, {message['timings']['tokens_per_second']:.0f} tokens/s, "
              f"finished because of '{message['finish_reason']}'")
        sys.exit(0 if first is not None and message["text"].strip() else "ask.py: nothing was streamed")
    sys.exit("ask.py: no answer within 120 s")
finally:
    subscriber.terminate()
    subscriber.wait()
