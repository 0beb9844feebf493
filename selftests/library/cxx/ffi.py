# SPDX-License-Identifier: MIT
#
# Drives libevering-ffi.so with ctypes, and nothing else: what is inline in C, entries
# in place, a table of operations with callbacks, a buffer that is lent, messages and
# calls of 10 kB, and the end.
#
#	python3 ffi.py PATH/libevering-ffi.so
#
# Returns 0, or raises what is wrong.
import ctypes as c
import errno
import os
import sys
import threading

lib = c.CDLL(sys.argv[1])
POINTER = c.c_void_p


def function(name, result, *arguments):
    f = getattr(lib, "evering_" + name)
    f.restype = result
    f.argtypes = arguments
    return f


def same(got, want):
    if got != want:
        raise AssertionError(f"{got!r}, not {want!r}")


class Op(c.Structure):
    _fields_ = [("opcode", c.c_uint32), ("flags", c.c_uint32),
                ("data", POINTER), ("len", c.c_uint32),
                ("reserved", c.c_uint32), ("buf", POINTER),
                ("buf_len", c.c_uint64), ("timeout_ns", c.c_int64),
                ("done", POINTER), ("user", POINTER), ("ext", c.c_uint64)]


class Completion(c.Structure):
    _fields_ = [("id", c.c_uint64), ("user", POINTER), ("ext", c.c_uint64),
                ("result", c.c_int32), ("len", c.c_uint16),
                ("flags", c.c_uint16), ("data", POINTER), ("buf", POINTER),
                ("buf_len", c.c_uint64)]


class Request(c.Structure):
    _fields_ = [("id", c.c_uint64), ("opcode", c.c_uint32),
                ("flags", c.c_uint32), ("len", c.c_uint32),
                ("reserved", c.c_uint32), ("data", POINTER),
                ("buf", POINTER), ("buf_len", c.c_uint64)]


class Piece(c.Structure):
    _fields_ = [("base", POINTER), ("len", c.c_size_t)]


class Message(c.Structure):
    _fields_ = [("data", POINTER), ("len", c.c_uint64),
                ("place", c.c_uint32), ("reserved", c.c_uint32)]


Done = c.CFUNCTYPE(None, POINTER, c.POINTER(Completion))
LEND = 1
POST = 4
SECOND = 1000000000

pair = function("pair", c.c_int, POINTER, POINTER * 2)
close = function("close", None, POINTER)
payload = function("payload", c.c_size_t, POINTER)
send = function("send", c.c_int, POINTER, c.c_char_p, c.c_size_t, c.c_int64)
recv = function("recv", c.c_int, POINTER, POINTER, c.c_size_t, c.c_int64)
send_bulk = function("send_bulk", c.c_int, POINTER, c.c_char_p, c.c_size_t,
                     c.c_uint, c.c_int64)
recv_bulk = function("recv_bulk", c.c_int, POINTER, POINTER, c.c_size_t,
                     c.c_uint, c.c_int64)
reserve_at = function("reserve_at", POINTER, POINTER, c.c_uint32)
commit_many = function("commit_many", None, POINTER, c.c_uint32)
flush = function("flush", None, POINTER)
peek = function("peek", POINTER, POINTER)
release = function("release", None, POINTER)
alloc = function("alloc", POINTER, POINTER, c.c_size_t, c.c_size_t)
free = function("free", c.c_int, POINTER, POINTER)
ops_open = function("ops_open", c.c_int, POINTER, POINTER, c.POINTER(POINTER))
ops_close = function("ops_close", None, POINTER)
ops_endpoint = function("ops_endpoint", POINTER, POINTER)
ops_wait = function("ops_wait", c.c_int, POINTER, c.c_int64)
ops_poll = function("ops_poll", c.c_int, POINTER)
op_submit = function("op_submit", c.c_int, POINTER, c.POINTER(Op),
                     c.POINTER(c.c_uint64), c.c_int64)
op_next = function("op_next", c.c_int, POINTER, c.POINTER(Request), c.c_int64)
op_answer = function("op_answer", c.c_int, POINTER, c.c_uint64, c.c_int32,
                     c.c_char_p, c.c_uint32)
op_answerv = function("op_answerv", c.c_int, POINTER, c.c_uint64, c.c_int32,
                      c.POINTER(Piece), c.c_int, c.c_int64)
op_callv = function("op_callv", c.c_int, POINTER, c.c_uint32, c.POINTER(Piece),
                    c.c_int, c.POINTER(Piece), c.c_int, c.POINTER(Completion),
                    c.c_int64)
op_post = function("op_post", c.c_int, POINTER, c.POINTER(Op), c.c_int64)
request_bytes = function("request_bytes", POINTER, c.POINTER(Request),
                         c.POINTER(c.c_uint64))
msg_send = function("msg_send", c.c_int, POINTER, c.POINTER(Piece), c.c_int,
                    c.c_int64)
msg_recv = function("msg_recv", c.c_int, POINTER, c.POINTER(Message),
                    c.c_int64)
msg_free = function("msg_free", c.c_int, POINTER, c.POINTER(Message))


def pieces(*parts):
    """An iovec, which keeps its parts."""
    iov = (Piece * len(parts))(*[Piece(c.cast(p, POINTER), len(p))
                                 for p in parts])
    iov.parts = parts
    return iov


