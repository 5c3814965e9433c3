"""world.py: what every test of tests/daemon stands on: a mosquitto and a kvqd of its own in a folder of its own, listeners, publishers.

    with World() as w:
        w.start()                                  # broker, daemon; waits for phase ready
        w.pub("prompt/q1", "hello")
        final = w.final("q1")

Everything waits for events (a line of mosquitto_sub, a process that ends), with a limit after which the test has failed; nothing
sleeps for a fixed time. Ports are drawn at random on the loopback. KVQD names the daemon's program, KVQCTL kvqctl's, KVQD_TEST_MODEL a model other than
the tiny one.
"""
import atexit
import json
import os
import pathlib
import queue
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
KVQD = os.environ.get("KVQD", str(HERE.parent.parent / "build" / "release" / "kvqd"))
KVQCTL = os.environ.get("KVQCTL", str(pathlib.Path(KVQD).parent / "kvqctl"))
FALSE_CLOCK = pathlib.Path(KVQD).parent / "false_clock.so"
LIMIT_S = float(os.environ.get("KVQD_TEST_LIMIT_S", "60"))  # for one event; sanitizer builds on a busy machine are slow
SLOWNESS = int(os.environ.get("KVQD_TEST_SLOWNESS", "1"))  # how many times slower than a release this program is
NODE = "n1"


def lasting(n_tokens):
    """The tokens of an answer that is to last a while: what other programs take n_tokens for."""
    return n_tokens // SLOWNESS


class Failure(Exception):
    pass


def check(condition, text):
    if not condition:
        raise Failure(text[:2000])


def equal(got, want, what):
    check(got == want, f"{what}: {got!r} instead of {want!r}")


