// SPDX-License-Identifier: MIT
//! Arms of evering bench in Rust: the systems that the original evering was compared
//! with, shmipc, tokio, tokio-uring and monoio, doing the original's work; and
//! iceoryx2.  ../../peer.c tells the protocol, ../../bench.h the modes.
//!
//! This process does nothing but take orders.  The two sides of a run are processes
//! that it forks, pinned to their CPUs, or threads of one such process where the mode
//! wants that.  It has no thread itself, so forking is safe.

mod calls;
mod iceoryx;
mod load;
mod many_iceoryx;
mod monoio_uring;
mod shm;
mod side;
mod tokio_epoll;
mod tokio_uring_;

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::FromRawFd;
use std::process::exit;

use side::{FAIR, Job, MANY_ONE, MESSAGE, MODES, ORIGINAL, REQUEST, RTT, STREAM, Shared, Side};

/// One way from one side to the other.
struct Arm {
    name: &'static str,
    /// By mode, but those of many.
    modes: [bool; MANY_ONE],
    many: bool,
    /// Spins; else it sleeps.
    busy: bool,
    run: fn(Side),
}

/// A request and its answer, in all the modes that have them.
const TRIPS: [bool; MANY_ONE] = [true, true, true, false, false, true];

const ARMS: [Arm; 5] = [
    Arm { name: "shmipc", modes: TRIPS, many: true, busy: false, run: shm::run },
    Arm { name: "tokio", modes: TRIPS, many: true, busy: false, run: tokio_epoll::run },
    Arm { name: "tokio-uring", modes: TRIPS, many: false, busy: false, run: tokio_uring_::run },
    Arm { name: "monoio", modes: TRIPS, many: false, busy: false, run: monoio_uring::run },
    Arm { name: "iceoryx2", modes: [true; MANY_ONE], many: true, busy: true, run: iceoryx::run },
];

impl Arm {
    fn has(&self, mode: usize) -> bool {
        if mode < MANY_ONE { self.modes[mode] } else { self.many && mode < MODES }
    }
}

fn introduce(arm: &Arm, out: &mut impl Write) -> std::io::Result<()> {
    let policy = if arm.busy { 1 << 2 } else { 1 << 1 };
    let mask = |mode: usize| if arm.has(mode) { policy } else { 0 };

    writeln!(
        out,
        "arm {} 0 {} {} {} {} {} {} {}",
        arm.name,
        mask(ORIGINAL),
        mask(FAIR),
        mask(RTT),
        mask(STREAM),
        mask(MESSAGE),
        mask(REQUEST),
        // Whoever spins elsewhere sleeps there.
        if arm.many { 1 << 1 } else { 0 }
    )
}

/// A side as a process; its pid.
fn start(arm: &Arm, job: &Job, shared: &'static Shared, server: bool) -> libc::pid_t {
    let parent = unsafe { libc::getpid() };
    let pid = unsafe { libc::fork() };

    if pid != 0 {
        return pid;
    }
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        if libc::getppid() != parent {
            libc::_exit(1);
        }
    }
    side::report_panics(shared);
    if job.mode == ORIGINAL {
        run_threads(arm, job, shared);
    } else {
        run_side(arm, job, shared, server);
    }
    unsafe { libc::_exit(0) }
}

fn run_side(arm: &Arm, job: &Job, shared: &'static Shared, server: bool) {
    side::pin(job.cpu[server as usize]);
    (arm.run)(Side::new(job.clone(), shared, server));
}

fn run_threads(arm: &Arm, job: &Job, shared: &'static Shared) {
    std::thread::scope(|scope| {
        scope.spawn(|| run_side(arm, job, shared, true));
        scope.spawn(|| run_side(arm, job, shared, false));
    });
}

/// Waits for all of them; when one fails the others are ended.
fn reap(mut pids: Vec<libc::pid_t>) -> bool {
    let mut well = true;

    while !pids.is_empty() {
        let mut status = 0;
        let pid = unsafe { libc::waitpid(-1, &mut status, 0) };

        pids.retain(|&other| other != pid);
        if status != 0 && well {
            well = false;
            for &other in &pids {
                unsafe { libc::kill(other, libc::SIGKILL) };
            }
        }
    }
    well
}

fn run(arm: &Arm, job: &Job, shared: &'static Shared, out: &mut impl Write) -> std::io::Result<()> {
    shared.reset();
    let pids = if job.mode == ORIGINAL {
        vec![start(arm, job, shared, false)]
    } else {
        vec![start(arm, job, shared, true), start(arm, job, shared, false)]
    };
    let well = reap(pids);

    let _ = std::fs::remove_file(&job.address);
    if well {
        shared.print(job, out)
    } else {
        writeln!(out, "error {}", shared.error())
    }
}

fn obey(line: &str, number: u64, shared: &'static Shared, out: &mut impl Write) -> std::io::Result<()> {
    let order: Option<(&str, Job)> = Job::parse(line, number);
    let found = order
        .as_ref()
        .and_then(|(name, job)| ARMS.iter().find(|a| a.name == *name && a.has(job.mode)));

    match (found, &order) {
        (Some(arm), Some((_, job))) => run(arm, job, shared, out),
        _ => writeln!(out, "error not understood"),
    }
}

fn main() -> std::io::Result<()> {
    let fd: Option<i32> = std::env::args().nth(1).and_then(|a| a.parse().ok());
    let Some(fd) = fd else {
        eprintln!("rust-peers: for evering bench to start");
        exit(2);
    };
    let mut out = unsafe { File::from_raw_fd(fd) };
    let orders = BufReader::new(out.try_clone()?);
    let shared = Shared::map();

    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    for arm in &ARMS {
        introduce(arm, &mut out)?;
    }
    writeln!(out, "ready")?;
    for (number, line) in orders.lines().enumerate() {
        let mut answer = Vec::new();

        obey(&line?, number as u64, shared, &mut answer)?;
        out.write_all(&answer)?;
    }
    Ok(())
}
