# Python with lupa: commands come over a connection.
import os
import socket
import sys

sys.setdlopenflags(sys.getdlopenflags() | os.RTLD_GLOBAL)
import lupa.luajit21 as lupa  # noqa: E402 after the flags

lua = lupa.LuaRuntime()
work = lua.eval("dofile(os.getenv 'LAW_WORK')")
with socket.create_connection(("127.0.0.1", int(os.environ["LAW_PORT"]))) as harness:
    for command in harness.makefile():
        work.run(command.strip())
        harness.sendall(b"done\n")
