"""Serve the built pages on this machine alone, until Ctrl-C."""

import argparse
import signal
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def port_number(text: str) -> int:
    """Read the number of a port."""
    number = int(text) if text.isdecimal() else 0
    if not 1 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"a port is a number from 1 to 65535, got {text[:20]!r}")
    return number


def main() -> int:
    """Serve from the command line; 1 without pages, or if the port is not available."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=port_number, default=8000)
    port, html = parser.parse_args().port, ROOT / "_build/html"
    if not (html / "index.html").is_file():
        print("There are no pages yet: call `make book` first.", file=sys.stderr)
        return 1
    handler = partial(SimpleHTTPRequestHandler, directory=str(html))
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        said = f"Port {port} of 127.0.0.1 is not available ({error.strerror}): stop what uses it, or call"
        print(f"{said} `make serve PORT={port % 65535 + 1}`.", file=sys.stderr)
        return 1
    # What a shell starts in the background ignores Ctrl-C, and Python would not raise KeyboardInterrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print(f"The book is at http://127.0.0.1:{port}/ until you press Ctrl-C", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
