// SPDX-License-Identifier: MIT
//! Counts the system calls of this program.  The functions of the C library that the
//! runtimes make them through are defined here, in the executable, so that the linker
//! takes these; each counts and makes the call.

use std::sync::atomic::{AtomicU64, Ordering};

static CALLS: AtomicU64 = AtomicU64::new(0);

/// All calls so far, or None where they are not counted.
pub fn count() -> Option<u64> {
    cfg!(target_arch = "x86_64").then(|| CALLS.load(Ordering::Relaxed))
}

#[cfg(target_arch = "x86_64")]
mod counted {
    use super::{CALLS, Ordering};
    use libc::{c_int, c_long, c_void, epoll_event, iovec, msghdr, size_t, ssize_t};

    /// As syscall(2): errno is set, and -1 returned.
    unsafe fn call(number: c_long, args: [usize; 6]) -> c_long {
        let mut result = number;

        CALLS.fetch_add(1, Ordering::Relaxed);
        unsafe {
            core::arch::asm!(
                "syscall",
                inlateout("rax") result,
                in("rdi") args[0],
                in("rsi") args[1],
                in("rdx") args[2],
                in("r10") args[3],
                in("r8") args[4],
                in("r9") args[5],
                lateout("rcx") _,
                lateout("r11") _,
                options(nostack),
            );
            if (-4095..0).contains(&result) {
                *libc::__errno_location() = -result as c_int;
                return -1;
            }
        }
        result
    }

    macro_rules! forward {
        ($name:ident, $number:ident, ($($arg:ident: $type:ty),*) -> $ret:ty) => {
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name($($arg: $type),*) -> $ret {
                let mut args = [0usize; 6];
                let mut at = 0;
                $(
                    args[at] = $arg as usize;
                    at += 1;
                )*
                let _ = at;
                unsafe { call(libc::$number, args) as $ret }
            }
        };
    }

    forward!(read, SYS_read, (fd: c_int, buf: *mut c_void, len: size_t) -> ssize_t);
    forward!(write, SYS_write, (fd: c_int, buf: *const c_void, len: size_t) -> ssize_t);
    forward!(readv, SYS_readv, (fd: c_int, iov: *const iovec, count: c_int) -> ssize_t);
    forward!(writev, SYS_writev, (fd: c_int, iov: *const iovec, count: c_int) -> ssize_t);
    forward!(recvmsg, SYS_recvmsg, (fd: c_int, msg: *mut msghdr, flags: c_int) -> ssize_t);
    forward!(sendmsg, SYS_sendmsg, (fd: c_int, msg: *const msghdr, flags: c_int) -> ssize_t);
    forward!(epoll_wait, SYS_epoll_wait,
        (fd: c_int, events: *mut epoll_event, most: c_int, timeout: c_int) -> c_int);

    #[unsafe(no_mangle)]
    unsafe extern "C" fn recv(fd: c_int, buf: *mut c_void, len: size_t, flags: c_int) -> ssize_t {
        unsafe { call(libc::SYS_recvfrom, [fd as usize, buf as usize, len, flags as usize, 0, 0]) as ssize_t }
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn send(fd: c_int, buf: *const c_void, len: size_t, flags: c_int) -> ssize_t {
        unsafe { call(libc::SYS_sendto, [fd as usize, buf as usize, len, flags as usize, 0, 0]) as ssize_t }
    }

    /// Variadic in C, but all arguments are in registers, and none that is not there
    /// means anything.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn syscall(
        number: c_long,
        a: usize,
        b: usize,
        c: usize,
        d: usize,
        e: usize,
        f: usize,
    ) -> c_long {
        unsafe { call(number, [a, b, c, d, e, f]) }
    }
}
