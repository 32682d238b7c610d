"""Programs that try to leave their sandbox, to stop it, or to pass without an answer. Each defines f; f() == 42 passes.

{parent}, {folder}, {port} and {name} stand for a process, a folder, a port and an abstract Unix socket outside.
"""

ESCAPES = {
    "fork bomb": "import os\ndef f():\n    while True: os.fork()",
    "fork bomb of threads": """
import threading, time
def f():
    def more():
        while True: threading.Thread(target=more).start()
    more()
""",
    "memory at once": "def f():\n    return 42 if bytearray(1 << 34) else 0",
    "memory in steps": "def f():\n    x = []\n    while True: x.append(bytes(1 << 20))",
    "memory of a file without a name": """
import os
def f():
    fd = os.memfd_create('x')
    for _ in range(100): os.write(fd, bytes(1 << 20))
    return 42
""",
    "a zip bomb": """
import zlib
def f():
    small = zlib.compress(bytes(1 << 24), 1)
    return 42 if b''.join(zlib.decompress(small) for _ in range(500)) else 0
""",
    "a big file": """
def f():
    with open('big', 'wb') as file:
        for _ in range(1000): file.write(bytes(1 << 20))
    return 42
""",
    "many big files": """
def f():
    for i in range(100):
        with open(f'big{i}', 'wb') as file: file.write(bytes(10 << 20))
    return 42
""",
    "many files": """
def f():
    for i in range(100_000): open(str(i), 'w').close()
    return 42
""",
    "many open files": "def f():\n    return 42 if [open('/dev/null') for _ in range(1000)] else 0",
    "a socket": """
import socket
def f():
    socket.create_connection(('127.0.0.1', {port}), 1).send(b'x')
    return 42
""",
    "a datagram": """
import socket
def f():
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))
    return 42
""",
    "a name server": "import socket\ndef f():\n    return 42 if socket.getaddrinfo('example.com', 80) else 0",
    "a Unix socket": """
import socket
def f():
    s = socket.socket(socket.AF_UNIX)
    s.connect('\\0{name}')
    s.send(b'x')
    return 42
""",
    "a server": """
import socket
def f():
    s = socket.socket()
    s.bind(('0.0.0.0', 0))
    s.listen()
    return 42
""",
    "io_uring": """
import ctypes
def f():
    return 42 if ctypes.CDLL(None).syscall(425, 8, bytes(120)) >= 0 else 0
""",
    "a signal to the parent": """
import os, signal
def f():
    for pid in ({parent}, os.getppid(), 0):
        try: os.kill(pid, signal.SIGUSR1)
        except OSError: pass
        else: return 42
    os.kill({parent}, signal.SIGUSR1)
""",
    "a signal to a thread of the parent": """
import ctypes
def f():
    return 42 if ctypes.CDLL(None).syscall(234, {parent}, {parent}, 10) == 0 else 0
""",
    "signals of a pipe": """
import fcntl, os
def f():
    r, w = os.pipe()
    fcntl.fcntl(r, fcntl.F_SETOWN, {parent})
    fcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC)
    os.write(w, b'x')
    return 42
""",
    "ptrace": "import ctypes\ndef f():\n    return 42 if ctypes.CDLL(None).ptrace(16, {parent}, 0, 0) == 0 else 0",
    "the parent's limits": """
import resource
def f():
    resource.prlimit({parent}, resource.RLIMIT_NOFILE, (10, 10))
    return 42
""",
    "the parent's priority": "import os\ndef f():\n    os.setpriority(os.PRIO_PROCESS, {parent}, 19)\n    return 42",
    "the parent's memory": "def f():\n    return 42 if open('/proc/{parent}/maps').read() else 0",
    "the parent's environment": """
def f():
    return 42 if b'SECRET_OF_THE_PARENT' in open('/proc/{parent}/environ', 'rb').read() else 0
""",
    "its own environment": """
import ctypes, os
def f():
    seen = dict(os.environ)
    for name in ('SECRET_OF_THE_PARENT', 'HOME', 'PATH'):
        ctypes.CDLL(None).getenv.restype = ctypes.c_char_p
        seen[name] = ctypes.CDLL(None).getenv(name.encode())
    return 42 if any(seen.values()) and seen['SECRET_OF_THE_PARENT'] else 0
""",
    "the list of processes": """
import os
def f():
    return 42 if [x for x in os.listdir('/proc') if x.isdigit()] else 0
""",
    "the parent's files": "def f():\n    return 42 if open('{folder}/secret').read() else 0",
    "the user's files": "import os\ndef f():\n    return 42 if os.listdir('{home}') else 0",
    "passwords": "def f():\n    return 42 if open('/etc/passwd').read() else 0",
    "the checkout": "def f():\n    return 42 if open('{source}').read() else 0",
    "a file outside": "def f():\n    open('{folder}/secret', 'w').write('x')\n    return 42",
    "a new file outside": "def f():\n    open('{folder}/new', 'w').close()\n    return 42",
    "a new folder outside": "import os\ndef f():\n    os.mkdir('{folder}/new')\n    return 42",
    "removal outside": "import os\ndef f():\n    os.remove('{folder}/secret')\n    return 42",
    "a rename outside": "import os\ndef f():\n    os.rename('{folder}/secret', '{folder}/other')\n    return 42",
    "a mode outside": "import os\ndef f():\n    os.chmod('{folder}/secret', 0o777)\n    return 42",
    "a time outside": "import os\ndef f():\n    os.utime('{folder}/secret', (1, 1))\n    return 42",
    "shared memory": "def f():\n    open('/dev/shm/jaxtrain-escape', 'w').close()\n    return 42",
    "a symbolic link": """
import os
def f():
    os.symlink('{folder}/secret', 'link')
    open('link', 'w').write('x')
    return 42
""",
    "a hard link": """
import os
def f():
    os.link('{folder}/secret', 'link')
    open('link', 'w').write('x')
    return 42
""",
    "a path up": """
import os
def f():
    open(os.path.relpath('{folder}/secret'), 'w').write('x')
    return 42
""",
    "its own folder": """
import os, shutil
def f():
    here = os.getcwd()
    shutil.rmtree(here)
    os.symlink('{folder}', here)
    return 42
""",
    "a daemon": """
import os, time
def f():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(1000)
        os._exit(0)
    return 42
""",
    "a program": "import subprocess\ndef f():\n    subprocess.Popen(['sleep', '1000'])\n    return 42",
    "a shell": "import os\ndef f():\n    return 42 if os.system('touch {folder}/new') == 0 else 0",
    "another program in its place": "import os, sys\ndef f():\n    os.execv(sys.executable, ['python', '-c', 'pass'])",
    "a mount": """
import ctypes, os
def f():
    os.mkdir('m')
    libc = ctypes.CDLL(None)
    return 42 if libc.unshare(0x10000000) == 0 or libc.mount(b'a', b'm', b'tmpfs', 0, 0) == 0 else 0
""",
    "output without end": "import os\ndef f():\n    while True: print('x' * 1000, flush=True)",
    "output to every descriptor": """
import os
def f():
    for fd in range(3, 200):
        try:
            while True: os.write(fd, b'x' * 1000)
        except OSError: pass
""",
    "a loop": "def f():\n    while True: pass",
    "a loop where it is run": "while True: pass\ndef f(): return 42",
    "a loop in C": "def f():\n    return 42 if sum(range(10**12)) else 0",
    "sleep": "import time\ndef f():\n    time.sleep(1000)\n    return 42",
    "signals that it ignores": """
import signal
for one in range(1, 65):
    try: signal.signal(one, signal.SIG_IGN)
    except (OSError, ValueError): pass
def f():
    while True: pass
""",
    "an answer that never comes": """
import os, threading
def f():
    os.closerange(0, 3)
    threading.Event().wait()
""",
    "closed descriptors": "import os\nos.closerange(0, 1000)\ndef f(): return 42",
    "exit status 0": "import os\nos._exit(0)\ndef f(): return 42",
    "exit status 0 in the test": "import os\ndef f():\n    os._exit(0)",
    "sys.exit(0) before the tests": "import sys\nsys.exit(0)",
    "sys.exit(0) in the test": "import sys\ndef f():\n    sys.exit(0)",
    "an exit that is caught by no one": "def f():\n    raise GeneratorExit",
    "a line that says that it passed": """
import os
def f():
    line = b'{"passed": 1, "total": 1, "crashed": false, "not_set": []}\\n'
    for fd in range(20):
        try: os.write(fd, line)
        except OSError: pass
    os._exit(0)
""",
    "a message in advance": """
import json, os
def f():
    reply = json.dumps({'names': ['f'], 'value': True, 'passed': 1}).encode()
    os.write(4, len(reply).to_bytes(4, 'big') + reply)
    return 41
""",
    "an __eq__ of its own": """
class Any:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 42
def f(): return Any()
""",
    "an int with an __eq__ of its own": """
class Any(int):
    def __eq__(self, other): return True
    __hash__ = int.__hash__
def f(): return Any(7)
""",
    "a mock": "from unittest.mock import ANY\ndef f(): return ANY",
    "an __eq__ on the other side": """
class Left(int):
    def __radd__(self, other): return 42
    def __rsub__(self, other): return 0
def f(): return Left(1)
""",
    "another assert": """
import builtins, sys
class AssertionError(Exception): pass
builtins.AssertionError = AssertionError
builtins.__build_class__ = None
def f(): return 41
""",
    "another checker": """
import gc, json, sys
def f():
    for name, module in list(sys.modules.items()):
        if 'jaxtrain' in name:
            for attribute in ('run', '_fails', '_update', 'encode', 'send', '_reply'):
                if hasattr(module, attribute): setattr(module, attribute, lambda *a, **k: '')
    json.dumps = lambda x: '{"value": true}'
    return 41
""",
    "the test in memory": """
import gc, sys
def f():
    wanted = ''.join(['assert f', '() == ', '42'])
    frame = sys._getframe(1)
    while frame:
        if any(wanted in repr(value) for value in frame.f_locals.values()): return 42
        frame = frame.f_back
    texts = [x for x in gc.get_objects() if isinstance(x, (dict, list, tuple)) and len(x) < 100]
    return 42 if any(isinstance(y, str) and wanted in y for x in texts for y in x if x is not texts) else 0
""",
    "the test on stdin": "import os\ndef f():\n    return 42 if os.read(0, 1000) else 0",
    "a stack overflow": """
import sys
sys.setrecursionlimit(10**9)
def g(x): return g(x) + g(x)
def f():
    return g(1)
""",
    "deep source": "f = lambda: " + "(" * 5000 + "42" + ")" * 5000,
    "no end of minus signs": "f = lambda: " + "-" * 200_000 + "42",
    "a segmentation fault": "import ctypes\ndef f():\n    ctypes.string_at(0)",
    "abort": "import os\ndef f():\n    os.abort()",
    "a deep value": "def f():\n    x = []\n    for _ in range(100_000): x = [x]\n    return x",
    "a value with a circle": "def f():\n    x = []\n    x.append(x)\n    return x",
    "a huge value": "def f():\n    return 'x' * (1 << 28)",
    "an error without a text": """
class Bad(Exception):
    def __str__(self): raise SystemExit(0)
def f():
    raise Bad
""",
    "an error that stops tests": "def f():\n    raise KeyboardInterrupt",
    "no Python": "def f(: return 42",
    "null bytes": "def f():\n    return 42\x00",
    "surrogates": "def f(): return '\udc80'",
    "nothing": "",
}


def programs(**outside: object) -> dict[str, str]:
    """The programs, with what they try to reach."""
    result = dict(ESCAPES)
    for key, value in outside.items():
        result = {name: code.replace("{" + key + "}", str(value)) for name, code in result.items()}
    return result
