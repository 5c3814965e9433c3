#!/usr/bin/python3
"""page.py [--kvqd PROGRAM] [--screenshot FILE]: the page in Chromium, against a broker with a WebSockets listener and a kvqd of its own.

A person's way: the page is opened from the broker itself, shows the node and its model, a prompt is typed and sent, the answer
streams in, figures appear; a second, endless one is stopped; a second node appears by itself. Nothing in the browser's console but what is
expected. Needs Debian's chromium, chromium-driver and python3-selenium. Runs in scripts/test --long.
"""
import argparse
import os
import pathlib
import sys
import time

from selenium import webdriver
from selenium.webdriver.common.by import By

HERE = pathlib.Path(__file__).resolve().parent
parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
parser.add_argument("--kvqd", default=str(HERE.parent.parent / "build" / "release" / "kvqd"))
parser.add_argument("--screenshot")
args = parser.parse_args()
os.environ["KVQD"] = os.path.abspath(args.kvqd)
sys.path.insert(0, str(HERE.parent / "daemon"))
from world import World, check, equal, free_port, until  # noqa: E402

WEB = HERE.parent.parent / "web"


def open_browser():
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1100,1300"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options)


def text(browser, name):
    return browser.find_element(By.ID, name).text


def ask(browser, prompt, most):
    browser.find_element(By.ID, "prompt").clear()
    browser.find_element(By.ID, "prompt").send_keys(prompt)
    field = browser.find_element(By.ID, "max")
    field.clear()
    field.send_keys(str(most))
    browser.find_element(By.ID, "send").click()


port = free_port()
broker = f"allow_anonymous true\nlistener {port} 127.0.0.1\nprotocol websockets\nhttp_dir {WEB}\n"
with World("[telemetry]\ninterval_s = 1\n", broker_config=broker) as w:
    w.start()
    browser = open_browser()
    try:
        browser.get(f"http://127.0.0.1:{port}/")
        until(lambda: "connected" in text(browser, "link"), "the page to connect")
        until(lambda: w.node in text(browser, "nodes") and "ready" in text(browser, "nodes"), "the node to appear as ready")
        until(lambda: "MiB" in text(browser, "model"), "the model and the pool to appear")
        until(lambda: "pool used" in text(browser, "now"), "telemetry to appear")
        ask(browser, "it's a \"test\" <b>&", 12)
        check("mosquitto_pub" in text(browser, "line"), "no line to copy")
        until(lambda: "tokens/s" in text(browser, "figures"), "the answer's end")
        equal(w.out.wait(lambda m: "/prompt/" in m.topic, "the prompt").json()["prompt"], "it's a \"test\" <b>&", "prompt as sent")
        final = w.out.wait(lambda m: "/response/" in m.topic and not m.topic.endswith("/delta"), "a final").json()
        equal(browser.find_element(By.ID, "answer").get_attribute("textContent"), final["text"], "text on the page")
        ask(browser, "go on for long", 60000)  # the model is tiny: it must not end before the stop
        until(lambda: len(browser.find_element(By.ID, "answer").get_attribute("textContent")) > 20, "the second answer to stream")
        browser.find_element(By.ID, "stop").click()
        until(lambda: "cancelled" in text(browser, "figures"), "the stop to be answered")
        check(len(browser.find_elements(By.CSS_SELECTOR, "#requests tr")) == 2, "two requests in the list")
        w.pub("/kvqd/other/status", "online", "-r")
        until(lambda: "other" in text(browser, "nodes"), "another node to appear")
        if args.screenshot:
            time.sleep(1.5)  # a telemetry more, for the picture only
            browser.save_screenshot(args.screenshot)
        errors = [e["message"] for e in browser.get_log("browser") if e["level"] == "SEVERE" and "favicon" not in e["message"]]
        equal(errors, [], "errors in the console")
    finally:
        browser.quit()
print("ok")
