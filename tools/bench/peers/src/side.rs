// SPDX-License-Identifier: MIT
//! One side of a run: what it is to do, what it checks, and where it leaves its
//! figures.  The same as in ../../bench.h and ../../run.c.

use std::cell::Cell;
use std::future::Future;
use std::io::Write;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};

use crate::calls;

pub const ORIGINAL: usize = 0;
pub const FAIR: usize = 1;
pub const RTT: usize = 2;
pub const STREAM: usize = 3;
pub const MESSAGE: usize = 4;
pub const REQUEST: usize = 5;
pub const MANY_ONE: usize = 6;
pub const MANY_SOME: usize = 7;
pub const MANY_ALL: usize = 8;
pub const MANY_ZIPF: usize = 9;
pub const MODES: usize = 10;
const NAMES: [&str; MODES] = [
    "original", "fair", "rtt", "stream", "message", "request", "many-one", "many-64", "many-all", "many-zipf",
];

/// As ../../many.h and many.c have them.
const MANY_MESSAGE: usize = 60;
const DRAWS: usize = 65536;
const ZIPF_POWER: f64 = 0.99;

pub const PING: u32 = 1;
pub const PONG: u32 = 2;

/// Up to this the size is a slot's, and its last four bytes are not the message's.
const SLOT_MAX: usize = 256;

const HIST_BITS: u32 = 6;
const HIST_BUCKETS: usize = (64 - HIST_BITS as usize + 1) << HIST_BITS;

#[derive(Clone)]
pub struct Job {
    pub mode: usize,
    pub size: usize,
    pub depth: usize,
    pub ops: u64,
    pub warm: u64,
    pub probes: u64,
    pub seed: u64,
    pub cpu: [usize; 2],
    /// A path that nobody else has: of a socket, or a name for anything.
    pub address: String,
}

impl Job {
    /// "run NAME MODE SIZE POLICY DEPTH OPS WARM PROBES SEED CPU CPU"
    pub fn parse(line: &str, number: u64) -> Option<(&str, Job)> {
        let words: Vec<&str> = line.split(' ').collect();
        let n = |i: usize| words.get(i)?.parse::<u64>().ok();

        if words.len() != 12 || words[0] != "run" {
            return None;
        }
        let address = std::env::temp_dir().join(format!("evering-bench-{}-{number}", std::process::id()));
        let job = Job {
            mode: NAMES.iter().position(|name| words[2] == *name)?,
            size: n(3)? as usize,
            depth: n(5)? as usize,
            ops: n(6)?,
            warm: n(7)?,
            probes: n(8)?,
            seed: n(9)?,
            cpu: [n(10)? as usize, n(11)? as usize],
            address: address.to_str()?.to_string(),
        };
        (job.depth > 0 && (job.size >= 4 || job.many())).then_some((words[1], job))
    }

    /// Messages of exactly the size, every byte of which is read.
    pub fn whole(&self) -> bool {
        self.mode == MESSAGE || self.mode == REQUEST
    }

    /// Many channels: as many as the size.
    pub fn many(&self) -> bool {
        self.mode >= MANY_ONE
    }

    /// Connections of original's kind of load.
    pub fn connections(&self) -> usize {
        if self.many() { self.size } else { self.depth }
    }

    /// One way.
    pub fn one_way(&self) -> bool {
        self.mode == STREAM || self.mode == MESSAGE
    }

    /// Bytes of a body.
    pub fn body(&self) -> usize {
        if self.many() {
            return MANY_MESSAGE;
        }
        if self.mode >= RTT && self.size <= SLOT_MAX && !self.whole() { self.size - 4 } else { self.size }
    }

    /// How many of `ops` a logical client has.
    pub fn share(&self, ops: u64, client: usize) -> u64 {
        let depth = self.depth as u64;

        ops / depth + u64::from((client as u64) < ops % depth)
    }