def until(condition, what, limit_s=LIMIT_S):
    """For what has no event to wait for: a port that opens, a file that appears. Returns what the condition returned."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise Failure(f"{what}: nothing within {limit_s:.0f} s")


def free_port():
    for _ in range(50):
        port = random.randint(20000, 60000)
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise Failure("no free port")


class Message:
    def __init__(self, line):
        o = json.loads(line)
        self.topic, self.qos, self.retain = o["topic"], o["qos"], bool(o["retain"])
        self.payload = o["payload"] or ""
        self.properties = o.get("properties", {})

    def json(self):
        return json.loads(self.payload)

    def __repr__(self):
        return f"{self.topic} {self.payload[:200]}"


class Listener:
    """A mosquitto_sub whose messages can be waited for. Starts listening before the constructor returns."""

    def __init__(self, port, *filters, extra=(), version="5"):
        self.messages, self.lines, self.taken = [], queue.Queue(), 0
        marker = f"test/listener/{random.getrandbits(64):016x}"
        command = ["mosquitto_sub", "-V", version, "-h", "127.0.0.1", "-p", str(port), "-F", "%j", "-q", "1", *extra]
        for f in (*filters, marker):
            command += ["-t", f]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        threading.Thread(target=self._read, daemon=True).start()
        self._meet(port, marker, extra)

    def _read(self):
        for line in self.process.stdout:
            self.lines.put(line.decode("utf-8", "replace"))
        self.lines.put(None)

    def _meet(self, port, marker, extra):
        """mosquitto_sub does not say when it is subscribed; a message to itself does."""
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            subprocess.run(["mosquitto_pub", "-h", "127.0.0.1", "-p", str(port), "-t", marker, "-m", "x", *extra], check=False)
            try:
                self._wait(lambda m: m.topic == marker, "the listener itself", 0.2)
                self.rewind()  # a retained message that came before the marker has not been looked at
                return
            except Failure:
                continue
        raise Failure("mosquitto_sub did not subscribe")

    def _wait(self, condition, what, limit_s):
        end = time.monotonic() + limit_s
        while True:
            while self.taken < len(self.messages):
                m = self.messages[self.taken]
                self.taken += 1
                if condition(m):
                    return m
            try:
                line = self.lines.get(timeout=max(0.001, end - time.monotonic()))
            except queue.Empty:
                raise Failure(f"waited {limit_s:.0f} s for {what}; last messages: {self.messages[-5:]}") from None
            if line is None:
                raise Failure(f"mosquitto_sub ended while waiting for {what}")
            self.messages.append(Message(line))

    def wait(self, condition, what, limit_s=LIMIT_S):
        """The next message, from those not looked at yet, for which the condition holds."""
        return self._wait(condition, what, limit_s)

    def drain(self):
        """All that has come, those looked at included."""
        while True:
            try:
                line = self.lines.get_nowait()
            except queue.Empty:
                return self.messages
            if line is not None:
                self.messages.append(Message(line))

    def rewind(self):
        self.taken = 0

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Broker:
    def __init__(self, folder, config=""):
        self.folder, self.port, self.process = folder, free_port(), None
        self.config = f"listener {self.port} 127.0.0.1\npersistence false\n" + (config or "allow_anonymous true\n")

    def start(self):
        path = self.folder / "mosquitto.conf"
        path.write_text(self.config)
        with open(self.folder / "mosquitto.log", "ab") as log:
            self.process = subprocess.Popen(["mosquitto", "-c", str(path), "-v"], stdout=log, stderr=log)
        until(self._answers, "mosquitto listening")

    def _answers(self):
        check(self.process.poll() is None, "mosquitto ended: " + (self.folder / "mosquitto.log").read_text()[-500:])
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", self.port)) == 0

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(LIMIT_S)


class World:
    def __init__(self, config="", broker_config="", node=NODE, model=True, login=()):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="kvqd-test-"))
        self.config, self.node, self.login = config, node, list(login)
        self.broker = Broker(self.folder, broker_config)
        self.daemon, self.listeners, self.out, self.environment = None, [], None, {}
        self.state = self.folder / "state"
        (self.state / "models").mkdir(parents=True)
        if model:
            self.install_model()
        atexit.register(self.stop)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind:
            print(f"--- the daemon's log of {self.folder}:\n{self.log()[-4000:]}", file=sys.stderr)
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        return False

    def install_model(self, name="tiny.gguf"):
        path = self.state / "models" / name
        given = os.environ.get("KVQD_TEST_MODEL")
        if given:
            path.symlink_to(given)
        else:
            subprocess.run([sys.executable, str(HERE / "tiny_gguf.py"), str(path)], check=True)

    # ---- the daemon

    def write_config(self, more=""):
        text = (f"[mqtt]\nbroker = mqtt://127.0.0.1:{self.broker.port}\nnode = {self.node}\nkeepalive_s = 5\n"
                "[engine]\nthreads = 1\ncache_max_entry_count = 16M\nsession_len = 65536\nmax_batch_size = 8\n"
                "[generation]\nmax_new_tokens = 20\ntemperature = 0\n")
        (self.folder / "kvqd.ini").write_text(text)
        folder = self.folder / "conf.d"
        folder.mkdir(exist_ok=True)
        (folder / "test.ini").write_text(self.config + "\n" + more)

    def start(self, wait_for="ready", broker=True):
        if broker:
            self.broker.start()
            self.listen(f"kvqd/{self.node}/#")
        self.start_daemon()
        if wait_for:
            self.phase(wait_for)

    def start_daemon(self, max_file_bytes=None):
        """max_file_bytes: no file of its own may grow beyond, which stands for a full disk."""
        self.write_config()
        environment = dict(os.environ, STATE_DIRECTORY=str(self.state))
        environment.pop("NOTIFY_SOCKET", None)
        environment.update(self.environment)
        limit = ["prlimit", f"--fsize={max_file_bytes}"] if max_file_bytes else []
        with open(self.folder / "kvqd.log", "ab") as log:
            self.daemon = subprocess.Popen([*limit, KVQD, "--config", str(self.folder / "kvqd.ini")], stdout=log, stderr=log, env=environment)

    def manager_socket(self):
        """Where the service manager would hear of a daemon that is started after this: a message a recv."""
        heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        heard.bind(str(self.folder / "notify"))
        heard.settimeout(LIMIT_S)
        self.environment["NOTIFY_SOCKET"] = str(self.folder / "notify")
        return heard

    def set_clock(self, says):
        """What the kernel tells of the clock from now on, to a daemon that was started after the first of these: synced, unsynced or denied."""
        asan = os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"
        path = self.folder / "clock"
        (self.folder / "clock.new").write_text(says)
        (self.folder / "clock.new").rename(path)
        self.environment.update(LD_PRELOAD=str(FALSE_CLOCK), KVQD_FALSE_CLOCK=str(path), ASAN_OPTIONS=asan)

    def kill(self):
        self.daemon.send_signal(signal.SIGKILL)
        self.daemon.wait(LIMIT_S)

    def terminate(self):
        self.daemon.terminate()
        return self.daemon.wait(LIMIT_S)

    def log(self):
        path = self.folder / "kvqd.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def wait_log(self, text):
        until(lambda: text in self.log(), f"'{text}' in the log")

    def stop(self):
        for listener in self.listeners:
            listener.stop()
        if self.daemon and self.daemon.poll() is None:
            self.daemon.terminate()
            try:
                self.daemon.wait(LIMIT_S)
            except subprocess.TimeoutExpired:
                self.daemon.kill()
        self.broker.stop()

    # ---- messages; topics without a leading "/" are under kvqd/NODE

    def topic(self, topic):
        return topic[1:] if topic.startswith("/") else f"kvqd/{self.node}/{topic}"

    def listen(self, *filters, version="5", extra=()):
        listener = Listener(self.broker.port, *filters, version=version, extra=[*self.login, *extra])
        self.listeners.append(listener)
        if self.out is None:
            self.out = listener
        return listener

    def pub(self, topic, payload, *more, qos=1, version="5"):
        data = payload if isinstance(payload, bytes) else (payload if isinstance(payload, str) else json.dumps(payload)).encode()
        subprocess.run(["mosquitto_pub", "-V", version, "-h", "127.0.0.1", "-p", str(self.broker.port), "-q", str(qos), "-t",
                        self.topic(topic), "-s" if data else "-n", *self.login, *more], input=data, check=True, timeout=LIMIT_S)

    def wait(self, topic, condition=lambda m: True, what=None):
        full = self.topic(topic)
        return self.out.wait(lambda m: m.topic == full and condition(m), what or full)

    def phase(self, phase):
        return self.wait("state", lambda m: m.json()["phase"] == phase, f"phase {phase}").json()

    def final(self, name):
        return self.wait(f"response/{name}").json()

    def ask(self, name, payload, *more):
        self.pub(f"prompt/{name}", payload, *more)
        return self.final(name)

    def command(self, name, request=""):
        self.pub(f"request/{name}", request)
        return self.wait(f"reply/{name}").json()


def refused(final, code, text=""):
    check(final["error"] is not None, f"not refused: {final}")
    equal(final["error"]["code"], code, "error code")
    check(text in final["error"]["message"], f"'{final['error']['message']}' lacks '{text}'")


def answered(final):
    check(final["error"] is None, f"refused: {final['error']}")
    check(final["finish_reason"] in ("stop", "length"), f"finish_reason {final['finish_reason']}")
    return final
