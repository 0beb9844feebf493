// SPDX-License-Identifier: MIT
//! shmipc: one session, a stream for each task, configured as the original did; of many
//! channels a session for each, as clients of their own have it, with little memory.

use std::os::unix::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use shmipc::config::{Config, SizePercentPair};
use shmipc::consts::MemMapType;
use shmipc::session::{SessionManager, SessionManagerConfig};
use shmipc::stream::Stream;
use shmipc::transport::{DefaultUnixConnect, DefaultUnixListen};
use shmipc::{Error, Listener};

use crate::load::{Conn, drive, drive_many, serve};
use crate::side::{Job, Side};
use crate::tokio_epoll::{block_on, spawn};

const ATTEMPTS: u32 = 10;

fn write(stream: &mut Stream, mut data: &[u8]) {
    while !data.is_empty() {
        let n = stream.write_bytes(data).expect("write_bytes");

        data = &data[n..];
    }
}

impl Conn for Stream {
    async fn send(&mut self, word: u32, body: Bytes) {
        write(self, &word.to_be_bytes());
        write(self, &body);
        loop {
            match self.flush(false).await {
                Err(Error::QueueFull) => tokio::time::sleep(Duration::from_micros(1)).await,
                result => return result.expect("flush"),
            }
        }
    }

    async fn receive(&mut self, side: &Side, number: u32) -> Option<u32> {
        let word = u32::from_be_bytes((*self.read_bytes(4).await.ok()?).try_into().expect("four bytes"));
        let body = self.read_bytes(side.job.body()).await.expect("read_bytes");

        side.check_body(&body, number);
        drop(body);
        self.release_read_and_reuse();
        Some(word)
    }

    async fn finish(&mut self) {
        let _ = self.close().await;
    }
}

/// The memory and the slices of the original.
fn config(job: &Job) -> Config {
    let mut config = Config::new();

    config.mem_map_type = MemMapType::MemMapTypeMemFd;
    config.share_memory_buffer_cap = match job.size {
        0..0x10_0000 => 256 << 20,
        0x10_0000..0x40_0000 => 1 << 30,
        _ => 2 << 30,
    };
    config.share_memory_path_prefix = format!("{}-memory", job.address);
    config.queue_path = format!("{}-queue", job.address);
    config.buffer_slice_sizes = [(job.size as u32 + 1024, 70), ((16 << 10) + 1024, 20), ((64 << 10) + 1024, 10)]
        .map(|(size, percent)| SizePercentPair { size, percent })
        .to_vec();
    config.queue_cap = 65536;
    config.connection_write_timeout = Duration::from_secs(1);
    if job.many() {
        // The least that it takes.
        config.share_memory_buffer_cap = 1 << 20;
        config.buffer_slice_sizes = vec![SizePercentPair { size: 128, percent: 100 }];
        config.queue_cap = 64;
    }
    config
}

/// Now and then 0.1.1 garbles the last word of its handshake, which it writes through a
/// pointer to what is no longer there.  The listener takes the next attempt.
async fn session(config: SessionManagerConfig, address: SocketAddr) -> SessionManager<DefaultUnixConnect> {
    for _ in 1..ATTEMPTS {
        if let Ok(manager) = SessionManager::new(config.clone(), DefaultUnixConnect, address.clone()).await {
            return manager;
        }
    }
    SessionManager::new(config, DefaultUnixConnect, address).await.expect("a session")
}

fn config_of_many(job: &Job, which: usize) -> SessionManagerConfig {
    let mut config = config(job);

    config.share_memory_path_prefix = format!("{}-memory-{which}", job.address);
    config.queue_path = format!("{}-queue-{which}", job.address);
    SessionManagerConfig::new().with_config(config)
}

pub fn run(side: Side) {
    let address = SocketAddr::from_pathname(&side.job.address).expect("an address");
    let config = config(&side.job);

    block_on(async move {
        if side.server {
            let mut listener = Listener::new(DefaultUnixListen, address, config).await.expect("listen");

            side.meet().await;
            serve(side, async || listener.accept().await.expect("accept"), spawn, ()).await;
            return;
        }
        let config = SessionManagerConfig::new().with_config(config).with_session_num(1);

        side.meet().await;
        if side.job.many() {
            let mut managers = Vec::new();

            // Each has its memory under a name of its own.
            for i in 0..side.job.size {
                let own = config_of_many(&side.job, i).with_session_num(1);

                managers.push(session(own, address.clone()).await);
            }
            drive_many(side, |i| std::future::ready(managers[i].get_stream().expect("a stream"))).await;
            return;
        }
        let manager = session(config, address).await;
        let connect = || {
            let manager = manager.clone();

            async move { manager.get_stream().expect("a stream") }
        };
        drive(side, connect, spawn).await;
    });
}
