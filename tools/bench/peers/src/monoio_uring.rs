// SPDX-License-Identifier: MIT
//! monoio, a thread per core on io_uring.

use bytes::Bytes;
use monoio::io::{AsyncReadRentExt, AsyncWriteRentExt};
use monoio::net::{ListenerOpts, UnixListener, UnixStream};

use crate::load::{Conn, Task, drive, serve};
use crate::side::Side;

struct Stream {
    stream: UnixStream,
    head: Vec<u8>,
    body: Vec<u8>,
}

impl Stream {
    fn new(stream: UnixStream, size: usize) -> Stream {
        Stream { stream, head: vec![0; 4], body: vec![0; size] }
    }
}

impl Conn for Stream {
    async fn send(&mut self, word: u32, body: Bytes) {
        let head: &'static [u8] = if word == crate::side::PING { &[0, 0, 0, 1] } else { &[0, 0, 0, 2] };

        self.stream.write_all(head).await.0.expect("write");
        self.stream.write_all(body).await.0.expect("write");
    }

    async fn receive(&mut self, side: &Side, number: u32) -> Option<u32> {
        let (result, head) = self.stream.read_exact(std::mem::take(&mut self.head)).await;

        self.head = head;
        result.ok()?;
        let (result, body) = self.stream.read_exact(std::mem::take(&mut self.body)).await;

        self.body = body;
        result.expect("read");
        side.check_body(&self.body, number);
        Some(u32::from_be_bytes(self.head[..4].try_into().expect("four bytes")))
    }

    async fn finish(&mut self) {}
}

fn spawn(task: Task) {
    monoio::spawn(task);
}

async fn connect(address: String, size: usize) -> Stream {
    Stream::new(UnixStream::connect(&address).await.expect("connect"), size)
}

pub fn run(side: Side) {
    let (address, size) = (side.job.address.clone(), side.job.body());
    let mut runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
        .build()
        .expect("a runtime");

    runtime.block_on(async move {
        if !side.server {
            side.meet().await;
            drive(side, || connect(address.clone(), size), spawn).await;
            return;
        }
        let options = ListenerOpts::default().reuse_port(false);
        let listener = UnixListener::bind_with_config(&address, &options).expect("bind");
        side.meet().await;
        let accept = async || Stream::new(listener.accept().await.expect("accept").0, size);

        serve(side, accept, spawn, ()).await;
    });
}