    /// Operations between two meetings: warming up, what is timed, and probes.
    pub fn phases(&self) -> Vec<u64> {
        match self.mode {
            ORIGINAL => vec![self.ops],
            _ if self.probes > 0 => vec![self.warm, self.ops, self.probes],
            _ => vec![self.warm, self.ops],
        }
    }

    /// Which of the phases is timed.
    pub fn timed(&self) -> usize {
        usize::from(self.mode != ORIGINAL)
    }
}

#[derive(Default)]
struct Figures {
    begin_ns: AtomicI64,
    end_ns: AtomicI64,
    cpu_ns: AtomicI64,
    calls: AtomicI64,
    done: AtomicU64,
}

/// In memory that both sides and their parent share.
pub struct Shared {
    met: AtomicU32,
    side: [Figures; 2],
    max: AtomicU64,
    hist: [AtomicU64; HIST_BUCKETS],
    error_len: AtomicU32,
    error: [AtomicU32; 120],
}

fn clock(id: libc::clockid_t) -> i64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };

    unsafe { libc::clock_gettime(id, &mut now) };
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

pub fn now_ns() -> i64 {
    clock(libc::CLOCK_MONOTONIC)
}

/// The bucket of a value, as ../../../hist.h has it.
fn bucket(value: u64) -> usize {
    if value < 1 << HIST_BITS {
        return value as usize;
    }
    let shift = 63 - HIST_BITS - value.leading_zeros();

    ((shift as usize) << HIST_BITS) + (value >> shift) as usize
}

impl Shared {
    pub fn map() -> &'static Shared {
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<Shared>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };

        assert_ne!(memory, libc::MAP_FAILED, "no memory");
        // All of it may be zero.
        unsafe { &*memory.cast() }
    }

    pub fn reset(&self) {
        self.met.store(0, SeqCst);
        self.max.store(0, SeqCst);
        self.error_len.store(0, SeqCst);
        for f in &self.side {
            f.begin_ns.store(0, SeqCst);
            f.end_ns.store(0, SeqCst);
            f.cpu_ns.store(0, SeqCst);
            f.calls.store(0, SeqCst);
            f.done.store(0, SeqCst);
        }
        for count in &self.hist {
            count.store(0, SeqCst);
        }
    }

    pub fn begin(&self, side: usize) {
        let f = &self.side[side];

        f.calls.store(-(calls::count().unwrap_or(0) as i64), SeqCst);
        f.cpu_ns.store(-clock(libc::CLOCK_PROCESS_CPUTIME_ID), SeqCst);
        f.begin_ns.store(now_ns(), SeqCst);
    }

    pub fn end(&self, side: usize) {
        let f = &self.side[side];

        f.end_ns.store(now_ns(), SeqCst);
        f.cpu_ns.fetch_add(clock(libc::CLOCK_PROCESS_CPUTIME_ID), SeqCst);
        f.calls.fetch_add(calls::count().unwrap_or(0) as i64, SeqCst);
    }

    fn fail(&self, text: &str) {
        for (i, c) in text.chars().take(self.error.len()).enumerate() {
            self.error[i].store(c as u32, SeqCst);
            self.error_len.store(i as u32 + 1, SeqCst);
        }
    }

    pub fn error(&self) -> String {
        let len = self.error_len.load(SeqCst) as usize;
        let text: String = self.error[..len]
            .iter()
            .filter_map(|c| char::from_u32(c.load(SeqCst)))
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();

        if len == 0 { "died without a word".into() } else { text }
    }

    pub fn print(&self, job: &Job, out: &mut impl Write) -> std::io::Result<()> {
        let [client, server] = &self.side;
        let last = if job.one_way() { server } else { client };
        let calls = if calls::count().is_some() {
            client.calls.load(SeqCst) + server.calls.load(SeqCst)
        } else {
            -1
        };
        let done = if job.one_way() { job.ops } else { client.done.load(SeqCst) };

        write!(
            out,
            "done {} {} {} {} {} {}",
            last.end_ns.load(SeqCst) - client.begin_ns.load(SeqCst),
            client.cpu_ns.load(SeqCst) + server.cpu_ns.load(SeqCst),
            done,
            server.done.load(SeqCst),
            calls,
            self.max.load(SeqCst)
        )?;
        for (i, count) in self.hist.iter().enumerate() {
            let count = count.load(SeqCst);

            if count > 0 {
                write!(out, " {i}:{count}")?;
            }
        }
        writeln!(out)
    }
}

