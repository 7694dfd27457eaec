//! send, recv, step and join in isolation, through the public API, in one thread.
//!
//! The master is driven by hand and all cores live in this process, so no figure contains a wake-up
//! or a cache line that travels between processors; `prefork` measures those. Work is timed in
//! chunks that fit the lane, and what fills or drains it happens off the clock. Receivers take
//! exactly what was sent and never see an empty queue, so they are not armed and the router rings
//! no eventfd.
//!
//! `cargo bench --bench hot_paths -- --test` runs everything once, as a test.

mod support {
    pub mod machine;
    pub mod rig;
}

use std::hint::black_box;
use std::time::{Duration, Instant};

use corecast::Core;
use criterion::{BenchmarkId, Criterion, Throughput};
use support::machine::Machine;
use support::rig::{CHANNEL, Rig, config};

/// Messages in a chunk of small bodies; of large ones as many as make `CHUNK_BYTES`.
const CHUNK: u64 = 256;
const CHUNK_BYTES: u64 = 128 * 1024;
const BATCH: usize = 64;
const SIZES: [usize; 2] = [16, 1024];
const SUBSCRIBERS: [u32; 3] = [1, 16, 64];

fn main() {
    eprintln!("{}", Machine::read());
    let config = config(1);
    eprintln!(
        "hub      lane {} B, queue {} B, chunks of {CHUNK} messages or {CHUNK_BYTES} B",
        config.lane_bytes, config.queue_bytes
    );
    prove();
    let mut criterion = Criterion::default().configure_from_args();
    bench_send(&mut criterion);
    bench_send_many(&mut criterion);
    bench_recv(&mut criterion);
    bench_step(&mut criterion);
    bench_join(&mut criterion);
    criterion.final_summary();
}

/// The check every figure below rests on: everything that is sent arrives, once, in order.
fn prove() {
    let mut rig = Rig::new(3);
    for round in 0..100_u64 {
        for number in 0..CHUNK {
            let body = (round * CHUNK + number).to_le_bytes();
            rig.sender
                .send_to(rig.channel, &body)
                .expect("room in the lane");
        }
        rig.route();
        for receiver in &mut rig.receivers {
            expect_numbers(receiver, round * CHUNK..(round + 1) * CHUNK);
        }
    }
}

fn expect_numbers(receiver: &mut Core, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let message = receiver.recv().expect("nothing lost").expect("a message");
        assert_eq!(message.body, number.to_le_bytes());
        assert_eq!(message.name, CHANNEL.as_bytes());
    }
    assert!(
        receiver.recv().expect("nothing lost").is_none(),
        "more than was sent"
    );
}

fn chunk_of(size: usize) -> u64 {
    CHUNK.min(CHUNK_BYTES / size as u64)
}

/// Splits `iterations` into chunks and adds up what each says it took.
fn in_chunks(iterations: u64, chunk: u64, mut run: impl FnMut(u64) -> Duration) -> Duration {
    let mut left = iterations;
    let mut spent = Duration::ZERO;
    while left > 0 {
        let count = left.min(chunk);
        spent += run(count);
        left -= count;
    }
    spent
}

fn timed(work: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    work();
    begin.elapsed()
}

fn bench_send(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("send");
    group.throughput(Throughput::Elements(1));
    for size in SIZES {
        let (mut rig, body) = (Rig::new(1), vec![7; size]);
        group.bench_function(BenchmarkId::new("handle", size), |bencher| {
            bencher.iter_custom(|iterations| {
                in_chunks(iterations, chunk_of(size), |count| {
                    let spent = timed(|| rig.send(count, black_box(&body)));
                    rig.drain(count, &body);
                    spent
                })
            });
        });
    }
    let (mut rig, body) = (Rig::new(1), vec![7; SIZES[0]]);
    group.bench_function(BenchmarkId::new("name", SIZES[0]), |bencher| {
        bencher.iter_custom(|iterations| {
            in_chunks(iterations, CHUNK, |count| {
                let spent = timed(|| send_by_name(&mut rig.sender, count, black_box(&body)));
                rig.drain(count, &body);
                spent
            })
        });
    });
}

fn send_by_name(sender: &mut Core, count: u64, body: &[u8]) {
    for _ in 0..count {
        sender
            .send(black_box(CHANNEL), body)
            .expect("room in the lane");
    }
}

/// One iteration is one call with `BATCH` bodies.
fn bench_send_many(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("send_many");
    group.throughput(Throughput::Elements(BATCH as u64));
    for size in SIZES {
        let (mut rig, body) = (Rig::new(1), vec![7; size]);
        let bodies = vec![&body[..]; BATCH];
        group.bench_function(
            BenchmarkId::new(format!("handle x{BATCH}"), size),
            |bencher| {
                bencher.iter_custom(|iterations| {
                    in_chunks(
                        iterations,
                        (chunk_of(size) / BATCH as u64).max(1),
                        |count| {
                            let spent = timed(|| send_batches(&mut rig, count, black_box(&bodies)));
                            rig.drain(count * BATCH as u64, &body);
                            spent
                        },
                    )
                });
            },
        );
    }
}

fn send_batches(rig: &mut Rig, count: u64, bodies: &[&[u8]]) {
    for _ in 0..count {
        let taken = rig
            .sender
            .send_many_to(rig.channel, bodies)
            .expect("room in the lane");
        assert_eq!(taken, bodies.len());
    }
}

fn bench_recv(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("recv");
    group.throughput(Throughput::Elements(1));
    for size in SIZES {
        let (mut rig, body) = (Rig::new(1), vec![7; size]);
        group.bench_function(BenchmarkId::new("filled queue", size), |bencher| {
            bencher.iter_custom(|iterations| {
                in_chunks(iterations, chunk_of(size), |count| {
                    rig.send(count, &body);
                    rig.route();
                    timed(|| receive(&mut rig.receivers[0], count))
                })
            });
        });
    }
}

fn receive(receiver: &mut Core, count: u64) {
    for _ in 0..count {
        let message = receiver.recv().expect("nothing lost").expect("a message");
        black_box(message.body);
    }
}

/// One iteration is one message routed to all subscribers.
fn bench_step(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("step");
    group.throughput(Throughput::Elements(1));
    for subscribers in SUBSCRIBERS {
        let (mut rig, body) = (Rig::new(subscribers), vec![7; SIZES[0]]);
        group.bench_function(BenchmarkId::new("subscribers", subscribers), |bencher| {
            bencher.iter_custom(|iterations| {
                in_chunks(iterations, CHUNK, |count| {
                    rig.send(count, &body);
                    let spent = timed(|| rig.route());
                    rig.take(count, &body);
                    spent
                })
            });
        });
    }
}

/// One iteration is a join and a leave, each with the pass of the router that carries it out.
fn bench_join(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("join");
    let mut rig = Rig::new(1);
    group.bench_function("join and leave", |bencher| {
        bencher.iter(|| {
            let ticket = rig.sender.join_async("visited").expect("room in the lane");
            rig.route();
            let answer = rig
                .sender
                .join_result(ticket)
                .expect("an answer after the pass");
            black_box(answer.expect("a subscription"));
            rig.sender.leave("visited").expect("a subscription to end");
            rig.route();
        });
    });
}
