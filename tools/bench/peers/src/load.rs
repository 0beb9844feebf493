// SPDX-License-Identifier: MIT
//! The original's work, whatever the connections are: as many client tasks as there
//! are to be requests in flight, each with a connection, and a task for each on the
//! server; a request is a header and a body, and so is its response.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use tokio::sync::{Barrier, Notify};

use crate::side::{ORIGINAL, PING, PONG, Side, now_ns};

pub type Task = Pin<Box<dyn Future<Output = ()>>>;

/// One connection: header and body apart, as the original has it.
pub trait Conn {
    async fn send(&mut self, word: u32, body: bytes::Bytes);
    /// The header, after the body has been checked; None: the other side is gone.
    async fn receive(&mut self, side: &Side, number: u32) -> Option<u32>;
    async fn finish(&mut self);
}

async fn trip<C: Conn>(conn: &mut C, side: &Side, number: u32) {
    conn.send(PING, side.make_body(number)).await;
    let word = conn.receive(side, number).await;

    assert_eq!(word, Some(PONG), "a header that nobody sent");
}

async fn client_task<C: Conn>(mut conn: C, side: Rc<Side>, client: usize, gate: Rc<Barrier>) {
    let mut number = 0;

    for (phase, ops) in side.job.phases().into_iter().enumerate() {
        for _ in 0..side.job.share(ops, client) {
            let since = if phase == 2 { now_ns() } else { 0 };

            number += 1;
            trip(&mut conn, &side, number).await;
            if phase == 2 {
                side.probe(since);
            }
        }
        gate.wait().await;
        gate.wait().await;
    }
    conn.finish().await;
}

/// The client.  `connect` is called once for each task; what it returns runs in that.
pub async fn drive<C, F>(side: Side, connect: impl Fn() -> F, spawn: impl Fn(Task))
where
    C: Conn + 'static,
    F: Future<Output = C> + 'static,
{
    let side = Rc::new(side);
    let gate = Rc::new(Barrier::new(side.job.depth + 1));
    let phases = side.job.phases();

    if side.job.mode == ORIGINAL {
        side.begin();
    }
    for client in 0..side.job.depth {
        let (side, gate, connecting) = (side.clone(), gate.clone(), connect());

        spawn(Box::pin(async move {
            client_task(connecting.await, side, client, gate).await;
        }));
    }
    for phase in 0..phases.len() {
        gate.wait().await;
        if phase == side.job.timed() {
            side.end();
        }
        if phase + 1 < phases.len() {
            side.meet().await;
        }
        if phase + 1 == side.job.timed() {
            side.begin();
        }
        gate.wait().await;
    }
    side.meet().await;
}

/// Steps of the client of many channels: what is asked of which, and whose answer is
/// waited for; as in ../../many.h.
pub struct Steps {
    order: Vec<usize>,
    at: usize,
    asked: Vec<(usize, i64)>,
    number: Vec<(u32, u32)>,
}

impl Steps {
    pub fn new(side: &Side) -> Steps {
        Steps {
            order: side.order(),
            at: 0,
            asked: vec![(0, 0); side.job.depth],
            number: vec![(0, 0); side.job.size],
        }
    }

    /// Asks each channel once, before all else: a stream of shmipc is not there before.
    pub async fn greet<C: Conn>(&mut self, side: &Side, conns: &mut [C]) {
        for (conn, number) in conns.iter_mut().zip(&mut self.number) {
            number.0 += 1;
            conn.send(PING, side.make_body(number.0)).await;
        }
        for (conn, number) in conns.iter_mut().zip(&mut self.number) {
            number.1 += 1;
            assert_eq!(conn.receive(side, number.1).await, Some(PONG), "a header that nobody sent");
        }
    }

    /// The channel to ask, and the number of the request.
    pub fn ask(&mut self, i: u64, probe: bool) -> (usize, u32) {
        let place = i as usize % self.asked.len();
        let which = self.order[self.at];

        self.at = (self.at + 1) % self.order.len();
        self.asked[place] = (which, if probe { now_ns() } else { 0 });
        self.number[which].0 += 1;
        (which, self.number[which].0)
    }

    /// The channel that was asked longest ago, the number of its answer, and since when.
    pub fn oldest(&mut self, i: u64) -> (usize, u32, i64) {
        let (which, since) = self.asked[i as usize % self.asked.len()];

        self.number[which].1 += 1;
        (which, self.number[which].1, since)
    }
}

/// The client of many channels: one task, which has all the connections.
pub async fn drive_many<C, F>(side: Side, mut connect: impl FnMut(usize) -> F)
where
    C: Conn + 'static,
    F: Future<Output = C>,
{
    let mut conns = Vec::with_capacity(side.job.size);
    let depth = side.job.depth as u64;
    let mut steps = Steps::new(&side);

    for i in 0..side.job.size {
        conns.push(connect(i).await);
    }
    steps.greet(&side, &mut conns).await;
    for (phase, ops) in side.job.phases().into_iter().enumerate() {
        if phase == side.job.timed() {
            side.begin();
        }
        for i in 0..ops + depth {
            if i >= depth {
                let (which, number, since) = steps.oldest(i);
                let word = conns[which].receive(&side, number).await;

                assert_eq!(word, Some(PONG), "a header that nobody sent");
                if phase == 2 {
                    side.probe(since);
                }
            }
            if i < ops {
                let (which, number) = steps.ask(i, phase == 2);

                conns[which].send(PING, side.make_body(number)).await;
            }
        }
        if phase == side.job.timed() {
            side.end();
        }
        side.meet().await;
    }
    for conn in &mut conns {
        conn.finish().await;
    }
}

/// How many operations the server has answered, and up to where somebody waits.
struct Served {
    count: Cell<u64>,
    target: Cell<u64>,
    reached: Notify,
}

async fn server_task<C: Conn>(mut conn: C, side: Rc<Side>, served: Rc<Served>) {
    let mut number = 0;

    loop {
        number += 1;
        let Some(word) = conn.receive(&side, number).await else {
            break;
        };

        assert_eq!(word, PING, "a header that nobody sent");
        conn.send(PONG, side.make_body(number)).await;
        served.count.set(served.count.get() + 1);
        if served.count.get() == served.target.get() {
            served.reached.notify_one();
        }
    }
    conn.finish().await;
}

/// The server: `accept` gives one connection after the other.
pub async fn serve<C, L>(side: Side, mut accept: impl AsyncFnMut() -> C, spawn: impl Fn(Task), keep: L)
where
    C: Conn + 'static,
{
    let side = Rc::new(side);
    let phases = side.job.phases();
    let greetings = if side.job.many() { side.job.size as u64 } else { 0 };
    let served = Rc::new(Served {
        count: Cell::new(0),
        target: Cell::new(phases[0] + greetings),
        reached: Notify::new(),
    });

    for _ in 0..side.job.connections() {
        let conn = accept().await;

        spawn(Box::pin(server_task(conn, side.clone(), served.clone())));
    }
    for phase in 0..phases.len() {
        while served.count.get() < served.target.get() {
            served.reached.notified().await;
        }
        if phase == side.job.timed() {
            side.end();
        }
        if phase + 1 < phases.len() {
            served.target.set(served.target.get() + phases[phase + 1]);
            side.meet().await;
        }
        if phase + 1 == side.job.timed() {
            side.begin();
        }
    }
    side.meet().await;
    drop(keep);
}
