// SPDX-License-Identifier: MIT
//! tokio on one thread, which waits in epoll.  The client connects when the server
//! listens.

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{LocalSet, spawn_local};

use crate::load::{Conn, Task, drive, serve};
use crate::side::Side;

struct Stream {
    stream: UnixStream,
    body: Vec<u8>,
}

impl Conn for Stream {
    async fn send(&mut self, word: u32, body: Bytes) {
        self.stream.write_u32(word).await.expect("write");
        self.stream.write_all(&body).await.expect("write");
        self.stream.flush().await.expect("flush");
    }

    async fn receive(&mut self, side: &Side, number: u32) -> Option<u32> {
        let word = self.stream.read_u32().await.ok()?;

        self.stream.read_exact(&mut self.body).await.expect("read");
        side.check_body(&self.body, number);
        Some(word)
    }

    async fn finish(&mut self) {}
}

pub fn block_on<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");

    LocalSet::new().block_on(&runtime, future)
}

pub fn spawn(task: Task) {
    spawn_local(task);
}

async fn connect(address: String, size: usize) -> Stream {
    let stream = UnixStream::connect(&address).await.expect("connect");

    Stream { stream, body: vec![0; size] }
}

pub fn run(side: Side) {
    let (address, size) = (side.job.address.clone(), side.job.body());

    block_on(async move {
        if !side.server {
            side.meet().await;
            drive(side, || connect(address.clone(), size), spawn).await;
            return;
        }
        let listener = UnixListener::bind(&address).expect("bind");
        side.meet().await;
        let accept = async || Stream {
            stream: listener.accept().await.expect("accept").0,
            body: vec![0; size],
        };
        serve(side, accept, spawn, ()).await;
    });
}
