// SPDX-License-Identifier: MIT
//! iceoryx2: a publisher and a subscriber in each direction, without a daemon.  The
//! subscribers poll.  A request is a sample of a header and a body, loaned, written
//! in place, and read in place; there is no way to send a sample again, so the
//! original mode writes every request, too.

use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::port::update_connections::UpdateConnections;
use iceoryx2::prelude::*;
use iceoryx2::service::port_factory::publish_subscribe::PortFactory;

use crate::many_iceoryx;
use crate::side::{PING, PONG, RTT, Side, now_ns};

/// The header: PING or PONG, and the logical client.
const HEAD: usize = 8;
/// What may be in flight.
const SAMPLES: usize = 256;

type Service = PortFactory<ipc::Service, [u8], ()>;

struct Channel {
    out: Publisher<ipc::Service, [u8], ()>,
    incoming: Subscriber<ipc::Service, [u8], ()>,
}

fn open(node: &Node<ipc::Service>, name: &str) -> Service {
    node.service_builder(&ServiceName::new(name).expect("a name"))
        .publish_subscribe::<[u8]>()
        .enable_safe_overflow(false)
        .history_size(0)
        .subscriber_max_buffer_size(SAMPLES)
        .subscriber_max_borrowed_samples(2)
        .max_publishers(1)
        .max_subscribers(1)
        .open_or_create()
        .expect("a service")
}

fn channel(node: &Node<ipc::Service>, side: &Side) -> Channel {
    let there = open(node, &format!("{}/there", side.job.address));
    let back = open(node, &format!("{}/back", side.job.address));
    let (out, incoming) = if side.server { (back, there) } else { (there, back) };
    let channel = Channel {
        incoming: incoming.subscriber_builder().create().expect("a subscriber"),
        out: out
            .publisher_builder()
            .initial_max_slice_len(HEAD + side.job.body())
            .max_loaned_samples(2)
            .create()
            .expect("a publisher"),
    };

    // What is sent before the other side has subscribed is lost; and so, however long
    // it may be tried to deliver, is what finds a full buffer before that side has
    // connected, which it does by itself only when it first receives.
    side.meet_blocking();
    channel.out.update_connections().expect("connections");
    channel.incoming.update_connections().expect("connections");
    side.meet_blocking();
    channel
}

impl Channel {
    fn send(&self, side: &Side, word: u32, client: u32, number: u32) {
        let mut sample = self.out.loan_slice_uninit(HEAD + side.job.body()).expect("a loan");
        // The memory is initialized: bytes of earlier samples, or zeroes.
        let at = sample.payload_mut();
        let bytes = unsafe { std::slice::from_raw_parts_mut(at.as_mut_ptr().cast::<u8>(), at.len()) };

        bytes[..4].copy_from_slice(&word.to_be_bytes());
        bytes[4..HEAD].copy_from_slice(&client.to_ne_bytes());
        if side.job.mode < RTT || bytes.len() > HEAD + 256 {
            bytes[HEAD..].copy_from_slice(side.source());
        }
        if side.job.mode >= RTT {
            side.write_message(&mut bytes[HEAD..], number);
        }
        unsafe { sample.assume_init() }.send().expect("send");
    }

    /// The client that it is for, after the body has been checked.
    fn receive(&self, side: &Side, want: u32, number: u32) -> u32 {
        let sample = loop {
            if let Some(sample) = self.incoming.receive().expect("receive") {
                break sample;
            }
            std::hint::spin_loop();
        };
        let word = u32::from_be_bytes(sample[..4].try_into().expect("four bytes"));

        assert_eq!(word, want, "a header that nobody sent");
        side.check_body(&sample[HEAD..], number);
        u32::from_ne_bytes(sample[4..HEAD].try_into().expect("four bytes"))
    }
}

fn load(channel: &Channel, side: &Side, ops: u64) {
    let mut left: Vec<u64> = (0..side.job.depth).map(|i| side.job.share(ops, i)).collect();
    let mut in_flight = 0;

    for (client, _) in left.iter().enumerate().filter(|(_, left)| **left > 0) {
        channel.send(side, PING, client as u32, 0);
        in_flight += 1;
    }
    while in_flight > 0 {
        let client = channel.receive(side, PONG, 0) as usize;

        left[client] -= 1;
        if left[client] > 0 {
            channel.send(side, PING, client as u32, 0);
        } else {
            in_flight -= 1;
        }
    }
}

fn answer(channel: &Channel, side: &Side, ops: u64) {
    for _ in 0..ops {
        let client = channel.receive(side, PING, 0);

        channel.send(side, PONG, client, 0);
    }
}

fn numbered(channel: &Channel, side: &Side, ops: u64, first: u32, probe: bool) {
    for i in 0..ops {
        let number = first + i as u32;
        let since = if probe { now_ns() } else { 0 };

        if !side.server {
            channel.send(side, PING, 0, number);
        } else {
            channel.receive(side, PING, number);
        }
        if side.job.one_way() {
            continue;
        }
        if side.server {
            channel.send(side, PONG, 0, number);
        } else {
            channel.receive(side, PONG, number);
        }
        if probe {
            side.probe(since);
        }
    }
}

pub fn run(side: Side) {
    set_log_level(LogLevel::Fatal);
    if side.job.many() {
        many_iceoryx::run(side);
        return;
    }
    let node = NodeBuilder::new().create::<ipc::Service>().expect("a node");
    let channel = channel(&node, &side);
    let mut number = 0;

    for (phase, ops) in side.job.phases().into_iter().enumerate() {
        if phase > 0 {
            side.meet_blocking();
        }
        if phase == side.job.timed() {
            side.begin();
        }
        match (side.job.mode >= RTT, side.server) {
            (true, _) => numbered(&channel, &side, ops, number, phase == 2 && !side.server),
            (false, true) => answer(&channel, &side, ops),
            (false, false) => load(&channel, &side, ops),
        }
        number += ops as u32;
        if phase == side.job.timed() {
            side.end();
        }
    }
    side.meet_blocking();
}