def rings(a, b):
    got = c.create_string_buffer(5)
    same(payload(a), 60)
    same(send(a, b"hello", 5, SECOND), 0)
    same(recv(b, got, 5, SECOND), 0)
    same(got.raw, b"hello")
    same(recv(b, got, 5, 0), -errno.EAGAIN)
    same(send(a, b"x" * 61, 61, 0), -errno.EMSGSIZE)

    many = c.create_string_buffer(40)
    same(send_bulk(b, b"0123456789" * 4, 10, 4, SECOND), 4)
    same(recv_bulk(a, many, 10, 4, SECOND), 4)
    same(many.raw, b"0123456789" * 4)

    for k in range(3):
        c.memmove(reserve_at(a, k), bytes([65 + k]) * 60, 60)
    commit_many(a, 3)
    flush(a)
    for k in range(3):
        same(c.string_at(peek(b), 60), bytes([65 + k]) * 60)
        release(b)
    same(peek(b), None)


def messages(asking, serving):
    """Of 10 kB in pieces, short, empty, and longer than the arena."""
    message, request = Message(), Request()
    for text in b"0123456789" * 1000, b"short", b"":
        same(msg_send(asking, pieces(text[:2], text[2:]), 2, SECOND), 0)
        same(msg_recv(serving, c.byref(message), SECOND), 0)
        same(c.string_at(message.data, message.len), text)
        same(msg_free(serving, c.byref(message)), 0)
        same(msg_free(serving, c.byref(message)), -errno.EINVAL)
    same(msg_recv(serving, c.byref(message), 0), -errno.EAGAIN)
    same(msg_send(asking, pieces(bytes(2 << 20)), 1, 0), -errno.EMSGSIZE)
    same(op_post(asking, c.byref(Op(opcode=7)), SECOND), 0)
    same(op_next(serving, c.byref(request), SECOND), 0)
    same((request.id, request.opcode, request.flags), (0, 7, POST))


def calls(asking, serving):
    """10 kB each way: this thread asks, and another one answers."""
    question, answer = b"question!!" * 1000, b"an answer." * 1000

    def serve():
        request, length = Request(), c.c_uint64()
        outcomes.append(op_next(serving, c.byref(request), 60 * SECOND))
        data = request_bytes(c.byref(request), c.byref(length))
        outcomes.append(c.string_at(data, length.value) == question)
        outcomes.append(op_answerv(serving, request.id, 3, pieces(answer), 1,
                                   SECOND))
        ops_poll(serving)

    outcomes = []
    thread = threading.Thread(target=serve)
    thread.start()
    room, completion = c.create_string_buffer(20000), Completion()
    same(op_callv(asking, 5, pieces(question), 1, pieces(room), 1,
                  c.byref(completion), 60 * SECOND), 0)
    thread.join()
    same(outcomes, [0, True, 0])
    same((completion.result, completion.buf_len), (3, len(answer)))
    same(room.raw[:len(answer)], answer)


def operations(a, b):
    asking, serving = POINTER(), POINTER()
    outcomes = []

    @Done
    def done(_, completion):
        it = completion.contents
        outcomes.append((it.ext, it.result, c.string_at(it.data, it.len)))

    same(ops_open(a, None, c.byref(asking)), 0)
    same(ops_open(b, None, c.byref(serving)), 0)
    same(ops_endpoint(asking), a)
    request, number = Request(), c.c_uint64()
    done_at = c.cast(done, POINTER).value
    for i in range(50):
        text = b"request %d" % i
        op = Op(opcode=i, data=c.cast(c.c_char_p(text), POINTER),
                len=len(text), done=done_at, ext=i)
        same(op_submit(asking, c.byref(op), c.byref(number), SECOND), 0)
        same(op_next(serving, c.byref(request), SECOND), 0)
        same(request.opcode, i)
        same(c.string_at(request.data, request.len), text)
        same(op_answer(serving, request.id, -i, text[::-1], len(text)), 0)
        same(ops_wait(asking, SECOND), 1)
        same(outcomes.pop(), (i, -i, text[::-1]))
    same(op_answer(serving, request.id, 0, None, 0), -errno.ESTALE)

    buf = alloc(a, 10000, 0)
    c.memset(buf, 77, 10000)
    op = Op(flags=LEND, buf=buf, buf_len=10000, done=done_at, ext=1)
    same(op_submit(asking, c.byref(op), None, SECOND), 0)
    same(free(a, buf), -errno.EBUSY)
    same(op_next(serving, c.byref(request), SECOND), 0)
    same(c.string_at(request.buf, request.buf_len), b"M" * 10000)
    same(op_answer(serving, request.id, 4, None, 0), 0)
    same(ops_wait(asking, SECOND), 1)
    same(outcomes.pop(), (1, 4, b""))
    same(free(a, buf), 0)

    messages(asking, serving)
    calls(asking, serving)

    # Whoever is in flight when the other side goes has its outcome.
    op = Op(done=done_at, ext=2)
    same(op_submit(asking, c.byref(op), None, SECOND), 0)
    ops_close(serving)
    close(b)
    while ops_poll(asking) >= 0:
        pass
    same(outcomes.pop()[:2], (2, -errno.EPIPE))
    ops_close(asking)
    close(a)


before = len(os.listdir("/proc/self/fd"))
ends = (POINTER * 2)()
same(pair(None, ends), 0)
rings(*ends)
operations(*ends)
same(len(os.listdir("/proc/self/fd")), before)
