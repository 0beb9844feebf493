// SPDX-License-Identifier: MIT
//! iceoryx2, many channels: of each a publisher, a subscriber and an event in each
//! direction.  The server has the listeners of all in a WaitSet; the client waits in the
//! listener of the one channel whose answer it wants.

use std::collections::BTreeMap;

use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::port::update_connections::UpdateConnections;
use iceoryx2::prelude::*;
use iceoryx2::waitset::{WaitSetAttachmentId, WaitSetBuilder};

use crate::load::Steps;
use crate::side::Side;

/// Setting up takes some 20 ms for each, and longer the more there are.
const MOST: usize = 200;
/// Of a channel, on their way.
const SAMPLES: usize = 16;

struct Channel {
    out: Publisher<ipc::Service, [u8], ()>,
    incoming: Subscriber<ipc::Service, [u8], ()>,
    tell: Notifier<ipc::Service>,
    told: Listener<ipc::Service>,
}

fn open(node: &Node<ipc::Service>, side: &Side, which: usize) -> Channel {
    let name = |way: &str| -> ServiceName {
        format!("{}/{which}/{way}", side.job.address).as_str().try_into().expect("a name")
    };
    let samples = |way: &str| {
        node.service_builder(&name(way))
            .publish_subscribe::<[u8]>()
            .enable_safe_overflow(false)
            .history_size(0)
            .subscriber_max_buffer_size(SAMPLES)
            .subscriber_max_borrowed_samples(2)
            .max_publishers(1)
            .max_subscribers(1)
            .max_nodes(2)
            .open_or_create()
            .expect("a service")
    };
    let event = |way: &str| {
        node.service_builder(&name(way))
            .event()
            .max_notifiers(1)
            .max_listeners(1)
            .max_nodes(2)
            .open_or_create()
            .expect("an event")
    };
    let (out, incoming) = if side.server { ("back", "there") } else { ("there", "back") };

    Channel {
        incoming: samples(incoming).subscriber_builder().create().expect("a subscriber"),
        out: samples(out)
            .publisher_builder()
            .initial_max_slice_len(side.job.body())
            .max_loaned_samples(2)
            .create()
            .expect("a publisher"),
        told: event(incoming).listener_builder().create().expect("a listener"),
        tell: event(out).notifier_builder().create().expect("a notifier"),
    }
}

impl Channel {
    fn send(&self, side: &Side, number: u32) {
        let mut sample = self.out.loan_slice_uninit(side.job.body()).expect("a loan");
        // The memory is initialized: bytes of earlier samples, or zeroes.
        let at = sample.payload_mut();
        let bytes = unsafe { std::slice::from_raw_parts_mut(at.as_mut_ptr().cast::<u8>(), at.len()) };

        side.write_message(bytes, number);
        unsafe { sample.assume_init() }.send().expect("send");
    }

    fn notify(&self) {
        self.tell.notify().expect("notify");
    }

    /// If there is one.
    fn take(&self, side: &Side, number: u32) -> bool {
        match self.incoming.receive().expect("receive") {
            Some(sample) => {
                side.check_body(&sample, number);
                true
            }
            None => false,
        }
    }
}

fn ask(channels: &[Channel], steps: &mut Steps, side: &Side, ops: u64, probe: bool) {
    let depth = side.job.depth as u64;

    for i in 0..ops + depth {
        if i >= depth {
            let (which, number, since) = steps.oldest(i);

            while !channels[which].take(side, number) {
                channels[which].told.blocking_wait(|_| ()).expect("a wait");
            }
            if probe {
                side.probe(since);
            }
        }
        if i < ops {
            let (which, number) = steps.ask(i, probe);

            channels[which].send(side, number);
            channels[which].notify();
        }
    }
}

/// A turn of a channel; how many requests were answered.
fn turn(channel: &Channel, side: &Side, number: &mut u32) -> u64 {
    let mut answered = 0;

    channel.told.try_wait(|_| ()).expect("an event");
    while channel.take(side, *number + 1) {
        *number += 1;
        channel.send(side, *number);
        answered += 1;
    }
    if answered > 0 {
        channel.notify();
    }
    answered
}

pub fn run(side: Side) {
    assert!(side.job.size <= MOST, "more than {MOST} channels take minutes to set up");
    let node = NodeBuilder::new().create::<ipc::Service>().expect("a node");
    let channels: Vec<Channel> = (0..side.job.size).map(|i| open(&node, &side, i)).collect();

    // Both have all their ports before either sends, or what it sends is lost.
    side.meet_blocking();
    for channel in &channels {
        channel.out.update_connections().expect("connections");
        channel.incoming.update_connections().expect("connections");
    }
    side.meet_blocking();

    let waitset = WaitSetBuilder::new().create::<ipc::Service>().expect("a WaitSet");
    let mut guards = Vec::new();
    let mut index = BTreeMap::new();

    if side.server {
        for (i, channel) in channels.iter().enumerate() {
            let guard = waitset.attach_notification(&channel.told).expect("room in the WaitSet");

            index.insert(WaitSetAttachmentId::from_guard(&guard), i);
            guards.push(guard);
        }
    }
    let mut steps = Steps::new(&side);
    let mut numbers = vec![0; channels.len()];

    for (phase, ops) in side.job.phases().into_iter().enumerate() {
        if phase > 0 {
            side.meet_blocking();
        }
        if phase == side.job.timed() {
            side.begin();
        }
        if side.server {
            let mut left = ops;

            while left > 0 {
                waitset
                    .wait_and_process_once(|id| {
                        let which = index[&id];

                        left -= turn(&channels[which], &side, &mut numbers[which]);
                        CallbackProgression::Continue
                    })
                    .expect("a wait");
            }
        } else {
            ask(&channels, &mut steps, &side, ops, phase == 2);
        }
        if phase == side.job.timed() {
            side.end();
        }
    }
    side.meet_blocking();
}