/// A panic ends the process, having said why where the parent reads it.
pub fn report_panics(shared: &'static Shared) {
    std::panic::set_hook(Box::new(move |info| {
        let text = info
            .payload()
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| info.payload().downcast_ref::<&str>().copied())
            .unwrap_or("panic");

        shared.fail(text);
        unsafe { libc::_exit(1) }
    }));
}

#[inline(always)]
fn sum(body: &[u8]) -> u32 {
    body.chunks_exact(4)
        .fold(0u32, |sum, at| sum.wrapping_add(u32::from_ne_bytes(at.try_into().expect("four bytes"))))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2(body: &[u8]) -> u32 {
    sum(body)
}

/// As ../../sum.c: with what the CPU has.
fn sum_words(body: &[u8]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        return unsafe { sum_avx2(body) };
    }
    sum(body)
}

pub fn pin(cpu: usize) {
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();

        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set);
    }
}

pub struct Side {
    pub job: Job,
    pub server: bool,
    shared: &'static Shared,
    source: Bytes,
    /// The last of make_body().
    kept: Cell<Bytes>,
    random: Cell<u64>,
    done: Cell<u64>,
}

impl Side {
    pub fn new(job: Job, shared: &'static Shared, server: bool) -> Side {
        let source = vec![if server { b'R' } else { b'S' }; job.body()];

        Side {
            random: Cell::new(job.seed.wrapping_mul(2) + u64::from(server)),
            source: source.into(),
            kept: Cell::default(),
            done: Cell::new(0),
            job,
            server,
            shared,
        }
    }

    /// What is sent: original and fair have the same bytes each time, shared; others
    /// have them written, and whole messages in the memory of the last one, so that
    /// nothing is copied but what is sent.
    pub fn make_body(&self, number: u32) -> Bytes {
        if self.job.mode < RTT {
            return self.source.clone();
        }
        let kept = if self.job.whole() { self.kept.take() } else { Bytes::new() };
        let mut body = match kept.try_into_mut() {
            Ok(body) if !body.is_empty() => body,
            _ => BytesMut::from(&self.source[..]),
        };

        self.write_message(&mut body, number);
        let body = body.freeze();
        if self.job.whole() {
            self.kept.set(body.clone());
        }
        body
    }

    pub fn source(&self) -> &[u8] {
        &self.source
    }

    /// Each word of a short message is its number, the first and the last of a long.
    pub fn write_message(&self, body: &mut [u8], number: u32) {
        let word = number.to_ne_bytes();
        let last = body.len() - 4;

        if body.len() <= SLOT_MAX {
            body.chunks_exact_mut(4).for_each(|at| at.copy_from_slice(&word));
        } else {
            body[..4].copy_from_slice(&word);
            body[last..].copy_from_slice(&word);
        }
    }

    /// wyrand, as the fastrand crate has it.
    fn draw(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x2d35_8dcc_aa6c_78a5);
        let product = u128::from(state) * u128::from(state ^ 0x8bb8_4b93_962e_acc9);

