"""A real HTTP server on this machine that plays an OpenAI-compatible endpoint, well-behaved or not."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def reply(content, usage=True):
    """(status, text, headers) of a chat completion."""
    body = {"choices": [{"message": {"role": "assistant", "content": content}}]}
    return 200, json.dumps(body | ({"usage": {"prompt_tokens": 100, "completion_tokens": 10}} if usage else {})), {}


class Server:
    """Answers request n with `script(n, body)`: (status, text, headers); notes what it was asked."""

    def __init__(self, script):
        self.script, self.asked, self.headers, self.at_once, self.most = script, [], [], 0, 0
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler):
                body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
                with lock:
                    self.asked.append(body)
                    self.headers.append(dict(handler.headers) | {"path": handler.path})
                    n = len(self.asked)
                    self.at_once += 1
                    self.most = max(self.most, self.at_once)
                status, text, headers = self.script(n, body)
                with lock:
                    self.at_once -= 1
                try:
                    handler.send_response(status)
                    for name, value in headers.items():
                        handler.send_header(name, value)
                    handler.send_header("Content-Length", str(len(text.encode())))
                    handler.end_headers()
                    handler.wfile.write(text.encode())
                except OSError:
                    pass  # the client gave up waiting

            def log_message(handler, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self):
        self.http.shutdown()
        self.http.server_close()
