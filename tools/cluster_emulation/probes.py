"""What --check runs inside the nodes: probes.py serve ADDRESS | measure ADDRESS WARM_UP_S | spin ROUNDS AT"""
import contextlib
import socket
import statistics
import sys
import time

PORT = 5001


def serve(address):
    """The first byte of a connection asks for an echo of all that follows or for bytes without end."""
    with socket.create_server((address, PORT)) as server:
        print("ready", flush=True)
        while True:
            connection = server.accept()[0]
            with connection, contextlib.suppress(ConnectionError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if connection.recv(1) == b"e":
                    while data := connection.recv(64):
                        connection.sendall(data)
                else:
                    while True:
                        connection.sendall(bytes(1 << 18))


def measure(address, warm_up_s):
    """Prints Mbit/s of TCP payload from `address` to here, and the median round trip in microseconds."""
    times = []
    with socket.create_connection((address, PORT), timeout=20) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(b"e")
        for _ in range(200):
            begin = time.monotonic()
            connection.sendall(b"x")
            connection.recv(1)
            times.append(time.monotonic() - begin)
    with socket.create_connection((address, PORT), timeout=20) as connection:
        connection.sendall(b"r")
        begin = time.monotonic() + warm_up_s  # the full buckets at the start would count as speed
        while time.monotonic() < begin:
            connection.recv(1 << 18)
        num_bytes, begin = 0, time.monotonic()
        while time.monotonic() < begin + 1:
            num_bytes += len(connection.recv(1 << 18))
        seconds = time.monotonic() - begin
    print(num_bytes * 8e-6 / seconds, statistics.median(times[20:]) * 1e6)


def spin(num_rounds):
    for _ in range(num_rounds):
        pass


def spin_at(num_rounds, at):
    """Prints wall and CPU seconds of a busy loop that begins at a time of the monotonic clock."""
    time.sleep(max(0.0, at - time.monotonic()))
    begin, begin_cpu = time.monotonic(), time.process_time()
    spin(num_rounds)
    print(time.monotonic() - begin, time.process_time() - begin_cpu)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    elif sys.argv[1] == "measure":
        measure(sys.argv[2], float(sys.argv[3]))
    else:
        spin_at(int(sys.argv[2]), float(sys.argv[3]))
