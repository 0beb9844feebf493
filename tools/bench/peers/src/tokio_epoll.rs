// SPDX-License-Identifier: MIT
//! tokio on one thread, which waits in epoll.  The client connects when the server
//! listens.

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{LocalSet, spawn_local};

use crate::load::{Conn, Task, drive, drive_many, serve};
use crate::side::Side;

struct Stream {
    stream: UnixStream,
    body: Vec<u8>,
    /// Of many channels: header and body in one call.
    whole: bool,
}

impl Conn for Stream {
    async fn send(&mut self, word: u32, body: Bytes) {
        if self.whole {
            let mut frame = [0; 64];

            frame[..4].copy_from_slice(&word.to_be_bytes());
            frame[4..].copy_from_slice(&body);
            self.stream.write_all(&frame).await.expect("write");
            return;
        }
        self.stream.write_u32(word).await.expect("write");
        self.stream.write_all(&body).await.expect("write");
        self.stream.flush().await.expect("flush");
    }

    async fn receive(&mut self, side: &Side, number: u32) -> Option<u32> {
        if self.whole {
            let mut frame = [0; 64];

            self.stream.read_exact(&mut frame).await.ok()?;
            side.check_body(&frame[4..], number);
            return Some(u32::from_be_bytes(frame[..4].try_into().expect("four bytes")));
        }
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

async fn connect(address: String, size: usize, whole: bool) -> Stream {
    loop {
        match UnixStream::connect(&address).await {
            Ok(stream) => return Stream { stream, body: vec![0; size], whole },
            // More at once than the server has accepted.
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => tokio::task::yield_now().await,
            Err(e) => panic!("connect: {e}"),
        }
    }
}

pub fn run(side: Side) {
    let (address, size, many) = (side.job.address.clone(), side.job.body(), side.job.many());

    block_on(async move {
        if !side.server {
            side.meet().await;
            if many {
                drive_many(side, |_| connect(address.clone(), size, true)).await;
            } else {
                drive(side, || connect(address.clone(), size, false), spawn).await;
            }
            return;
        }
        let listener = UnixListener::bind(&address).expect("bind");
        side.meet().await;
        let accept = async || Stream {
            stream: listener.accept().await.expect("accept").0,
            body: vec![0; size],
            whole: many,
        };
        serve(side, accept, spawn, ()).await;
    });
}
