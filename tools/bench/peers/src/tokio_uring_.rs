// SPDX-License-Identifier: MIT
//! tokio-uring; headers are read into registered buffers, as the original does.
//! tokio's listener accepts: that of tokio-uring 0.5 asks for SO_REUSEPORT, which Linux
//! 6.13 and later refuse for Unix sockets.

use bytes::Bytes;
use tokio::net::UnixListener;
use tokio_uring::buf::fixed::{FixedBuf, FixedBufPool};
use tokio_uring::buf::{BoundedBuf, Slice};
use tokio_uring::net::UnixStream;

use crate::load::{Conn, Task, drive, serve};
use crate::side::Side;

type Pool = FixedBufPool<Vec<u8>>;

struct Stream {
    stream: UnixStream,
    head: Option<FixedBuf>,
    body: Vec<u8>,
}

impl Stream {
    async fn new(stream: UnixStream, pool: Pool, size: usize) -> Stream {
        Stream { stream, head: Some(pool.next(4).await), body: vec![0; size] }
    }

    /// None: the other side is gone.
    async fn read_head(&mut self) -> Option<u32> {
        let mut left: Slice<FixedBuf> = self.head.take()?.slice(..4);
        let mut bytes = 4;

        while bytes > 0 {
            let (result, slice) = self.stream.read_fixed(left).await;
            let n = result.ok().filter(|&n| n > 0)?;

            bytes -= n;
            left = if bytes > 0 { slice.slice(n..) } else { slice };
        }
        let head = left.into_inner();
        let word = u32::from_be_bytes(head[..4].try_into().expect("four bytes"));

        self.head = Some(head);
        Some(word)
    }

    async fn read_body(&mut self) {
        let mut bytes = self.body.len();
        let mut left = std::mem::take(&mut self.body).slice(..);

        while bytes > 0 {
            let (result, slice) = self.stream.read(left).await;
            let n = result.expect("read");

            assert!(n > 0, "the other side is gone");
            bytes -= n;
            left = if bytes > 0 { slice.slice(n..) } else { slice };
        }
        self.body = left.into_inner();
    }
}

impl Conn for Stream {
    async fn send(&mut self, word: u32, body: Bytes) {
        let head: &'static [u8] = if word == crate::side::PING { &[0, 0, 0, 1] } else { &[0, 0, 0, 2] };

        self.stream.write_all(head).await.0.expect("write");
        self.stream.write_all(body).await.0.expect("write");
    }

    async fn receive(&mut self, side: &Side, number: u32) -> Option<u32> {
        let word = self.read_head().await?;

        self.read_body().await;
        side.check_body(&self.body, number);
        Some(word)
    }

    async fn finish(&mut self) {}
}

fn spawn(task: Task) {
    tokio_uring::spawn(task);
}

async fn connect(address: String, pool: Pool, size: usize) -> Stream {
    let stream = UnixStream::connect(&address).await.expect("connect");

    Stream::new(stream, pool, size).await
}

pub fn run(side: Side) {
    let (address, size) = (side.job.address.clone(), side.job.body());
    let depth = side.job.depth;

    tokio_uring::start(async move {
        let pool = FixedBufPool::new((0..depth).map(|_| vec![0u8; 4]));

        pool.register().expect("registered buffers");
        if !side.server {
            side.meet().await;
            drive(side, || connect(address.clone(), pool.clone(), size), spawn).await;
            return;
        }
        let listener = UnixListener::bind(&address).expect("bind");

        side.meet().await;
        let accept = async || {
            let stream = listener.accept().await.expect("accept").0.into_std().expect("a socket");

            stream.set_nonblocking(false).expect("a blocking socket");
            Stream::new(UnixStream::from_std(stream), pool.clone(), size).await
        };

        serve(side, accept, spawn, ()).await;
    });
}