        self.random.set(state);
        (product as u64) ^ ((product >> 64) as u64)
    }

    pub fn draw_below(&self, n: u64) -> usize {
        loop {
            let product = u128::from(self.draw()) * u128::from(n);

            if product as u64 >= n || product as u64 >= n.wrapping_neg() % n {
                return (product >> 64) as usize;
            }
        }
    }

    /// The client's order of channels, of the modes of many.
    pub fn order(&self) -> Vec<usize> {
        let n = self.job.size;
        let mut all: Vec<usize> = Vec::with_capacity(n);

        for i in 0..n {
            let at = self.draw_below(i as u64 + 1);

            all.push(i);
            all.swap(i, at);
        }
        match self.job.mode {
            MANY_ONE => (0..DRAWS).map(|_| self.draw_below(n as u64)).collect(),
            MANY_SOME => all[..self.job.depth].to_vec(),
            MANY_ALL => all,
            _ => {
                let mut sum = 0.0;
                let sums: Vec<f64> = (1..=n)
                    .map(|k| {
                        sum += (k as f64).powf(-ZIPF_POWER);
                        sum
                    })
                    .collect();

                (0..DRAWS)
                    .map(|_| {
                        let at = (self.draw() >> 11) as f64 / (1u64 << 53) as f64 * sum;

                        all[sums.partition_point(|&s| s < at).min(n - 1)]
                    })
                    .collect()
            }
        }
    }

    /// Every byte, as ../../message.h has it.
    fn read_message(&self, body: &[u8], number: u32) {
        let fill = u32::from_ne_bytes([if self.server { b'S' } else { b'R' }; 4]);
        let words = (body.len() / 4) as u32;
        let want = if body.len() <= SLOT_MAX {
            words.wrapping_mul(number)
        } else {
            number.wrapping_mul(2).wrapping_add((words - 2).wrapping_mul(fill))
        };

        assert!(sum_words(body) == want, "message {number} is not what was sent");
    }

    pub fn check_body(&self, body: &[u8], number: u32) {
        assert_eq!(body.len(), self.job.body(), "a body of another length");
        if self.job.whole() {
            self.read_message(body, number);
        } else if self.job.mode < RTT {
            let want = if self.server { b'S' } else { b'R' };

            for _ in 0..body.len().min(32) {
                let byte = std::hint::black_box(body[self.draw_below(body.len() as u64)]);
                assert_eq!(byte, want, "a byte of the payload is wrong");
            }
        } else {
            let word = number.to_ne_bytes();
            let right = if body.len() <= SLOT_MAX {
                body.chunks_exact(4).fold(true, |right, at| right & (at == word))
            } else {
                body[..4] == word && body[body.len() - 4..] == word
            };
            assert!(right, "message {number} is not what was sent");
        }
        self.done.set(self.done.get() + 1);
    }

    /// The clocks; in original the client's are those of both, being of one process.
    pub fn begin(&self) {
        self.done.set(0);
        if self.job.mode != ORIGINAL || !self.server {
            self.shared.begin(usize::from(self.server));
        }
    }

    pub fn end(&self) {
        if self.job.mode != ORIGINAL || !self.server {
            self.shared.end(usize::from(self.server));
        }
        self.shared.side[usize::from(self.server)].done.store(self.done.get(), SeqCst);
    }

    pub fn probe(&self, since: i64) {
        let ns = (now_ns() - since) as u64;

        self.shared.max.fetch_max(ns, SeqCst);
        self.shared.hist[bucket(ns)].fetch_add(1, SeqCst);
    }

    /// Comes to a meeting; what to give to `all_here` then.
    fn arrive(&self) -> u32 {
        self.shared.met.fetch_add(1, SeqCst) | 1
    }

    fn all_here(&self, meeting: u32) -> bool {
        self.shared.met.load(SeqCst) > meeting
    }

    /// Both sides come here before either goes on.
    pub fn meet_blocking(&self) {
        let meeting = self.arrive();

        while !self.all_here(meeting) {
            std::thread::yield_now();
        }
    }

    /// The same, while the runtime's other tasks go on.
    pub async fn meet(&self) {
        let meeting = self.arrive();

        while !self.all_here(meeting) {
            Yield(false).await;
        }
    }
}

struct Yield(bool);

impl Future for Yield {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.0 {
            return Poll::Ready(());
        }
        self.0 = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}
