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
    let served = Rc::new(Served {
        count: Cell::new(0),
        target: Cell::new(phases[0]),
        reached: Notify::new(),
    });

    for _ in 0..side.job.depth {
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
